"""The engine: loads models and answers requests; one a process.

Everything may be called from any thread. `submit`, `load` and `unload` return at once with a future; `infer` waits.
"""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Unpack

import numpy as np

from attn_robotics.runtime.backends import Executed, Progress
from attn_robotics.runtime.backends.base import is_out_of_memory
from attn_robotics.runtime.catalogue import Catalogue, ModelEntry, TensorSpec
from attn_robotics.runtime.errors import EngineError, Reason
from attn_robotics.runtime.lanes import Lane
from attn_robotics.runtime.metrics import ModelSnapshot, prometheus_text
from attn_robotics.runtime.models import LoadedModel
from attn_robotics.runtime.requests import Array, Reply, Request, RequestOptions, check_request, check_values
from attn_robotics.runtime.residency import ModelState, ModelStatus, Residency, bare, describe

__all__ = ['Engine', 'ModelState', 'ModelStatus']

log = logging.getLogger(__name__)

# A thread that launches gives up Python's lock at every operator and must wait for it as long as another thread
# computes in Python: 5 ms by default, which makes fifty operators take a quarter of a second.
SWITCH_INTERVAL_S = 1e-4


class Engine:
    """Models, lanes and memory of one process.

    While it lives, threads of the process switch every `SWITCH_INTERVAL_S`.

    Args:
        catalogue: where entries are found.
        budget_bytes: the most that loaded models may hold on one device, all of its memory when None. Beyond it, the
            least recently used idle models are evicted.
        max_request_bytes: largest request, whatever its model allows.
        clock: gives seconds; replaced in tests.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        budget_bytes: int | None = None,
        max_request_bytes: int = 256 << 20,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._residency = Residency(catalogue, budget_bytes, clock)
        self._max_request_bytes = max_request_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._waiting_for_load: dict[str, int] = {}  # requests by model
        self._sequence = itertools.count()
        self._closed = False
        self._switch_interval = sys.getswitchinterval()
        sys.setswitchinterval(min(SWITCH_INTERVAL_S, self._switch_interval))

    # Models.

    def load(self, name: str, on_progress: Callable[[Progress], None] | None = None) -> Future[ModelStatus]:
        """Load a model, or replace its running version without failing a request.

        Args:
            name: of the catalogue; the entry is read afresh.
            on_progress: called in the loader's thread.

        Returns:
            Its status once it answers, or an `EngineError`; a version that ran before goes on after a failure.

        Raises:
            EngineError: `stopped`, after `close`.
        """
        return self._residency.load(name, on_progress)

    def unload(self, name: str) -> Future[None]:
        """Stop answering for a model at once, and give its memory back after the requests under way.

        Raises:
            EngineError: `not_loaded`.
        """
        return self._residency.unload(name)

    def list_models(self) -> list[ModelStatus]:
        """Every model of the catalogue and every loaded one, by name."""
        return self._residency.list_models()

    def status(self, name: str) -> ModelStatus:
        """One model's status, loaded or not."""
        return self._residency.status(name)

    def loading(self) -> list[str]:
        """Models whose load is under way."""
        return self._residency.loading()

    def entry(self, name: str) -> ModelEntry:
        """The entry of a model that answers: loaded, or evicted and back on demand.

        Raises:
            EngineError: `not_loaded`.
        """
        return self._residency.entry(name)

    # Requests.

    def submit(self, model: str, inputs: Mapping[str, Array], **options: Unpack[RequestOptions]) -> Future[Reply]:
        """Queue a request and return at once. The arrays must stay unchanged until it is answered.

        Args:
            model: name of a loaded model, or of one that was evicted, which is then loaded again first.
            inputs: numpy arrays or torch tensors (on any device) by name.
            options: see `RequestOptions`.

        Returns:
            The reply, or an `EngineError`, refusals on arrival included: nothing is raised here. `cancel()` works
            until the request's batch starts. Callbacks run in the engine's threads: hand over and return.
        """
        future: Future[Reply] = Future()
        arrived = self._clock()
        coming = self._residency.bring_back(model)
        if coming is None:
            self._enter(future, model, inputs, arrived, options)
        elif self._wait_for_load(model, +1):
            coming.add_done_callback(lambda done: self._enter_late(done, future, model, inputs, arrived, options))
        else:
            self._residency.count(model, 'queue_full')
            future.set_exception(EngineError('queue_full', f'{model} is being loaded and enough requests wait for it'))
        return future

    def infer(self, model: str, inputs: Mapping[str, Array], **options: Unpack[RequestOptions]) -> Reply:
        """Wait for an answer. On an idle device the caller's own thread runs the model, which costs the least.

        Args:
            model, inputs, options: as in `submit`.

        Raises:
            EngineError: why there is no answer.
        """
        if self._residency.bring_back(model) is not None:
            return self._infer_late(model, inputs, options)
        request = self._admit(model, inputs, self._clock(), **options)
        if request.stream_id:
            request.future = Future()  # it may have to stand in line
        self._dispatch(request, direct=True)
        if request.future is not None:
            return request.future.result()
        if request.reply is None:
            raise request.error or EngineError('backend', f'{model} gave no answer')
        return request.reply

    # Streams.

    def snapshot_stream(self, model: str, stream: str) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """A stream's state by name, to be saved or restored elsewhere.

        Raises:
            EngineError: `not_loaded`, `bad_stream`.
        """
        return self._residency.find(model).streams.snapshot(stream)

    def restore_stream(self, model: str, stream: str, state: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> None:
        """Give a stream a state.

        Raises:
            EngineError: `not_loaded`, `bad_stream`.
        """
        self._residency.find(model).streams.restore(stream, state)

    def drop_stream(self, model: str, stream: str) -> bool:
        """Forget a stream; False when there is none.

        Raises:
            EngineError: `not_loaded`.
        """
        return self._residency.find(model).streams.drop(stream)

    # Metrics.

    def metrics(self) -> dict[str, ModelSnapshot]:
        """Counters of every model that was ever loaded, by name."""
        return {name: counted.snapshot() for name, counted in self._residency.metrics().items()}

    def waiting(self) -> dict[str, int]:
        """Requests not started yet, by lane."""
        with self._lock:
            lanes = dict(self._lanes)
        return {
            f'{device}/{"high" if index == 0 else "normal"}': lane.waiting() for (device, index), lane in lanes.items()
        }

    def memory_bytes(self, device: str) -> int:
        """What models hold on a device."""
        return self._residency.memory_bytes(device)

    def prometheus(self) -> str:
        """All counters in Prometheus' text format."""
        models = self._residency.models()
        memory = {name: model.memory_bytes for name, model in models.items()}
        streams = {name: len(model.streams) for name, model in models.items() if model.entry.state}
        return prometheus_text(self._residency.metrics(), memory, streams)

    # The end.

    def close(self) -> None:
        """Refuse what waits, finish what runs, give everything back, and end the threads."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            lanes = list(self._lanes.values())
        self._residency.refuse_loads()
        for lane in lanes:
            lane.stop()
        self._residency.close()
        sys.setswitchinterval(self._switch_interval)

    def __enter__(self) -> Engine:
        """Close on leaving."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    # Requests for models that were evicted.

    def _wait_for_load(self, name: str, more: int) -> bool:
        """Note that one more request waits for a load, or one less; False where its queue's limit is reached."""
        with self._lock:
            waiting = self._waiting_for_load.get(name, 0) + more
            if more > 0 and waiting > self._load_limit(name):
                return False
            self._waiting_for_load[name] = waiting
            if not waiting:
                del self._waiting_for_load[name]
        return True

    def _load_limit(self, name: str) -> int:
        try:
            return self._residency.entry(name).queue_limit
        except EngineError:  # the load ended a moment ago
            return 1

    def _enter_late(
        self,
        load: Future[ModelStatus],
        future: Future[Reply],
        model: str,
        inputs: Mapping[str, Array],
        arrived: float,
        options: RequestOptions,
    ) -> None:
        """Queue a request that has waited for its model; in the loader's thread."""
        self._wait_for_load(model, -1)
        failure = load.exception()
        if future.cancelled():
            is_late = self._clock() > arrived + self._deadline_of(model, options)
            self._residency.count(model, 'expired' if is_late else 'cancelled')
            return
        if failure is None:
            self._enter(future, model, inputs, arrived, options)
            return
        error = _of_load(model, failure)
        self._residency.count(model, error.reason)
        if future.set_running_or_notify_cancel():
            future.set_exception(error)

    def _infer_late(self, model: str, inputs: Mapping[str, Array], options: RequestOptions) -> Reply:
        """Wait for a model to come back and for its answer, but not beyond the request's deadline."""
        limit_s = self._deadline_of(model, options)
        future = self.submit(model, inputs, **options)
        try:
            return future.result(limit_s)
        except TimeoutError:
            if future.cancel():
                late = f'{model} was evicted and is still being loaded; ask again or allow more time'
                raise EngineError('expired', late) from None
        return future.result()  # it runs already

    def _deadline_of(self, model: str, options: RequestOptions) -> float:
        limit_s = options.get('deadline_s')
        if limit_s is None:
            try:
                limit_s = self._residency.entry(model).deadline_s
            except EngineError:  # the load failed a moment ago, which submit will say
                limit_s = 1.0
        return min(max(0.0, limit_s), 1e6)

    # Requests on their way.

    def _enter(
        self,
        future: Future[Reply],
        model: str,
        inputs: Mapping[str, Array],
        arrived: float,
        options: RequestOptions,
    ) -> None:
        """Check a request and queue it."""
        try:
            request = self._admit(model, inputs, arrived, **options)
        except EngineError as error:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
            return
        request.future = future
        self._dispatch(request, direct=False)

    def _admit(
        self,
        name: str,
        inputs: Mapping[str, Array],
        arrived: float,
        version: str = '',
        deadline_s: float | None = None,
        priority: int = 0,
        stream: str = '',
        reset: bool = False,
        on_device: bool = False,
    ) -> Request:
        """Check a request; from here on its model stays until the request is settled."""
        model = self._residency.acquire(name, arrived)
        entry = model.entry
        try:
            if version and version != entry.version:
                raise EngineError('bad_input', f'{name} is loaded in version {entry.version}, not {version[:50]!r}')
            if bool(stream) != bool(entry.state):
                need = 'keeps state: name a stream' if entry.state else 'keeps no state: name no stream'
                raise EngineError('bad_stream', f'{name} {need}')
            if not 0 <= priority <= 255:
                raise EngineError('bad_input', f'priority must be from 0 to 255, got {priority}')
            if deadline_s is None:
                deadline_s = entry.deadline_s
            elif not 0 < deadline_s < 1e6:
                raise EngineError('bad_input', f'the deadline must be positive seconds from now, got {deadline_s}')
            if on_device and entry.backend != 'torch':
                raise EngineError('bad_input', f'{name} runs on {entry.backend}, which leaves nothing on the device')
            rows, group = check_request(entry, inputs, max_bytes=self._max_request_bytes)
        except BaseException as error:
            if isinstance(error, EngineError):
                model.metrics.dropped(error.reason)
            self._residency.release(model)
            raise
        deadline = arrived + deadline_s
        order = (-priority, deadline, next(self._sequence))
        request = Request(model, model.queue, dict(inputs), rows, group, order, deadline, arrived)
        if stream:
            request.stream_id, request.reset = stream, reset
        if on_device:
            request.on_device = True
            _mark_cuda(request)
        else:
            for value in inputs.values():
                if type(value) is not np.ndarray:
                    _mark_cuda(request)
                    break
        return request

    def _dispatch(self, request: Request, direct: bool) -> None:
        """Start a request, or put it in its stream's line."""
        if request.stream_id:
            try:
                first = request.model.streams.enter(request.stream_id, request)
            except EngineError as error:
                self._settle(request, error=error)
                return
            if not first:
                return
        self._start(request, direct)

    def _start(self, request: Request, direct: bool) -> None:
        model: LoadedModel = request.model
        lane = self._lane(model, model.lane_of(-request.order[0]))
        if direct and not request.queue.wait_s and lane.run_here(request):
            return
        if request.future is None:
            request.future = Future()
        try:
            lane.offer(request)
        except EngineError as error:
            self._settle(request, error=error)

    def _lane(self, model: LoadedModel, index: int) -> Lane:
        key = (model.backend.device, index)
        lane = self._lanes.get(key)
        if lane is None:
            with self._lock:
                lane = self._lanes.get(key)
                if lane is None:
                    name = f'engine-{key[0]}-{index}'
                    lane = Lane(name, index, self._run, self._drop, workers=model.backend.workers, clock=self._clock)
                    self._lanes[key] = lane
                    if self._closed:
                        lane.stop()
        return lane

    def _drop(self, request: Request, reason: Reason) -> None:
        self._settle(request, error=EngineError(reason, f'{request.model.entry.name}: {_DROPPED[reason]}'))

    def _settle(self, request: Request, *, reply: Reply | None = None, error: EngineError | None = None) -> None:
        """Answer a request, once, and let the next of its stream go."""
        model: LoadedModel = request.model
        wanted = request.begin()
        if not wanted:
            model.metrics.dropped('cancelled')
        elif error is not None:
            model.metrics.dropped(error.reason)
        following = model.streams.leave(request.stream) if request.stream is not None else None
        self._residency.release(model)
        request.reply, request.error = reply, error
        if request.future is not None and wanted:
            if error is not None:
                request.future.set_exception(error)
            elif reply is not None:
                request.future.set_result(reply)
        if following is not None:
            self._start(following, direct=False)

    # Launches, in a lane's thread or a caller's.

    def _run(self, batch: list[Request], lane: int) -> None:
        live = []
        for request in batch:
            if request.begin():
                live.append(request)
            else:
                self._settle(request)
        if not live:
            return
        try:
            self._launch(live, lane)
        except Exception as error:  # whatever it is, it must not end the lane's thread or leave a client waiting
            log.exception('a launch failed in the engine itself')
            for request in live:
                if request.reply is None and request.error is None:
                    self._settle(request, error=EngineError('backend', f'the engine failed: {error}'))

    def _launch(self, batch: list[Request], lane: int) -> None:
        model: LoadedModel = batch[0].model
        started, wall = self._clock(), time.perf_counter()
        if model.entry.state:
            batch = [request for request in batch if self._add_state(model, request)]
            if not batch:
                return
        try:
            executed = self._execute(model, batch, lane)
        except Exception as error:
            failure = error if isinstance(error, EngineError) else _translate(model, error)
            log.debug('%s failed', model.entry.name, exc_info=True)
        else:
            self._answer(model, batch, executed, started, wall)
            return
        if len(batch) > 1 and failure.reason != 'out_of_memory':
            # Only the request that the model can't stand shall suffer from it.
            for request in batch:
                self._launch([request], lane)
            return
        bare(failure)
        for request in batch:
            self._settle(request, error=failure)

    def _add_state(self, model: LoadedModel, request: Request) -> bool:
        try:
            request.inputs.update(model.streams.state(request))
        except EngineError as error:
            self._settle(request, error=error)
            return False
        return True

    def _execute(self, model: LoadedModel, batch: Sequence[Request], lane: int) -> Executed:
        evicted = True
        while True:
            try:
                return model.backend.execute(batch, lane)
            except Exception as error:
                if not is_out_of_memory(error) or not evicted:
                    raise
            # Outside the handler, so that the exception's frames no longer hold tensors. Where no idle model is left,
            # one more try: memory that was cached in other sizes has been given back.
            evicted = self._residency.evict_one(model.backend.device, f'{model.entry.name} ran out of memory')
            what = 'evicted the least recently used idle model' if evicted else 'no idle model is left to evict'
            log.warning('%s: out of memory, %s, trying again', model.entry.name, what)

    def _answer(
        self, model: LoadedModel, batch: Sequence[Request], executed: Executed, started: float, wall: float
    ) -> None:
        """Check outputs, keep state, reply."""
        now = self._clock()
        entry = model.entry
        rows = batch[0].rows if len(batch) == 1 else sum([request.rows for request in batch])
        model.queue.cost.observe(batch[0].group, rows, now - started)
        promised = (*entry.outputs, *entry.state) if entry.state else entry.outputs
        fine = len(batch) > 1 and executed.columns is not None and _is_fine(promised, executed.columns)
        answered: list[tuple[Request, Reply]] = []
        late = 0
        batch_s, transfer_s, compute_s = executed.batch_s, executed.transfer_s, executed.compute_s
        to_launch = executed.launched - wall
        for request, outputs in zip(batch, executed.outputs, strict=True):
            if not fine:
                try:
                    _check_outputs(promised, outputs)
                except EngineError as error:
                    self._settle(request, error=error)
                    continue
            if entry.state:
                model.streams.commit(request, {spec.name: outputs.pop(spec.name) for spec in entry.state})
            queued = started - request.arrived
            reply = Reply(outputs, entry.version, rows, queued, batch_s, transfer_s, compute_s, queued + to_launch)
            answered.append((request, reply))
            late += now > request.deadline
        # Counted before clients can look.
        if answered:
            model.metrics.answered([reply for _, reply in answered], late)
        for request, reply in answered:
            self._settle(request, reply=reply)


def _of_load(model: str, failure: BaseException) -> EngineError:
    """A load's failure, told to one of many who waited for it: each gets an error of its own."""
    reason: Reason = failure.reason if isinstance(failure, EngineError) else 'backend'
    return EngineError(reason, f'{model} was evicted and could not be loaded again: {failure}')


_DROPPED: dict[Reason, str] = {
    'expired': 'the deadline passed while the request waited; send less or allow more time',
    'displaced': 'a request of higher priority took the place in the full queue',
    'cancelled': 'cancelled by its client',
    'stopped': 'the engine is shutting down',
}


def _check_outputs(promised: Sequence[TensorSpec], outputs: Mapping[str, Array]) -> None:
    for spec in promised:
        if spec.checks_values:
            check_values(spec, outputs[spec.name], 'bad_output')


def _is_fine(promised: Sequence[TensorSpec], columns: Mapping[str, Array]) -> bool:
    """Whether a whole batch keeps what its entry promises: looked at in one go; who broke it is found one by one."""
    try:
        _check_outputs(promised, columns)
    except EngineError:
        return False
    return True


def _translate(model: LoadedModel, error: Exception) -> EngineError:
    if is_out_of_memory(error):
        return EngineError(
            'out_of_memory',
            f'{model.entry.name} ran out of memory and no idle model is left to evict; send smaller requests or '
            'unload a model',
        )
    return EngineError('backend', f'{model.entry.name} failed: {describe(error)}')


def _mark_cuda(request: Request) -> None:
    """Note what another stream must wait for before it reads the client's device tensors, and who reads the answer."""
    tensors = [value for value in request.inputs.values() if type(value) is not np.ndarray]
    if not tensors and not request.on_device:
        return
    tensors = [value for value in tensors if getattr(value, 'is_cuda', False)]
    if not tensors and not request.on_device:
        return
    torch: Any = sys.modules['torch']  # a torch tensor or back end is here, so torch is
    device = tensors[0].device if tensors else torch.device(request.model.backend.device)
    if device.type == 'cuda':
        request.client_stream = torch.cuda.current_stream(device)
        request.after = request.client_stream.record_event()
