"""What loading, replacing, evicting and running out of memory leave behind, and what other clients notice of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import torch
from bench import Bench, Row
from tqdm import tqdm

from attn_robotics.runtime.engine import Engine, ModelState
from attn_robotics.runtime.errors import EngineError

MIB = 1 << 20
TOKENS = {'tokens': np.zeros((1, 16, 64), np.float32)}


def transformer(width: int, layers: int) -> dict[str, Any]:
    """Changes that make the small transformer a larger one, for one sequence of 8 tokens."""
    tensors = {
        key: [{'name': name, 'dtype': 'float32', 'shape': ['N', 'T', width]}]
        for key, name in (('inputs', 'tokens'), ('outputs', 'encoded'))
    }
    return {
        'like': 'small_transformer',
        'config': {'width': width, 'heads': 8, 'layers': layers},
        'dims': {'N': [1, 1], 'T': [1, 8]},
        'batch': {'dim': 'N'},
        'warm_up': [{'T': 8}],
        **tensors,
    }


def held(bench: Bench) -> dict[str, float]:
    """Bytes that this process holds, by where; on CUDA also by what the driver says of the whole device."""
    found = {'resident': float(psutil.Process().memory_info().rss)}
    if bench.kind == 'cuda':
        free, total = torch.cuda.mem_get_info()
        found |= {'cuda_reserved': float(torch.cuda.memory_reserved()), 'cuda_driver': float(total - free)}
    return found


def bench_memory(bench: Bench) -> None:
    """Load, use and unload a model of some 25 MB again and again."""
    with bench.engine(model=transformer(512, 2)) as engine:
        size = engine.status('model').memory_bytes
        request = {'tokens': np.zeros((1, 8, 512), np.float32)}
        cycles = 100 if bench.scale >= 0.1 else 5  # the count that the memory is promised for, or a trial
        curve = []
        for _ in tqdm(range(cycles + 5), desc='load and unload', leave=False, disable=None):
            engine.infer('model', request, deadline_s=60)
            engine.unload('model').result()
            curve.append(held(bench))
            engine.load('model').result()
        for where in curve[0]:
            # The first cycles fill caches of the libraries; that is the baseline.
            first, last = curve[4][where], curve[-1][where]
            growth = last / first - 1 if first else float(last > 0)
            reference = {'baseline_MB': first / 1e6, 'model_MB': size / 1e6}
            bench.add(Row(f'memory_growth/{where}/{cycles}_cycles', growth, '', cycles, None, reference), at_most=0.01)
            bench.curves[f'memory {where}'] = np.array([step[where] for step in curve]) / 1e6


@contextmanager
def clients(engine: Engine, model: str, count: int) -> Iterator[tuple[list[float], Counter[str]]]:
    """Clients that ask again and again meanwhile; their latencies [s], and the reasons of what failed."""
    stop = threading.Event()
    latencies: list[float] = []
    failures: Counter[str] = Counter()

    def ask() -> None:
        while not stop.is_set():
            start = time.perf_counter()
            try:
                engine.infer(model, TOKENS, deadline_s=60)
                latencies.append(time.perf_counter() - start)
            except EngineError as error:
                failures[error.reason] += 1

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield latencies, failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def bench_reload(bench: Bench) -> None:
    """Replace a model again and again under four clients."""
    times = bench.repetitions(20)
    with bench.engine(model={'like': 'small_transformer'}) as engine:
        with clients(engine, 'model', 4) as (latencies, failures):
            for _ in tqdm(range(times), desc='reload', leave=False, disable=None):
                engine.load('model').result()
        longest = {'answered': float(len(latencies)), 'longest_ms': 1e3 * max(latencies)}
        name = f'failed_requests/reload/{times}_times/4_clients'
        bench.add(Row(name, float(failures.total()), '', times, None, longest), at_most=0)


def bench_eviction(bench: Bench) -> None:
    """Load three models in turn into a budget for two; a fourth has a client that never stops."""
    with bench.engine(model=transformer(512, 4), steady={'like': 'small_transformer'}) as engine:
        size, rest = (engine.status(name).memory_bytes for name in ('model', 'steady'))
    models = {f'model_{index}': transformer(512, 4) for index in range(3)}
    wrong = 0
    most = 0
    budget = int(2.5 * size) + rest
    with bench.engine(budget_bytes=budget, later=models, steady={'like': 'small_transformer'}, **models) as engine:
        device = engine.status('steady').device
        with clients(engine, 'steady', 1) as (latencies, failures):
            used: list[str] = []  # least recently first
            for turn in tqdm(range(bench.repetitions(30)), desc='evict', leave=False, disable=None):
                name = f'model_{turn % 3}'
                engine.load(name).result()
                engine.infer(name, {'tokens': np.zeros((1, 8, 512), np.float32)}, deadline_s=60)
                used = [other for other in used if other != name] + [name]
                most = max(most, engine.memory_bytes(device))
                ready = {other for other in models if engine.status(other).state == ModelState.READY}
                wrong += ready != set(used[-2:])
        others = {'most_MB': most / 1e6, 'budget_MB': budget / 1e6, 'steady_answered': float(len(latencies))}
        bench.add(Row('wrong_victims/eviction', float(wrong), '', turn + 1, None, others), at_most=0)
        bench.add(Row('failed_requests/eviction/other_client', float(failures.total()), '', len(latencies)), at_most=0)
        bench.add(Row('memory_over_budget/eviction', most / budget, '', turn + 1), at_most=1)


def bench_out_of_memory(bench: Bench) -> None:
    """Fill the device until a request no longer fits: it evicts and succeeds, then is refused, then fits again."""
    if bench.kind != 'cuda':
        tqdm.write('out_of_memory: left out, needs a CUDA device')
        return
    floats = 64 * MIB  # 256 MiB in and as much out
    large = {'x': np.zeros(floats, np.float32)}
    changes = {'like': 'identity', 'dims': {'N': [1, floats]}, 'warm_up': [{'N': 1}]}
    idle = transformer(2048, 2)  # 400 MB
    with bench.engine(idle=idle, big=changes, steady={'like': 'small_transformer'}) as engine:
        size = engine.status('idle').memory_bytes
        outcome = []
        with clients(engine, 'steady', 2) as (latencies, failures):
            filler = [fill(300 * MIB)]
            for _ in range(2):
                try:
                    engine.infer('big', large, deadline_s=60)
                    outcome.append('answered')
                except EngineError as error:
                    outcome.append(error.reason)
                outcome.append(engine.status('idle').state.name.lower())
                filler.append(fill(300 * MIB))
            filler.clear()
            torch.cuda.empty_cache()
            engine.infer('big', large, deadline_s=60)
        tqdm.write(f'out of memory: {", ".join(outcome)}')
        wrong = float(outcome != ['answered', 'unloaded', 'out_of_memory', 'unloaded'])
        others = {'evicted_MB': size / 1e6, 'others_answered': float(len(latencies))}
        bench.add(Row('wrong_outcomes/out_of_memory', wrong, '', 3, None, others), at_most=0)
        bench.add(Row('failed_requests/out_of_memory/2_others', float(failures.total()), '', len(latencies)), at_most=0)


def fill(leave: int) -> torch.Tensor:
    """Take all of the device's memory but some bytes."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    return torch.empty(max(1, free - leave), dtype=torch.uint8, device='cuda')
