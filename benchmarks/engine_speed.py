"""What a request costs, what graphs and batching give, and what overload does."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import numpy as np
from bench import Bench, Row, repeat, timed
from tqdm import tqdm

from attn_robotics.runtime.engine import Engine
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.shared_memory import Segment, read_array


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
        bench.curves['latency'] = seconds
        seconds = repeat(lambda: engine.submit('identity', tiny).result().launch_s, count, 'launch by a lane')
        bench.median('request_to_launch/submit/identity', seconds, 'us', {})
    with Segment.create(large['x'].nbytes) as segment:

        def there_and_back() -> None:
            segment.array('float32', large['x'].shape)[...] = large['x']
            read_array(segment.key, 'float32', large['x'].shape)

        seconds = repeat(lambda: timed(there_and_back), count, 'shared memory')
        bench.median('latency/shared_memory/write_and_read/1MiB', seconds, 'ms', reference)


def bench_graphs(bench: Bench) -> None:
    """A small transformer by captured graphs and without, one row of results a batch size."""
    if bench.kind != 'cuda':
        tqdm.write('graphs: left out, needs a CUDA device')
        return
    with bench.engine(
        graph={'like': 'small_transformer'}, eager={'like': 'small_transformer', 'cuda_graphs': False}
    ) as engine:
        if note := engine.status('graph').reason:
            raise SystemExit(f'the small transformer was not captured: {note}')
        for rows in engine.entry('graph').batching.buckets:  # type: ignore[union-attr]
            request = {'tokens': bench.rng.standard_normal((rows, 16, 64), np.float32)}
            replies = {
                model: [engine.infer(model, request, deadline_s=60) for _ in range(bench.repetitions(300))]
                for model in ('graph', 'eager')
            }
            seconds = {model: np.array([reply.compute_s for reply in found]) for model, found in replies.items()}
            reference = {'without_graph': float(np.median(seconds['eager'])) * 1e6}
            bench.median(f'compute/graph/small_transformer/{rows}x16', seconds['graph'], 'us', reference)
            waits = repeat(
                lambda request=request: timed(lambda: engine.infer('graph', request, deadline_s=60)),
                bench.repetitions(300), f'{rows} rows',
            )  # fmt: skip
            bench.median(f'latency/infer/small_transformer/{rows}x16', waits, 'us', {})


def blocking(engine: Engine, model: str, request: dict[str, np.ndarray], clients: int, seconds: float) -> float:
    """Requests a second of clients with a thread each, that wait for their answer before they ask again."""
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


def calling_back(engine: Engine, model: str, request: dict[str, np.ndarray], clients: int, seconds: float) -> float:
    """Requests a second of clients without threads, that ask again as soon as they are called back."""
    answered = [0] * clients
    ended = threading.Semaphore(0)
    start = time.perf_counter()
    end = start + seconds

    def ask(index: int) -> None:
        engine.submit(model, request, deadline_s=60).add_done_callback(lambda future: take(index, future))

    def take(index: int, future: Any) -> None:
        is_fine = future.exception() is None
        answered[index] += is_fine
        if is_fine and time.perf_counter() < end:
            ask(index)
        else:
            ended.release()

    for index in range(clients):
        ask(index)
    for _ in range(clients):
        ended.acquire()
    return sum(answered) / (time.perf_counter() - start)


def bench_batching(bench: Bench) -> None:
    """Eight clients on one small transformer, batched and one at a time."""
    request = {'tokens': bench.rng.standard_normal((1, 16, 64), np.float32)}
    alone = {'like': 'small_transformer', 'dims': {'N': [1, 1], 'T': [1, 128]}, 'batch': {'dim': 'N'}}
    with bench.engine(batched={'like': 'small_transformer'}, alone=alone) as engine:
        for kind, throughput in (('calling_back', calling_back), ('blocking', blocking)):
            rates: dict[str, list[float]] = {'batched': [], 'alone': []}
            for _ in tqdm(range(bench.repetitions(7)), desc=f'throughput, {kind}', leave=False, disable=None):
                for model, measured in rates.items():
                    measured.append(throughput(engine, model, request, 8, max(0.3, bench.scale)))
            ratios = np.array(rates['batched']) / np.array(rates['alone'])
            reference = {f'{model}_per_s': float(np.median(measured)) for model, measured in rates.items()}
            spread = [float(ratios.min()), float(ratios.max())]
            name = f'throughput_ratio/small_transformer/8_clients/{kind}'
            bench.add(Row(name, float(np.median(ratios)), '', len(ratios), spread, reference), at_least=3.5)


# By device: a model whose launches, not the client's Python, limit what can be answered.
OVERLOADED: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    'cpu': ('transformer_64x2/T128', {'warm_up': [{'T': 128}]}, (1, 128, 64)),
    'cuda': (
        'transformer_256x96/T16',
        {
            'config': {'width': 256, 'heads': 8, 'layers': 96},
            'dims': {'N': [1, 8], 'T': [1, 16]},
            'batch': {'dim': 'N', 'buckets': [1, 2, 4, 8]},
            'inputs': [{'name': 'tokens', 'dtype': 'float32', 'shape': ['N', 'T', 256]}],
            'outputs': [{'name': 'encoded', 'dtype': 'float32', 'shape': ['N', 'T', 256]}],
        },
        (1, 16, 256),
    ),
}


def bench_overload(bench: Bench, deadline_s: float = 0.1) -> None:
    """Poisson arrivals at half to four times the capacity, every one with the same deadline."""
    name, changes, shape = OVERLOADED[bench.kind]
    request = {'tokens': bench.rng.standard_normal(shape, np.float32)}
    with bench.engine(model={'like': 'small_transformer', **changes}) as engine:
        clients = 2 * engine.entry('model').max_rows  # one batch runs, the next one waits
        rates = [calling_back(engine, 'model', request, clients, max(0.3, bench.scale)) for _ in range(5)]
        capacity = float(np.median(rates))
        bench.add(Row(f'capacity/{name}', capacity, '1/s', len(rates), [min(rates), max(rates)]))
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
