"""Success rate, steps and conflicts of every method on the same instances.

Run as `python -m attn_robotics.systems.sparc.evaluate --help`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.instances import Instance
from attn_robotics.systems.sparc import suites
from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.baselines import BASELINES, Method
from attn_robotics.systems.sparc.gridworld import GridWorld, count_conflicts
from attn_robotics.systems.sparc.jobs import Kept, run_jobs
from attn_robotics.systems.sparc.learned import (
    ABLATION_WEIGHTS,
    LEARNED,
    LearnedMethod,
    PoliciesMissingError,
    load_policy,
)
from attn_robotics.systems.sparc.report import Row, conditions, mean_interval, table, wilson, write_json
from attn_robotics.systems.sparc.shield import ShieldConfig, ShieldError

REFERENCE = 'pibt_swap'


@dataclass(frozen=True)
class Episode:
    """How one instance went."""

    solved: bool
    steps: int  # until solved, or the limit
    most_on_goal: int  # robots on their goals at once
    last_on_goal: int  # robots on their goals at the end
    refused: int  # wishes that collided and were refused by the world
    conflicts: int  # executed; must be 0


def run_episode(method: Method, instance: Instance, seed: int, max_steps: int) -> Episode:
    """Run one method on one instance.

    Raises:
        RuntimeError: a method that promises conflict-free joint actions chose another one.
    """
    world = GridWorld(instance, max_steps=max_steps, blocking=False)
    method.reset(instance, seed)
    on_goal = (world.cells == world.goals).all(axis=1)
    most, refused, conflicts = int(on_goal.sum()), 0, 0
    while not on_goal.all() and world.steps < max_steps:
        before = world.cells
        wishes = method.act(before)
        # Checked by a rule of its own, before the world could repair anything.
        if method.conflict_free and count_conflicts(instance.grid, before, before + MOVES[wishes]):
            raise RuntimeError(f'a joint action with a conflict was chosen at step {world.steps} of seed {seed}')
        step = world.step(wishes)
        on_goal = step.on_goal
        most = max(most, int(on_goal.sum()))
        refused += int(step.refused.sum())
        conflicts += count_conflicts(instance.grid, before, world.cells)
    return Episode(bool(on_goal.all()), world.steps, most, int(on_goal.sum()), refused, conflicts)


@dataclass(frozen=True)
class Settings:
    """How the learned methods run."""

    weights: Path | None = None  # a file, or a folder of networks; None for the shipped ones
    backend: str = 'auto'
    device: str = 'cpu'
    shield: ShieldConfig = field(default_factory=ShieldConfig)  # of 'shipped'


@lru_cache(maxsize=16)
def make_method(name: str, max_steps: int, settings: Settings = Settings()) -> Method:
    """Build a method by name.

    Raises:
        PoliciesMissingError: a learned one without usable weights.
        ValueError: no such method.
    """
    if name in BASELINES:
        return BASELINES[name](max_steps)
    if name in LEARNED:
        network, rule = LEARNED[name]
        backend = 'torch' if rule == 'value_winner' else settings.backend
        policy = load_policy(network, settings.weights, device=settings.device, backend=backend)
        return LearnedMethod(policy, rule, settings.shield)
    raise ValueError(f'no method {name!r}; there are {", ".join([*LEARNED, *BASELINES])}')


@dataclass(frozen=True)
class _Job:
    case: suites.Case
    method: str
    index: int
    settings: Settings


def _run_job(job: _Job) -> Episode:
    method = make_method(job.method, job.case.steps, job.settings)
    return run_episode(method, job.case.instance(job.index), job.case.seeds[job.index], job.case.steps)


def _name(job: _Job) -> str:
    """Of an episode, with those settings that its method depends on."""
    drawn = 'drawn' if job.case.instances is None else 'frozen'
    name = f'{job.case.name} {drawn} {job.case.steps} {job.method} {job.case.seeds[job.index]}'
    if job.method in LEARNED:
        settings = job.settings
        name += f' {settings.weights} {settings.backend} {settings.device}'
        if LEARNED[job.method][1] == 'shipped':
            name += f' {settings.shield}'
    return name


def evaluate(
    cases: Sequence[suites.Case],
    *,
    settings: Settings = Settings(),
    jobs: int = 1,
    progress: bool = True,
    keep: Path | None = None,
    kept_only: bool = False,
) -> dict[tuple[str, str], list[Episode]]:
    """Run every method of every case on all its instances.

    Args:
        cases: what to run; `pibt_swap` is added to each.
        settings: of the learned methods.
        jobs: processes; the numbers don't depend on it.
        progress: draw a bar on stderr.
        keep: file of finished episodes, which are not run again.
        kept_only: run nothing; leave out what `keep` does not hold wholly.

    Returns:
        Case name and method -> episodes in the order of the seeds.
    """
    kept = Kept(keep, _name, Episode)
    skipped: dict[str, list[str]] = {}
    work: list[_Job] = []
    for case in cases:
        for name in dict.fromkeys([*case.methods, REFERENCE]):
            try:
                make_method(name, case.steps, settings)
            except PoliciesMissingError as error:
                skipped.setdefault(str(error), []).append(name)
                continue
            wanted = [_Job(case, name, index, settings) for index in range(len(case.seeds))]
            if kept_only and any(kept.find(job) is None for job in wanted):
                skipped.setdefault(f'not every episode of {case.name} was kept', []).append(name)
                continue
            work.extend(wanted)
    for reason, names in skipped.items():
        print(f'skipped {", ".join(dict.fromkeys(names))}: {reason}', file=sys.stderr)
    results: dict[tuple[str, str], list[Episode]] = {}
    with tqdm(total=len(work), unit='episode', disable=not progress, dynamic_ncols=True) as bar:
        for job, episode in zip(work, run_jobs(_run_job, work, jobs, kept), strict=True):
            results.setdefault((job.case.name, job.method), []).append(episode)
            bar.set_postfix_str(f'{job.method} {job.case.name}')
            bar.update()
    return results


def make_rows(cases: Sequence[suites.Case], results: dict[tuple[str, str], list[Episode]]) -> list[Row]:
    """Turn episodes into rows named `metric/method/case`."""
    rows: list[Row] = []
    for case in cases:
        runs = {method: episodes for (name, method), episodes in results.items() if name == case.name}
        rates = {method: float(np.mean([e.solved for e in episodes])) for method, episodes in runs.items()}
        solved_steps = {method: [e.steps for e in episodes if e.solved] for method, episodes in runs.items()}
        for method, episodes in runs.items():
            tail = f'{method}/{case.name}'
            count, solved = len(episodes), sum(e.solved for e in episodes)
            beside = method != REFERENCE and REFERENCE in runs
            reference = {REFERENCE: rates[REFERENCE]} if beside else {}
            rows.append(Row(f'success_rate/{tail}', rates[method], '', count, wilson(solved, count), reference))
            solvable = case.solvable()
            if solvable is not None:
                chosen = [e.solved for e, good in zip(episodes, solvable, strict=True) if good]
                interval = wilson(sum(chosen), len(chosen))
                value = float(np.mean(chosen)) if chosen else None
                rows.append(Row(f'success_rate_solvable/{tail}', value, '', len(chosen), interval))
            steps = solved_steps[method]
            reference = {}
            if beside and solved_steps[REFERENCE]:
                reference = {REFERENCE: float(np.mean(solved_steps[REFERENCE]))}
            mean_steps = float(np.mean(steps)) if steps else None
            rows.append(Row(f'mean_steps/{tail}', mean_steps, 'steps', len(steps), mean_interval(steps), reference))
            most = [float(e.most_on_goal) for e in episodes]
            rows.append(Row(f'max_on_goal/{tail}', float(np.mean(most)), 'robots', count, mean_interval(most)))
            arrived = [e.last_on_goal / case.robots for e in episodes]
            rows.append(Row(f'individual_success/{tail}', float(np.mean(arrived)), '', count, mean_interval(arrived)))
            refused = [e.refused / max(e.steps, 1) / case.robots for e in episodes]
            rows.append(Row(f'refused_moves/{tail}', float(np.mean(refused)), 'per robot and step', count))
            conflicts = float(sum(e.conflicts for e in episodes))
            rows.append(Row(f'conflicts/{tail}', conflicts, '', count))
        for better, worse in (('rmha', 'content_only'), ('content_only', 'no_comm')):
            if better in rates and worse in rates:
                name = f'success_gain/{better}-{worse}/{case.name}'
                rows.append(Row(name, rates[better] - rates[worse], '', len(runs[better])))
    return rows


def make_table(cases: Sequence[suites.Case], results: dict[tuple[str, str], list[Episode]]) -> str:
    """The readable table."""
    header = ('method', 'case', 'success', '95 % interval', 'of solvable', 'steps if solved', 'MR', 'ISR', 'conflicts')
    lines = []
    for case in cases:
        for (name, method), episodes in results.items():
            if name != case.name:
                continue
            solved = [e.steps for e in episodes if e.solved]
            low, high = wilson(len(solved), len(episodes))
            solvable = case.solvable()
            lines.append(
                (
                    method,
                    name,
                    f'{len(solved)}/{len(episodes)}',
                    f'{100 * low:.1f}-{100 * high:.1f}',
                    f'{len(solved)}/{sum(solvable)}' if solvable else '-',
                    f'{np.mean(solved):.1f}' if solved else '-',
                    f'{np.mean([e.most_on_goal for e in episodes]):.1f}',
                    f'{100 * np.mean([e.last_on_goal for e in episodes]) / case.robots:.1f}',
                    str(sum(e.conflicts for e in episodes)),
                )
            )
    return table(header, lines)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read `0-99` or `3,5,7-9`."""
    seeds: list[int] = []
    for part in text.split(','):
        first, _, last = part.partition('-')
        try:
            seeds.extend(range(int(first), int(last or first) + 1))
        except ValueError:
            raise argparse.ArgumentTypeError(f'seeds must look like 0-99 or 1,2,5-7, got {text!r}') from None
    if not seeds:
        raise argparse.ArgumentTypeError(f'{text!r} names no seed')
    return tuple(seeds)


def parse_shield(text: str) -> ShieldConfig:
    """Read `distance_weight=0.5,swap=false` over the defaults of `ShieldConfig`."""
    known = asdict(ShieldConfig())
    changes: dict[str, float | bool] = {}
    for part in text.split(','):
        key, _, value = part.partition('=')
        try:
            changes[key] = {'true': True, 'false': False}[value] if isinstance(known[key], bool) else float(value)
        except (KeyError, ValueError):
            raise argparse.ArgumentTypeError(f'{part!r} is none of {", ".join(known)} with a value') from None
    try:
        return replace(ShieldConfig(), **changes)  # type: ignore[arg-type]
    except ShieldError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m attn_robotics.systems.sparc.evaluate',
        description='Success rate of path-finding methods on the same instances; PIBT with swap always runs beside.',
        epilog=f'methods: {", ".join([*LEARNED, *BASELINES])}',
    )
    parser.add_argument('--robots', type=int, default=8, help='robots (default 8)')
    parser.add_argument('--size', type=int, default=20, help='side of the map in cells (default 20)')
    parser.add_argument('--density', type=float, default=0.15, help='obstacle probability (default 0.15)')
    parser.add_argument('--seeds', type=parse_seeds, help='instances: 0-99 or 1,2,5-7 (default 0-99, with --quick 0-9)')
    parser.add_argument('--steps', type=int, help="step limit (default 256, or the suite's)")
    parser.add_argument('--methods', help='comma-separated (default: shipped, or those of the suite)')
    parser.add_argument('--suite', choices=('paper', 'scale', 'ablation'), help='a whole table in place of one case')
    parser.add_argument('--quick', action='store_true', help='fewer instances and smaller fleets')
    parser.add_argument('--instances', type=Path, help='NPZ file of instances in place of drawn ones')
    parser.add_argument('--drawn', action='store_true', help='suites: draw instances instead of the frozen sets')
    parser.add_argument('--weights', type=Path, help='weights of the learned methods: a file, or a folder of networks')
    parser.add_argument(
        '--backend', choices=('auto', 'torch', 'onnxruntime'), default='auto', help='of the learned methods'
    )
    parser.add_argument('--device', default='cpu', help='of the learned methods (default cpu)')
    parser.add_argument(
        '--shield',
        type=parse_shield,
        default=ShieldConfig(),
        metavar='KEY=VALUE,...',
        help='of shipped, like distance_weight=0.5,temperature=0,swap=false',
    )
    parser.add_argument('--jobs', type=int, default=1, help='processes (default 1)')
    parser.add_argument('--keep', type=Path, help='keep finished episodes here, and go on from those that are there')
    parser.add_argument('--kept-only', action='store_true', help='run nothing, make the table of what was kept wholly')
    parser.add_argument('--json', type=Path, help='write the rows here')
    return parser


def _cases(args: argparse.Namespace) -> list[suites.Case]:
    seeds = args.seeds or tuple(range(10 if args.quick else 100))
    methods = tuple(args.methods.split(',')) if args.methods else ()
    for name in methods:
        if name not in LEARNED and name not in BASELINES:
            raise ValueError(f'no method {name!r}; there are {", ".join([*LEARNED, *BASELINES])}')
    if args.instances:
        case = suites.frozen_case(args.instances, methods or ('shipped',), args.steps or 256)
        chosen = args.seeds or (case.seeds[:10] if args.quick else case.seeds)
        return [replace(case, seeds=chosen)]
    if args.suite:
        cases = suites.build(args.suite, args.seeds, quick=args.quick, methods=methods, drawn=args.drawn)
        return cases if args.steps is None else [replace(case, steps=args.steps) for case in cases]
    return [suites.Case(args.robots, args.size, args.density, seeds, methods or ('shipped',), args.steps or 256)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = _parser().parse_args(arguments)
    try:
        cases = _cases(args)
        weights = args.weights
        if args.suite == 'ablation' and weights is None and ABLATION_WEIGHTS.is_dir():
            weights = ABLATION_WEIGHTS  # three small networks of one budget, not the one that ships
        settings = Settings(weights, args.backend, args.device, args.shield)
        results = evaluate(
            cases,
            settings=settings,
            jobs=args.jobs,
            progress=sys.stderr.isatty(),
            keep=args.keep,
            kept_only=args.kept_only,
        )
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    except (WorldError, ValueError, RuntimeError) as error:
        print(f'evaluate: {error}', file=sys.stderr)
        return 2
    print(make_table(cases, results))
    if args.json:
        command = ' '.join(['evaluate', *(sys.argv[1:] if arguments is None else arguments)])
        seeds = {case.name: list(case.seeds) for case in cases}
        learned = {k: v.name if isinstance(v, Path) else str(v) for k, v in asdict(settings).items()}
        where = conditions({'seeds': seeds, 'learned': learned})
        write_json(args.json, command, make_rows(cases, results), where)
    return 0


if __name__ == '__main__':
    sys.exit(main())
