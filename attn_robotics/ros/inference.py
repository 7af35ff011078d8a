"""The services of the attention runtime: requests in, answers out, loads and unloads; the engine does the work."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from typing import Any

from attn_robotics.conversions.models import to_model_status
from attn_robotics.conversions.tensors import from_tensors, to_tensors
from attn_robotics.ros.deferred import Deferred, DeferredService
from attn_robotics.ros.lifecycle import AttnNode
from attn_robotics.runtime.backends import Progress
from attn_robotics.runtime.engine import Engine, ModelStatus
from attn_robotics.runtime.errors import EngineError, one_line
from attn_robotics.runtime.requests import Reply
from attn_robotics.runtime.shared_memory import HandOver
from attn_robotics_interfaces.srv import Infer, ListModels, LoadModel, UnloadModel

MAX_LOADS = 32  # waiting at once; a client that asks for more is up to no good
UNLOAD_LIMIT_S = 30.0


class InferenceServices:
    """`~/infer`, `~/load_model`, `~/unload_model` and `~/list_models` of a node, from `open` to `close`.

    Args:
        node: whose services they are; it counts what is refused.
        engine: that answers.
        hand_over: takes large answers to clients that ask by shared memory.
        max_request_bytes: largest request.
        on_progress: called in the loader's thread.
        on_change: called in the engine's threads after a load or an unload: hand over and return.
    """

    def __init__(
        self,
        node: AttnNode,
        engine: Engine,
        hand_over: HandOver,
        *,
        max_request_bytes: int,
        on_progress: Callable[[Progress], None],
        on_change: Callable[[], None],
    ) -> None:
        self._node = node
        self._engine = engine
        self._hand_over = hand_over
        self._max_request_bytes = max_request_bytes
        self._on_progress = on_progress
        self._on_change = on_change
        self._lock = threading.Lock()
        self._loads = 0
        self._own: set[str] = set()  # loaded through this node
        self._services: list[DeferredService] = []
        # Answers are converted and sent here: neither the executor nor the engine's threads wait for them.
        self._pool = ThreadPoolExecutor(2, node.NAME)

    def open(self) -> None:
        """Offer the services."""
        callbacks: dict[Any, tuple[str, Callable[[Any, Deferred], None]]] = {
            Infer: ('infer', self._on_infer),
            LoadModel: ('load_model', self._on_load),
            UnloadModel: ('unload_model', self._on_unload),
            ListModels: ('list_models', self._on_list),
        }
        for kind, (name, callback) in callbacks.items():
            self._services.append(
                DeferredService(self._node, kind, f'~/{name}', callback, refusal, own_thread=kind is Infer)
            )

    def close(self) -> None:
        """Refuse what waits, and unload what clients of this node had loaded; the engine may live on for others."""
        for service in self._services:
            service.close('the runtime is being cleaned up')
        self._services = []
        self._pool.shutdown()
        futures = []
        for name in self._own:
            with suppress(EngineError):  # evicted, failed or unloaded meanwhile
                futures.append(self._engine.unload(name))
        self._own.clear()
        wait_for(futures, UNLOAD_LIMIT_S)

    def load(self, name: str) -> Future[ModelStatus]:
        """Load a model for this node."""
        future = self._engine.load(name, self._on_progress)
        with self._lock:
            self._own.add(name)
        return future

    # Requests.
    def _on_infer(self, request: Infer.Request, deferred: Deferred) -> None:
        if not self._node.is_active:
            self._refuse(deferred, 'infer', EngineError('stopped', 'the runtime is not active; activate it first'))
            return
        try:
            inputs = from_tensors(request.inputs, max_bytes=self._max_request_bytes)
        except EngineError as error:
            self._refuse(deferred, 'infer', error)
            return
        # Who sends by shared memory can also fetch from it.
        is_local = any(tensor.shm_key for tensor in request.inputs)
        future = self._engine.submit(
            request.model,
            inputs,
            version=request.version,
            deadline_s=request.deadline_ms / 1e3 if request.deadline_ms else None,
            priority=request.priority,
            stream=request.stream,
            reset=request.reset,
        )
        self._then(future, deferred, 'infer', lambda reply: self._fill_infer(deferred.response, reply, is_local))

    def _fill_infer(self, response: Infer.Response, reply: Reply, is_local: bool) -> None:
        response.outputs = to_tensors(reply.outputs, hand_over=self._hand_over if is_local else None)
        response.queue_ms = 1e3 * reply.queue_s
        response.compute_ms = 1e3 * reply.compute_s

    # Models.
    def _on_load(self, request: LoadModel.Request, deferred: Deferred) -> None:
        with self._lock:
            is_flood = self._loads >= MAX_LOADS
            self._loads += not is_flood
        if is_flood:
            self._refuse(deferred, 'load_model', EngineError('queue_full', f'{MAX_LOADS} loads are waiting already'))
            return
        future = self.load(request.model)
        future.add_done_callback(self._count_load)
        self._then(
            future, deferred, 'load_model', lambda status: setattr(deferred.response, 'status', to_model_status(status))
        )

    def _count_load(self, future: Future[Any]) -> None:
        with self._lock:
            self._loads -= 1
        self._on_change()

    def _on_unload(self, request: UnloadModel.Request, deferred: Deferred) -> None:
        try:
            future = self._engine.unload(request.model)
        except EngineError as error:
            self._refuse(deferred, 'unload_model', error)
            return
        with self._lock:
            self._own.discard(request.model)
        future.add_done_callback(lambda _: self._on_change())
        self._then(future, deferred, 'unload_model', lambda _: None)

    def _on_list(self, request: ListModels.Request, deferred: Deferred) -> None:
        # Entries are read from disk: not in the executor.
        self._then(self._pool.submit(self._engine.list_models), deferred, 'list_models', lambda models: setattr(
            deferred.response, 'models', [to_model_status(status) for status in models]
        ))  # fmt: skip

    # Answers.
    def _then(self, future: Future[Any], deferred: Deferred, service: str, fill: Callable[[Any], None]) -> None:
        """Once the engine has decided, let the pool answer; engine threads only hand over."""

        def hand_over(settled: Future[Any]) -> None:
            if not deferred.is_answered:
                with suppress(RuntimeError):  # the pool was shut down: the request was refused at that
                    self._pool.submit(self._answer, settled, deferred, service, fill)

        future.add_done_callback(hand_over)

    def _answer(self, future: Future[Any], deferred: Deferred, service: str, fill: Callable[[Any], None]) -> None:
        try:
            fill(future.result())
            if hasattr(deferred.response, 'success'):
                deferred.response.success = True
            deferred.answer(deferred.response)
        except EngineError as error:
            self._refuse(deferred, service, error)
        except Exception as error:  # a defect; its client must not wait for ever
            self._node.get_logger().error(f'{service}: {"".join(traceback.format_exception(error))}')
            self._refuse(deferred, service, EngineError('backend', f'{type(error).__name__}: {error}'))

    def _refuse(self, deferred: Deferred, service: str, error: EngineError) -> None:
        with self._lock:
            self._node.drop(f'{service}: {error.reason}', str(error))
        deferred.answer(refusal(type(deferred.response)(), str(error), error.reason))


def refusal(response: Any, why: str, reason: str = 'stopped') -> Any:
    """A response that says no, in one line and in one word."""
    if hasattr(response, 'success'):
        response.success = False
        response.message = one_line(why)
        response.reason = reason
    return response
