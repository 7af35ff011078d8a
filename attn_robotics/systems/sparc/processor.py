"""From the grid world to what each robot sees, as robots compute it; `processor_torch` makes the same for training.

Local image, channels first:

| channel | content |
| --- | --- |
| 0..3 | 1 where up, down, left, right leads nearer the own goal along the shortest path |
| 4 | obstacles and what lies off the map |
| 5 | other robots |
| 6 | own goal, when inside the field of view |
| 7 | goals of the robots inside the field of view, clamped to its border |

Local vector: unit direction to the goal (2), log distance to it in a straight line and along the path (2), whether it
is reached (1), own priority as log steps since the goal was last left and its random fraction (2), the last executed
actions one-hot, newest first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attn_robotics.systems.sparc.actions import MOVES

UNREACHABLE = 32767
LOG_SCALE = 4.0  # log1p of distances and step counts reaches about 6: keeps features near 1
FAR = 1000.0  # path length taken for a goal that is cut off
NO_ACTION = -1  # history before the first step


@dataclass(frozen=True)
class Observation:
    """What N robots see: image (N, 8, F, F) float32 of 0 and 1, vector (N, V) float32."""

    image: NDArray[np.float32]
    vector: NDArray[np.float32]


def observe(
    grid: NDArray[np.bool_],
    cells: NDArray[np.integer],
    goals: NDArray[np.integer],
    distances: NDArray[np.int16],
    waited: NDArray[np.floating],
    history: NDArray[np.integer],
    field_of_view: int,
    others: tuple[NDArray[np.integer], NDArray[np.integer]] | None = None,
) -> Observation:
    """Build observations of N robots on one map.

    Args:
        grid: (H, W) True where an obstacle stands.
        cells: (N, 2) rows and columns.
        goals: (N, 2) rows and columns.
        distances: (N, H, W) path distances to the own goal.
        waited: (N,) priority: steps since last on the goal plus a random fraction.
        history: (N, A) last executed actions, newest first, -1 before the first.
        field_of_view: F, odd.
        others: cells and goals, (K, 2) each, of all robots heard, when these are more than the N that decide.

    Returns:
        The observation.
    """
    robots = len(cells)
    reach = field_of_view // 2
    height, width = grid.shape
    key_cells, key_goals = (cells, goals) if others is None else others
    rows, columns = cells[:, 0].astype(np.int64), cells[:, 1].astype(np.int64)

    ring = reach + 1
    walls = np.pad(grid, ring, constant_values=True)
    span = np.arange(-ring, ring + 1)
    window_rows = rows[:, None, None] + span[:, None] + ring  # (N, F + 2, 1)
    window_columns = columns[:, None, None] + span[None, :] + ring  # (N, 1, F + 2)
    wall = walls[window_rows, window_columns]  # (N, F + 2, F + 2)
    path = distances[
        np.arange(robots)[:, None, None],
        (window_rows - ring).clip(0, height - 1),
        (window_columns - ring).clip(0, width - 1),
    ]
    path = np.where(wall, np.int16(UNREACHABLE), path)

    image = np.zeros((robots, 8, field_of_view, field_of_view), np.float32)
    inner = path[:, 1:-1, 1:-1]
    shifted = (path[:, :-2, 1:-1], path[:, 2:, 1:-1], path[:, 1:-1, :-2], path[:, 1:-1, 2:])
    for action, after in enumerate(shifted):
        image[:, action] = (after < inner) & (inner < UNREACHABLE)
    image[:, 4] = wall[:, 1:-1, 1:-1]

    offset = key_cells[None].astype(np.int64) - cells[:, None]  # (N, K, 2)
    seen = (np.abs(offset) <= reach).all(-1) & (offset != 0).any(-1)
    who, whom = np.nonzero(seen)
    image[who, 5, offset[who, whom, 0] + reach, offset[who, whom, 1] + reach] = 1.0
    to_goal = goals.astype(np.int64) - cells  # (N, 2)
    near = np.nonzero((np.abs(to_goal) <= reach).all(-1))[0]
    image[near, 6, to_goal[near, 0] + reach, to_goal[near, 1] + reach] = 1.0
    clamped = (key_goals[whom] - cells[who]).clip(-reach, reach) + reach
    image[who, 7, clamped[:, 0], clamped[:, 1]] = 1.0

    straight = np.hypot(to_goal[:, 0], to_goal[:, 1]).astype(np.float32)
    length = distances[np.arange(robots), rows, columns].astype(np.float32)
    length = np.where(length >= UNREACHABLE, np.float32(FAR), length)
    waited = np.asarray(waited, np.float64)
    own = np.stack(
        [
            to_goal[:, 0] / np.maximum(straight, 1.0),
            to_goal[:, 1] / np.maximum(straight, 1.0),
            np.log1p(straight) / LOG_SCALE,
            np.log1p(length) / LOG_SCALE,
            straight == 0,
            np.log1p(np.floor(waited)) / LOG_SCALE,
            waited - np.floor(waited),
        ],
        -1,
    )
    moves = history[..., None] == np.arange(len(MOVES))  # (N, A, 5)
    vector = np.concatenate([own, moves.reshape(robots, -1)], -1).astype(np.float32)
    return Observation(image, vector)
