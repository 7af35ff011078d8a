"""Obstacles and border of a map as few axis-aligned boxes: the geometry of the MJCF and the SDF world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attn_robotics.simulation.world import World

WALL_HEIGHT = 0.5  # [m]
BORDER = 0.1  # [m] thickness of the walls around the map, outside its cells


@dataclass(frozen=True)
class Box:
    """A box that stands on the floor.

    Attributes:
        name: unique in its world.
        x: of the centre [m].
        y: of the centre [m].
        length: along x [m].
        width: along y [m].
        height: [m].
    """

    name: str
    x: float
    y: float
    length: float
    width: float
    height: float = WALL_HEIGHT


def rectangles(grid: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Cover the obstacle cells of a grid by disjoint rectangles, greedily: first to the right, then downwards.

    Returns:
        (K, 4) first row, first column, rows, columns.
    """
    left = grid.copy()
    found: list[tuple[int, int, int, int]] = []
    height, width = grid.shape
    for row, column in np.argwhere(grid).tolist():
        if not left[row, column]:
            continue
        columns = 1
        while column + columns < width and left[row, column + columns]:
            columns += 1
        rows = 1
        while row + rows < height and left[row + rows, column : column + columns].all():
            rows += 1
        left[row : row + rows, column : column + columns] = False
        found.append((row, column, rows, columns))
    return np.array(found, dtype=np.int32).reshape(-1, 4)


def boxes(world: World) -> tuple[Box, ...]:
    """Obstacle boxes, then the four border walls."""
    frame = world.frame
    side = frame.resolution
    result = []
    for index, (row, column, rows, columns) in enumerate(rectangles(world.instance.grid).tolist()):
        low, high = frame.to_xy([[row + rows - 1, column], [row, column + columns - 1]])
        x, y = (low + high) / 2
        result.append(Box(f'obstacle_{index}', float(x), float(y), columns * side, rows * side))
    length, width = frame.width * side, frame.height * side
    x, y = frame.origin_x + length / 2, frame.origin_y + width / 2
    across, along = length / 2 + BORDER / 2, width / 2 + BORDER / 2
    result += [
        Box('border_south', x, y - along, length + 2 * BORDER, BORDER),
        Box('border_north', x, y + along, length + 2 * BORDER, BORDER),
        Box('border_west', x - across, y, BORDER, width),
        Box('border_east', x + across, y, BORDER, width),
    ]
    return tuple(result)
