"""Measure the engine: what a request costs, what batching gives, what overload does, what loading leaves behind.

    python benchmarks/engine.py --device auto --json engine.json --plot engine.png

Every experiment loads the catalogue's own examples, with the changes that its function names. Times are wall-clock on
the machine at hand; numbers of a shared or slow machine say little about another.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import yaml
from tqdm import tqdm

from attn_robotics.runtime.backends import Progress
from attn_robotics.runtime.catalogue import Catalogue
from attn_robotics.runtime.engine import Engine
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.shared_memory import Segment, read_array

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / 'config' / 'models'


@dataclass
class Row:
    """One result, in the schema that every evaluation of the suite writes."""

    name: str
    value: float
    unit: str = ''
    n: int = 0
    ci95: list[float] | None = None
    reference: dict[str, float] = field(default_factory=dict)
    target: float | None = None
    met: bool | None = None


class Bench:
    """What the experiments share.

    Args:
        device: of the models.
        scale: multiplies every repetition count and duration.
        seed: of inputs and arrivals.
    """

    def __init__(self, device: str, scale: float, seed: int) -> None:
        self.device = device
        self.scale = scale
        self.rng = np.random.default_rng(seed)
        self.rows: list[Row] = []
        self.curves: dict[str, Any] = {}

    def repetitions(self, count: int) -> int:
        """A repetition count of the full run, scaled."""
        return max(3, int(count * self.scale))

    @contextmanager
    def engine(self, **entries: dict[str, Any]) -> Iterator[Engine]:
        """An engine with changed examples: name of the new entry = {'like': example, changed keys...}, loaded."""
        with tempfile.TemporaryDirectory() as folder:
            for name, changes in entries.items():
                entry = yaml.safe_load((MODELS / f'{changes["like"]}.yaml').read_text('utf-8'))
                entry |= {'name': name, 'device': self.device, **changes}
                del entry['like']
                entry = {key: value for key, value in entry.items() if value is not None}
                (Path(folder) / f'{name}.yaml').write_text(yaml.safe_dump(entry), 'utf-8')
            with Engine(Catalogue(folder)) as engine:
                for name in entries:
                    load(engine, name)
                yield engine

    def add(self, row: Row, *, at_most: float | None = None, at_least: float | None = None) -> None:
        """Keep and print a result, held against its target."""
        row.target = at_most if at_most is not None else at_least
        if row.target is not None:
            row.met = row.value <= row.target if at_most is not None else row.value >= row.target
        self.rows.append(row)
        verdict = '' if row.met is None else f'  target {row.target:g}: {"met" if row.met else "MISSED"}'
        others = ''.join(f'  {name} {value:.4g}' for name, value in row.reference.items())
        tqdm.write(f'{row.name:<42} {row.value:>10.4g} {row.unit:<9} n={row.n}{others}{verdict}')

    def median(self, name: str, seconds: np.ndarray, unit: str, reference: dict[str, float], **target: float) -> None:
        """Keep the median of durations with a bootstrap interval."""
        factor = {'ms': 1e3, 'us': 1e6}[unit]
        draws = self.rng.choice(seconds, (200, len(seconds)))
        low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975]) * factor
        others = {'p99': float(np.quantile(seconds, 0.99)) * factor, **reference}
        value = float(np.median(seconds)) * factor
        self.add(Row(name, value, unit, len(seconds), [float(low), float(high)], others), **target)


def load(engine: Engine, name: str) -> None:
    """Load a model behind a progress bar."""
    with tqdm(desc=f'load {name}', leave=False, disable=None) as bar:

        def show(progress: Progress) -> None:
            bar.set_postfix_str(progress.stage, refresh=False)
            bar.total, bar.n = progress.total, progress.done
            bar.refresh()

        engine.load(name, show).result()


def repeat(action: Callable[[], float], count: int, desc: str) -> np.ndarray:
    """Results of an action, after a tenth as many warm-up runs."""
    for _ in range(max(3, count // 10)):
        action()
    return np.array([action() for _ in tqdm(range(count), desc=desc, leave=False, disable=None)])


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def bench_request(bench: Bench) -> None:
    """One client, an identity model: the engine's own cost."""
    count = bench.repetitions(2000)
    with bench.engine(identity={'like': 'identity'}) as engine:
        large, tiny = ({'x': bench.rng.standard_normal(n, np.float32)} for n in (262144, 1))
        copies = repeat(lambda: timed(large['x'].copy), count, 'copy')
        reference = {'plain_copy': float(np.median(copies)) * 1e3}
        seconds = repeat(lambda: timed(lambda: engine.infer('identity', large)), count, 'infer 1 MiB')
        bench.median('latency/infer/identity/1MiB', seconds, 'ms', reference, at_most=0.3)
        seconds = repeat(lambda: timed(lambda: engine.submit('identity', large).result()), count, 'submit 1 MiB')
        bench.median('latency/submit/identity/1MiB', seconds, 'ms', reference)
        seconds = repeat(lambda: engine.infer('identity', tiny).launch_s, 5 * count, 'launch')
        bench.median('request_to_launch/infer/identity', seconds, 'us', {}, at_most=15)
        seconds = repeat(lambda: engine.submit('identity', tiny).result().launch_s, count, 'launch by a lane')
        bench.median('request_to_launch/submit/identity', seconds, 'us', {})
        bench.curves['latency'] = seconds
    with Segment.create(large['x'].nbytes) as segment:

        def there_and_back() -> None:
            segment.array('float32', large['x'].shape)[...] = large['x']
            read_array(segment.key, 'float32', large['x'].shape)

        seconds = repeat(lambda: timed(there_and_back), count, 'shared memory')
        bench.median('latency/shared_memory/write_and_read/1MiB', seconds, 'ms', reference)


def throughput(engine: Engine, model: str, request: dict[str, np.ndarray], clients: int, seconds: float) -> float:
    """Requests a second of clients that each wait for their answer before they ask again."""
    stop = threading.Event()
    answered = [0] * clients

    def client(index: int) -> None:
        while not stop.is_set():
            engine.submit(model, request, deadline_s=60).result()
            answered[index] += 1

    threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(answered) / (time.perf_counter() - start)


def bench_batching(bench: Bench) -> None:
    """Eight clients on one small transformer, batched and one at a time."""
    request = {'tokens': bench.rng.standard_normal((1, 16, 64), np.float32)}
    alone = {'like': 'small_transformer', 'dims': {'N': [1, 1], 'T': [1, 128]}, 'batch': {'dim': 'N'}}
    with bench.engine(batched={'like': 'small_transformer'}, alone=alone) as engine:
        rates: dict[str, list[float]] = {'batched': [], 'alone': []}
        for _ in tqdm(range(bench.repetitions(7)), desc='throughput', leave=False, disable=None):
            for model, measured in rates.items():
                measured.append(throughput(engine, model, request, 8, max(0.3, bench.scale)))
        ratios = np.array(rates['batched']) / np.array(rates['alone'])
        reference = {f'{model}_per_s': float(np.median(measured)) for model, measured in rates.items()}
        spread = [float(ratios.min()), float(ratios.max())]
        name = 'throughput_ratio/small_transformer/8_clients'
        bench.add(Row(name, float(np.median(ratios)), '', len(ratios), spread, reference), at_least=3.5)


def bench_overload(bench: Bench, deadline_s: float = 0.1) -> None:
    """Poisson arrivals at half to four times the capacity, every one with the same deadline."""
    request = {'tokens': bench.rng.standard_normal((1, 128, 64), np.float32)}
    with bench.engine(model={'like': 'small_transformer', 'warm_up': [{'T': 128}]}) as engine:
        rows = engine.entry('model').max_rows
        full = {'tokens': np.repeat(request['tokens'], rows, axis=0)}
        seconds = repeat(
            lambda: timed(lambda: engine.infer('model', full, deadline_s=60)), bench.repetitions(50), 'capacity'
        )
        capacity = rows / float(np.median(seconds))
        bench.add(Row('capacity/small_transformer/T128', capacity, '1/s', len(seconds)))
        curve = []
        duration = max(2.0, 10 * bench.scale)
        for load_ in (0.5, 1.0, 2.0, 4.0):
            latencies, reasons, offered = open_loop(bench, engine, request, load_ * capacity, duration, deadline_s)
            if not latencies:
                raise SystemExit(f'at {load_} times the capacity no request was answered: {dict(reasons)}')
            p99 = float(np.quantile(latencies, 0.99))
            useful = sum(latency <= deadline_s for latency in latencies) / duration / capacity
            reference = {'useful_share_of_capacity': useful, 'offered_per_s': offered / duration}
            reference |= {f'dropped_{reason}': float(count) for reason, count in sorted(reasons.items())}
            row = Row(f'p99_over_deadline/overload/{load_:g}x', p99 / deadline_s, '', len(latencies), None, reference)
            bench.add(row, at_most=2.0)
            curve.append((load_, p99 / deadline_s, useful))
        bench.curves['overload'] = np.array(curve)


def open_loop(
    bench: Bench, engine: Engine, request: dict[str, np.ndarray], rate: float, seconds: float, deadline_s: float
) -> tuple[list[float], Counter[str], int]:
    """Send at random moments whether or not answers come; latencies [s], reasons of refusals, requests sent."""
    latencies: list[float] = []
    reasons: Counter[str] = Counter()
    moments = np.cumsum(bench.rng.exponential(1 / rate, int(2 * rate * seconds) + 10))
    moments = moments[moments < seconds]
    start = time.perf_counter()
    futures = []
    for moment in tqdm(moments, desc=f'{rate:.0f}/s', leave=False, disable=None):
        if (wait := start + moment - time.perf_counter()) > 0:
            time.sleep(wait)
        sent = time.perf_counter()
        future = engine.submit('model', request, deadline_s=deadline_s)

        def note(done: Any, sent: float = sent) -> None:
            error = done.exception()
            if error is None:
                latencies.append(time.perf_counter() - sent)
            else:
                reasons[error.reason if isinstance(error, EngineError) else 'other'] += 1

        future.add_done_callback(note)
        futures.append(future)
    for future in futures:
        future.exception()
    return latencies, reasons, len(moments)


def bench_memory(bench: Bench) -> None:
    """Load, use and unload a model of some 50 MB again and again."""
    config = {'width': 512, 'heads': 8, 'layers': 4}
    tensors = {
        key: [{'name': name, 'dtype': 'float32', 'shape': ['N', 'T', 512]}]
        for key, name in (('inputs', 'tokens'), ('outputs', 'encoded'))
    }
    changes: dict[str, Any] = {
        'like': 'small_transformer',
        'config': config,
        'dims': {'N': [1, 1], 'T': [1, 8]},
        'batch': {'dim': 'N'},
    }
    changes |= {'warm_up': [{'T': 8}], **tensors}
    process = psutil.Process()
    cuda = torch.cuda.is_available() and self_device(bench) == 'cuda'

    def held() -> float:
        return float(torch.cuda.memory_reserved() if cuda else process.memory_info().rss)

    with bench.engine(model=changes) as engine:
        size = engine.status('model').memory_bytes
        request = {'tokens': np.zeros((1, 8, 512), np.float32)}
        cycles = bench.repetitions(100)
        curve = []
        for _ in tqdm(range(cycles + 5), desc='load and unload', leave=False, disable=None):
            engine.infer('model', request, deadline_s=60)
            engine.unload('model').result()
            curve.append(held())
            engine.load('model').result()
        # The first cycles fill caches of the libraries; that is the baseline.
        growth = curve[-1] / curve[4] - 1 if curve[4] else float(curve[-1] > 0)
        reference = {'baseline_MB': curve[4] / 1e6, 'model_MB': size / 1e6}
        where = 'cuda' if cuda else 'resident'
        bench.add(Row(f'memory_growth/{where}/{cycles}_cycles', growth, '', cycles, None, reference), at_most=0.01)
        bench.curves['memory'] = np.array(curve) / 1e6


def self_device(bench: Bench) -> str:
    """The kind of device that 'auto' means here."""
    if bench.device != 'auto':
        return bench.device.partition(':')[0]
    return 'cuda' if torch.cuda.is_available() else 'cpu'


EXPERIMENTS: dict[str, Callable[[Bench], None]] = {
    'request': bench_request,
    'batching': bench_batching,
    'overload': bench_overload,
    'memory': bench_memory,
}


def conditions(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=ROOT, capture_output=True, text=True, check=False)
    cuda = torch.cuda.is_available()
    return {
        'commit': commit.stdout.strip() or 'unknown',
        'python': platform.python_version(),
        'numpy': np.__version__,
        'torch': torch.__version__,
        'processor': platform.processor() or platform.machine(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'load_average': os.getloadavg()[0],
        'gpu': torch.cuda.get_device_name() if cuda else '',
        'device': arguments.device,
        'scale': arguments.scale,
        'seed': arguments.seed,
    }


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    temporary.write_bytes(content)
    temporary.replace(path)


def plot(bench: Bench, path: Path) -> None:
    """Draw what was measured, one panel an experiment."""
    import io

    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, max(1, len(bench.curves)), figsize=(5 * max(1, len(bench.curves)), 4), squeeze=False)
    for axis, (name, curve) in zip(axes[0], bench.curves.items(), strict=False):
        if name == 'overload':
            axis.plot(curve[:, 0], curve[:, 1], 'o-', label='p99 of the answered / deadline')
            axis.plot(curve[:, 0], curve[:, 2], 's-', label='answered in time / capacity')
            axis.set(xlabel='offered load / capacity', ylim=(0, None), title='Overload')
            axis.legend()
        elif name == 'memory':
            axis.plot(curve)
            axis.set(xlabel='cycle', ylabel='held after unloading [MB]', ylim=(0, None), title='Load and unload')
        else:
            axis.hist(1e6 * curve, bins=np.linspace(0, 1e6 * np.quantile(curve, 0.99), 50))
            axis.set(xlabel='request to launch by a lane [us]', ylabel='requests', title='Latency')
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix('.') or 'png', dpi=120)
    write_atomically(path, buffer.getvalue())


def main() -> int:
    """Run the chosen experiments; 130 after Ctrl-C, with what was measured until then written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:1 (default: auto)')
    parser.add_argument('--only', nargs='+', choices=EXPERIMENTS, default=list(EXPERIMENTS), help='experiments to run')
    parser.add_argument('--scale', type=float, default=1.0, help='multiplies repetitions and durations (default: 1)')
    parser.add_argument('--seed', type=int, default=0, help='of inputs and arrivals (default: 0)')
    parser.add_argument('--json', type=Path, help='write the results here')
    parser.add_argument('--plot', type=Path, help='draw the results here (.png, .svg, .pdf)')
    arguments = parser.parse_args()
    bench = Bench(arguments.device, arguments.scale, arguments.seed)
    before = conditions(arguments)
    code = 0
    try:
        for name in arguments.only:
            EXPERIMENTS[name](bench)
    except KeyboardInterrupt:
        code = 130
    if arguments.json:
        command = ' '.join(['python', 'benchmarks/engine.py', *sys.argv[1:]])
        results = {'schema': 1, 'command': command, 'conditions': before, 'rows': [asdict(row) for row in bench.rows]}
        write_atomically(arguments.json, json.dumps(results, indent=1).encode())
    if arguments.plot:
        plot(bench, arguments.plot)
    return code


if __name__ == '__main__':
    sys.exit(main())
