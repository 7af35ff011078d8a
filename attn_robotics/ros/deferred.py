"""Services whose answers come later, from any thread, with many requests under way at once.

rclpy's own way, a coroutine that awaits, is stepped by the executor at every wake-up, and each wake-up builds a wait
set of the whole node. Here the callback returns at once and the answer leaves from the thread that has it; a busy
service may also have a thread that takes its requests, as `rclpy.wait_for_message` does for messages.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy._rclpy_pybind11 import InvalidHandle, RCLError, WaitSet
from rclpy.callback_groups import CallbackGroup
from rclpy.guard_condition import GuardCondition
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

# With ROS's usual ten, the eleventh request of a burst silently takes the place of the first, whose client then waits
# for ever. Clients that have more than ten under way need it as well.
BURST = QoSProfile(depth=512, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)


class Deferred:
    """One request's answer to be. Thread-safe.

    Attributes:
        response: an empty response of the service's kind, to be filled in by whoever answers.
    """

    def __init__(self, response: Any) -> None:
        self.response = response
        self._lock = threading.Lock()
        self._send: Callable[[Any], None] | None = None
        self._answer: Any = None
        self._is_answered = False

    @property
    def is_answered(self) -> bool:
        """Whether an answer was given."""
        return self._is_answered

    def answer(self, response: Any) -> bool:
        """Send a response; False when there was an answer before, which then stands."""
        with self._lock:
            if self._is_answered:
                return False
            self._is_answered = True
            self._answer = response
            send = self._send
        if send is not None:
            send(response)
        return True

    def connect(self, send: Callable[[Any], None]) -> None:
        """Say where the answer goes; one that was given meanwhile goes there now."""
        with self._lock:
            self._send = send
            if not self._is_answered:
                return
        send(self._answer)


class _HandsOff(CallbackGroup):
    """Keeps the executor away from what has a thread of its own."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing was begun."""


class DeferredService:
    """A service of a node.

    Args:
        node: whose it is.
        kind: the service type.
        name: of the service.
        callback: gets a request and its `Deferred`, must return soon, may answer at once. It is called in the
            executor, or in the service's own thread.
        refuse: fills in a response for a request that has no other answer, given one line of text.
        own_thread: take requests in a thread, so that they do not wait for the node's other callbacks.
    """

    def __init__(
        self,
        node: Node,
        kind: Any,
        name: str,
        callback: Callable[[Any, Deferred], None],
        refuse: Callable[[Any, str], Any],
        *,
        own_thread: bool = False,
    ) -> None:
        self._node = node
        self._callback = callback
        self._refuse = refuse
        self._open: set[Deferred] = set()
        self._lock = threading.Lock()
        group = _HandsOff() if own_thread else None
        self._service: Any = node.create_service(kind, name, self._on_request, qos_profile=BURST, callback_group=group)
        self._send_now = self._service.send_response
        # The executor hands a callback's result to send_response together with the header, which nobody else gets.
        self._service.send_response = self._send_later  # type: ignore[method-assign, assignment]
        self._thread: threading.Thread | None = None
        if own_thread:
            self._ends = False
            self._wake = GuardCondition(None, None, context=node.context)
            self._thread = threading.Thread(target=self._take, name=self._service.srv_name, daemon=True)
            self._thread.start()

    def close(self, why: str) -> None:
        """Refuse what is under way, then remove the service."""
        if self._thread is not None:
            self._ends = True
            self._wake.trigger()
            self._thread.join()
            self._wake.destroy()
        with self._lock:
            waiting = list(self._open)
        for deferred in waiting:
            deferred.answer(self._refuse(type(deferred.response)(), why))
        self._node.destroy_service(self._service)

    def _take(self) -> None:
        """Wait for requests and start them, in a thread."""
        kind = self._service.srv_type
        context: Any = self._node.context
        service, wake = self._service.handle, self._wake.handle
        with service, wake, context.handle:
            waiting = WaitSet(0, 1, 0, 0, 1, 0, context.handle)
            while not self._ends and context.ok():
                waiting.clear_entities()
                waiting.add_service(service)
                waiting.add_guard_condition(wake)
                waiting.wait(-1)
                while not self._ends:
                    request, header = service.service_take_request(kind.Request)
                    if header is None:
                        break
                    self._send_later(self._on_request(request, kind.Response()), header)

    def _on_request(self, request: Any, response: Any) -> Deferred:
        deferred = Deferred(response)
        try:
            self._callback(request, deferred)
        except Exception as error:
            # A defect in one answer; raised on, it would end the executor and with it every other client's service.
            self._node.get_logger().error(f'{self._service.srv_name}: {type(error).__name__}: {error}')
            deferred.answer(self._refuse(type(response)(), f'{type(error).__name__}: {error}'))
        return deferred

    def _send_later(self, deferred: Deferred, header: Any) -> None:
        with self._lock:
            self._open.add(deferred)
        deferred.connect(partial(self._send, deferred, header))

    def _send(self, deferred: Deferred, header: Any, response: Any) -> None:
        with self._lock:
            self._open.discard(deferred)
        try:
            self._send_now(response, header)
        except (InvalidHandle, RCLError, SystemError) as error:
            # The service or its client is gone: nobody waits for this. SystemError is rclpy's where Python makes errors
            # of warnings, of which "client will not receive response" is one.
            self._node.get_logger().debug(f'an answer of {self._service.srv_name} was not taken: {error}')
