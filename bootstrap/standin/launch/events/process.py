"""Events of processes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from launch.event import Event
from launch.missing import module_getattr

if TYPE_CHECKING:
    from launch.actions.execute_process import ExecuteLocal

__all__ = ['ProcessExited', 'ProcessIO', 'ProcessStarted', 'ShutdownProcess', 'SignalProcess']


class RunningProcessEvent(Event):
    """An event of one process."""

    def __init__(
        self,
        *,
        action: ExecuteLocal,
        name: str,
        cmd: list[str],
        cwd: str | None,
        env: dict[str, str],
        pid: int,
    ) -> None:
        self.action, self.process_name, self.cmd, self.cwd, self.env, self.pid = action, name, cmd, cwd, env, pid


class ProcessStarted(RunningProcessEvent):
    """A process runs."""

    name = 'launch.events.process.ProcessStarted'


class ProcessExited(RunningProcessEvent):
    """A process is over; `returncode` is negative for a signal."""

    name = 'launch.events.process.ProcessExited'
    returncode: int = 0


class ProcessIO(RunningProcessEvent):
    """A process wrote `text` (bytes)."""

    name = 'launch.events.process.ProcessIO'
    text: bytes = b''
    from_stdout: bool = True

    @property
    def from_stderr(self) -> bool:
        """Whether it wrote to its standard error."""
        return not self.from_stdout


class ProcessTargetedEvent(Event):
    """A wish about processes."""

    def __init__(self, *, process_matcher: Callable[[ExecuteLocal], bool]) -> None:
        self.process_matcher = process_matcher


class ShutdownProcess(ProcessTargetedEvent):
    """A process is asked to stop, as at the end of the launch."""

    name = 'launch.events.process.ShutdownProcess'


class SignalProcess(ProcessTargetedEvent):
    """A process gets a signal."""

    name = 'launch.events.process.SignalProcess'

    def __init__(self, *, signal_number: str | signal.Signals, process_matcher: Callable[[ExecuteLocal], bool]) -> None:
        super().__init__(process_matcher=process_matcher)
        self.signal = signal.Signals[signal_number] if isinstance(signal_number, str) else signal.Signals(signal_number)


__getattr__ = module_getattr(__name__)
