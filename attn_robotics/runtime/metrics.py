"""What the engine counts and times, as a snapshot for diagnostics and as Prometheus text."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from attn_robotics.runtime.errors import Reason
    from attn_robotics.runtime.requests import Reply

# Four a decade from 10 us to 10 s: a quantile read from them is within 33 % either way.
BOUNDS_S = tuple(round(10 ** (-5 + step / 4), 9) for step in range(25))
PHASES = ('queue', 'batch', 'transfer', 'compute')


class Histogram:
    """Durations in fixed buckets [s]; not locked, its owner does that."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total += seconds

    def quantile(self, share: float) -> float:
        """The duration [s] that `share` of all stay below, interpolated within its bucket; 0 without any."""
        rank = share * sum(self.counts)
        below = 0
        for index, count in enumerate(self.counts):
            if count and below + count >= rank:
                low = BOUNDS_S[index - 1] if index else 0.0
                high = BOUNDS_S[min(index, len(BOUNDS_S) - 1)]
                return low + (high - low) * max(0.0, rank - below) / count
            below += count
        return 0.0


class Recent:
    """The last durations, for exact quantiles of what happens at most a few hundred times a second.

    Args:
        kept: how many.
    """

    def __init__(self, kept: int = 1000) -> None:
        self._durations: deque[float] = deque(maxlen=kept)

    def observe(self, duration: float) -> None:
        """Count one duration."""
        self._durations.append(duration)

    def __bool__(self) -> bool:
        return bool(self._durations)

    @property
    def quantiles(self) -> tuple[float, float]:
        """p50 and p99, in the unit that was observed; zeros without any."""
        if not self._durations:
            return 0.0, 0.0
        p50, p99 = np.percentile(list(self._durations), [50, 99])
        return float(p50), float(p99)


@dataclass(frozen=True)
class ModelSnapshot:
    """One model's counters at one moment.

    Attributes:
        requests: answered.
        late: answered, but after their deadline.
        batches: launches that answered them.
        dropped: refused or failed, by reason.
        p50_s, p99_s: quantiles of queue, batch, transfer and compute time [s].
    """

    requests: int
    late: int
    batches: int
    dropped: Mapping[str, int]
    p50_s: Mapping[str, float]
    p99_s: Mapping[str, float]


class ModelMetrics:
    """The counters of one model, over all its versions. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases = {phase: Histogram() for phase in PHASES}
        self._dropped: Counter[str] = Counter()
        self._requests = self._late = self._batches = 0

    def answered(self, replies: Sequence[Reply], late: int) -> None:
        """Count one batch's answers, `late` of them after their deadline."""
        queue, batch, transfer, compute = self._phases.values()
        reply = replies[0]
        with self._lock:
            self._requests += len(replies)
            self._late += late
            for each in replies:
                queue.observe(each.queue_s)
            batch.observe(reply.batch_s)
            transfer.observe(reply.transfer_s)
            compute.observe(reply.compute_s)
            self._batches += 1

    def dropped(self, reason: Reason) -> None:
        """Count one request that got no answer."""
        with self._lock:
            self._dropped[reason] += 1

    def snapshot(self) -> ModelSnapshot:
        """The counters now."""
        with self._lock:
            return ModelSnapshot(
                self._requests,
                self._late,
                self._batches,
                MappingProxyType(dict(self._dropped)),
                MappingProxyType({phase: values.quantile(0.5) for phase, values in self._phases.items()}),
                MappingProxyType({phase: values.quantile(0.99) for phase, values in self._phases.items()}),
            )

    def exposition(self, model: str) -> dict[str, list[str]]:
        """Sample lines by metric family, for `prometheus_text`."""
        label = f'model="{model}"'
        with self._lock:
            families = {
                'attn_runtime_requests_total': [f'{{{label}}} {self._requests}'],
                'attn_runtime_late_total': [f'{{{label}}} {self._late}'],
                'attn_runtime_batches_total': [f'{{{label}}} {self._batches}'],
                'attn_runtime_dropped_total': [
                    f'{{{label},reason="{reason}"}} {count}' for reason, count in sorted(self._dropped.items())
                ],
            }
            for phase, values in self._phases.items():
                below = 0
                lines = []
                for bound, count in zip((*map(repr, BOUNDS_S), '+Inf'), values.counts, strict=True):
                    below += count
                    lines.append(f'_bucket{{{label},le="{bound}"}} {below}')
                lines += [f'_sum{{{label}}} {values.total!r}', f'_count{{{label}}} {below}']
                families[f'attn_runtime_{phase}_seconds'] = lines
        return families


_HELP = {
    'attn_runtime_requests_total': ('counter', 'Requests answered.'),
    'attn_runtime_late_total': ('counter', 'Requests answered after their deadline.'),
    'attn_runtime_batches_total': ('counter', 'Launches.'),
    'attn_runtime_dropped_total': ('counter', 'Requests without an answer, by reason.'),
    'attn_runtime_queue_seconds': ('histogram', 'From arrival to the start of the batch.'),
    'attn_runtime_batch_seconds': ('histogram', 'Gathering a batch.'),
    'attn_runtime_transfer_seconds': ('histogram', 'Copies of a batch to and from the device.'),
    'attn_runtime_compute_seconds': ('histogram', 'The model itself, a batch.'),
    'attn_runtime_memory_bytes': ('gauge', 'Weights and static buffers of a loaded model.'),
    'attn_runtime_streams': ('gauge', 'Live streams of a stateful model.'),
}


def prometheus_text(metrics: Mapping[str, ModelMetrics], memory: Mapping[str, int], streams: Mapping[str, int]) -> str:
    """Render Prometheus' text format, version 0.0.4.

    Args:
        metrics: by model name (catalogue names need no escaping).
        memory: bytes by loaded model.
        streams: live streams by stateful model.
    """
    families: dict[str, list[str]] = {family: [] for family in _HELP}
    for model, counters in sorted(metrics.items()):
        for family, lines in counters.exposition(model).items():
            families[family] += lines
    families['attn_runtime_memory_bytes'] = [f'{{model="{model}"}} {size}' for model, size in sorted(memory.items())]
    families['attn_runtime_streams'] = [f'{{model="{model}"}} {count}' for model, count in sorted(streams.items())]
    text = []
    for family, lines in families.items():
        if lines:
            kind, meaning = _HELP[family]
            text += [f'# HELP {family} {meaning}', f'# TYPE {family} {kind}', *(family + line for line in lines)]
    return '\n'.join(text) + '\n'
