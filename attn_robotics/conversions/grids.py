"""Occupancy grids to boolean arrays and back.

The array has row 0 on top (largest y); `nav_msgs/OccupancyGrid` starts at the lower left. The flip is here and in
`simulation/grid.py` alone.
"""

from __future__ import annotations

import array
import math

import numpy as np
from nav_msgs.msg import OccupancyGrid
from numpy.typing import NDArray

from attn_robotics.simulation.grid import GridFrame

OCCUPIED = 100
MAX_CELLS = 16_000_000


class GridError(ValueError):
    """A map message that can't be used; the message says why."""


def to_occupancy_grid(grid: NDArray[np.bool_], frame: GridFrame, frame_id: str = 'map') -> OccupancyGrid:
    """Convert an obstacle array into a map message without a stamp.

    Args:
        grid: (H, W) True where an obstacle stands, row 0 on top.
        frame: where it lies [m].
        frame_id: coordinate frame.
    """
    message = OccupancyGrid()
    message.header.frame_id = frame_id
    message.info.resolution = float(frame.resolution)
    message.info.width = frame.width
    message.info.height = frame.height
    message.info.origin.position.x = float(frame.origin_x)
    message.info.origin.position.y = float(frame.origin_y)
    message.info.origin.orientation.w = 1.0
    message.data = array.array('b', (np.flipud(grid).astype(np.int8) * OCCUPIED).tobytes())
    return message


def from_occupancy_grid(
    message: OccupancyGrid, threshold: int = 50, unknown_is_obstacle: bool = True
) -> tuple[NDArray[np.bool_], GridFrame]:
    """Convert a map message into an obstacle array and its frame.

    Args:
        message: the map.
        threshold: cells with at least this occupancy are obstacles [percent].
        unknown_is_obstacle: what cells of value -1 become.

    Raises:
        GridError: empty, rotated or inconsistent map, or one that lies nowhere.
    """
    info = message.info
    height, width = int(info.height), int(info.width)
    if not 0 < height * width <= MAX_CELLS:
        raise GridError(f'map of {width} x {height} cells; must have 1 to {MAX_CELLS}')
    if len(message.data) != height * width:
        raise GridError(f'map data has {len(message.data)} cells, its info says {width} x {height}')
    turn = info.origin.orientation
    if math.hypot(turn.x, turn.y, turn.z) > 1e-3:
        raise GridError('map origin is rotated; publish it aligned with its frame')
    place = (info.resolution, info.origin.position.x, info.origin.position.y)
    if not (all(map(math.isfinite, place)) and info.resolution > 0):
        raise GridError(
            f'map resolution must be a positive number and its origin finite, got {place[0]} m at {place[1:]}'
        )
    data = np.frombuffer(message.data, dtype=np.int8).reshape(height, width)
    grid = data >= threshold
    if unknown_is_obstacle:
        grid = grid | (data < 0)
    frame = GridFrame(height, width, float(info.resolution), info.origin.position.x, info.origin.position.y)
    return np.ascontiguousarray(np.flipud(grid)), frame
