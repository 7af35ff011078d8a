"""Event handlers for processes and the launch itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from launch.event import Event
from launch.event_handler import EventHandler, SomeEntities, as_entities
from launch.events import ExecutionComplete, Shutdown
from launch.events.process import ProcessExited, ProcessIO, ProcessStarted
from launch.missing import module_getattr, refuse_keywords

if TYPE_CHECKING:
    from launch.launch_context import LaunchContext
    from launch.launch_description import Entity

__all__ = ['OnExecutionComplete', 'OnProcessExit', 'OnProcessIO', 'OnProcessStart', 'OnShutdown']

Target = Any  # an action, a callable that accepts actions, or None for all


class _Reaction(EventHandler):
    """Entities, or a callable that makes them from the event, after an event of one action or of any."""

    def __init__(
        self,
        event_class: type[Event],
        reaction: SomeEntities,
        target_action: Target = None,
        handle_once: bool = False,
        **kwargs: Any,
    ) -> None:
        refuse_keywords(self, kwargs)
        if target_action is None:
            wanted: Callable[[Any], bool] = lambda event: True  # noqa: E731
        elif callable(target_action):
            wanted = lambda event: bool(target_action(event.action))  # noqa: E731
        else:
            wanted = lambda event: event.action is target_action  # noqa: E731
        self._reaction = reaction if callable(reaction) else None
        super().__init__(
            matcher=lambda event: isinstance(event, event_class) and wanted(event),
            entities=None if self._reaction else reaction,
            handle_once=handle_once,
        )

    def handle(self, event: Event, context: LaunchContext) -> Sequence[Entity]:
        """The entities to visit now."""
        fixed = super().handle(event, context)
        return as_entities(self._reaction(event, context)) if self._reaction else fixed


class OnProcessExit(_Reaction):
    """When a process is over."""

    def __init__(self, *, target_action: Target = None, on_exit: SomeEntities, **kwargs: Any) -> None:
        super().__init__(ProcessExited, on_exit, target_action, **kwargs)


class OnProcessStart(_Reaction):
    """When a process has started."""

    def __init__(self, *, target_action: Target = None, on_start: SomeEntities, **kwargs: Any) -> None:
        super().__init__(ProcessStarted, on_start, target_action, **kwargs)


class OnExecutionComplete(_Reaction):
    """When an action has done what it does."""

    def __init__(self, *, target_action: Target = None, on_completion: SomeEntities, **kwargs: Any) -> None:
        super().__init__(ExecutionComplete, on_completion, target_action, **kwargs)


class OnShutdown(_Reaction):
    """When the launch ends."""

    def __init__(self, *, on_shutdown: SomeEntities, **kwargs: Any) -> None:
        super().__init__(Shutdown, on_shutdown, **kwargs)


class OnProcessIO(_Reaction):
    """When a process writes; each callable gets the event."""

    def __init__(
        self,
        *,
        target_action: Target = None,
        on_stdout: Callable[[ProcessIO], SomeEntities] | None = None,
        on_stderr: Callable[[ProcessIO], SomeEntities] | None = None,
        **kwargs: Any,
    ) -> None:
        def react(event: ProcessIO, context: LaunchContext) -> SomeEntities:
            wanted = on_stdout if event.from_stdout else on_stderr
            return wanted(event) if wanted else None

        super().__init__(ProcessIO, react, target_action, **kwargs)


__getattr__ = module_getattr(__name__)
