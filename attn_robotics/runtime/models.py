"""One loaded version of a model: its back end, its queue, its streams, and how it is warmed up and let go."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from attn_robotics.runtime.backends import Backend, Step, open_backend
from attn_robotics.runtime.batching import ModelQueue
from attn_robotics.runtime.catalogue import ModelEntry, TensorSpec
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.metrics import ModelMetrics
from attn_robotics.runtime.requests import Request
from attn_robotics.runtime.streams import StreamStore

HIGH, NORMAL = 0, 1  # lane indices of a device
HIGH_PRIORITY = 128  # requests of at least this priority use the high lane


class LoadedModel:
    """A version that can answer. `pending` and `retired` belong to the engine and its lock.

    Args:
        entry: the catalogue's.
        backend: ready to run.
        metrics: of this model, kept from version to version.
        streams: of this model; an earlier version's where they fit.
    """

    def __init__(self, entry: ModelEntry, backend: Backend, metrics: ModelMetrics, streams: StreamStore) -> None:
        self.entry = entry
        self.backend = backend
        self.metrics = metrics
        self.streams = streams
        batching = entry.batching
        self.queue = ModelQueue(entry.max_rows, batching.wait_s if batching else 0.0, entry.queue_limit)
        self.memory_bytes = backend.memory_bytes
        self.pending = 0
        self.used = 0.0
        self.on_idle: Callable[[], None] | None = None

    def lane_of(self, priority: int) -> int:
        """Which lane of its device a request uses. One lane for all of a stateful model, to keep streams in order."""
        return HIGH if priority >= HIGH_PRIORITY and not self.entry.state else NORMAL


def open_model(
    entry: ModelEntry, metrics: ModelMetrics, streams: StreamStore, step: Step, clock: Callable[[], float]
) -> LoadedModel:
    """Load, warm up, and measure what each batch size costs.

    Raises:
        EngineError: whatever the back end found wrong.
    """
    backend = open_backend(entry, step)
    try:
        model = LoadedModel(entry, backend, metrics, streams)
        shapes = list(entry.warm_shapes())
        lanes = (NORMAL, HIGH) if backend.device.startswith('cuda') and not entry.state else (NORMAL,)
        for done, bound in enumerate(shapes):
            step('warm up', done, len(shapes))
            request = _example(model, bound)
            for lane in lanes:
                backend.prepare((request,), lane)
            for _ in range(2):
                start = clock()
                executed = backend.execute((request,), NORMAL)
                model.queue.cost.observe(request.group, request.rows, clock() - start)
            _check_shapes(entry, executed.outputs[0], bound)
        step('warm up', len(shapes), len(shapes))
        model.memory_bytes = backend.memory_bytes
    except BaseException:
        backend.close()
        raise
    return model


def _example(model: LoadedModel, bound: dict[str, int]) -> Request:
    """A request of the given sizes, of zeros or the nearest allowed value."""
    entry = model.entry
    inputs = {spec.name: _fill(spec, bound) for spec in (*entry.inputs, *entry.state)}
    dim = entry.batching.dim if entry.batching else None
    group = tuple(bound[name] for name in sorted(bound) if name != dim)
    now = time.perf_counter()
    return Request(model, model.queue, inputs, bound[dim] if dim else 1, group, (0, now, 0), now, now)


def _fill(spec: TensorSpec, bound: dict[str, int]) -> np.ndarray[Any, np.dtype[Any]]:
    value = min(max(0.0, -np.inf if spec.low is None else spec.low), np.inf if spec.high is None else spec.high)
    return np.full(spec.sizes(bound), value, spec.numpy)


def _check_shapes(entry: ModelEntry, outputs: dict[str, Any], bound: dict[str, int]) -> None:
    """Compare a first answer with what the entry promises."""
    for spec in (*entry.outputs, *entry.state):
        value = outputs[spec.name]
        if tuple(value.shape) != spec.sizes(bound) or str(value.dtype).removeprefix('torch.') != spec.dtype:
            raise EngineError(
                'bad_entry',
                f'{entry.name}: {spec.name} must be {spec.dtype} {list(spec.sizes(bound))} for {bound}, the model gave '
                f'{value.dtype} {list(value.shape)}; correct the entry or the weights',
            )
