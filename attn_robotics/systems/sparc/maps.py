"""Structured maps that random obstacles never draw: a warehouse, rooms along a corridor, two-way lanes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def warehouse(
    *, blocks: tuple[int, int] = (6, 3), shelf: tuple[int, int] = (2, 10), aisle: int = 1, margin: int = 3
) -> NDArray[np.bool_]:
    """Shelves in a regular pattern between aisles, with free space around.

    Args:
        blocks: shelves down and across.
        shelf: rows and columns of one.
        aisle: cells between shelves.
        margin: free cells around all shelves.

    Returns:
        (H, W) True where a shelf stands.
    """
    tile = np.zeros((shelf[0] + aisle, shelf[1] + aisle), np.bool_)
    tile[: shelf[0], : shelf[1]] = True
    return np.pad(np.tile(tile, blocks)[: -aisle or None, : -aisle or None], margin)


def corridor(*, rooms: int = 6, room: int = 5, length: int = 4) -> NDArray[np.bool_]:
    """Square rooms in a row, joined by corridors one cell wide with a single passing bay each.

    Args:
        rooms: how many.
        room: side of each.
        length: cells of each corridor.

    Returns:
        (room, W) True for walls.
    """
    grid = np.ones((room, rooms * room + (rooms - 1) * length), np.bool_)
    for index in range(rooms):
        left = index * (room + length)
        grid[:, left : left + room] = False
    grid[room // 2] = False
    bays = [(index + 1) * (room + length) - length + length // 2 for index in range(rooms - 1)]
    grid[room // 2 - 1, bays] = False
    return grid


def lanes(*, count: int = 8, length: int = 30, ends: int = 5) -> NDArray[np.bool_]:
    """Parallel lanes one cell wide between two open halls: whoever meets in one must back out.

    Args:
        count: lanes, a wall between any two.
        length: cells of each.
        ends: depth of the halls.

    Returns:
        (2 * count - 1, length + 2 * ends) True for walls.
    """
    grid = np.zeros((2 * count - 1, length + 2 * ends), np.bool_)
    grid[1::2, ends : ends + length] = True
    return grid


def draw_map(family: str, rng: np.random.Generator, *, side: int, cells: int) -> NDArray[np.bool_]:
    """Draw a map of one family with other measures than the defaults, turned at random.

    Args:
        family: a name in `FAMILIES`.
        rng: decides.
        side: longest side allowed.
        cells: free cells that it must have.

    Returns:
        (H, W) True where a wall stands; its free cells are connected.

    Raises:
        ValueError: no such map was found.
    """
    for _ in range(1000):
        if family == 'warehouse':
            blocks = int(rng.integers(2, 7)), int(rng.integers(1, 4))
            grid = warehouse(blocks=blocks, shelf=(2, int(rng.integers(3, 11))), margin=int(rng.integers(1, 5)))
        elif family == 'corridor':
            rooms, room, length = (int(rng.integers(*span)) for span in ((2, 7), (4, 8), (2, 6)))
            grid = corridor(rooms=rooms, room=room, length=length)
        elif family == 'lanes':
            count, length, ends = (int(rng.integers(*span)) for span in ((3, 11), (5, 31), (3, 7)))
            grid = lanes(count=count, length=length, ends=ends)
        else:
            raise ValueError(f'no map family {family!r}; there are {", ".join(FAMILIES)}')
        if max(grid.shape) <= side and np.count_nonzero(~grid) >= cells:
            turned: NDArray[np.bool_] = np.rot90(grid, int(rng.integers(4))).copy()
            return turned
    raise ValueError(f'{family}: no map of side up to {side} with {cells} free cells; allow a longer side')


FAMILIES: dict[str, Callable[[], NDArray[np.bool_]]] = {'warehouse': warehouse, 'corridor': corridor, 'lanes': lanes}
