"""Events of the launch itself; `launch.events.process` holds those of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from launch.event import Event
from launch.events import process
from launch.missing import module_getattr

if TYPE_CHECKING:
    from launch.action import Action
    from launch.actions.structure import TimerAction

__all__ = ['ExecutionComplete', 'Shutdown', 'TimerEvent', 'matches_action', 'process']


class Shutdown(Event):
    """The launch ends: every process is asked to stop."""

    name = 'launch.events.Shutdown'

    def __init__(self, *, reason: str = 'reason not given', due_to_sigint: bool = False) -> None:
        self.reason, self.due_to_sigint = reason, due_to_sigint


class ExecutionComplete(Event):
    """An action has done what it does."""

    name = 'launch.events.ExecutionComplete'

    def __init__(self, *, action: Action) -> None:
        self.action = action


class TimerEvent(Event):
    """The period of a timer is over."""

    name = 'launch.events.TimerEvent'

    def __init__(self, *, timer_action: TimerAction) -> None:
        self.timer_action = timer_action


def matches_action(target_action: Action) -> Callable[[Action], bool]:
    """A matcher that accepts `target_action` alone."""
    return lambda action: action is target_action


__getattr__ = module_getattr(__name__)
