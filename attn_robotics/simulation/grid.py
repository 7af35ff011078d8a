"""Cells and metres: the one place where rows and columns become x and y.

A grid is an array `(H, W)` of booleans, True where an obstacle stands. Row 0 is the TOP of the map, that is
its largest y, so that maps drawn as text, images and RViz all show the same picture. Frames follow REP-103
(x to the right of the picture, y up), units are metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attn_robotics.simulation.errors import WorldError

FREE = frozenset('.GSW')
OBSTACLE = frozenset('#@OT')


@dataclass(frozen=True)
class GridFrame:
    """Where a grid lies in the map frame.

    Attributes:
        height: rows.
        width: columns.
        resolution: side of a cell [m].
        origin_x: x of the grid's lower-left corner [m].
        origin_y: y of the grid's lower-left corner [m].
    """

    height: int
    width: int
    resolution: float = 1.0
    origin_x: float = 0.0
    origin_y: float = 0.0

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise WorldError(f'grid must have at least one cell, got {self.height} x {self.width}')
        if not (np.isfinite(self.resolution) and self.resolution > 0):
            raise WorldError(f'resolution must be a positive number of metres, got {self.resolution}')

    def to_xy(self, cells: NDArray[np.integer] | Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Centres of cells: (..., 2) rows and columns to (..., 2) x and y [m]."""
        cells = np.asarray(cells)
        x = self.origin_x + (cells[..., 1] + 0.5) * self.resolution
        y = self.origin_y + (self.height - cells[..., 0] - 0.5) * self.resolution
        return np.stack([x, y], axis=-1)

    def to_cell(self, xy: NDArray[np.floating] | Sequence[float]) -> NDArray[np.int32]:
        """Cells that hold points: (..., 2) x and y [m] to (..., 2) rows and columns, maybe outside the grid."""
        xy = np.asarray(xy, dtype=np.float64)
        column = np.floor((xy[..., 0] - self.origin_x) / self.resolution)
        row = self.height - 1 - np.floor((xy[..., 1] - self.origin_y) / self.resolution)
        return np.stack([row, column], axis=-1).astype(np.int32)

    def contains(self, cells: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which of the (..., 2) cells lie on the grid."""
        cells = np.asarray(cells)
        inside: NDArray[np.bool_] = (
            (cells[..., 0] >= 0) & (cells[..., 0] < self.height) & (cells[..., 1] >= 0) & (cells[..., 1] < self.width)
        )
        return inside


def parse_grid(text: str) -> NDArray[np.bool_]:
    """Read a map drawn as text, `.` free and `#` obstacle (MovingAI's letters work too).

    Args:
        text: one line a row, top first; blank lines at the ends are dropped.

    Returns:
        (H, W) True where an obstacle stands.

    Raises:
        WorldError: lines of unequal length, or an unknown letter.
    """
    lines = text.strip('\n').splitlines()
    if not lines or not lines[0]:
        raise WorldError('map is empty')
    for number, line in enumerate(lines, 1):
        if len(line) != len(lines[0]):
            raise WorldError(f'map line {number} has {len(line)} cells, the first has {len(lines[0])}')
        if unknown := set(line) - FREE - OBSTACLE:
            raise WorldError(f'map line {number} has an unknown cell {min(unknown)!r}; use . and #')
    return np.array([[letter in OBSTACLE for letter in line] for line in lines])


def draw_grid(grid: NDArray[np.bool_]) -> str:
    """Draw a grid as text; the inverse of `parse_grid`."""
    return '\n'.join(''.join('#' if cell else '.' for cell in row) for row in grid)
