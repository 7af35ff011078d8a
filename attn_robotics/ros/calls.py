"""Service calls that wait for a service which is not there yet, and for no answer without end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future

from attn_robotics.runtime.errors import REASONS, EngineError, Reason

LOOK_PERIOD_S = 0.1

Then = Callable[[Any, EngineError | None], None]
"""Gets an answer, or why there is none."""


@dataclass(eq=False)
class _Call:
    client: Any
    request: Any
    then: Then
    until: float
    sent: Future | None = None


class Calls:
    """Calls of one node under way. Thread-safe.

    Args:
        node: of the clients; its executor must be spun.
        timeout_s: after which an answer is given up [s].
    """

    def __init__(self, node: Node, timeout_s: float) -> None:
        self._node = node
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._open: dict[int, _Call] = {}
        self._timer = node.create_timer(LOOK_PERIOD_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._timer.cancel()

    def call(self, client: Any, request: Any, then: Then, timeout_s: float | None = None) -> None:
        """Send a request; `then` gets its answer, or why there is none."""
        until = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        call = _Call(client, request, then, until)
        with self._lock:
            self._open[id(call)] = call
            if self._timer.is_canceled():
                self._timer.reset()
        if client.service_is_ready():
            self._send(call)

    def close(self) -> None:
        """Give up what is under way."""
        with self._lock:
            left, self._open = list(self._open.values()), {}
        for call in left:
            self._give_up(call, EngineError('stopped', 'the client was closed'))
        self._node.destroy_timer(self._timer)

    def _send(self, call: _Call) -> None:
        with self._lock:
            if call.sent is not None or id(call) not in self._open:
                return
            call.sent = call.client.call_async(call.request)
        call.sent.add_done_callback(partial(self._take, call))

    def _take(self, call: _Call, done: Future) -> None:
        with self._lock:
            if self._open.pop(id(call), None) is None:
                return  # given up
        reply = done.result()
        if getattr(reply, 'success', True):
            call.then(reply, None)
        else:
            reason: Reason = reply.reason if reply.reason in REASONS else 'backend'
            call.then(None, EngineError(reason, reply.message))

    def _look(self) -> None:
        now = time.monotonic()
        with self._lock:
            late = [call for call in self._open.values() if call.until < now]
            for call in late:
                del self._open[id(call)]
            unsent = [call for call in self._open.values() if call.sent is None]
            if not self._open:
                self._timer.cancel()
        for call in unsent:
            if call.client.service_is_ready():
                self._send(call)
        for call in late:
            self._give_up(
                call, EngineError('expired', f'no answer of {call.client.service_name} in time; does it run?')
            )

    @staticmethod
    def _give_up(call: _Call, why: EngineError) -> None:
        if call.sent is not None:
            call.client.remove_pending_request(call.sent)
        call.then(None, why)
