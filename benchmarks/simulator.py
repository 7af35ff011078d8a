"""How much faster than real time is the embedded simulator?

Every robot drives in a small circle inside its cell, commanded ten times a simulated second; one thread. Two numbers
per case: simulated seconds per second of the clock on the wall (the real-time factor), and per second of processor
time, which other work on the machine disturbs less. Each is the median of several repetitions after a warm-up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from tqdm import tqdm

from attn_robotics.simulation.embedded import EmbeddedSimulator
from attn_robotics.simulation.mjcf import BODIES, Body
from attn_robotics.simulation.world import World

TARGETS = {('wheeled', 128): 2.0, ('disc', 128): 50.0}


def measure(body: Body, robots: int, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Real-time factors by wall clock and by processor time, one of each a repetition."""
    world = World.from_description(
        {
            'map': {'random': {'size': args.size, 'density': args.density}},
            'robots': robots,
            'seed': args.seed,
        }
    )
    simulator = EmbeddedSimulator(world, body=body, timestep=args.timestep)

    def drive(seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            simulator.command(0.08, 1.0)  # a circle of 8 cm radius
            simulator.step(0.1)

    drive(1.0)
    wall, processor = [], []
    for _ in range(args.repetitions):
        begin = time.perf_counter(), time.process_time()
        drive(args.seconds)
        wall.append(args.seconds / (time.perf_counter() - begin[0]))
        processor.append(args.seconds / (time.process_time() - begin[1]))
    if simulator.contact_events:
        raise RuntimeError(f'{body} robots touched: {simulator.contact_pairs[:3]}')
    return wall, processor


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    commit = subprocess.run(['git', 'rev-parse', 'HEAD'], capture_output=True, text=True, check=False).stdout.strip()
    models = [line.split(':')[1].strip() for line in _lines('/proc/cpuinfo') if line.startswith('model name')]
    return {
        'commit': commit or 'unknown',
        'date': datetime.now(UTC).isoformat(timespec='seconds'),
        'versions': {'python': platform.python_version(), 'numpy': np.__version__, 'mujoco': mujoco.__version__},
        'machine': {'processor': models[0] if models else platform.processor(), 'cores': os.cpu_count()},
        'load': os.getloadavg()[0],
        'seeds': [args.seed],
        'map': f'{args.size}x{args.size} at density {args.density}',
        'timestep_s': args.timestep,
        'repetitions': args.repetitions,
        'simulated_s': args.seconds,
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding='utf-8').splitlines()
    except OSError:
        return []


def to_row(name: str, values: list[float], target: float | None) -> dict[str, Any]:
    """One row of the results schema; the range is smallest and largest repetition."""
    value = float(np.median(values))
    row: dict[str, Any] = {
        'name': name,
        'value': round(value, 2),
        'unit': 'simulated s / s',
        'n': len(values),
        'range': [round(min(values), 2), round(max(values), 2)],
    }
    if target is not None:
        row |= {'target': target, 'met': value >= target}
    return row


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the real-time factors over the number of robots."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout='constrained')
    for body in BODIES:
        cases = [row for row in rows if row['name'].startswith(f'real_time_factor/{body}/')]
        counts = [int(row['name'].rsplit('/', 1)[1]) for row in cases]
        values = np.array([[row['value'], *row['range']] for row in cases])
        spread = np.abs(values[:, 1:] - values[:, :1]).T
        axes.errorbar(counts, values[:, 0], yerr=spread, marker='o', capsize=3, label=body)
    axes.axhline(1.0, color='grey', linestyle=':', label='real time')
    axes.set(xscale='log', yscale='log', xlabel='robots', ylabel='real-time factor', title='Embedded simulator')
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.legend()
    temporary = path.with_suffix('.partial.png')
    figure.savefig(temporary, dpi=120)
    plt.close(figure)
    temporary.replace(path)


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n')[0] if __doc__ else None, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--robots', type=int, nargs='+', default=[2, 8, 32, 128], help='fleet sizes')
    parser.add_argument('--bodies', nargs='+', choices=BODIES, default=list(BODIES), help='robot bodies')
    parser.add_argument('--size', type=int, default=40, help='side of the random map [cells]')
    parser.add_argument('--density', type=float, default=0.15, help='probability of an obstacle')
    parser.add_argument('--seed', type=int, default=0, help='of map and starts')
    parser.add_argument('--timestep', type=float, default=0.005, help='of the physics [s]')
    parser.add_argument('--seconds', type=float, default=5.0, help='simulated seconds a repetition')
    parser.add_argument('--repetitions', type=int, default=5, help='of each case')
    parser.add_argument('--json', type=Path, help='write the results here')
    parser.add_argument('--plot', type=Path, help='draw the results into this PNG')
    args = parser.parse_args(argv)

    facts = conditions(args)
    rows: list[dict[str, Any]] = []
    cases = [(body, robots) for body in args.bodies for robots in args.robots]
    try:
        for body, robots in tqdm(cases, desc='simulator', unit='case', disable=not sys.stderr.isatty()):
            wall, processor = measure(body, robots, args)
            rows.append(to_row(f'real_time_factor/{body}/{robots}', wall, TARGETS.get((body, robots))))
            rows.append(to_row(f'simulated_per_cpu_second/{body}/{robots}', processor, None))
    except KeyboardInterrupt:
        print('interrupted; the finished cases follow', file=sys.stderr)
    for row in rows:
        verdict = f'   target {row["target"]:g}: {"met" if row["met"] else "missed"}' if 'target' in row else ''
        print(f'{row["name"]:44} {row["value"]:9.1f}   ({row["range"][0]:.1f} to {row["range"][1]:.1f}){verdict}')
    if args.json:
        command = shlex.join(['python', 'benchmarks/simulator.py', *(sys.argv[1:] if argv is None else argv)])
        report = {'schema': 1, 'command': command, 'conditions': facts, 'rows': rows}
        temporary = args.json.with_suffix('.partial')
        temporary.write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')
        temporary.replace(args.json)
    if args.plot and rows:
        plot(rows, args.plot)
    return 0 if len(rows) == 2 * len(cases) else 130


if __name__ == '__main__':
    raise SystemExit(main())
