"""Multi-robot path-finding instances: a grid, starts and goals, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attn_robotics.simulation.errors import WorldError


@dataclass(frozen=True)
class Instance:
    """One path-finding problem.

    Attributes:
        grid: (H, W) True where an obstacle stands; row 0 on top.
        starts: (N, 2) int32 rows and columns, all different.
        goals: (N, 2) int32 rows and columns, all different.
        seed: the seed it was drawn from, -1 when it was not drawn.
    """

    grid: NDArray[np.bool_]
    starts: NDArray[np.int32]
    goals: NDArray[np.int32]
    seed: int = -1

    def __post_init__(self) -> None:
        validate(self.grid, self.starts, self.goals)

    @property
    def robots(self) -> int:
        """Number of robots."""
        return len(self.starts)


def components(grid: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Label connected free cells (4-connected): (H, W) int32, -1 on obstacles, 0 for the largest component."""
    from scipy import ndimage  # slow to import, and not needed where a world is given

    labels, count = ndimage.label(~grid)
    _, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    if grid.any():
        first, sizes = first[1:], sizes[1:]  # label 0 marks obstacles
    rank = np.full(count + 1, -1, np.int32)
    rank[1 + np.lexsort([first, -sizes])] = np.arange(count, dtype=np.int32)  # ties: the upper left one first
    return np.asarray(rank[labels])


def validate(
    grid: NDArray[np.bool_],
    starts: NDArray[np.integer],
    goals: NDArray[np.integer],
    names: tuple[str, ...] | None = None,
) -> None:
    """Check that every robot can stand on its start and reach its goal.

    Args:
        grid: (H, W) True where an obstacle stands.
        starts: (N, 2) rows and columns.
        goals: (N, 2) rows and columns.
        names: what to call the robots in messages, `robot_0` and so on when None.

    Raises:
        WorldError: the first robot that is off the map, in a wall, on another's cell or cut off from its goal.
    """
    if grid.ndim != 2 or grid.dtype != np.bool_:
        raise WorldError(f'grid must be a boolean matrix, got {grid.dtype} with shape {grid.shape}')
    if starts.shape != goals.shape or starts.ndim != 2 or starts.shape[1] != 2:
        raise WorldError(f'starts and goals must both be (N, 2), got {starts.shape} and {goals.shape}')
    names = names or tuple(f'robot_{index}' for index in range(len(starts)))
    labels = components(grid)
    height, width = grid.shape
    for what, cells in (('start', starts), ('goal', goals)):
        seen: dict[tuple[int, int], str] = {}
        for name, (row, column) in zip(names, cells.tolist(), strict=True):
            if not (0 <= row < height and 0 <= column < width):
                raise WorldError(f'{what} of {name} at ({row}, {column}) is off the {height} x {width} map')
            if grid[row, column]:
                raise WorldError(f'{what} of {name} at ({row}, {column}) is inside an obstacle; move it to a free cell')
            if (row, column) in seen:
                raise WorldError(
                    f'{seen[row, column]} and {name} share the {what} ({row}, {column}); give each its own'
                )
            seen[row, column] = name
    for name, start, goal in zip(names, starts.tolist(), goals.tolist(), strict=True):
        if labels[tuple(start)] != labels[tuple(goal)]:
            raise WorldError(f'goal of {name} at {tuple(goal)} can not be reached from its start {tuple(start)}')


def random_grid(size: int | tuple[int, int], density: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw a map in which each cell is an obstacle with probability `density`."""
    height, width = (size, size) if isinstance(size, int) else size
    if not 0 <= density < 1:
        raise WorldError(f'density must be at least 0 and below 1, got {density}')
    return rng.random((height, width)) < density


def random_instance(
    size: int | tuple[int, int],
    density: float,
    robots: int,
    seed: int,
    *,
    attempts: int = 100,
) -> Instance:
    """Draw a map, starts and goals, all in the largest connected component.

    Args:
        size: side of the square map, or (rows, columns).
        density: probability that a cell is an obstacle.
        robots: number of robots.
        seed: the same seed gives the same instance on every machine.
        attempts: maps to draw before giving up on one whose largest component holds all robots.

    Raises:
        WorldError: no drawn map had room for that many robots.
    """
    rng = np.random.default_rng(seed)
    for _ in range(attempts):
        grid = random_grid(size, density, rng)
        cells = np.argwhere(components(grid) == 0).astype(np.int32)
        if len(cells) < robots:
            continue
        starts = cells[rng.permutation(len(cells))[:robots]]
        goals = cells[rng.permutation(len(cells))[:robots]]
        return Instance(grid, starts, goals, seed)
    raise WorldError(f'no room for {robots} robots on a {size} map at density {density}; enlarge or thin out the map')
