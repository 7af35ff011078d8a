"""One description of a world: everything that simulates or plans starts from here.

A description is a YAML file:

    name: random            # the file's name when left out
    seed: 0                 # of map, starts and goals
    robots: 8               # as many as there are starts when these are given
    resolution: 1.0         # side of a cell [m]
    map:                    # exactly one of
      random: {size: 20, density: 0.15}     # size: side, or [rows, columns]
      text: |                               # . free, # obstacle, top row first
        ..#
        ...
      file: warehouse.yaml                  # nav2 map_server YAML or MovingAI .map, relative to this file
    scenario: some.scen     # MovingAI starts and goals, instead of the next two
    starts: [[0, 0], ...]   # rows and columns, drawn from the seed when left out
    goals: [[3, 1], ...]
    robot: {radius: 0.3, max_speed: 1.0}    # see RobotModel
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.grid import GridFrame, parse_grid
from attn_robotics.simulation.instances import Instance, components, random_grid, random_instance, validate
from attn_robotics.simulation.maps import MAX_SIDE, MapFile, coarsen, load_map, load_scenario, read_yaml
from attn_robotics.simulation.robot import RobotModel

MAX_ROBOTS = 1024
MARGIN = 0.1  # [m] between a robot's disc and the border of its cell; the controller's tolerances need it

_KEYS = ('name', 'seed', 'robots', 'resolution', 'map', 'scenario', 'starts', 'goals', 'robot')


@dataclass(frozen=True)
class World:
    """A map with robots on it.

    Attributes:
        name: what to call it.
        frame: where the grid lies in the map frame.
        instance: grid, starts, goals, seed.
        robot: the model of every robot.
    """

    name: str
    frame: GridFrame
    instance: Instance
    robot: RobotModel = field(default_factory=RobotModel)

    def __post_init__(self) -> None:
        if (self.frame.height, self.frame.width) != self.instance.grid.shape:
            raise WorldError(f'frame and grid differ: {self.frame} and {self.instance.grid.shape}')
        if self.frame.resolution / 2 < self.robot.radius + MARGIN - 1e-9:
            raise WorldError(
                f'resolution {self.frame.resolution} m is too small for robot.radius {self.robot.radius} m; '
                f'a cell must measure at least {2 * (self.robot.radius + MARGIN):.2f} m'
            )

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        robots: int | None = None,
        size: int | Sequence[int] | None = None,
        density: float | None = None,
        seed: int | None = None,
        map: str | None = None,
        resolution: float | None = None,
    ) -> World:
        """Read a description; what is not None replaces the file's word.

        Args:
            path: the YAML file.
            robots: number of robots.
            size: side of a random map, or its rows and columns.
            density: probability of an obstacle on a random map.
            seed: of everything that is drawn.
            map: `random`, or a map file relative to the working directory; starts, goals and scenario of the
                description belong to its own map and are drawn anew then.
            resolution: side of a cell [m].

        Raises:
            WorldError: names the file and what is wrong in it.
        """
        path = Path(path)
        data = read_yaml(path)
        _known(str(path), data, _KEYS)
        for key, value in (('robots', robots), ('seed', seed), ('resolution', resolution)):
            if value is not None:
                data[key] = value
        drawing = data.get('map')
        if map is not None:
            inherited = drawing if isinstance(drawing, dict) and 'random' in drawing else {'random': {}}
            data['map'] = inherited if map == 'random' else {'file': str(Path(map).absolute())}
            if data['map'] is not drawing:
                data = {key: value for key, value in data.items() if key not in ('scenario', 'starts', 'goals')}
        changes = {key: value for key, value in (('size', size), ('density', density)) if value is not None}
        if changes:
            drawing = data.get('map')
            if not isinstance(drawing, dict) or not isinstance(drawing.get('random'), dict):
                raise WorldError(f'{path}: {next(iter(changes))} only applies to a random map; add map:=random')
            data['map'] = {'random': {**drawing['random'], **changes}}
        try:
            return cls.from_description(data, folder=path.parent, default_name=path.stem)
        except WorldError as error:
            raise error if str(error).startswith(str(path)) else WorldError(f'{path}: {error}') from None

    @classmethod
    def from_description(cls, data: dict[str, Any], *, folder: Path = Path(), default_name: str = 'world') -> World:
        """Build a world from what a description file holds (see the module's text).

        Args:
            data: the mapping.
            folder: where relative file names start.
            default_name: used when there is no `name`.

        Raises:
            WorldError: names the key and what is wrong with it.
        """
        _known('', data, _KEYS)
        name = data.get('name', default_name)
        if not isinstance(name, str) or not name:
            raise WorldError(f'name must be text, got {name!r}')
        seed = _whole('seed', data.get('seed', 0), 0, 2**63 - 1)
        resolution = None if data.get('resolution') is None else _real('resolution', data['resolution'], 1e-3, 1e3)
        robot = data.get('robot') or {}
        _known('robot', robot, [item.name for item in fields(RobotModel)])
        model = RobotModel(**robot)

        starts, goals = _cells('starts', data.get('starts')), _cells('goals', data.get('goals'))
        robots = None if data.get('robots') is None else _whole('robots', data['robots'], 1, MAX_ROBOTS)
        if (scenario := data.get('scenario')) is not None:
            if starts is not None or goals is not None:
                raise WorldError('scenario and starts or goals are both given; keep one of them')
            starts, goals = load_scenario(folder / _text('scenario', scenario), robots)
        given = {key: len(cells) for key, cells in (('starts', starts), ('goals', goals)) if cells is not None}
        robots = robots if robots is not None else min(given.values(), default=8)
        for key, count in given.items():
            if count < robots:
                raise WorldError(f'{key} names {count} cells for {robots} robots; add some or lower robots')
        starts = None if starts is None else starts[:robots]
        goals = None if goals is None else goals[:robots]

        drawing = data.get('map')
        kinds = ('random', 'text', 'file')
        if not isinstance(drawing, dict) or len(drawing) != 1:
            raise WorldError(f'map must hold exactly one of {", ".join(kinds)}, got {drawing!r:.60}')
        _known('map', drawing, kinds)
        if 'random' in drawing:
            size, density = _random_map(drawing['random'])
            if starts is None and goals is None:
                instance = random_instance(size, density, robots, seed)
                return cls(name, _frame(MapFile(instance.grid), resolution), instance, model)
            source = MapFile(random_grid(size, density, np.random.default_rng(seed)))
        elif 'text' in drawing:
            source = MapFile(parse_grid(_text('map.text', drawing['text'])))
        else:
            source = load_map(folder / _text('map.file', drawing['file']))
        grid, frame = _resample(source, resolution)
        return cls(name, frame, _place(grid, starts, goals, robots, seed), model)

    @property
    def robots(self) -> int:
        """Number of robots."""
        return self.instance.robots

    @cached_property
    def names(self) -> tuple[str, ...]:
        """`robot_0`, `robot_1` and so on: also the namespaces of their topics."""
        return tuple(f'robot_{index}' for index in range(self.robots))

    @property
    def start_xy(self) -> NDArray[np.float64]:
        """(N, 2) centres of the start cells [m]; robots start there, facing along x."""
        return self.frame.to_xy(self.instance.starts)

    def occupancy(self) -> NDArray[np.int8]:
        """(H, W) as nav_msgs/OccupancyGrid wants its data: row 0 at the bottom, 100 obstacle, 0 free."""
        return np.where(self.instance.grid[::-1], 100, 0).astype(np.int8)


def _frame(source: MapFile, resolution: float | None) -> GridFrame:
    height, width = source.grid.shape
    return GridFrame(height, width, resolution or source.resolution or 1.0, *source.origin)


def _resample(source: MapFile, resolution: float | None) -> tuple[NDArray[np.bool_], GridFrame]:
    """Join pixels to cells where the description asks for larger ones."""
    grid = source.grid
    if source.resolution is not None and resolution is not None:
        factor = round(resolution / source.resolution)
        if factor < 1 or not math.isclose(factor * source.resolution, resolution, rel_tol=1e-6):
            raise WorldError(
                f'resolution {resolution} is no multiple of the map image, whose pixels measure {source.resolution} m'
            )
        grid = coarsen(grid, factor)
    if max(grid.shape) > MAX_SIDE:
        raise WorldError(f'map has {grid.shape[0]} x {grid.shape[1]} cells; at most {MAX_SIDE} a side are possible')
    return grid, _frame(MapFile(grid, source.resolution, source.origin), resolution)


def _place(
    grid: NDArray[np.bool_], starts: NDArray[np.int32] | None, goals: NDArray[np.int32] | None, robots: int, seed: int
) -> Instance:
    """Draw the starts or goals that are not given, each in the component of the other."""
    rng = np.random.default_rng(seed)
    labels = components(grid)
    if starts is None and goals is None:
        cells = np.argwhere(labels == 0).astype(np.int32)
        if len(cells) < robots:
            raise WorldError(f'{robots} robots do not fit on the {len(cells)} connected free cells of the map')
        starts, goals = (cells[rng.permutation(len(cells))[:robots]] for _ in range(2))
    elif starts is None and goals is not None:
        starts = _draw_beside(labels, goals, 'goal', rng)
    elif goals is None and starts is not None:
        goals = _draw_beside(labels, starts, 'start', rng)
    assert starts is not None and goals is not None
    return Instance(grid, starts, goals, seed)


def _draw_beside(
    labels: NDArray[np.int32], cells: NDArray[np.int32], what: str, rng: np.random.Generator
) -> NDArray[np.int32]:
    """(N, 2) different cells, each in the same component as the one given."""
    try:
        validate(labels < 0, cells, cells)
    except WorldError as error:
        raise WorldError(str(error).replace('start', what)) from None
    drawn = np.empty_like(cells)
    belongs = labels[tuple(cells.T)]
    for label in np.unique(belongs):
        choice = np.argwhere(labels == label).astype(np.int32)
        members = np.flatnonzero(belongs == label)
        drawn[members] = choice[rng.permutation(len(choice))[: len(members)]]
    return drawn


def _random_map(data: object) -> tuple[tuple[int, int], float]:
    data = {} if data is None else data
    _known('map.random', data, ('size', 'density'))
    assert isinstance(data, dict)
    size = data.get('size', 20)
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2:
        raise WorldError(f'map.random.size must be a side or [rows, columns], got {size!r}')
    rows, columns = (_whole('map.random.size', side, 1, MAX_SIDE) for side in sides)
    return (rows, columns), _real('map.random.density', data.get('density', 0.15), 0.0, 0.95)


def _known(where: str, data: object, known: Sequence[str]) -> None:
    """Refuse anything but a mapping of known keys."""
    if not isinstance(data, dict):
        raise WorldError(f'{where} must hold keys and values, got {data!r:.60}')
    for key in data:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            hint = f'did you mean {close[0]!r}?' if close else f'known are {", ".join(known)}'
            raise WorldError(f'{where + ": " if where else ""}unknown key {key!r}; {hint}')


def _whole(key: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise WorldError(f'{key} must be a whole number from {low} to {high}, got {value!r}')
    return value


def _real(key: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise WorldError(f'{key} must be a number from {low:g} to {high:g}, got {value!r}')
    return float(value)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise WorldError(f'{key} must be text, got {value!r:.60}')
    return value


def _cells(key: str, value: object) -> NDArray[np.int32] | None:
    """(N, 2) cells from a list of [row, column]."""
    if value is None:
        return None
    pairs = value if isinstance(value, list) and value else [None]
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise WorldError(f'{key} must be a list of [row, column], got {pair!r:.60}')
        for number in pair:
            _whole(f'{key}: row and column', number, 0, MAX_SIDE)
    return np.array(pairs, dtype=np.int32)
