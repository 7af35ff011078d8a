"""The attention runtime as a node: other processes load models and send requests by service.

Nodes in the same container call the engine itself (`attn_robotics.ros.hosting.engine_of_process`).
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from attn_robotics.conversions.models import to_model_status
from attn_robotics.conversions.tensors import from_tensors, to_tensors
from attn_robotics.ros import qos
from attn_robotics.ros.deferred import Deferred, DeferredService
from attn_robotics.ros.hosting import EngineSettings, declare_engine, hold_engine, release_engine
from attn_robotics.ros.lifecycle import AttnNode, ConfigurationError, run_node
from attn_robotics.ros.parameters import param
from attn_robotics.runtime.backends import Progress
from attn_robotics.runtime.door import Door
from attn_robotics.runtime.engine import ModelState, ModelStatus
from attn_robotics.runtime.errors import EngineError, Reason, one_line
from attn_robotics.runtime.requests import Reply
from attn_robotics.runtime.shared_memory import HandOver, sweep
from attn_robotics_interfaces.msg import ModelStatus as ModelStatusMessage
from attn_robotics_interfaces.srv import Infer, ListModels, LoadModel, UnloadModel

MIB = 1 << 20
WATCH_PERIOD_S = 1.0
MAX_LOADS = 32  # waiting at once; a client that asks for more is up to no good
UNLOAD_LIMIT_S = 30.0
LASTS = 5  # reports in a row that make lateness an error
CHANGES = QoSProfile(  # whoever comes late learns of every model, not only of the last one that changed
    depth=200,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
LATE: tuple[Reason, ...] = ('overload', 'queue_full', 'displaced', 'expired')


@dataclass(frozen=True)
class AttentionRuntimeParams:
    """Tunables of the attention runtime."""

    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    # ruff takes a list's default for shared; param makes it afresh
    models: list[str] = param([], 'Folders of model entries; empty takes those that ship.', read_only=True)  # noqa: RUF009
    preload: list[str] = param([], 'Models to load before the node is ready.', read_only=True)  # noqa: RUF009
    memory_budget_mib: int = param(
        0,
        'Most that models may hold on one device; 0 is all of its memory [MiB].',
        low=0,
        high=1 << 20,
        read_only=True,
    )
    door_port: int = param(
        0, 'Port of the KServe v2 door on the loopback interface; 0 is off.', low=0, high=65535, read_only=True
    )
    max_request_mib: int = param(256, 'Largest request, all tensors together [MiB].', low=1, high=1024, read_only=True)
    shm_ttl_s: float = param(
        10.0,
        'After this long an answer in shared memory that nobody fetched is removed [s].',
        low=0.1,
        high=600.0,
        read_only=True,
    )
    shm_limit_mib: int = param(
        1024, 'Most that answers in shared memory may take before they are fetched [MiB].', low=1, high=1 << 16,
        read_only=True,
    )  # fmt: skip


class AttentionRuntime(AttnNode):
    """The `attention_runtime` node: services, model states, metrics; the engine does the work."""

    NAME = 'attention_runtime'
    Params = AttentionRuntimeParams
    EXPECTED = (*AttnNode.EXPECTED, EngineError)
    params: AttentionRuntimeParams

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._held = ExitStack()
        if not self._parameters_source.problems:
            # Before any node of the container is configured and makes the engine for itself.
            declare_engine(self._settings(self._parameters_source.read()))

    def configure(self) -> None:
        """Make the engine, load models, offer services."""
        p = self.params
        declare_engine(self._settings(p))
        self._engine = hold_engine(self)
        self._held.callback(release_engine, self)
        self._lock = threading.Lock()
        self._own: set[str] = set()
        self._held.callback(self._unload_own)
        self._loads = 0
        self._shown: dict[str, tuple[object, ...]] = {}
        self._counted = 0
        self._late_reports = 0
        sweep()
        self._hand_over = HandOver(limit_bytes=p.shm_limit_mib * MIB, ttl_s=p.shm_ttl_s)
        self._held.callback(self._hand_over.close)
        # Answers are converted and sent here: neither the executor nor the engine's threads wait for them.
        self._pool = ThreadPoolExecutor(2, 'attention_runtime')
        self._held.callback(self._pool.shutdown)
        self._models = self.create_publisher(ModelStatusMessage, '~/models', CHANGES)
        self._held.callback(self.destroy_publisher, self._models)
        self._metrics = self.create_publisher(String, '~/metrics', qos.STATE)
        self._held.callback(self.destroy_publisher, self._metrics)
        self._preload()
        for kind, name, callback in (
            (Infer, 'infer', self._on_infer),
            (LoadModel, 'load_model', self._on_load),
            (UnloadModel, 'unload_model', self._on_unload),
            (ListModels, 'list_models', self._on_list),
        ):
            service = DeferredService(self, kind, f'~/{name}', callback, _refusal, own_thread=kind is Infer)
            self._held.callback(service.close, 'the runtime is being cleaned up')
        timer = self.create_timer(WATCH_PERIOD_S, self._watch, clock=self._wall)
        self._held.callback(self.destroy_timer, timer)
        self._door: Door | None = None

    def activate(self) -> None:
        """Answer requests, and open the door where one is wanted."""
        port = self.params.door_port
        if port:
            try:
                self._door = Door(self._engine, port=port, max_body_bytes=self.params.max_request_mib * MIB)
            except OSError as error:
                raise ConfigurationError(
                    f'door_port {port} can not be opened on the loopback interface: {error.strerror}; choose another'
                ) from error
        where = f', KServe v2 on port {port}' if port else ''
        ready = [status.name for status in self._engine.list_models() if status.state == ModelState.READY]
        self.get_logger().info(f'ready{where}; loaded: {", ".join(ready) or "nothing yet"}')

    def deactivate(self) -> None:
        """Close the door; what was loaded stays."""
        if self._door is not None:
            self._door.close()
            self._door = None

    def release(self) -> None:
        """Refuse what waits and give everything back."""
        self._held.close()

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """Say what each model does, which failed, and whether answers come late."""
        values: dict[str, object] = {}
        late = 0
        for name, counted in self._engine.metrics().items():
            late += counted.late + sum(counted.dropped.get(reason, 0) for reason in LATE)
            if name:
                values[f'{name}: answered'] = counted.requests
                values[f'{name}: late'] = counted.late
                for phase in counted.p50_s:
                    p50, p99 = counted.p50_s[phase] * 1e3, counted.p99_s[phase] * 1e3
                    values[f'{name}: {phase} p50, p99 [ms]'] = f'{p50:.3f}, {p99:.3f}'
        values |= {f'waiting on {lane}': count for lane, count in self._engine.waiting().items()}
        grown, self._counted = late - self._counted, late
        self._late_reports = self._late_reports + 1 if grown > 0 else 0
        failed = [name for name, shown in sorted(self._shown.items()) if shown[0] == ModelState.FAILED]
        if self._late_reports >= LASTS:
            return DiagnosticStatus.ERROR, f'{grown} requests late or refused for lack of time, again', values
        if failed:
            return DiagnosticStatus.ERROR, f'failed to load: {", ".join(failed)}', values
        if grown > 0:
            return DiagnosticStatus.WARN, f'{grown} requests late or refused for lack of time', values
        return DiagnosticStatus.OK, 'running', values

    # Requests.
    def _on_infer(self, request: Infer.Request, deferred: Deferred) -> None:
        if not self.is_active:
            self._refuse(deferred, 'infer', EngineError('stopped', 'the runtime is not active; activate it first'))
            return
        try:
            inputs = from_tensors(request.inputs, max_bytes=self.params.max_request_mib * MIB)
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
        name = request.model
        with self._lock:
            is_flood = self._loads >= MAX_LOADS
            self._loads += not is_flood
        if is_flood:
            self._refuse(deferred, 'load_model', EngineError('queue_full', f'{MAX_LOADS} loads are waiting already'))
            return
        future = self._load(name)
        future.add_done_callback(self._count_load)
        self._then(future, deferred, 'load_model', lambda status: self._fill_load(deferred.response, status))
        future.add_done_callback(self._changed)

    def _count_load(self, future: Future[Any]) -> None:
        with self._lock:
            self._loads -= 1

    def _fill_load(self, response: LoadModel.Response, status: ModelStatus) -> None:
        response.status = to_model_status(status)

    def _on_unload(self, request: UnloadModel.Request, deferred: Deferred) -> None:
        try:
            future = self._engine.unload(request.model)
        except EngineError as error:
            self._refuse(deferred, 'unload_model', error)
            return
        with self._lock:
            self._own.discard(request.model)
        future.add_done_callback(self._changed)
        self._then(future, deferred, 'unload_model', lambda _: None)

    def _on_list(self, request: ListModels.Request, deferred: Deferred) -> None:
        # Entries are read from disk: not in the executor.
        self._then(self._pool.submit(self._engine.list_models), deferred, 'list_models', lambda models: setattr(
            deferred.response, 'models', [to_model_status(status) for status in models]
        ))  # fmt: skip

    def _load(self, name: str) -> Future[ModelStatus]:
        told = 0.0

        def tell(progress: Progress) -> None:
            nonlocal told
            if time.monotonic() - told >= 1.0:
                told = time.monotonic()
                share = f' {progress.done} of {progress.total}' if progress.total > 1 else ''
                self.get_logger().info(f'{progress.model}: {progress.stage}{share}')

        future = self._engine.load(name, tell)
        with self._lock:
            self._own.add(name)
        return future

    def _preload(self) -> None:
        """Load what is always needed; a name that does not exist is a mistake, a model that fails is its own."""
        for name in self.params.preload:
            try:
                self._load(name).result()
            except EngineError as error:
                if error.reason in ('unknown_model', 'bad_entry'):
                    raise ConfigurationError(f"parameter 'preload': {error}") from error
                self.get_logger().error(f'{name} is not served: {error}')
        self._publish_changes()

    def _unload_own(self) -> None:
        """Give back what clients of this node had loaded; the engine may live on for others."""
        futures = []
        for name in self._own:
            with suppress(EngineError):  # evicted, failed or unloaded meanwhile
                futures.append(self._engine.unload(name))
        self._own.clear()
        wait_for(futures, UNLOAD_LIMIT_S)

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
            self.get_logger().error(f'{service}: {"".join(traceback.format_exception(error))}')
            self._refuse(deferred, service, EngineError('backend', f'{type(error).__name__}: {error}'))

    def _refuse(self, deferred: Deferred, service: str, error: EngineError) -> None:
        with self._lock:
            self.drop(f'{service}: {error.reason}', str(error))
        deferred.answer(_refusal(type(deferred.response)(), str(error)))

    # What others can watch.
    def _watch(self) -> None:
        self._hand_over.sweep()
        # Evictions come without a service call. Only loaded models are looked at: others would be read from disk.
        loaded = [name for name, shown in self._shown.items() if shown[0] == ModelState.READY]
        if any(self._engine.status(name).state != ModelState.READY for name in loaded):
            self._changed()
        if self.is_active and self._metrics.get_subscription_count():
            self._metrics.publish(String(data=self._engine.prometheus() + self._refused_text()))

    def _changed(self, future: Future[Any] | None = None) -> None:
        """Have models looked at; entries are read from disk, so neither here nor in the engine's threads."""
        with suppress(RuntimeError):  # the pool was shut down: the node is being cleaned up
            self._pool.submit(self._publish_changes)

    def _publish_changes(self) -> None:
        try:
            statuses = self._engine.list_models()
            with self._lock:
                for name in self._shown.keys() - {status.name for status in statuses}:
                    del self._shown[name]  # asked for, but there is no such model
                for status in statuses:
                    shown = (status.state, status.version, status.device, status.reason, status.memory_bytes)
                    if self._shown.get(status.name) != shown:
                        self._models.publish(to_model_status(status))
                        self._shown[status.name] = shown
        except Exception as error:  # nobody looks at what the pool's tasks raise
            self.get_logger().error(f'models can not be shown: {"".join(traceback.format_exception(error))}')

    def _refused_text(self) -> str:
        lines = ['# HELP attn_runtime_refused_total Service calls refused, by service and reason.',
                 '# TYPE attn_runtime_refused_total counter']  # fmt: skip
        for key, count in sorted(self.dropped.items()):
            service, _, reason = key.partition(': ')
            lines.append(f'attn_runtime_refused_total{{service="{service}",reason="{reason}"}} {count}')
        return '\n'.join(lines) + '\n' if len(lines) > 2 else ''

    @staticmethod
    def _settings(p: AttentionRuntimeParams) -> EngineSettings:
        return EngineSettings(
            tuple(Path(folder).expanduser() for folder in p.models if folder),
            p.memory_budget_mib * MIB or None,
            p.max_request_mib * MIB,
        )


def _refusal(response: Any, why: str) -> Any:
    """A response that says no, in one line."""
    if hasattr(response, 'success'):
        response.success = False
        response.message = one_line(why)
    return response


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(AttentionRuntime, args)


if __name__ == '__main__':
    sys.exit(main())
