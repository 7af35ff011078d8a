"""Maps from files: nav2 map_server's YAML with its image, and MovingAI's `.map` with `.scen`.

Formats: nav2_map_server's README (threshold rules of mode `trinary`) and https://movingai.com/benchmarks/formats.html.
Both have the top row first, as `grid` has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.grid import parse_grid

MAX_SIDE = 1024  # cells
MAX_PIXELS = 8192  # a side of an image


@dataclass(frozen=True)
class MapFile:
    """What a map file says.

    Attributes:
        grid: (H, W) True where an obstacle stands or nothing is known; row 0 on top.
        resolution: side of a cell [m], None when the format has no lengths.
        origin: x and y of the lower-left corner [m].
    """

    grid: NDArray[np.bool_]
    resolution: float | None = None
    origin: tuple[float, float] = (0.0, 0.0)


def load_map(path: Path) -> MapFile:
    """Read a map file, its kind told by its ending: `.yaml` or `.yml` (nav2), `.map` (MovingAI).

    Raises:
        WorldError: the file is missing, is no map, or is larger than `MAX_SIDE` cells (`MAX_PIXELS` pixels) a side.
    """
    if path.suffix == '.map':
        return _load_movingai(path)
    if path.suffix in ('.yaml', '.yml'):
        return _load_nav2(path)
    raise WorldError(f'{path}: unknown kind of map; give a nav2 .yaml or a MovingAI .map')


def coarsen(grid: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """Join `factor` x `factor` cells to one, an obstacle if any of them is.

    Blocks are counted from the lower-left corner, which keeps the map's origin; a block cut off by the upper or the
    right border is an obstacle.
    """
    height, width = grid.shape
    rows, columns = -(-height // factor), -(-width // factor)
    padded = np.ones((rows * factor, columns * factor), bool)
    padded[rows * factor - height :, :width] = grid
    coarse = padded.reshape(rows, factor, columns, factor).any(axis=(1, 3))
    return np.asarray(coarse)


def load_scenario(path: Path, robots: int | None) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Read starts and goals from a MovingAI `.scen` file.

    Args:
        path: the file; its columns are bucket, map, width, height, start x and y, goal x and y, length.
        robots: how many of its lines to take, all when None.

    Returns:
        starts and goals, both (N, 2) rows and columns.
    """
    lines = [line.split() for line in _read(path).decode('utf-8', 'replace').splitlines() if line.strip()]
    if not lines or lines[0][0].lower() != 'version':
        raise WorldError(f"{path} is no MovingAI scenario: the first line must be 'version 1'")
    lines = lines[1:]
    if robots is not None and len(lines) < robots:
        raise WorldError(f'{path} holds {len(lines)} starts and goals, {robots} robots need more')
    cells = np.empty((len(lines) if robots is None else robots, 4), np.int32)
    for number, fields in enumerate(lines[: len(cells)]):
        try:
            start_x, start_y, goal_x, goal_y = (int(field) for field in fields[-5:-1])
        except ValueError:
            raise WorldError(f'{path}: line {number + 2} is no scenario line (9 columns)') from None
        cells[number] = start_y, start_x, goal_y, goal_x
    return cells[:, :2], cells[:, 2:]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        WorldError: missing, unreadable, not YAML, or not a mapping.
    """
    try:
        data = yaml.safe_load(_read(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, 'problem_mark', None)
        where = f' at line {mark.line + 1}' if mark else ''
        raise WorldError(f'{path} is not valid YAML{where}') from None
    if not isinstance(data, dict):
        raise WorldError(f'{path} must hold keys and values, got {type(data).__name__}')
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise WorldError(f'{path} does not exist; check the path') from None
    except OSError as error:
        raise WorldError(f'{path} can not be read: {error.strerror}') from None


def _load_movingai(path: Path) -> MapFile:
    lines = _read(path).decode('utf-8', 'replace').splitlines()
    top = [line.split() for line in lines[:8]]
    body = top.index(['map']) + 1 if ['map'] in top else 0
    header = {words[0]: words[1] for words in top[:body] if len(words) == 2}
    if not body:
        raise WorldError(f"{path} is no MovingAI map: the header must be 'type', 'height', 'width', 'map'")
    try:
        height, width = int(header['height']), int(header['width'])
    except (KeyError, ValueError):
        raise WorldError(f'{path} is no MovingAI map: height and width must be whole numbers') from None
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise WorldError(f'{path}: {height} x {width} cells; sides from 1 to {MAX_SIDE} are possible')
    try:
        grid = parse_grid('\n'.join(lines[body : body + height]))
    except WorldError as error:
        raise WorldError(f'{path}: {error}') from None
    if grid.shape != (height, width):
        raise WorldError(f'{path}: header says {height} x {width}, the drawing is {grid.shape[0]} x {grid.shape[1]}')
    return MapFile(grid)


def _load_nav2(path: Path) -> MapFile:
    data = read_yaml(path)
    known = {'image', 'resolution', 'origin', 'negate', 'occupied_thresh', 'free_thresh', 'mode'}
    if missing := sorted({'image', 'resolution', 'origin'} - data.keys()):
        raise WorldError(f'{path} is no nav2 map: {missing[0]!r} is missing')
    if unknown := sorted(str(key) for key in data.keys() - known):
        raise WorldError(f'{path}: unknown key {unknown[0]!r}; known are {", ".join(sorted(known))}')
    if (mode := data.get('mode', 'trinary')) != 'trinary':
        raise WorldError(f'{path}: mode {mode!r} is not supported; save the map with mode trinary')
    resolution = _number(path, 'resolution', data['resolution'])
    occupied = _number(path, 'occupied_thresh', data.get('occupied_thresh', 0.65))
    free = _number(path, 'free_thresh', data.get('free_thresh', 0.25))
    if not resolution > 0:
        raise WorldError(f'{path}: resolution must be positive, got {resolution}')
    if not 0 <= free < occupied <= 1:
        raise WorldError(f'{path}: need 0 <= free_thresh < occupied_thresh <= 1, got {free} and {occupied}')
    if (negate := data.get('negate', 0)) not in (0, 1):
        raise WorldError(f'{path}: negate must be 0 or 1, got {negate!r}')
    origin = data['origin']
    if not isinstance(origin, list) or len(origin) != 3:
        raise WorldError(f'{path}: origin must be [x, y, yaw], got {origin!r}')
    x, y, yaw = (_number(path, 'origin', value) for value in origin)
    if yaw:
        raise WorldError(f'{path}: a map turned by yaw {yaw} is not supported; turn the image instead')
    if not isinstance(data['image'], str):
        raise WorldError(f'{path}: image must be a file name, got {data["image"]!r}')
    shade = _read_image(path.parent / data['image'])
    occupancy = shade if negate else 1.0 - shade
    # between the two thresholds nothing is known, and there no robot shall go: all that is not free is obstacle
    return MapFile(~(occupancy < free), resolution, (x, y))


def _number(path: Path, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WorldError(f'{path}: {key} must be a finite number, got {value!r}')
    return float(value)


def _read_image(path: Path) -> NDArray[np.float64]:
    """Brightness of an image, (H, W) from 0 black to 1 white; channels, alpha too, are averaged as map_server does."""
    data = _read(path)
    if data[:2] in (b'P2', b'P5'):
        return _read_pgm(path, data)
    import cv2  # only for PNG and its like

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None:
        raise WorldError(f'{path} is no image; give a PGM or PNG')
    if max(image.shape[:2]) > MAX_PIXELS:
        raise WorldError(f'{path}: {image.shape[0]} x {image.shape[1]} pixels; at most {MAX_PIXELS} a side')
    if image.dtype not in (np.uint8, np.uint16):
        raise WorldError(f'{path}: pixels of type {image.dtype}; save the map with 8 or 16 bit')
    shade = image.astype(np.float64) / (255 if image.dtype == np.uint8 else 65535)
    return shade if shade.ndim == 2 else np.asarray(shade.mean(axis=2))


def _read_pgm(path: Path, data: bytes) -> NDArray[np.float64]:
    """Netpbm's grey maps, plain (P2) and raw (P5), comments in the header allowed."""
    fields: list[int] = []
    position = 2
    while len(fields) < 3:
        while data[position : position + 1].isspace() or data[position : position + 1] == b'#':
            if data[position : position + 1] == b'#':
                end = data.find(b'\n', position)
                position = len(data) if end < 0 else end
            position += 1
        end = position
        while data[end : end + 1].isdigit():
            end += 1
        if end == position:
            raise WorldError(f'{path} is no PGM image: its header must name width, height and largest grey')
        fields.append(int(data[position : min(end, position + 9)]))
        position = end
    width, height, top = fields
    if not (0 < width <= MAX_PIXELS and 0 < height <= MAX_PIXELS and 0 < top < 65536):
        raise WorldError(f'{path}: {height} x {width} pixels, largest grey {top}; at most {MAX_PIXELS} a side')
    if data[:2] == b'P2':
        words = data[position:].split()
        if len(words) < width * height or not all(word.isdigit() for word in words):
            raise WorldError(f'{path}: the image breaks off or holds something other than numbers')
        values = np.array(words[: width * height], np.float64)
    else:
        kind = np.dtype('>u2' if top > 255 else 'u1')
        raw = data[position + 1 : position + 1 + width * height * kind.itemsize]
        if len(raw) < width * height * kind.itemsize:
            raise WorldError(f'{path}: the image breaks off after {len(raw)} bytes')
        values = np.frombuffer(raw, kind).astype(np.float64)
    return values.reshape(height, width) / top
