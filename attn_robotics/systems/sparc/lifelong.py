"""Live goals: a robot that arrives gets a new goal at once, and what counts is goals reached per step.

Run as `python -m attn_robotics.systems.sparc.lifelong --help`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.instances import Instance, components, random_instance
from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.baselines import Pibt, ShieldAlone
from attn_robotics.systems.sparc.evaluate import Settings, make_method, parse_seeds
from attn_robotics.systems.sparc.gridworld import GridWorld, count_conflicts
from attn_robotics.systems.sparc.jobs import Kept, run_jobs
from attn_robotics.systems.sparc.learned import LearnedMethod, PoliciesMissingError
from attn_robotics.systems.sparc.report import Row, conditions, mean_interval, table, write_json

METHODS = ('shipped', 'rmha', 'rmha_shield', 'pibt', 'pibt_swap', 'pibt_swap_hindrance', 'shield_only')


LiveMethod = Pibt | ShieldAlone | LearnedMethod  # all that take new goals in mid-run


@dataclass(frozen=True)
class Shift:
    """How one run went."""

    reached: int  # goals reached by all robots
    steps: int
    conflicts: int  # executed; must be 0


class GoalSource:
    """Draws goals: for each robot a stream of its own, so that two methods see the same streams.

    Args:
        instance: the map and where robots start.
        seed: of all streams.
    """

    def __init__(self, instance: Instance, seed: int) -> None:
        labels = components(instance.grid)
        self._streams = [np.random.default_rng([seed, robot]) for robot in range(instance.robots)]
        own = labels[instance.starts[:, 0], instance.starts[:, 1]]
        cells = {int(label): np.argwhere(labels == label).astype(np.int32) for label in np.unique(own)}
        self._choices = [cells[int(label)] for label in own]

    def draw(self, robot: int, taken: NDArray[np.integer]) -> NDArray[np.int32]:
        """The next goal of a robot (2,), none of the cells in `taken` (M, 2) unless its component has no other."""
        choices = self._choices[robot]
        for _ in range(100):
            goal: NDArray[np.int32] = choices[self._streams[robot].integers(len(choices))]
            if not (taken == goal).all(axis=1).any():
                return goal
        raise WorldError(f'no free goal is left for robot {robot}; use fewer robots or a larger map')


def run_shift(method: LiveMethod, instance: Instance, seed: int, steps: int) -> Shift:
    """Run one method with live goals.

    Raises:
        RuntimeError: a method that promises conflict-free joint actions chose another one.
    """
    world = GridWorld(instance, max_steps=steps, blocking=False)
    source = GoalSource(instance, seed)
    method.reset(instance, seed)
    reached = conflicts = 0
    for _ in range(steps):
        before = world.cells
        wishes = method.act(before)
        if method.conflict_free and count_conflicts(instance.grid, before, before + MOVES[wishes]):
            raise RuntimeError(f'a joint action with a conflict was chosen at step {world.steps} of seed {seed}')
        on_goal = world.step(wishes).on_goal
        conflicts += count_conflicts(instance.grid, before, world.cells)
        arrived = np.flatnonzero(on_goal)
        if not len(arrived):
            continue
        reached += len(arrived)
        goals = world.goals.copy()
        for robot in arrived:
            goals[robot] = source.draw(int(robot), goals)
        world.set_goals(goals)
        method.retarget(arrived, goals[arrived])
    return Shift(reached, steps, conflicts)


@dataclass(frozen=True)
class _Job:
    name: str
    robots: int
    size: int
    density: float
    seed: int
    steps: int
    settings: Settings


def _run_job(job: _Job) -> Shift:
    method = make_method(job.name, job.steps, job.settings)
    assert isinstance(method, LiveMethod)
    instance = random_instance(job.size, job.density, job.robots, job.seed)
    return run_shift(method, instance, job.seed, job.steps)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m attn_robotics.systems.sparc.lifelong', description='Goals reached per step with live goals.'
    )
    parser.add_argument('--robots', type=int, default=128, help='robots (default 128)')
    parser.add_argument('--size', type=int, default=40, help='side of the map in cells (default 40)')
    parser.add_argument('--density', type=float, default=0.3, help='obstacle probability (default 0.3)')
    parser.add_argument('--seeds', type=parse_seeds, default=tuple(range(10)), help='instances (default 0-9)')
    parser.add_argument('--steps', type=int, default=512, help='steps of each run (default 512)')
    parser.add_argument('--methods', default='shipped,pibt,pibt_swap', help=f'comma-separated: {", ".join(METHODS)}')
    parser.add_argument('--weights', type=Path, help='weights of the learned methods')
    parser.add_argument('--device', default='cpu', help='of the learned methods (default cpu)')
    parser.add_argument('--jobs', type=int, default=1, help='processes (default 1)')
    parser.add_argument('--keep', type=Path, help='keep finished runs here, and go on from those that are there')
    parser.add_argument('--json', type=Path, help='write the rows here')
    args = parser.parse_args(arguments)
    case = f'{args.robots}x{args.size}/{args.density:.2f}'
    rows: list[Row] = []
    settings = Settings(weights=args.weights, device=args.device)
    try:
        names = []
        for name in args.methods.split(','):
            if name not in METHODS:
                raise ValueError(f'{name!r} takes no live goals; there are {", ".join(METHODS)}')
            try:
                make_method(name, args.steps, settings)
            except PoliciesMissingError as error:
                print(f'skipped {name}: {error}', file=sys.stderr)
                continue
            names.append(name)
        work = [
            _Job(name, args.robots, args.size, args.density, seed, args.steps, settings)
            for name in names
            for seed in args.seeds
        ]
        kept: Kept[_Job, Shift] = Kept(args.keep, repr, Shift)
        done = list(tqdm(run_jobs(_run_job, work, args.jobs, kept), total=len(work), disable=not sys.stderr.isatty()))
        for name in names:
            shifts = [shift for job, shift in zip(work, done, strict=True) if job.name == name]
            rates = [shift.reached / shift.steps for shift in shifts]
            mean = float(np.mean(rates))
            rows.append(Row(f'throughput/{name}/{case}', mean, 'goals/step', len(rates), mean_interval(rates)))
            rows.append(
                Row(f'conflicts/{name}/lifelong/{case}', float(sum(s.conflicts for s in shifts)), '', len(rates))
            )
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    except (WorldError, ValueError, RuntimeError) as error:
        print(f'lifelong: {error}', file=sys.stderr)
        return 2
    print(table(('name', 'value', 'unit'), [(row.name, f'{row.value:.3f}', row.unit) for row in rows]))
    if args.json:
        command = ' '.join(['lifelong', *(sys.argv[1:] if arguments is None else arguments)])
        write_json(args.json, command, rows, conditions({'seeds': list(args.seeds), 'steps': args.steps}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
