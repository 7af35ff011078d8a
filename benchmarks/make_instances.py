"""Freeze instance sets for the evaluation, and check our grid world against POGEMA's.

Random-obstacle maps, starts and goals come from POGEMA 1.4, an independent generator. It pins numpy <= 1.26 and
Python < 3.13, so give it an environment of its own:

    python3.11 -m venv pogema && pogema/bin/pip install pogema==1.4.0 numba tqdm
    PYTHONPATH=. pogema/bin/python benchmarks/make_instances.py --out attn_robotics/systems/sparc/instances

Structured maps (warehouse, corridor, lanes) need no POGEMA: `--families warehouse,corridor,lanes`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from attn_robotics.simulation.instances import Instance, components
from attn_robotics.systems.sparc.baselines import BASELINES
from attn_robotics.systems.sparc.distance_fields import distance_fields, neighbours
from attn_robotics.systems.sparc.evaluate import run_episode
from attn_robotics.systems.sparc.gridworld import GridWorld
from attn_robotics.systems.sparc.lacam import EXHAUSTED, search
from attn_robotics.systems.sparc.maps import FAMILIES
from attn_robotics.systems.sparc.report import Row, conditions, write_json
from attn_robotics.systems.sparc.suites import FrozenSet

# POGEMA: 0 stay, 1 up, 2 down, 3 left, 4 right.
TO_POGEMA = np.array([1, 2, 3, 4, 0])


@dataclass(frozen=True)
class Wanted:
    """One set of random-obstacle instances."""

    robots: int
    size: int
    density: float
    count: int

    @property
    def name(self) -> str:
        """File name without extension."""
        return f'pogema_{self.robots}x{self.size}_{self.density:.2f}'


SETS = (
    *(Wanted(8, 20, density, 100) for density in (0.0, 0.15, 0.3)),
    *(Wanted(robots, 40, 0.3, 100) for robots in (8, 16, 32, 64, 192, 256)),
    *(Wanted(64, 40, density, 100) for density in (0.0, 0.15)),
    *(Wanted(128, 40, density, 100) for density in (0.0, 0.15, 0.3)),
    *(Wanted(256, 40, density, 100) for density in (0.0, 0.15)),
    *(Wanted(1024, 113, density, 20) for density in (0.0, 0.15, 0.3)),
)


def open_pogema(wanted: Wanted, seed: int, steps: int) -> Any:
    """A POGEMA world whose rules equal ours, freshly reset."""
    from pogema import GridConfig, pogema_v0  # an optional generator with hard pins

    config = GridConfig(
        num_agents=wanted.robots,
        size=wanted.size,
        density=wanted.density,
        seed=seed,
        on_target='nothing',
        collision_system='soft',
        max_episode_steps=steps,
        obs_radius=1,
    )
    world = pogema_v0(grid_config=config)
    world.reset()
    return world


def read_instance(world: Any, seed: int) -> Instance:
    """The instance of a freshly reset POGEMA world."""
    grid = world.unwrapped.grid
    obstacles = np.asarray(grid.get_obstacles(ignore_borders=True)).astype(np.bool_)
    starts = np.asarray(grid.get_agents_xy(ignore_borders=True), np.int32)
    goals = np.asarray(grid.get_targets_xy(ignore_borders=True), np.int32)
    return Instance(obstacles, starts, goals, seed)


def is_solvable(instance: Instance, max_nodes: int = 200_000) -> bool:
    """Whether a solution exists; each connected component is searched alone, and doubt counts as solvable."""
    labels = components(instance.grid)
    width = instance.grid.shape[1]
    near = neighbours(instance.grid)
    fields = distance_fields(instance.grid, instance.goals)
    of_robot = labels[instance.starts[:, 0], instance.starts[:, 1]]
    for label in np.unique(of_robot):
        members = np.flatnonzero(of_robot == label)
        starts, goals = instance.starts[members], instance.goals[members]
        outcome, _ = search(
            near,
            (starts[:, 0] * width + starts[:, 1]).astype(np.int32),
            (goals[:, 0] * width + goals[:, 1]).astype(np.int32),
            np.ascontiguousarray(fields[members].reshape(len(members), -1)),
            True,
            True,
            0,
            max_nodes,
            np.zeros(len(members), np.int64),
        )
        if outcome == EXHAUSTED:
            return False
    return True


def cross_check(wanted: Wanted, seed: int, steps: int, name: str) -> bool:
    """Walk a method on POGEMA's simulator beside ours; whether it solves the instance.

    Raises:
        RuntimeError: the two simulators disagree about a robot's cell at any step, or about the end.
    """
    world = open_pogema(wanted, seed, steps)
    instance = read_instance(world, seed)
    method, ours = BASELINES[name](steps), GridWorld(instance, max_steps=steps, blocking=False)
    method.reset(instance, seed)
    cells = instance.starts
    while not (cells == instance.goals).all() and ours.steps < steps:
        actions = method.act(cells)
        world.step(TO_POGEMA[actions].tolist())
        ours.step(actions)
        cells = np.asarray(world.unwrapped.grid.get_agents_xy(ignore_borders=True), np.int32)
        if (cells != ours.cells).any():
            robot = int((cells != ours.cells).any(axis=1).argmax())
            raise RuntimeError(
                f'{wanted.name}, seed {seed}, step {ours.steps}: robot {robot} is at {cells[robot].tolist()} on '
                f'POGEMA and at {ours.cells[robot].tolist()} here'
            )
    solved = bool((cells == instance.goals).all())
    episode = run_episode(BASELINES[name](steps), instance, seed, steps)
    if (episode.solved, episode.steps) != (solved, ours.steps):
        raise RuntimeError(f'{wanted.name}, seed {seed}: evaluation says {episode}, POGEMA {solved} at {ours.steps}')
    return solved


def freeze(instances: list[Instance], path: Path) -> None:
    """Mark what is solvable and write the set."""
    solvable: NDArray[np.bool_] = np.array([is_solvable(instance) for instance in instances])
    same_map = all(np.array_equal(instance.grid, instances[0].grid) for instance in instances)
    FrozenSet(
        instances[0].grid if same_map else np.stack([instance.grid for instance in instances]),
        np.stack([instance.starts for instance in instances]),
        np.stack([instance.goals for instance in instances]),
        np.array([instance.seed for instance in instances]),
        solvable,
    ).save(path)
    print(f'{path.name}: {len(instances)} instances, {int(solvable.sum())} solvable, {path.stat().st_size} bytes')


def main() -> int:
    """Run the generator; returns the exit code."""
    parser = argparse.ArgumentParser(description='Freeze instance sets; check our grid world against POGEMA.')
    parser.add_argument('--out', type=Path, help='folder for the NPZ files')
    parser.add_argument('--families', default='', help=f'structured maps in place of POGEMA: {", ".join(FAMILIES)}')
    parser.add_argument('--robots', type=int, default=32, help='robots on structured maps (default 32)')
    parser.add_argument('--only', help='make or check only the set of this name, like pogema_128x40_0.30')
    parser.add_argument('--check', type=int, default=0, help='cross-check PIBT on so many seeds of each set instead')
    parser.add_argument('--methods', default='pibt,pibt_swap', help='what to cross-check (default pibt,pibt_swap)')
    parser.add_argument('--missing', action='store_true', help='leave the files alone that exist')
    parser.add_argument('--json', type=Path, help='write the rows of the cross-check here')
    args = parser.parse_args()
    if not args.check and args.out is None:
        print('make_instances: nothing to do; give --out FOLDER or --check N', file=sys.stderr)
        return 2
    quiet = not sys.stderr.isatty()
    if args.families:
        for family in args.families.split(','):
            grid = FAMILIES[family]()
            cells = np.argwhere(~grid).astype(np.int32)
            drawn = []
            for seed in range(100):
                rng = np.random.default_rng(seed)
                order = [rng.permutation(len(cells))[: args.robots] for _ in range(2)]
                drawn.append(Instance(grid, cells[order[0]], cells[order[1]], seed))
            freeze(drawn, args.out / f'{family}_{args.robots}.npz')
        return 0
    rows: list[Row] = []
    for wanted in SETS:
        if args.only and args.only != wanted.name:
            continue
        if args.check:
            for name in args.methods.split(','):
                seeds = tqdm(range(min(args.check, wanted.count)), desc=f'{wanted.name} {name}', disable=quiet)
                outcomes = [cross_check(wanted, seed, 256, name) for seed in seeds]
                case, count = wanted.name.removeprefix('pogema_').replace('_', '/'), len(outcomes)
                rows.append(Row(f'success_rate/{name}/{case}/pogema', sum(outcomes) / count, '', count))
                rows.append(Row(f'disagreements/{name}/{case}/pogema', 0.0, 'episodes', count))
                print(f'{case}: {name} solves {sum(outcomes)} of {count} on both, all cells alike', flush=True)
            continue
        if args.missing and (args.out / f'{wanted.name}.npz').exists():
            continue
        seeds = tqdm(range(wanted.count), desc=wanted.name, disable=quiet)
        freeze([read_instance(open_pogema(wanted, s, 256), s) for s in seeds], args.out / f'{wanted.name}.npz')
    if args.json:
        versions = {'pogema': version('pogema'), 'seeds': f'0..{args.check - 1}', 'steps': 256}
        write_json(args.json, ' '.join(['make_instances', *sys.argv[1:]]), rows, conditions(versions))
    return 0


if __name__ == '__main__':
    sys.exit(main())
