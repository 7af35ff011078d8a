"""Compare our attention kernels with what libraries offer for the same problem, on one GPU in one process.

Every row passes a correctness gate first: at most twice plain torch's error in the same precision against float64.
Results are written after every row, so that a run that is stopped keeps what it has.
`python benchmarks/attention.py --table`
"""

from __future__ import annotations

import argparse
import fnmatch
import glob
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from attention_rows import ROWS, Row
from graph_timing import Timing, conditions, copy_time_us, empty_node_us, time_replay
from tqdm import tqdm

from attn_robotics.kernels import dispatch


def rms(value: torch.Tensor, truth: torch.Tensor) -> float:
    """Root mean square difference, in float64."""
    return float((value.double() - truth.double()).square().mean().sqrt())


def case_of(row: Row) -> str:
    """Name of a row in the results, `kernel/shape`."""
    return f'{row.name}/{row.shape}'.replace(' ', '_')


def is_wanted(group: str, row: Row, patterns: list[str]) -> bool:
    """Whether a pattern names the row's group, its kernel or its case."""
    names = (group, row.name.replace(' ', '_'), case_of(row))
    return not patterns or any(fnmatch.fnmatch(name, pattern) for name in names for pattern in patterns)


def compile_only(group: str, patterns: list[str], without: tuple[str, ...]) -> None:
    """Run every call of a group once, so that compilers fill their caches; failures are reported by the real run."""
    for row in ROWS[group]():
        if is_wanted(group, row, patterns):
            works = [work for name, work in row.baselines.items() if f'{row.name}/{name}' not in without]
            with dispatch.forcing('fused'):
                for work in (row.ours, *row.variants.values()):
                    _try(work)
            for work in works:
                _try(work)


def _try(work: Callable[[], object]) -> None:
    try:
        work()
        torch.cuda.synchronize()
    except Exception as problem:
        print(f'compiling: {type(problem).__name__}: {str(problem)[:120]}', file=sys.stderr)


def compile_in_parallel(arguments: argparse.Namespace) -> None:
    """One process a row; they share the on-disk caches of Triton and torch with this one."""
    cases = [
        (group, case_of(row))
        for group in arguments.rows
        for row in ROWS[group]()
        if is_wanted(group, row, arguments.only)
    ]
    torch.cuda.empty_cache()
    command = [sys.executable, __file__, '--compile-only', '--seed', str(arguments.seed)]
    command += ['--without', *arguments.without] if arguments.without else []
    environment = {**os.environ, 'TORCHINDUCTOR_COMPILE_THREADS': '1'}
    waiting = [
        subprocess.Popen([*command, '--rows', group, '--only', glob.escape(case)], env=environment)
        for group, case in cases
    ]
    for process in tqdm(waiting, desc='compiling', file=sys.stderr):
        process.wait()


def fastest(row: Row, timing: Timing, allowed: float, found: list[dict[str, object]]) -> tuple[Timing, str | None]:
    """Time other configurations of our kernel; a wrong one is reported and does not count."""
    row.restore()
    chosen, reference = None, flat(row.ours())
    for name, work in row.variants.items():
        entry: dict[str, object] = {'name': f'time/{case_of(row)}/ours_{name}', 'value': None, 'unit': 'us'}
        found.append(entry)
        try:
            row.restore()
            difference = rms(flat(work()), reference)
            if not difference <= allowed * max(1.0, float(reference.double().square().mean().sqrt())):
                entry['note'] = f'differs by {difference:.2e} from the default configuration'
                continue
            other = time_replay(work)
        except Exception as problem:
            entry['note'] = f'{type(problem).__name__}: {problem}'[:120]
            continue
        entry['value'] = other.median_us
        if other.median_us < timing.median_us:
            timing, chosen = other, name
    return timing, chosen


def flat(value: object) -> torch.Tensor:
    """One vector of a tensor or a tuple of tensors."""
    parts = (value,) if isinstance(value, torch.Tensor) else value
    return torch.cat([part.double().flatten() for part in parts])  # type: ignore[attr-defined]  # a tuple of tensors


def measure(row: Row, deadline: float, without: tuple[str, ...], tune: bool) -> list[dict[str, object]]:
    """Gate, time and compare one row; baselines are left out once the deadline has passed."""
    ours, low, truth = row.gate()
    error, allowed = rms(ours, truth), 2 * rms(low, truth) + 1e-6
    case = case_of(row)
    found: list[dict[str, object]] = [
        {'name': f'rms_error/{case}', 'value': error, 'unit': '', 'target': allowed, 'met': error <= allowed}
    ]
    if not error <= allowed:
        return found
    del ours, low, truth
    with dispatch.forcing('fused'):
        timing, chosen = time_replay(row.ours), None
        if tune:
            timing, chosen = fastest(row, timing, allowed, found)
    entry: dict[str, object] = {
        'name': f'time/{case}/ours',
        'value': timing.median_us,
        'unit': 'us',
        'graph': timing.graph,
        'range': [timing.low_us, timing.high_us],
    }
    found.append({**entry, 'configuration': chosen} if chosen else entry)
    times: dict[str, float] = {}
    for name, work in row.baselines.items():
        if f'{row.name}/{name}' in without:
            continue
        if time.monotonic() > deadline:
            found.append({'name': f'time/{case}/{name}', 'value': None, 'unit': 'us', 'note': 'out of time'})
            continue
        try:
            other = time_replay(work, eager=name in row.eager)
        except Exception as problem:
            note = str(problem).strip().splitlines()
            found.append(
                {'name': f'time/{case}/{name}', 'value': None, 'unit': 'us', 'note': (note or ['refused'])[0][:120]}
            )
            continue
        times[name] = other.median_us
        found.append({'name': f'time/{case}/{name}', 'value': other.median_us, 'unit': 'us', 'graph': other.graph})
    if row.bytes_moved:
        found.append({'name': f'time/{case}/copy', 'value': copy_time_us(row.bytes_moved), 'unit': 'us'})
    for reference, factor in row.targets.items():
        if reference == 'empty':
            value = timing.median_us - empty_node_us()
            found.append(
                {
                    'name': f'above_empty_node/{case}',
                    'value': value,
                    'unit': 'us',
                    'target': factor,
                    'met': value <= factor,
                }
            )
            continue
        if reference == 'copy':
            value = copy_time_us(row.bytes_moved) / timing.median_us
        elif reference == 'best':
            if not times:
                continue
            value = min(times.values()) / timing.median_us
        elif reference in times:
            value = times[reference] / timing.median_us
        else:
            continue
        found.append(
            {'name': f'ratio/{case}/{reference}', 'value': value, 'unit': 'x', 'target': factor, 'met': value >= factor}
        )
    return found


def gates(groups: list[str], patterns: list[str], seeds: range) -> list[dict[str, object]]:
    """Gate every row once a seed, each with inputs of its own: a race shows now and then."""
    found: dict[str, dict[str, object]] = {}
    for seed in tqdm(seeds, desc='gates', file=sys.stderr):
        for group in groups:
            torch.manual_seed(seed)
            for row in ROWS[group]():
                if not is_wanted(group, row, patterns):
                    continue
                case = case_of(row)
                entry = found.setdefault(
                    case, {'name': f'gate/{case}', 'value': 0.0, 'unit': '', 'target': 1.0, 'n': 0}
                )
                try:
                    ours, low, truth = row.gate()
                    share = rms(ours, truth) / (2 * rms(low, truth) + 1e-6)
                except Exception as problem:
                    share = float('inf')
                    entry['note'] = f'{type(problem).__name__}: {problem}'[:200]
                share = share if math.isfinite(share) else math.inf  # NaN compares with nothing
                entry['value'] = max(share, entry['value'])  # type: ignore[type-var]
                entry['n'] = entry['n'] + 1  # type: ignore[operator]
                entry['met'] = bool(entry['value'] <= 1.0)  # type: ignore[operator]
    return list(found.values())


def draw(results: list[dict[str, object]], path: Path) -> None:
    """Bars of time on a logarithmic axis, one group a row."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    groups: dict[str, list[tuple[str, float]]] = {}
    for entry in results:
        kind, *rest = str(entry['name']).split('/')
        if kind == 'time' and isinstance(entry['value'], float) and not rest[-1].startswith('ours_'):
            groups.setdefault('/'.join(rest[:-1]), []).append((rest[-1], entry['value']))
    figure, axes = pyplot.subplots(figsize=(10, 0.32 * sum(len(g) + 1 for g in groups.values()) + 1))
    at, ticks, labels = 0, [], []
    for group, bars in groups.items():
        for name, value in bars:
            axes.barh(at, value, color='tab:blue' if name == 'ours' else 'tab:gray')
            ticks.append(at)
            labels.append(f'{group}: {name}' if name == 'ours' else name)
            at += 1
        at += 1
    axes.set(xscale='log', xlabel='time of one call [us]', yticks=ticks, yticklabels=labels)
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path)


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` in one step."""
    with tempfile.NamedTemporaryFile('w', dir=path.resolve().parent, delete=False) as handle:
        handle.write(text)
    Path(handle.name).replace(path)


def table(results: list[dict[str, object]]) -> str:
    """A readable table."""
    lines = []
    for entry in results:
        value = entry['value']
        shown = (
            f'{value:12.4g}'
            if isinstance(value, float) and value < 0.01
            else f'{value:12.3f}'
            if isinstance(value, float)
            else f'{value!s:>12.12}'
        )
        goal = f'  goal {entry["target"]:.3g}  {"met" if entry["met"] else "MISSED"}' if 'target' in entry else ''
        flag = '' if entry.get('graph', True) else '  (eager: cannot be captured)'
        note = ''.join(f'  {entry[key]}' for key in ('configuration', 'note') if key in entry)
        lines.append(f'{entry["name"]:74} {shown} {entry["unit"]:2}{goal}{flag}{note}')
    return '\n'.join(lines)


def ceilings() -> list[dict[str, object]]:
    """What the machine allows: an empty node, a large copy, a large matrix product of random numbers."""
    large, side = 2 << 30, 8192
    a, b = (torch.randn(side, side, device='cuda', dtype=torch.bfloat16) for _ in range(2))
    product_us = time_replay(lambda: a @ b).median_us
    return [
        {'name': 'time/empty_graph_node', 'value': empty_node_us(), 'unit': 'us'},
        {'name': 'bandwidth/copy', 'value': large / copy_time_us(large) / 1e6, 'unit': 'TB/s'},
        {'name': 'rate/matrix_product_bf16', 'value': 2 * side**3 / product_us / 1e6, 'unit': 'TFLOP/s'},
    ]


def main() -> int:
    """Parse arguments, measure, print and write; 0 when every goal is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--table', action='store_true', help='print the readable table (default unless --json alone)')
    parser.add_argument('--rows', nargs='+', choices=sorted(ROWS), default=list(ROWS), help='groups of rows to measure')
    parser.add_argument(
        '--only', nargs='+', default=[], metavar='PATTERN', help="rows to measure, as 'relation/*' or 'gravity*'"
    )
    parser.add_argument('--json', type=Path, help='write results here, after every row')
    parser.add_argument('--plot', type=Path, help='write a bar chart here (needs matplotlib)')
    parser.add_argument('--seed', type=int, default=42, help='seed of all inputs')
    parser.add_argument('--budget', type=float, default=3600.0, help='seconds after which baselines are left out')
    parser.add_argument('--without', nargs='*', default=[], metavar='ROW/BASELINE', help='baselines to leave out')
    parser.add_argument('--no-baselines', action='store_true', help='time our kernels and the ceilings only')
    parser.add_argument('--tune', action='store_true', help='time other configurations of our kernels, take the best')
    parser.add_argument('--parallel', action='store_true', help='compile all rows in parallel processes first')
    parser.add_argument('--compile-only', action='store_true', help='measure nothing, fill the caches of the compilers')
    parser.add_argument(
        '--gates', type=int, default=0, metavar='N', help='measure nothing; pass the gates with N different inputs'
    )
    parser.add_argument('--from-json', type=Path, help='measure nothing; print and plot an earlier run')
    arguments = parser.parse_args()
    if arguments.from_json:
        earlier = json.loads(arguments.from_json.read_text())['rows']
        print(table(earlier))
        if arguments.plot:
            draw(earlier, arguments.plot)
        return 0
    if not torch.cuda.is_available():
        print('benchmarks/attention.py needs a CUDA device; --from-json shows an earlier run', file=sys.stderr)
        return 2
    torch.manual_seed(arguments.seed)
    without = tuple(arguments.without)
    if arguments.gates:
        shares = gates(arguments.rows, arguments.only, range(arguments.seed, arguments.seed + arguments.gates))
        print('error over what the gate allows, worst of all inputs')
        print(table(shares))
        if arguments.json:
            facts = conditions(arguments.seed)
            typed = ' '.join(['benchmarks/attention.py', *sys.argv[1:]])
            text = {'schema': 1, 'command': typed, 'conditions': facts, 'rows': shares}
            write_atomically(arguments.json, json.dumps(text, indent=1) + '\n')
        return 0 if all(entry['met'] for entry in shares) else 1
    if arguments.compile_only and arguments.parallel:
        compile_in_parallel(arguments)
        return 0
    if arguments.compile_only:
        for name in arguments.rows:
            compile_only(name, arguments.only, without)
        return 0
    start = time.monotonic()
    if arguments.parallel:
        compile_in_parallel(arguments)
        torch.manual_seed(arguments.seed)
    deadline = start + (-1.0 if arguments.no_baselines else arguments.budget)
    results, facts = ceilings(), conditions(arguments.seed)
    text = {
        'schema': 1,
        'command': ' '.join(['benchmarks/attention.py', *sys.argv[1:]]),
        'conditions': facts,
        'rows': results,
    }
    progress = tqdm(arguments.rows, desc='kernels', file=sys.stderr)
    try:
        for name in progress:
            try:
                for row in ROWS[name]():
                    if not is_wanted(name, row, arguments.only):
                        continue
                    progress.set_postfix_str(case_of(row))
                    found = measure(row, deadline, without, arguments.tune)
                    results += found
                    print(table(found), flush=True)
                    if arguments.json:
                        write_atomically(arguments.json, json.dumps(text, indent=1) + '\n')
                    torch.compiler.reset()
                    torch.cuda.empty_cache()
            except Exception as problem:  # one broken row must not hide the others
                note = f'{type(problem).__name__}: {problem}'[:300]
                results.append({'name': f'failed/{name}', 'value': None, 'unit': '', 'note': note})
                print(f'{name}: {note}', flush=True)
    except KeyboardInterrupt:
        print('stopped; what was measured so far follows', file=sys.stderr)
    if arguments.json:
        write_atomically(arguments.json, json.dumps(text, indent=1) + '\n')
    if arguments.plot:
        draw(results, arguments.plot)
    if arguments.table or not arguments.json:
        print('\n'.join(f'{key}: {value}' for key, value in facts.items()))
        print(table(results))
    return 0 if all(entry.get('met', True) for entry in results) else 1


if __name__ == '__main__':
    sys.exit(main())
