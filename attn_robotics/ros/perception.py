"""Base of the nodes around one model of the engine: messages in, results out.

A callback converts its message and calls `offer`; a thread of the node calls `process` for one item after another,
which asks the engine and publishes. Neither the executor nor the engine's threads ever wait for it.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus

from attn_robotics.ros.hosting import hold_model, release_engine
from attn_robotics.ros.lifecycle import AttnNode
from attn_robotics.ros.worker import LatestWorker
from attn_robotics.runtime.backends import Progress
from attn_robotics.runtime.catalogue import ModelEntry
from attn_robotics.runtime.engine import Engine
from attn_robotics.runtime.errors import EngineError

LASTS = 5  # reports in a row that make a warning an error
SILENT_S = 5.0  # without input for this long is worth a warning
NumpyArray = np.ndarray[Any, np.dtype[Any]]


class PerceptionNode(AttnNode):
    """A node that feeds what it hears to a model and publishes what comes out.

    Subclasses call `open_model`, `hear` and `advertise` in `configure`, `offer` in their callbacks, and override
    `process`, which calls `ask`. They publish with the header of the newest input they used.
    """

    EXPECTED = (*AttnNode.EXPECTED, EngineError)
    INPUT: ClassVar[str]
    """Topic without which the node has nothing to do, for diagnostics."""
    DEPTH: ClassVar[int] = 1
    """Items that may wait; 1 keeps the newest alone, more keeps an order. Older ones are dropped and counted."""

    engine: Engine
    entry: ModelEntry

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.held = ExitStack()
        """What `release` gives back, last first."""
        self._model = ''
        self._device = ''
        self._lock = threading.Lock()
        self._heard_at = -np.inf
        self._troubles = 0
        self._reported = 0

    # What subclasses override.
    def process(self, item: Any) -> None:
        """Ask the engine about one item and publish; called in the node's thread, while the node is active."""
        raise NotImplementedError

    def facts(self) -> Mapping[str, object]:
        """More values for /diagnostics."""
        return {}

    # What subclasses use.
    def open_model(self, name: str) -> None:
        """Load a model of the catalogue, or share it where it is loaded, and start the thread.

        Raises:
            EngineError: why it does not load.
        """
        self.held.callback(release_engine, self)
        self._model = name
        self._load()
        self.entry = self.engine.entry(name)
        self._worker: LatestWorker[Any] = LatestWorker(self._work, self._defect, self.NAME, depth=self.DEPTH)
        self.held.callback(self._worker.close)
        self.get_logger().info(f'{name} version {self.entry.version} runs on {self._device}')

    def hear(self, kind: Any, topic: str, callback: Callable[[Any], None], profile: Any) -> None:
        """Subscribe until cleanup."""
        self.held.callback(self.destroy_subscription, self.create_subscription(kind, topic, callback, profile))

    def advertise(self, kind: Any, topic: str, profile: Any) -> Any:
        """A publisher until cleanup."""
        publisher = self.create_publisher(kind, topic, profile)
        self.held.callback(self.destroy_publisher, publisher)
        return publisher

    def offer(self, item: Any) -> None:
        """Hand an item over; returns at once. While the node is not active it is ignored."""
        self._heard_at = time.monotonic()
        if self.is_active and not self._worker.put(item):
            self.drop('overrun', f'{self._model} is slower than its input; older input was left out')

    def ask(
        self,
        inputs: Mapping[str, NumpyArray],
        *,
        deadline_s: float | None = None,
        stream: str = '',
        reset: bool = False,
    ) -> dict[str, NumpyArray]:
        """Wait for the engine's answer; a model that was evicted meanwhile is loaded again.

        Args:
            inputs: arrays by name.
            deadline_s: after which the answer is useless [s from now]; the model's own when None.
            stream: whose state to use, for models that keep state.
            reset: forget that state first.

        Raises:
            EngineError: why there is no answer; raised on from `process`, it is counted and logged by its reason.
        """
        try:
            reply = self.engine.infer(self._model, inputs, deadline_s=deadline_s, stream=stream, reset=reset)
        except EngineError as error:
            if error.reason != 'not_loaded':
                raise
            self._load()
            reply = self.engine.infer(self._model, inputs, deadline_s=deadline_s, stream=stream, reset=reset)
        return reply.outputs

    # Machinery.
    def drop(self, reason: str, detail: str = '') -> None:
        """Count what was refused, from any thread."""
        with self._lock:
            super().drop(reason, detail)

    def activate(self) -> None:
        """Nothing from before counts."""
        self._heard_at = time.monotonic()
        self._worker.clear()

    def release(self) -> None:
        """Give back everything that configure took, once the item in hand is done: it may still publish."""
        if hasattr(self, '_worker'):
            self._worker.close()
        self.held.close()

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """Warn when input is refused or missing, and call it an error when that lasts."""
        counted = self.engine.metrics().get(self._model)
        values: dict[str, object] = {'model': self._model, 'device': self._device, 'waiting': self._worker.waiting}
        if counted is not None:
            values |= {'answered': counted.requests, 'late': counted.late}
            for phase in counted.p50_s:
                p50, p99 = counted.p50_s[phase] * 1e3, counted.p99_s[phase] * 1e3
                values[f'{phase} p50, p99 [ms]'] = f'{p50:.3f}, {p99:.3f}'
        values |= self.facts()
        with self._lock:
            refused = sum(self.dropped.values())
        grown, self._reported = refused - self._reported, refused
        silence = time.monotonic() - self._heard_at
        trouble = ''
        if grown > 0:
            trouble = f'{grown} inputs dropped or refused'
        elif silence > SILENT_S:
            topic = self.resolve_topic_name(self.INPUT)
            trouble = f'nothing heard on {topic} for {silence:.0f} s; is something publishing there?'
        self._troubles = self._troubles + 1 if trouble else 0
        if not trouble:
            return DiagnosticStatus.OK, 'running', values
        # Silence is not the node's failure, however long it lasts.
        lasts = grown > 0 and self._troubles >= LASTS
        return DiagnosticStatus.ERROR if lasts else DiagnosticStatus.WARN, trouble, values

    def _load(self) -> None:
        told = 0.0

        def tell(progress: Progress) -> None:
            nonlocal told
            if time.monotonic() - told >= 1.0:
                told = time.monotonic()
                share = f' {progress.done} of {progress.total}' if progress.total > 1 else ''
                self.get_logger().info(f'{progress.model}: {progress.stage}{share}')

        self.engine, status = hold_model(self, self._model, tell)
        self._device = status.device

    def _work(self, item: Any) -> None:
        if not self.is_active:
            return
        try:
            self.process(item)
        except EngineError as error:
            self.drop(error.reason, str(error))

    def _defect(self, error: BaseException) -> None:
        """One item met a defect; it is shown whole and counted, and the next item has its turn."""
        self.drop('defect', f'{type(error).__name__}: {error}')
        self.get_logger().error(''.join(traceback.format_exception(error)), throttle_duration_sec=5.0)
