"""Measure the engine: what a request costs, what batching gives, what overload does, what loading leaves behind.

    python benchmarks/engine.py --device auto --json engine.json --plot engine.png

Every experiment loads the catalogue's own examples, with the changes that its function names. Times are wall-clock on
the machine at hand; numbers of a shared or slow machine say little about another.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import engine_memory
import engine_speed
import matplotlib as mpl
import numpy as np
from bench import Bench, add_arguments, conditions, save_figure, write_results

mpl.use('Agg')
from matplotlib import pyplot as plt

EXPERIMENTS: dict[str, Callable[[Bench], None]] = {
    'request': engine_speed.bench_request,
    'graphs': engine_speed.bench_graphs,
    'batching': engine_speed.bench_batching,
    'overload': engine_speed.bench_overload,
    'memory': engine_memory.bench_memory,
    'reload': engine_memory.bench_reload,
    'eviction': engine_memory.bench_eviction,
    'out_of_memory': engine_memory.bench_out_of_memory,
}


def plot(bench: Bench, path: Path) -> None:
    """Draw what was measured, one panel an experiment."""
    memory = {name.removeprefix('memory '): curve for name, curve in bench.curves.items() if name.startswith('memory')}
    names = [name for name in ('latency', 'overload') if name in bench.curves] + ['memory'] * bool(memory)
    figure, axes = plt.subplots(1, max(1, len(names)), figsize=(5 * max(1, len(names)), 4), squeeze=False)
    for axis, name in zip(axes[0], names, strict=False):
        if name == 'overload':
            curve = bench.curves[name]
            axis.plot(curve[:, 0], curve[:, 1], 'o-', label='p99 of the answered / deadline')
            axis.plot(curve[:, 0], curve[:, 2], 's-', label='answered in time / capacity')
            axis.axhline(2.0, color='tab:red', lw=1, ls='--', label='target of p99')
            axis.set(xlabel='offered load / capacity', ylim=(0, 2.2), title='Overload')
            axis.legend()
        elif name == 'memory':
            for where, curve in memory.items():
                axis.plot(curve / max(curve[min(4, len(curve) - 1)], 1e-9), label=where)
            axis.set(xlabel='cycle', ylabel='held after unloading / after five cycles', ylim=(0, 1.5))
            axis.set_title('Load and unload')
            axis.legend()
        else:
            curve = 1e6 * bench.curves[name]
            axis.hist(curve, bins=np.linspace(0, np.quantile(curve, 0.98), 50))
            axis.axvline(15, color='tab:red', lw=1, ls='--', label='target of the median')
            axis.set(xlabel='request to launch [us]', ylabel='requests', title='Python on the way in')
            axis.legend()
    save_figure(figure, path)


def main() -> int:
    """Run the chosen experiments; 130 after Ctrl-C; what was measured until then is written as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument('--only', nargs='+', choices=EXPERIMENTS, default=list(EXPERIMENTS), help='experiments to run')
    parser.add_argument('--plot', type=Path, help='draw the results here (.png, .svg, .pdf)')
    arguments = parser.parse_args()
    bench = Bench(arguments.device, arguments.scale, arguments.seed)
    before = conditions(arguments)
    code = 0
    for name in arguments.only:
        try:
            EXPERIMENTS[name](bench)
        except KeyboardInterrupt:
            code = 130
        except Exception:  # the others still have something to say
            traceback.print_exc()
            code = 1
        if arguments.json:
            write_results(bench, arguments.json, before)
        if code == 130:
            break
    if arguments.plot:
        plot(bench, arguments.plot)
    return code


if __name__ == '__main__':
    sys.exit(main())
