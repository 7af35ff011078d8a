"""Time work on a GPU by replaying a captured graph, beside ceilings measured in the same way."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

REPLAYS = 9
LOW_US, HIGH_COPIES = 2000.0, 20


@dataclass(frozen=True)
class Timing:
    """Median and spread of one measurement [us]; `graph` says whether replay was possible."""

    median_us: float
    low_us: float
    high_us: float
    graph: bool = True


def time_replay(work: Callable[[], object], replays: int = REPLAYS, *, eager: bool = False) -> Timing:
    """Median time of one call of `work`, captured several times in one CUDA graph.

    Work that cannot be captured (`eager`) is timed between events and marked so.
    """
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
        stream.synchronize()
        single = _elapsed(work, stream)
        copies = max(1, min(HIGH_COPIES, int(LOW_US / max(single, 1.0))))
        if eager:
            samples = sorted(_elapsed(work, stream) for _ in range(replays))
            return Timing(statistics.median(samples), samples[0], samples[-1], graph=False)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(copies):
                work()
        graph.replay()
        stream.synchronize()
        samples = sorted(_elapsed(graph.replay, stream) / copies for _ in range(replays))
    return Timing(statistics.median(samples), samples[0], samples[-1])


def _elapsed(work: Callable[[], object], stream: torch.cuda.Stream) -> float:
    """Microseconds between events around one call."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record(stream)
    work()
    end.record(stream)
    end.synchronize()
    return float(start.elapsed_time(end)) * 1000.0


@cache
def copy_time_us(bytes_moved: int) -> float:
    """Time to copy so that `bytes_moved` are read and written in all, the ceiling of memory-bound work."""
    source = torch.randn(max(bytes_moved // 8, 1), device='cuda')
    target = torch.empty_like(source)
    return time_replay(lambda: target.copy_(source)).median_us


@cache
def empty_node_us() -> float:
    """Time of a graph node that does next to nothing: the floor of latency."""
    one = torch.zeros(1, device='cuda')
    return time_replay(lambda: one.zero_()).median_us


def conditions(seed: int) -> dict[str, object]:
    """What a reader needs to judge the numbers."""
    found: dict[str, object] = {
        'device': torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or 'cpu',
        'torch': torch.__version__,
        'cuda': torch.version.cuda,
        'cudnn': torch.backends.cudnn.version(),
        'python': platform.python_version(),
        'seed': seed,
        'replays': REPLAYS,
        'protocol': 'CUDA-graph replay of up to 20 calls, median; same tensors for all; correctness gate first',
    }
    for name in ('triton', 'fla'):
        try:
            found[name] = __import__(name).__version__
        except Exception:
            found[name] = None
    try:
        commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, check=True)
        found['commit'] = commit.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found['commit'] = os.environ.get('COMMIT')  # where the tree was copied without its history
    return found
