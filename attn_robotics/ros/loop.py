"""A control loop at a fixed rate that other callbacks of its process cannot delay."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping

from attn_robotics.ros.lifecycle import AttnNode
from attn_robotics.runtime.metrics import Recent
from attn_robotics.runtime.pace import Pace, settle_interpreter

KEPT = 2000  # ticks that the percentiles are of


class ControlLoop:
    """Calls a function at a fixed rate while it runs.

    On wall time a thread of its own waits for absolute times of the monotonic clock: it does not drift, and no
    subscription of the node makes it wait. On simulated time (`use_sim_time`) a timer of the node's clock calls, in the
    executor, since time then moves as it likes. Either way the caller guards what callbacks share with the loop.

    Args:
        node: whose clock, log and end it uses; an exception of `tick` on wall time ends the node with exit code 1.
        period_s: between two ticks.
        tick: what to do.
        priority: real-time priority (SCHED_FIFO) of the thread, where the system permits it; 0 asks for none.
    """

    def __init__(self, node: AttnNode, period_s: float, tick: Callable[[], None], *, priority: int = 0) -> None:
        self._node, self._period, self._tick, self._priority = node, period_s, tick, priority
        self._late_ms = Recent(KEPT)
        self._work_ms = Recent(KEPT)
        self._pace: Pace | None = None
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None
        self._timer = None
        if node.get_parameter('use_sim_time').value:
            self._timer = node.create_timer(period_s, self._call, autostart=False)

    def start(self) -> None:
        """Begin to tick."""
        settle_interpreter()
        if self._timer is not None:
            self._timer.reset()
            return
        self._ends.clear()
        self._thread = threading.Thread(target=self._run, name='control_loop', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop ticking; no tick runs after it returns."""
        if self._timer is not None:
            self._timer.cancel()
        self._ends.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = None

    def close(self) -> None:
        """Stop and give the timer back."""
        self.stop()
        if self._timer is not None:
            self._node.destroy_timer(self._timer)

    @property
    def missed(self) -> int:
        """Ticks left out because one before took longer than a period."""
        return self._pace.missed if self._pace is not None else 0

    def values(self) -> Mapping[str, object]:
        """Percentiles for diagnostics."""
        values: dict[str, object] = {'control ticks left out': self.missed}
        for name, series in (('work', self._work_ms), ('lateness', self._late_ms)):
            if series:
                p50, p99 = series.quantiles
                values |= {f'control {name} p50 [ms]': f'{p50:.2f}', f'control {name} p99 [ms]': f'{p99:.2f}'}
        return values

    def _run(self) -> None:
        if self._priority > 0:
            try:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(self._priority))
            except OSError as error:
                self._node.get_logger().warning(
                    f'no real-time priority {self._priority} for the control loop ({error.strerror}); grant rtprio in '
                    '/etc/security/limits.conf'
                )
        self._pace = pace = Pace(self._period)
        while True:
            late = pace.wait()
            if self._ends.is_set():
                return
            self._late_ms.observe(late * 1e3)
            try:
                self._call()
            except Exception as error:
                # Nobody would see a thread's exception, and a head without its loop must not look alive.
                self._node.get_logger().error(
                    f'the control loop failed: {type(error).__name__}: {error}\n{traceback.format_exc()}'
                )
                self._node.exit_code, self._node.is_done = 1, True
                return

    def _call(self) -> None:
        begun = time.perf_counter()
        self._tick()
        self._work_ms.observe((time.perf_counter() - begun) * 1e3)
