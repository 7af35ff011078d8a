"""Which models are in memory: loading, replacing, evicting and unloading them, and how they stand."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import IntEnum

from attn_robotics.runtime.backends import Progress
from attn_robotics.runtime.backends.base import is_out_of_memory
from attn_robotics.runtime.catalogue import Catalogue, ModelEntry
from attn_robotics.runtime.errors import EngineError, Reason, one_line
from attn_robotics.runtime.memory import give_back, settle
from attn_robotics.runtime.metrics import ModelMetrics
from attn_robotics.runtime.models import LoadedModel, open_model
from attn_robotics.runtime.streams import StreamStore

log = logging.getLogger(__name__)

# How long a model that comes back on demand waits for another one to be idle for a moment, and other loads with it.
ROOM_WAIT_S = 2.0


class ModelState(IntEnum):
    """As in ModelStatus.msg."""

    UNLOADED = 0
    LOADING = 1
    READY = 2
    FAILED = 3


@dataclass(frozen=True)
class ModelStatus:
    """One model as an operator sees it; the fields are those of ModelStatus.msg.

    Attributes:
        name, version, system, backend: of the entry; empty where it can't be read.
        device: cpu, cuda:0, or the address of the remote server; empty while not loaded.
        state: what it is doing.
        reason: why it failed or was evicted, or what to know about it.
        stage: what a load is doing, `read`, `build` or `warm up`; empty otherwise.
        progress: of that stage, 0 to 1.
        memory_bytes: weights and static buffers.
        requests: answered.
        dropped: refused or failed.
        queue_p50_ms, compute_p50_ms: medians [ms].
    """

    name: str
    version: str = ''
    system: str = ''
    backend: str = ''
    device: str = ''
    state: ModelState = ModelState.UNLOADED
    reason: str = ''
    stage: str = ''
    progress: float = 0.0
    memory_bytes: int = 0
    requests: int = 0
    dropped: int = 0
    queue_p50_ms: float = 0.0
    compute_p50_ms: float = 0.0


class Residency:
    """The models of one engine and the memory they hold. Thread-safe.

    Args:
        catalogue: where entries are found.
        budget_bytes: the most that loaded models may hold on one device, None for all of it.
        clock: gives seconds.
    """

    def __init__(self, catalogue: Catalogue, budget_bytes: int | None, clock: Callable[[], float]) -> None:
        self.catalogue = catalogue
        self._budget = budget_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._models: dict[str, LoadedModel] = {}
        self._held: set[LoadedModel] = set()  # with memory: those above and retired ones at their last requests
        self._needs_room = False  # a load waits for somebody to be idle
        self._unknown = ModelMetrics()
        self._metrics: dict[str, ModelMetrics] = {'': self._unknown}  # '' counts requests for models never loaded
        self._notes: dict[str, tuple[ModelState, str]] = {}
        self._progress: dict[str, Progress] = {}  # of loads under way
        self._evicted: dict[str, ModelEntry] = {}  # come back when somebody asks for them
        self._coming: dict[str, Future[ModelStatus]] = {}  # loads of those, under way
        self._loader = ThreadPoolExecutor(1, 'engine-loader')
        self._closer = ThreadPoolExecutor(1, 'engine-closer')  # so that giving back need not wait for a long load
        self._closed = False

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
        with self._lock:
            if self._closed:
                raise EngineError('stopped', 'the engine is shutting down')
            self._notes[name] = (ModelState.LOADING, '')
            return self._loader.submit(self._load, name, on_progress)

    def unload(self, name: str) -> Future[None]:
        """Stop answering for a model at once, and give its memory back after the requests under way.

        A model that was evicted does not come back on demand any more.

        Raises:
            EngineError: `not_loaded`.
        """
        done: Future[None] = Future()
        with self._lock:
            model = self._models.get(name)
            was_evicted = self._evicted.pop(name, None) is not None
            if model is None and was_evicted:
                self._notes.pop(name, None)
                done.set_result(None)
                return done
            if model is None:
                raise EngineError('not_loaded', f'model {name[:100]!r} is not loaded')
            self._notes.pop(name, None)
            self._retire(model, done)
        return done

    def list_models(self) -> list[ModelStatus]:
        """Every model of the catalogue and every loaded one, by name."""
        return [self.status(name) for name in sorted({*self.catalogue.names(), *self._models, *self._notes})]

    def loading(self) -> list[str]:
        """Models whose load is under way."""
        return sorted(self._progress)

    def status(self, name: str) -> ModelStatus:
        """One model's status, loaded or not."""
        with self._lock:
            model = self._models.get(name)
            state, reason = self._notes.get(name, (ModelState.UNLOADED, ''))
            metrics = self._metrics.get(name)
            progress = self._progress.get(name)
        status = ModelStatus(name, state=state, reason=reason)
        if progress is not None:
            status = replace(status, stage=progress.stage, progress=progress.done / max(1, progress.total))
        if model is None:
            try:
                entry = self.catalogue.entry(name)
            except EngineError as error:
                return replace(status, state=ModelState.FAILED, reason=reason or str(error))
        else:
            entry = model.entry
            status = replace(
                status,
                device=model.backend.device,
                state=ModelState.READY,
                reason=reason or ('loading another version' if state == ModelState.LOADING else model.backend.note),
                memory_bytes=model.memory_bytes,
            )
        if metrics:
            counted = metrics.snapshot()
            status = replace(
                status,
                requests=counted.requests,
                dropped=sum(counted.dropped.values()),
                queue_p50_ms=1e3 * counted.p50_s['queue'],
                compute_p50_ms=1e3 * counted.p50_s['compute'],
            )
        return replace(status, version=entry.version, system=entry.system, backend=entry.backend)

    def find(self, name: str) -> LoadedModel:
        """A loaded model.

        Raises:
            EngineError: `not_loaded`.
        """
        model = self._models.get(name)
        if model is None:
            raise self._not_loaded(name)
        return model

    def _not_loaded(self, name: str) -> EngineError:
        loaded = ', '.join(sorted(self._models)) or 'none'
        return EngineError('not_loaded', f'model {str(name)[:100]!r} is not loaded; loaded are: {loaded}')

    def entry(self, name: str) -> ModelEntry:
        """The entry of a model that answers: loaded, or evicted and back on demand.

        Raises:
            EngineError: `not_loaded`.
        """
        return self._evicted.get(name) or self.find(name).entry

    def bring_back(self, name: str) -> Future[ModelStatus] | None:
        """Load an evicted model again; None where there is none of this name. Any number may wait for one load."""
        if name not in self._evicted:  # without the lock: every request passes here
            return None
        with self._lock:
            if name not in self._evicted or self._closed:
                return None
            coming = self._coming.get(name)
            if coming is None:
                self._notes[name] = (ModelState.LOADING, 'evicted before, asked for again')
                coming = self._coming[name] = self._loader.submit(self._load, name, None, ROOM_WAIT_S)
        return coming

    def count(self, name: str, reason: Reason) -> None:
        """Count a request that was refused before it had a model."""
        with self._lock:
            metrics = self._metrics.get(name, self._unknown)
        metrics.dropped(reason)

    def acquire(self, name: str, now: float) -> LoadedModel:
        """A loaded model, which stays until it is released.

        Raises:
            EngineError: `not_loaded`; counted.
        """
        with self._lock:
            if (model := self._models.get(name)) is not None:
                model.pending += 1
                model.used = now
                return model
            self._metrics.get(name, self._unknown).dropped('not_loaded')
            raise self._not_loaded(name)

    def release(self, model: LoadedModel) -> None:
        """End an `acquire`."""
        with self._lock:
            model.pending -= 1
            if not model.pending and (model.on_idle is not None or self._needs_room):
                if model.on_idle is not None:
                    self._closer.submit(model.on_idle)
                self._idle.notify_all()

    def models(self) -> dict[str, LoadedModel]:
        """Loaded models by name."""
        with self._lock:
            return dict(self._models)

    def metrics(self) -> dict[str, ModelMetrics]:
        """Counters of every model that was ever loaded, and of the unknown under ''."""
        with self._lock:
            return dict(self._metrics)

    def memory_bytes(self, device: str) -> int:
        """What models hold on a device."""
        with self._lock:
            return self._memory(device)

    def refuse_loads(self) -> None:
        """Begin to close: load nothing any more."""
        with self._lock:
            self._closed = True
            self._idle.notify_all()

    def close(self) -> None:
        """Close every model after its last request, and end the threads."""
        with self._lock:
            for model in list(self._models.values()):
                self._retire(model)
            self._idle.wait_for(lambda: not any(model.pending for model in self._held))
        self._loader.shutdown(wait=True)
        self._closer.shutdown(wait=True)
        gc.unfreeze()

    def _retire(self, model: LoadedModel, done: Future[None] | None = None) -> None:
        """Take a model out of service, to be closed after its last request; the lock is held."""
        if self._models.get(model.entry.name) is model:
            del self._models[model.entry.name]

        def close() -> None:
            self._close_model(model)
            if done is not None:
                done.set_result(None)

        model.on_idle = close
        if not model.pending:
            self._closer.submit(close)

    def _close_model(self, model: LoadedModel) -> None:
        ghost = model.backend.ghost
        try:
            model.backend.close()
        finally:
            with self._lock:
                self._held.discard(model)
                model.on_idle = None  # it refers to the model: no cycle is left to collect
                self._idle.notify_all()
            give_back(ghost)

    def _memory(self, device: str) -> int:
        return sum(model.memory_bytes for model in self._held if model.backend.device == device)

    def evict_one(self, device: str, why: str, keep: str = '') -> bool:
        """Close the least recently used idle model of a device and give its memory back; False when there is none."""
        with self._lock:
            idle = self._evictable(device, keep)
            oldest = min(idle, key=lambda model: model.used, default=None)
            if oldest is not None:
                del self._models[oldest.entry.name]
                self._notes[oldest.entry.name] = (ModelState.UNLOADED, f'evicted: {why}')
                self._evicted[oldest.entry.name] = oldest.entry
        if oldest is None:
            give_back()
            return False
        log.warning('%s evicted: %s', oldest.entry.name, why)
        self._close_model(oldest)
        return True

    def _evictable(self, device: str, keep: str) -> list[LoadedModel]:
        """Idle models of a device, but those whose streams' state would be lost; the lock is held."""
        return [
            model
            for name, model in self._models.items()
            if model.backend.device == device
            and name != keep
            and not model.pending
            and model.memory_bytes
            and not len(model.streams)
        ]

    def _make_room(self, device: str, needed: int, why: str, keep: str, patience_s: float) -> None:
        """Evict until `needed` bytes fit the budget or no model is left that is idle, or is so before long."""
        end = time.monotonic() + patience_s
        while True:
            with self._lock:
                if self._budget is None or self._memory(device) + needed <= self._budget:
                    return
            if self.evict_one(device, why, keep):
                continue
            with self._lock:
                self._needs_room = True
                found = self._idle.wait_for(
                    lambda: self._closed or self._evictable(device, keep), max(0.0, end - time.monotonic())
                )
                self._needs_room = False
                if not found or self._closed:
                    return

    def _load(self, name: str, on_progress: Callable[[Progress], None] | None, patience_s: float = 0.0) -> ModelStatus:
        def step(stage: str, done: int, total: int) -> None:
            self._progress[name] = progress = Progress(name, stage, done, total)
            if on_progress is not None:
                try:
                    on_progress(progress)
                except Exception:
                    log.exception('the progress callback of %s failed', name)

        try:
            try:
                self._replace(name, step, patience_s)
            finally:
                self._progress.pop(name, None)
                with self._lock:
                    self._coming.pop(name, None)
        except Exception as error:
            log.debug('loading %s failed', name, exc_info=True)
            failure = error if isinstance(error, EngineError) else EngineError('backend', f'{name}: {describe(error)}')
        else:
            settle()
            return self.status(name)
        with self._lock:
            if failure.reason != 'out_of_memory':  # which may be over soon; else every request would try again
                self._evicted.pop(name, None)
            if failure.reason == 'unknown_model':
                self._notes.pop(name, None)  # anybody may ask for any name: keep none of them
            else:
                self._notes[name] = (ModelState.FAILED, str(failure))
        bare(failure)
        if failure.reason != 'unknown_model':
            give_back()
        raise failure

    def _replace(self, name: str, step: Callable[[str, int, int], None], patience_s: float) -> None:
        """Open a version and let it take over."""
        if self._closed:
            raise EngineError('stopped', 'the engine is shutting down')
        entry = self.catalogue.entry(name)
        with self._lock:
            metrics = self._metrics.setdefault(name, ModelMetrics())
            running = self._models.get(name)
        streams = running.streams if running and running.streams.fits(entry) else StreamStore(entry, self._clock)
        model = self._open(entry, metrics, streams, step)
        device = model.backend.device
        with self._lock:  # what was unloaded a moment ago must not count against the budget
            self._idle.wait_for(lambda: not any(m.on_idle is not None and not m.pending for m in self._held))
        self._make_room(device, model.memory_bytes, f'room for {name}', name, patience_s)
        with self._lock:
            free = None if self._budget is None else self._budget - self._memory(device)
            fits = (free is None or model.memory_bytes <= free) and not self._closed
            if fits:
                if (old := self._models.get(name)) is not None:
                    self._retire(old)
                self._models[name] = model
                self._held.add(model)
                self._evicted.pop(name, None)
                model.used = self._clock()
                streams.entry = entry
                self._notes.pop(name, None)
        if not fits:
            model.backend.close()
            if free is None or self._closed:
                raise EngineError('stopped', 'the engine is shutting down')
            raise EngineError(
                'out_of_memory',
                f'{name} needs {model.memory_bytes} bytes on {device}, {max(0, free)} of the budget are free and no '
                'idle model is left to evict; unload one or raise the budget',
            )

    def _open(
        self, entry: ModelEntry, metrics: ModelMetrics, streams: StreamStore, step: Callable[[str, int, int], None]
    ) -> LoadedModel:
        why = f'{entry.name} ran out of memory while loading'
        evicted = True
        while True:
            try:
                return open_model(entry, metrics, streams, step, self._clock)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                failure = describe(error)
            if not evicted:
                raise EngineError(
                    'out_of_memory', f'{entry.name} does not fit in memory and no idle model is left: {failure}'
                )
            evicted = self.evict_one(self._device_of(entry), why, keep=entry.name)
            log.warning('%s: out of memory while loading, trying again', entry.name)

    def _device_of(self, entry: ModelEntry) -> str:
        """Where an entry that is not open yet will be: auto means the first CUDA device wherever there is one."""
        if entry.device not in ('auto', 'cuda'):
            return entry.device
        used = {model.backend.device for model in list(self._models.values())}
        return 'cuda:0' if entry.device == 'cuda' or 'cuda:0' in used else 'cpu'


def bare(error: BaseException) -> None:
    """Take the frames off an error that outlives them: they hold weights and tensors."""
    error.__cause__ = error.__context__ = error.__traceback__ = None


def describe(error: BaseException) -> str:
    """An exception of foreign origin in one line."""
    return f'{type(error).__name__}: {one_line(error, 250)}'
