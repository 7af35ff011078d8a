"""Path distances on a grid, by breadth-first search from each goal."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attn_robotics.simulation.errors import WorldError
from attn_robotics.systems.sparc.actions import MOVES

# Distance of obstacles and of cells that are cut off; larger than any path, and safe to compare as int16.
UNREACHABLE = 32767


def neighbours(grid: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Tabulate where each action leads.

    Args:
        grid: (H, W) True where an obstacle stands.

    Returns:
        (H * W, 5) int32 flat cell index after each action, -1 where the move leaves the map or enters an obstacle;
        rows of obstacles are all -1.
    """
    height, width = grid.shape
    rows, columns = np.divmod(np.arange(height * width, dtype=np.int32)[:, None], np.int32(width))
    rows = rows + MOVES[:, 0]  # (H * W, 5)
    columns = columns + MOVES[:, 1]  # (H * W, 5)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    blocked = grid[rows.clip(0, height - 1), columns.clip(0, width - 1)] | grid.reshape(-1, 1)
    flat = (rows * width + columns).astype(np.int32)
    return np.ascontiguousarray(np.where(inside & ~blocked, flat, np.int32(-1)))


@njit(cache=True, nogil=True)
def fill_fields(near: NDArray[np.int32], goals: NDArray[np.int32], fields: NDArray[np.int16]) -> bool:
    """Breadth-first search from each goal, compiled.

    Args:
        near: (H * W, 5) table of `neighbours`.
        goals: (N,) flat goal cells.
        fields: (N, H * W) written.

    Returns:
        False when a path is too long for int16.
    """
    cells = near.shape[0]
    queue = np.empty(cells, np.int32)
    for robot in range(goals.shape[0]):
        field = fields[robot]
        field[:] = UNREACHABLE
        queue[0] = goals[robot]
        field[goals[robot]] = 0
        head, tail = 0, 1
        while head < tail:
            cell = queue[head]
            head += 1
            step = field[cell] + 1
            for action in range(4):
                other = near[cell, action]
                if other >= 0 and field[other] == UNREACHABLE:
                    if step >= UNREACHABLE:
                        return False
                    field[other] = step
                    queue[tail] = other
                    tail += 1
    return True


def distance_fields(grid: NDArray[np.bool_], goals: NDArray[np.integer]) -> NDArray[np.int16]:
    """Path distance of every cell to every goal.

    Args:
        grid: (H, W) True where an obstacle stands.
        goals: (N, 2) rows and columns.

    Returns:
        (N, H, W) int16 steps, `UNREACHABLE` on obstacles and where no path leads to the goal.

    Raises:
        WorldError: a goal is off the map or inside an obstacle, or a path is longer than 32766 steps.
    """
    height, width = grid.shape
    for index, (row, column) in enumerate(goals):
        if not (0 <= row < height and 0 <= column < width):
            raise WorldError(f'goal of robot {index} at ({row}, {column}) is off the {height} x {width} map')
        if grid[row, column]:
            raise WorldError(
                f'goal of robot {index} at ({row}, {column}) is inside an obstacle; move it to a free cell'
            )
    fields = np.empty((len(goals), height * width), np.int16)
    flat = (goals[:, 0] * width + goals[:, 1]).astype(np.int32)
    if not fill_fields(neighbours(grid), flat, fields):
        raise WorldError('a path on this map is longer than 32766 steps; use a smaller map')
    return fields.reshape(len(goals), height, width)


def distance_field(grid: NDArray[np.bool_], goal: NDArray[np.integer] | tuple[int, int]) -> NDArray[np.int16]:
    """Path distance of every cell to one goal: (H, W) int16, see `distance_fields`."""
    field: NDArray[np.int16] = distance_fields(grid, np.asarray(goal, np.int32).reshape(1, 2))[0]
    return field
