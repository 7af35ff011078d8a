"""Base of every node: a lifecycle node that brings itself up, reports diagnostics and leaves cleanly."""

from __future__ import annotations

import argparse
import atexit
import dataclasses
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import qos_policy_name_from_kind
from rclpy.signals import SignalHandlerOptions

from attn_robotics.ros import qos
from attn_robotics.ros.parameters import ParameterError, Parameters

DIAGNOSTICS_PERIOD_S = 1.0
STILL_S = 10.0  # [wall s] simulated time that has not moved for this long has stopped
DROPS_TOLD_EVERY_S = 5.0  # of wall time, a reason


class ConfigurationError(RuntimeError):
    """A node cannot be configured; the message names the culprit and the fix."""


class AttnNode(LifecycleNode):
    """A lifecycle node: loads in configure, talks in activate, gives everything back in cleanup.

    Subclasses set `Params` to a frozen dataclass of `param` fields, and override `configure`, `activate`,
    `deactivate`, `release` and `diagnose`. Whatever these raise of the kinds in `EXPECTED` becomes one logged line
    and a failed transition, never a traceback.

    A boolean parameter `autostart`, where the dataclass has one, tells whether the node configures and activates
    itself; without it, it does.
    """

    Params: ClassVar[type[Any]]
    # What bad input raises; anything else is a defect and keeps its traceback.
    EXPECTED: ClassVar[tuple[type[BaseException], ...]] = (ConfigurationError, ParameterError, ValueError, OSError)

    # Node name unless the launch file says otherwise.
    NAME: ClassVar[str]

    def __init__(self, *, foreign: Collection[str] = (), **options: Any) -> None:
        """Declare parameters and start to report.

        Args:
            foreign: parameters of the process that hosts this node; being set for every node is no mistake of theirs.
            options: of rclpy's node.
        """
        super().__init__(self.NAME, **options)
        self._parameters_source = Parameters(self, self.Params)
        for name in set(foreign) - {field.name for field in dataclasses.fields(self.Params)}:
            self._parameters_source.problems.pop(name, None)
        self.params: Any = None
        self.add_post_set_parameters_callback(self._refresh)
        self.dropped: Counter[str] = Counter()
        self._told_s: dict[str, float] = {}
        self._time_moved = (-1, time.monotonic())  # ROS time [ns], and the wall time at which it was new
        self._told_of_time = False
        self.exit_code = 0  # what the process ends with
        self.is_done = False  # set it to end the process
        self._diagnostics: Any = None
        self._diagnostics_timer: Any = None
        self._is_active = False
        # Diagnostics run from birth on wall time: a node that waits for a clock must be able to say so.
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', qos.STATE)
        self._wall = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics_timer = self.create_timer(DIAGNOSTICS_PERIOD_S, self._report, clock=self._wall)
        self._last_error = ''
        self._autostart_timer: Any = self.create_timer(0.01, self._autostart, clock=self._wall)

    # What subclasses override.
    def configure(self) -> None:
        """Load and allocate; `self.params` is fresh."""

    def activate(self) -> None:
        """Start to talk."""

    def deactivate(self) -> None:
        """Stop talking, keep what was loaded."""

    def release(self) -> None:
        """Give back everything that configure took."""

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """Level (a DiagnosticStatus constant), message and values for /diagnostics."""
        return DiagnosticStatus.OK, 'running', {}

    # Connections: the middleware is silent when two ends don't fit, the usual reason for seeing nothing at all.
    def create_subscription(self, msg_type: Any, topic: str, *args: Any, **options: Any) -> Any:
        """As rclpy's; says when a publisher's QoS does not fit."""
        if hasattr(self, 'dropped'):  # not yet when rclpy makes its own
            tell = partial(self._on_misfit, topic, 'a publisher offers less than this node asks for, and is not heard')
            options.setdefault('event_callbacks', SubscriptionEventCallbacks(incompatible_qos=tell))
        return super().create_subscription(msg_type, topic, *args, **options)

    def create_publisher(self, msg_type: Any, topic: str, *args: Any, **options: Any) -> Any:
        """As rclpy's; says when a subscription's QoS does not fit."""
        if hasattr(self, 'dropped'):
            tell = partial(
                self._on_misfit, topic, 'a subscription asks for more than this node offers, and hears nothing'
            )
            options.setdefault('event_callbacks', PublisherEventCallbacks(incompatible_qos=tell))
        return super().create_publisher(msg_type, topic, *args, **options)

    def _on_misfit(self, topic: str, what: str, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self.dropped[f'incompatible QoS on {topic}'] += 1
        self.get_logger().warning(
            f"incompatible QoS on '{topic}': {what} (policy {policy}); compare: ros2 topic info -v {topic}"
        )

    # Lifecycle machinery.
    @property
    def is_active(self) -> bool:
        """Whether the node is in the active state."""
        return self._is_active

    @property
    def wall_clock(self) -> Clock:
        """For timers that must run whatever `use_sim_time` says."""
        return self._wall

    def _now_s(self) -> float:
        """ROS time [s]."""
        return self.get_clock().now().nanoseconds * 1e-9

    def _autostart(self) -> None:
        if self._autostart_timer is None:
            return  # it fires again while the first call is under way
        self.destroy_timer(self._autostart_timer)
        self._autostart_timer = None
        if not getattr(self._parameters_source.read(), 'autostart', True):
            self.get_logger().info('autostart is off: waiting for configure and activate')
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _guard(self, what: str, *deeds: Any) -> TransitionCallbackReturn:
        try:
            for deed in deeds:
                deed()
        except self.EXPECTED as error:
            line = ' '.join(str(error).split()) or type(error).__name__
            self._last_error = f'{what}: {line}'
            self.get_logger().error(self._last_error)
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            # rclpy would turn it into a failed transition without a word.
            self._last_error = f'{what}: {type(error).__name__}: {error}'
            self.get_logger().error(f'{self._last_error}\n{traceback.format_exc()}')
            return TransitionCallbackReturn.ERROR
        self._last_error = ''
        return TransitionCallbackReturn.SUCCESS

    def _read_parameters(self) -> None:
        if self._parameters_source.problems:
            raise ParameterError('; '.join(self._parameters_source.problems.values()))
        self.params = self._parameters_source.read()

    def _refresh(self, changed: list[Parameter]) -> None:
        """Follow parameters that are set at run time; those that must not change are read-only."""
        if self.params is not None:
            self.params = self._parameters_source.read()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read parameters, then `configure`; a failure leaves the node unconfigured with nothing held."""
        result = self._guard('cannot configure', self._read_parameters, self.configure)
        if result != TransitionCallbackReturn.SUCCESS and self.params is not None:
            reason = self._last_error
            self._guard('cannot release', self.release)
            self._last_error = reason  # what diagnostics go on showing
        return result

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Enable lifecycle publishers, then `activate`."""
        super().on_activate(state)
        result = self._guard('cannot activate', self.activate)
        self._is_active = result == TransitionCallbackReturn.SUCCESS
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """`deactivate`, then silence lifecycle publishers."""
        self._is_active = False
        result = self._guard('cannot deactivate', self.deactivate)
        super().on_deactivate(state)
        return result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give everything back."""
        return self._guard('cannot clean up', self.release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and give everything back, from any state."""
        if self._is_active:
            self._is_active = False
            self._guard('cannot deactivate', self.deactivate)
        return (
            self._guard('cannot clean up', self.release)
            if self.params is not None
            else TransitionCallbackReturn.SUCCESS
        )

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Fall back to unconfigured after an unexpected exception, so that others go on and a retry is possible."""
        self._is_active = False
        reason = self._last_error
        if self.params is not None:
            self._guard('cannot release', self.release)
        self._last_error = reason
        self.get_logger().error('unexpected error; back to unconfigured')
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Give everything back when the process leaves."""
        self.on_shutdown(LifecycleState('', 0))

    def destroy_node(self) -> None:
        """Leave the graph; rclpy alone would keep a lifecycle node there until Python collects its state machine."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    # Diagnostics.
    def drop(self, reason: str, detail: str = '') -> None:
        """Count an input that was refused, and log it at most every five seconds a reason."""
        self.dropped[reason] += 1
        now_s = time.monotonic()  # rclpy's throttle goes by the line of code, so one reason would hide the others
        if now_s - self._told_s.get(reason, -DROPS_TOLD_EVERY_S) >= DROPS_TOLD_EVERY_S:
            self._told_s[reason] = now_s
            self.get_logger().warning(f'dropped: {reason}{": " + detail if detail else ""}')

    def _time_stands_still_s(self) -> float:
        """For how long simulated time has not moved [s of wall time]; says so once, since nothing else will happen."""
        now_ns, wall_s = self.get_clock().now().nanoseconds, time.monotonic()
        if now_ns != self._time_moved[0] or not self.get_parameter('use_sim_time').value:
            self._time_moved = (now_ns, wall_s)
            self._told_of_time = False
        still_s = wall_s - self._time_moved[1]
        if still_s >= STILL_S and not self._told_of_time:
            self._told_of_time = True
            self.get_logger().error(
                f"time stands still: nothing on '/clock' for {still_s:.0f} s; is a simulator running?"
            )
        return still_s

    def _report(self) -> None:
        values: Mapping[str, object] = {}
        still_s = self._time_stands_still_s()
        if self._last_error:
            level, message = DiagnosticStatus.ERROR, self._last_error
        elif still_s >= STILL_S:
            level, message = DiagnosticStatus.ERROR, f"time stands still: nothing new on '/clock' for {still_s:.0f} s"
        elif not self._is_active:
            level, message = DiagnosticStatus.WARN, 'not active'
        else:
            level, message, values = self.diagnose()
        shown = {**values, **{f'dropped: {reason}': count for reason, count in sorted(self.dropped.items())}}
        status = DiagnosticStatus(
            level=level,
            name=f'{self.get_fully_qualified_name().lstrip("/")}: node',
            message=message,
            hardware_id='',
            values=[KeyValue(key=str(key), value=str(value)) for key, value in shown.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def run_node(kind: type[AttnNode], args: list[str] | None = None) -> int:
    """Run one node until Ctrl-C or shutdown; for the `main` of an executable.

    Returns:
        The process's exit code: the node's, 0 unless it says otherwise, also after Ctrl-C.
    """
    argv = sys.argv if args is None else args
    parser = argparse.ArgumentParser(
        prog=f'ros2 run attn_robotics {Path(sys.modules[kind.__module__].__file__ or kind.NAME).stem}',
        description=sys.modules[kind.__module__].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='parameters (--ros-args -p name:=value):\n' + _parameter_help(kind),
    )
    cut = argv.index('--ros-args') if '--ros-args' in argv else len(argv)
    parser.parse_args(argv[1:cut])
    if args is None:
        atexit.register(_leave_at_once)
    # Our own handlers: rclpy's would invalidate the context before robots have been told to stop.
    try:
        rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # rclpy publishes no narrower kind for arguments it cannot read
        print(f'{parser.prog}: cannot read the ROS arguments: {" ".join(str(error).split())}', file=sys.stderr)
        return 2
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    node = None
    try:
        node = kind()
        executor = make_executor()
        executor.add_node(node)
        while not stop.is_set() and not node.is_done:
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        pass
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        if rclpy.ok():
            rclpy.shutdown()
    code = 0 if node is None else node.exit_code
    _leave_at_once.code = code  # type: ignore[attr-defined]
    return code


def make_executor() -> Executor:
    """The executor with the least overhead: one that is told of events rather than looking through all entities.

    With a hundred robots' topics the older one spends a core on looking.
    """
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:  # an early Jazzy
        return SingleThreadedExecutor()
    return EventsExecutor()


def _leave_at_once() -> None:
    """Skip the interpreter's teardown: everything is closed, and unloading compilers and torch takes seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    code = getattr(_leave_at_once, 'code', None)
    if code is not None:  # None: an exception is on its way out, which sets the exit code
        os._exit(code)


def _parameter_help(kind: type[AttnNode]) -> str:
    from typing import get_type_hints

    from attn_robotics.ros.parameters import allowed

    hints = get_type_hints(kind.Params)
    return '\n'.join(
        f'  {field.name:22} {field.metadata["description"]} ({allowed(field, hints[field.name])})'
        for field in dataclasses.fields(kind.Params)
    )
