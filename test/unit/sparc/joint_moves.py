"""Random conflict-free joint moves: what a planner could decide, for tests of execution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.execution import find_rotation


def draw_joint_move(
    rng: np.random.Generator,
    cells: NDArray[np.int32],
    grid: NDArray[np.bool_],
    still: NDArray[np.bool_],
    distances: NDArray[np.int32] | None = None,
) -> NDArray[np.int32]:
    """Let every robot want a random move, or mostly one nearer to its goal; whoever is in a conflict stays.

    `distances` is (N, H, W). Robots marked `still` stay.
    """
    options = cells[:, None] + MOVES  # (N, 5, 2)
    inside = ((options >= 0) & (options < grid.shape)).all(axis=-1)
    clipped = np.clip(options, 0, np.array(grid.shape) - 1)
    free = inside & ~grid[clipped[..., 0], clipped[..., 1]]
    score = rng.random(free.shape)
    if distances is not None:
        ahead = distances[np.arange(len(cells))[:, None], clipped[..., 0], clipped[..., 1]]
        score += ahead * (rng.random((len(cells), 1)) < 0.8)
    wanted = options[np.arange(len(cells)), np.where(free, score, np.inf).argmin(axis=1)].astype(np.int32)
    wanted[still] = cells[still]
    while True:
        _, first, counts = np.unique(wanted, axis=0, return_inverse=True, return_counts=True)
        moving = (wanted != cells).any(axis=1)
        crowded = counts[first.reshape(-1)] > 1
        # one of those that want a free cell may have it; nobody may if its holder stays
        holder_stays = np.isin(first.reshape(-1), first.reshape(-1)[~moving])
        loses = crowded & moving & (holder_stays | (np.arange(len(cells)) != _first_of(first.reshape(-1), moving)))
        loses |= find_rotation(cells, wanted)
        if not loses.any():
            return wanted
        wanted[loses] = cells[loses]


def _first_of(groups: NDArray[np.intp], moving: NDArray[np.bool_]) -> NDArray[np.intp]:
    """(N,) lowest index of a moving robot in each robot's group."""
    lowest = np.full(groups.max(initial=0) + 1, len(groups))
    np.minimum.at(lowest, groups[moving], np.flatnonzero(moving))
    return lowest[groups]


def walking_distances(grid: NDArray[np.bool_], goals: NDArray[np.int32]) -> NDArray[np.int32]:
    """(N, H, W) steps to each goal, a large number where it can't be reached."""
    distances = np.full((len(goals), *grid.shape), 9999, np.int32)
    for distance, goal in zip(distances, goals, strict=True):
        frontier = np.zeros_like(grid)
        frontier[tuple(goal)] = True
        step = 0
        while frontier.any():
            distance[frontier] = step
            step += 1
            padded = np.pad(frontier, 1)
            near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
            frontier = near & ~grid & (distance == 9999)
    return distances
