"""What others can watch of a runtime: the states of its models, and its metrics."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from attn_robotics.conversions.models import to_model_status
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import AttnNode
from attn_robotics.runtime.backends import Progress
from attn_robotics.runtime.engine import Engine, ModelState
from attn_robotics.runtime.errors import Reason
from attn_robotics_interfaces.msg import ModelStatus as ModelStatusMessage

WATCH_PERIOD_S = 1.0
PROGRESS_PERIOD_S = 0.2
LASTS = 5  # reports in a row that make lateness an error
CHANGES = QoSProfile(  # whoever comes late learns of every model, not only of the last one that changed
    depth=200,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
LATE: tuple[Reason, ...] = ('overload', 'queue_full', 'displaced', 'expired')


class ModelBoard:
    """`~/models` and `~/metrics` of a node, and the engine's part of its diagnostics.

    Args:
        node: that publishes.
        engine: to be watched; other nodes of the process may load and unload as well.
    """

    def __init__(self, node: AttnNode, engine: Engine) -> None:
        self._node = node
        self._engine = engine
        self._lock = threading.Lock()
        self._shown: dict[str, tuple[object, ...]] = {}
        self._told = self._logged = 0.0
        self._late = 0
        self._late_reports = 0
        self._models = node.create_publisher(ModelStatusMessage, '~/models', CHANGES)
        self._metrics = node.create_publisher(String, '~/metrics', qos.STATE)
        # Entries are read from disk: neither in the executor nor in the engine's threads.
        self._pool = ThreadPoolExecutor(1, f'{node.NAME}_board')
        self._waiting: Future[None] | None = None
        self._timer = node.create_timer(WATCH_PERIOD_S, self.watch, clock=node.wall_clock)

    def close(self) -> None:
        """Show nothing any more."""
        self._node.destroy_timer(self._timer)
        self._pool.shutdown()
        self._node.destroy_publisher(self._models)
        self._node.destroy_publisher(self._metrics)

    def watch(self) -> None:
        """Look for changes that come without a service call, and tell the metrics to those who listen."""
        # Only loaded and loading models are looked at: others would be read from disk.
        shown = {name: shown[0] for name, shown in self._shown.items()}
        busy = [name for name, state in shown.items() if state in (ModelState.READY, ModelState.LOADING)]
        loading = self._engine.loading()
        if loading or any(self._engine.status(name).state != shown[name] for name in busy):
            self.changed()
        if self._node.is_active and self._metrics.get_subscription_count():
            self._metrics.publish(String(data=self._engine.prometheus() + self._refused_text()))

    def progress(self, progress: Progress) -> None:
        """Show how far a load is; called in the loader's thread."""
        now = time.monotonic()
        if now - self._told >= PROGRESS_PERIOD_S or progress.done == progress.total:
            self._told = now
            self.changed()
        if now - self._logged >= WATCH_PERIOD_S:
            self._logged = now
            share = f' {100 * progress.done // progress.total} %' if progress.total > 1 else ''
            self._node.get_logger().info(f'{progress.model}: {progress.stage}{share}')

    def changed(self) -> None:
        """Have models looked at, once for all that call meanwhile."""
        with suppress(RuntimeError):  # the pool was shut down: the node is being cleaned up
            if self._waiting is None or self._waiting.running() or self._waiting.done():
                self._waiting = self._pool.submit(self.show)

    def show(self) -> None:
        """Publish every model whose state is not the one shown last."""
        try:
            statuses = self._engine.list_models()
            with self._lock:
                for name in self._shown.keys() - {status.name for status in statuses}:
                    del self._shown[name]  # asked for, but there is no such model
                for status in statuses:
                    shown = (
                        status.state, status.version, status.device, status.reason, status.memory_bytes,
                        status.stage, status.progress,
                    )  # fmt: skip
                    if self._shown.get(status.name) != shown:
                        self._models.publish(to_model_status(status))
                        self._shown[status.name] = shown
        except Exception as error:  # nobody looks at what the pool's tasks raise
            self._node.get_logger().error(f'models can not be shown: {"".join(traceback.format_exception(error))}')

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
        grown, self._late = late - self._late, late
        self._late_reports = self._late_reports + 1 if grown > 0 else 0
        failed = [name for name, shown in sorted(self._shown.items()) if shown[0] == ModelState.FAILED]
        if self._late_reports >= LASTS:
            return DiagnosticStatus.ERROR, f'{grown} requests late or refused for lack of time, again', values
        if failed:
            return DiagnosticStatus.ERROR, f'failed to load: {", ".join(failed)}', values
        if grown > 0:
            return DiagnosticStatus.WARN, f'{grown} requests late or refused for lack of time', values
        return DiagnosticStatus.OK, 'running', values

    def _refused_text(self) -> str:
        lines = ['# HELP attn_runtime_refused_total Service calls refused, by service and reason.',
                 '# TYPE attn_runtime_refused_total counter']  # fmt: skip
        for key, count in sorted(self._node.dropped.items()):
            service, _, reason = key.partition(': ')
            lines.append(f'attn_runtime_refused_total{{service="{service}",reason="{reason}"}} {count}')
        return '\n'.join(lines) + '\n' if len(lines) > 2 else ''
