"""Ask the attention runtime from any node: arrays in, arrays out, large ones by shared memory.

    runtime = RuntimeClient(node)
    runtime.load('small_transformer')
    future = runtime.infer('small_transformer', {'tokens': tokens})   # in a coroutine: answer = await future
    future.add_done_callback(lambda future: use(future.result().outputs['encoded']))

In a process that hosts an engine (`container`) it asks that one, by reference; elsewhere the services of
`attention_runtime`. Either way the future's callbacks run in the node's executor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import Future as EngineFuture
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack, cast

import numpy as np
from rclpy.node import Node
from rclpy.task import Future

from attn_robotics.conversions.models import to_model_status
from attn_robotics.conversions.tensors import SHARED_FROM_BYTES, from_tensor, to_shared_tensor, to_tensor
from attn_robotics.ros import qos
from attn_robotics.ros.calls import Calls
from attn_robotics.ros.deferred import BURST
from attn_robotics.ros.hosting import engine_if_any
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.requests import Reply, RequestOptions
from attn_robotics.runtime.shared_memory import Segment, SegmentPool
from attn_robotics_interfaces.msg import ModelStatus, Tensor
from attn_robotics_interfaces.srv import Infer, ListModels, LoadModel, UnloadModel

ALIGNMENT = 64  # bytes, of arrays that share a segment
NumpyArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    Attributes:
        outputs: arrays by name.
        queue_s: from arrival at the runtime to the start of its batch [s].
        compute_s: the model itself [s].
    """

    outputs: dict[str, NumpyArray]
    queue_s: float
    compute_s: float


class RuntimeClient:
    """A client of the attention runtime. Thread-safe.

    Every method returns a future at once. It ends with an `EngineError` where the runtime refuses, whose `reason` says
    in one word why; `expired` where it does not answer.

    Args:
        node: whose executor runs callbacks; it must be spun.
        runtime: name of the runtime's node, relative to the node's namespace. Where it is not given and this process
            has an engine, that one is asked.
        share: send large arrays by shared memory as long as the runtime can read it.
        timeout_s: after which an answer is given up [s], loads excepted. A runtime that comes up within it still gets
            the request.
    """

    def __init__(self, node: Node, runtime: str | None = None, *, share: bool = True, timeout_s: float = 10.0) -> None:
        self._node = node
        self._may_be_here = runtime is None
        self._name = runtime or 'attention_runtime'
        self._calls = Calls(node, timeout_s)
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}
        self._client(Infer, 'infer')  # early, so that it is matched when it is needed
        self._segments = SegmentPool()
        self._shares = share  # until a runtime can't read what is shared: it is another host's or user's
        self._answers_large: set[str] = set()  # models
        self._listeners: dict[str, Callable[[ModelStatus], None]] = {}
        self._subscription: Any = None

    def infer(self, model: str, inputs: Mapping[str, NumpyArray], **options: Unpack[RequestOptions]) -> Future:
        """Ask a model; the future's result is an `Answer`.

        Args:
            model: a loaded model's name.
            inputs: arrays by name, to be left unchanged until the answer.
            options: all but `on_device`.
        """
        if self._may_be_here and (engine := engine_if_any()) is not None:
            return self._follow(engine.submit(model, inputs, **options), _read_reply)
        fields = dict(options)
        deadline_s = cast(float | None, fields.pop('deadline_s', None))
        request = Infer.Request(model=model, deadline_ms=1e3 * (deadline_s or 0.0), **fields)
        future = Future()
        self._infer(request, {name: np.asarray(values) for name, values in inputs.items()}, future)
        return future

    def load(self, model: str, on_progress: Callable[[ModelStatus], None] | None = None) -> Future:
        """Load a model, or replace its version; the future's result is its `ModelStatus`.

        Args:
            model: of the runtime's catalogue.
            on_progress: told of its status while it loads and when it has, by a runtime in another process.
        """
        if self._may_be_here and (engine := engine_if_any()) is not None:
            return self._follow(engine.load(model), to_model_status)
        if on_progress is not None:
            self._listeners[model] = on_progress
            if self._subscription is None:
                self._subscription = self._node.create_subscription(
                    ModelStatus, f'{self._name}/models', self._on_status, qos.STATE
                )
        client = self._client(LoadModel, 'load_model')
        future = self._ask(client, LoadModel.Request(model=model), lambda reply: reply.status, timeout_s=float('inf'))

        def tell_the_end(ended: Future) -> None:
            listener = self._listeners.pop(model, None)
            if listener is not None and not ended.cancelled() and ended.exception() is None:
                listener(ended.result())  # a short load may end before its first status was heard

        future.add_done_callback(tell_the_end)
        return future

    def unload(self, model: str) -> Future:
        """Unload a model; the future's result is None."""
        if self._may_be_here and (engine := engine_if_any()) is not None:
            try:
                return self._follow(engine.unload(model), lambda _: None)
            except EngineError as error:
                future = Future()
                future.set_exception(error)
                return future
        return self._ask(self._client(UnloadModel, 'unload_model'), UnloadModel.Request(model=model), lambda _: None)

    def list_models(self) -> Future:
        """Ask for every model of the catalogue; the future's result is a list of `ModelStatus`."""
        if self._may_be_here and (engine := engine_if_any()) is not None:
            future = Future()
            future.set_result([to_model_status(status) for status in engine.list_models()])
            return future
        client = self._client(ListModels, 'list_models')
        return self._ask(client, ListModels.Request(), lambda reply: list(reply.models))

    def close(self) -> None:
        """Give up what is under way and give everything back."""
        self._calls.close()
        with self._lock:
            self._segments.shrink(0)
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        for client in self._clients.values():
            self._node.destroy_client(client)

    def _follow(self, found: EngineFuture[Any], read: Callable[[Any], Any]) -> Future:
        """A future of ROS for one of the engine's; it lets the executor call back, not the engine's thread."""
        future = Future(executor=self._node.executor)

        def hand_over(done: EngineFuture[Any]) -> None:
            with suppress(CancelledError):  # its owner has cancelled it
                error = done.exception()
                _settle(future, read, None if error else done.result(), error)

        future.add_done_callback(lambda settled: found.cancel() if settled.cancelled() else None)
        found.add_done_callback(hand_over)
        return future

    def _client(self, kind: Any, name: str) -> Any:
        """The client of one service, made when first needed: each costs the executor at every wake-up."""
        with self._lock:
            if name not in self._clients:
                self._clients[name] = self._node.create_client(kind, f'{self._name}/{name}', qos_profile=BURST)
            return self._clients[name]

    def _ask(self, client: Any, request: Any, read: Callable[[Any], Any], timeout_s: float | None = None) -> Future:
        future = Future()
        self._calls.call(client, request, partial(_settle, future, read), timeout_s)
        return future

    def _infer(self, request: Infer.Request, arrays: Mapping[str, NumpyArray], future: Future) -> None:
        """Send a request, its large arrays in a segment of this process; inline once that was of no use."""
        shared = self._to_share(request.model, arrays)
        segment: Segment | None = None
        try:
            if shared:
                with self._lock:
                    segment = self._segments.take(sum(map(_room, shared.values())))
            request.inputs = _to_tensors(arrays, shared, segment)
        except EngineError as error:
            self._give_back(segment)
            future.set_exception(error)
            return

        def then(reply: Any, error: EngineError | None) -> None:
            self._give_back(segment, is_read=error is None or error.reason not in ('expired', 'stopped'))
            if error is not None and error.reason == 'bad_segment' and segment is not None:
                if self._shares:
                    self._node.get_logger().info(f'arrays go inline from now on, no memory is shared with it: {error}')
                self._shares = False
                self._infer(request, arrays, future)
            else:
                _settle(future, partial(self._read, request.model), reply, error)

        self._calls.call(self._client(Infer, 'infer'), request, then)

    def _to_share(self, model: str, arrays: Mapping[str, NumpyArray]) -> dict[str, NumpyArray]:
        """Arrays to send by shared memory; a runtime answers by it to whoever asks by it."""
        if not self._shares:
            return {}
        shared = {name: values for name, values in arrays.items() if values.nbytes >= SHARED_FROM_BYTES}
        if not shared and model in self._answers_large:
            shared = {name: values for name, values in [*arrays.items()][:1] if values.nbytes}
        return shared

    def _give_back(self, segment: Segment | None, is_read: bool = True) -> None:
        if segment is not None and not is_read:
            segment.release()  # whoever may still come to read it shall not find another request's arrays
        elif segment is not None:
            with self._lock:
                self._segments.give(segment)

    def _read(self, model: str, reply: Infer.Response) -> Answer:
        outputs = {}
        for tensor in reply.outputs:
            outputs[tensor.name] = from_tensor(tensor, claim=bool(tensor.shm_key))
            if len(tensor.data) >= SHARED_FROM_BYTES and len(self._answers_large) < 1000:
                self._answers_large.add(model)
        return Answer(outputs, reply.queue_ms / 1e3, reply.compute_ms / 1e3)

    def _on_status(self, status: ModelStatus) -> None:
        if (listener := self._listeners.get(status.name)) is not None:
            listener(status)


def _room(values: NumpyArray) -> int:
    """Bytes that an array takes in a segment."""
    return -(-values.nbytes // ALIGNMENT) * ALIGNMENT


def _to_tensors(
    arrays: Mapping[str, NumpyArray], shared: Mapping[str, NumpyArray], segment: Segment | None
) -> list[Tensor]:
    tensors = []
    offset = 0
    for name, values in arrays.items():
        if segment is not None and name in shared:
            tensors.append(to_shared_tensor(name, values, segment, offset))
            offset += _room(values)
        else:
            tensors.append(to_tensor(name, values))
    return tensors


def _read_reply(reply: Reply) -> Answer:
    return Answer(reply.outputs, reply.queue_s, reply.compute_s)


def _settle(future: Future, read: Callable[[Any], Any], reply: Any, error: BaseException | None) -> None:
    """End a future, unless its owner has cancelled it."""
    if future.cancelled():
        return
    try:
        if error is not None:
            raise error
        future.set_result(read(reply))
    except EngineError as why:
        future.set_exception(why)
