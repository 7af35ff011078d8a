"""Which instances are evaluated: drawn from seeds, or read from frozen NPZ sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.instances import Instance, random_instance
from attn_robotics.systems.sparc.maps import FAMILIES

# Sets drawn once by an independent generator, see benchmarks/make_instances.py.
SHIPPED = Path(__file__).parent / 'instances'

ABLATION = ('rmha', 'content_only', 'no_comm', 'rmha_shield', 'content_only_shield', 'no_comm_shield')
LOCAL = ('pibt', 'pibt_swap', 'pibt_swap_hindrance', 'shield_only')
SEARCH = ('lacam', 'lacam_refined')
LEARNED = ('shipped', 'rmha', 'rmha_shield', 'rmha_all_stay')
PAPER = (*LEARNED, 'content_only', 'no_comm', 'independent', 'prioritised', *LOCAL, *SEARCH)
SCALE = ('shipped', 'rmha', *LOCAL, *SEARCH)


@dataclass(frozen=True)
class Case:
    """One cell of a results table.

    Attributes:
        robots: number of robots.
        size: side of the map.
        density: obstacle probability.
        seeds: one instance each.
        methods: what to run; `pibt_swap` is always added.
        steps: step limit.
        instances: a frozen set in place of drawn instances.
        label: name of the map family when it isn't random obstacles.
    """

    robots: int
    size: int
    density: float
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    steps: int = 256
    instances: FrozenSet | None = field(default=None, compare=False)
    label: str = ''

    @property
    def name(self) -> str:
        """Robots, map and density as they appear in result names: `128x40/0.30`."""
        return f'{self.robots}x{self.size}/{self.label or f"{self.density:.2f}"}'

    def instance(self, index: int) -> Instance:
        """The instance of `seeds[index]`."""
        if self.instances is not None:
            return self.instances.instance(self.seeds[index])
        return random_instance(self.size, self.density, self.robots, self.seeds[index])

    def solvable(self) -> list[bool] | None:
        """Whether each instance has a solution, None where nobody looked."""
        if self.instances is None or self.instances.solvable is None:
            return None
        return [bool(self.instances.solvable[self.instances.position(seed)]) for seed in self.seeds]


@dataclass(frozen=True)
class FrozenSet:
    """Instances of one file.

    Attributes:
        grid: (K, H, W) or, one map for all, (H, W) bool.
        starts: (K, N, 2) rows and columns.
        goals: (K, N, 2) rows and columns.
        seeds: (K,) seeds of the generator that drew them, all different.
        solvable: (K,) whether a solution exists, None where nobody looked.
    """

    grid: NDArray[np.bool_]
    starts: NDArray[np.integer]
    goals: NDArray[np.integer]
    seeds: NDArray[np.integer]
    solvable: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        count = len(self.seeds)
        if self.grid.ndim not in (2, 3) or (self.grid.ndim == 3 and len(self.grid) != count):
            raise WorldError(f'grid must be (H, W) or ({count}, H, W), got {self.grid.shape}')
        for name in ('starts', 'goals'):
            shape = getattr(self, name).shape
            if len(shape) != 3 or shape[0] != count or shape[2] != 2:
                raise WorldError(f'{name} must be ({count}, N, 2), got {shape}')
        if len(np.unique(self.seeds)) != count:
            raise WorldError('seeds of frozen instances must differ, because results are named by them')

    def position(self, seed: int) -> int:
        """Where the instance of a seed lies in the arrays.

        Raises:
            WorldError: no instance was drawn from that seed.
        """
        found = np.flatnonzero(self.seeds == seed)
        if not len(found):
            raise WorldError(
                f'seed {seed} is not in the frozen set, which holds {self.seeds.min()}..{self.seeds.max()}'
            )
        return int(found[0])

    def instance(self, seed: int) -> Instance:
        """The instance of a seed, checked."""
        index = self.position(seed)
        grid = self.grid if self.grid.ndim == 2 else self.grid[index]
        return Instance(grid, self.starts[index].astype(np.int32), self.goals[index].astype(np.int32), seed)

    def save(self, path: Path) -> None:
        """Write as a compressed NPZ without pickled objects: maps as bits, cells in the smallest type."""
        side = max(self.grid.shape[-2:])
        kind = np.uint8 if side <= 256 else np.uint16
        arrays = {
            'grid_bits': np.packbits(self.grid),
            'grid_shape': np.array(self.grid.shape),
            'starts': self.starts.astype(kind),
            'goals': self.goals.astype(kind),
            'seeds': self.seeds,
        }
        if self.solvable is not None:
            arrays['solvable'] = self.solvable
        partial = path.with_name(path.name + '.partial')
        with partial.open('wb') as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        partial.replace(path)


def load(path: Path) -> FrozenSet:
    """Read a frozen set: arrays `grid` (or `grid_bits` and `grid_shape`), `starts`, `goals`, `seeds`, `solvable`.

    Raises:
        WorldError: the file is missing, is no NPZ, or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError) as error:
        raise WorldError(f'{path} is not an instance file ({error}); give an NPZ with grid, starts, goals') from error
    if 'grid_bits' in arrays:
        shape = tuple(arrays['grid_shape'].tolist())
        bits = np.unpackbits(arrays['grid_bits'], count=int(np.prod(shape)))
        arrays['grid'] = bits.reshape(shape)
    missing = [name for name in ('grid', 'starts', 'goals') if name not in arrays]
    if missing:
        raise WorldError(f'{path} lacks {", ".join(missing)}; an instance file holds grid, starts, goals and seeds')
    starts, goals = arrays['starts'], arrays['goals']
    if starts.ndim == 2:  # a single instance
        starts, goals = starts[None], goals[None]
    seeds = arrays.get('seeds', np.arange(len(starts)))
    return FrozenSet(arrays['grid'].astype(np.bool_), starts, goals, seeds, arrays.get('solvable'))


def frozen_case(path: Path, methods: Sequence[str], steps: int) -> Case:
    """The case of one instance file; density and map name come from the file's maps and name."""
    frozen = load(path)
    seeds = tuple(int(seed) for seed in frozen.seeds)
    size = int(frozen.grid.shape[-1])
    return Case(
        frozen.starts.shape[1], size, float(frozen.grid.mean()), seeds, tuple(methods), steps, frozen, path.stem
    )


def shipped(robots: int, size: int, density: float) -> FrozenSet | None:
    """The frozen set of random-obstacle instances that ships for a case, None if there is none."""
    path = SHIPPED / f'pogema_{robots}x{size}_{density:.2f}.npz'
    return load(path) if path.is_file() else None


def build(
    suite: str,
    seeds: tuple[int, ...] | None = None,
    *,
    quick: bool = False,
    methods: Sequence[str] = (),
    drawn: bool = False,
) -> list[Case]:
    """The cases of a suite, on the frozen sets that ship and otherwise on drawn instances.

    Args:
        suite: 'paper' (128 robots, three densities, and structured maps), 'scale' (8 to 1024 robots) or 'ablation'
            (communication).
        seeds: instances of each case; None for 0..99, or what the frozen set holds, or 0..9 if `quick`.
        quick: small fleets and maps of the same kind, for a look within a minute or two.
        methods: run these in place of the suite's own.
        drawn: leave the frozen sets aside; drawn instances lie in the largest connected component.
    """
    names: tuple[str, ...]
    if suite == 'paper':
        shapes = [(32, 20, density, 256) if quick else (128, 40, density, 256) for density in (0.0, 0.15, 0.3)]
        names = PAPER
    elif suite == 'scale':
        fleets = [(n, 40) for n in ((8, 32, 128) if quick else (8, 16, 32, 64, 128, 192, 256))]
        shapes = [(robots, size, 0.3, 256) for robots, size in fleets]
        if not quick:
            sparse = [(64, 40, 256), (256, 40, 256), (1024, 113, 768)]
            open_maps = [(robots, size, density, steps) for robots, size, steps in sparse for density in (0.0, 0.15)]
            shapes = [*open_maps, *shapes, (1024, 113, 0.3, 768)]
        names = SCALE
    elif suite == 'ablation':
        shapes = [(robots, 40, 0.3, 256) for robots in ((32,) if quick else (64, 128))]
        names = ABLATION
    else:
        raise ValueError(f'suite must be paper, scale or ablation, got {suite!r}')
    cases = []
    for robots, size, density, steps in shapes:
        frozen = None if drawn else shipped(robots, size, density)
        chosen = seeds
        if chosen is None:
            chosen = tuple(range(100)) if frozen is None else tuple(int(seed) for seed in frozen.seeds)
            chosen = chosen[:10] if quick else chosen
        cases.append(Case(robots, size, density, chosen, tuple(methods or names), steps, frozen))
    if suite == 'paper':
        for family in FAMILIES:
            frozen = load(SHIPPED / f'{family}_32.npz')
            chosen = seeds or tuple(int(seed) for seed in frozen.seeds[: 10 if quick else None])
            size = int(frozen.grid.shape[-1])
            robots = frozen.starts.shape[1]
            cases.append(Case(robots, size, 0.0, chosen, tuple(methods or names), 256, frozen, family))
    return cases
