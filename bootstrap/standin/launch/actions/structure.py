"""Actions that hold, include, delay or end other things."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from launch.action import Action
from launch.event import Event
from launch.event_handler import EventHandler, SomeEntities, as_entities
from launch.events import Shutdown as ShutdownEvent
from launch.events import TimerEvent
from launch.launch_context import LaunchContext
from launch.launch_description import Entity, LaunchDescription
from launch.launch_description_sources import LaunchDescriptionSource, PythonLaunchDescriptionSource
from launch.logging import get_logger
from launch.substitution import SomeSubstitutionsType, normalize_to_list_of_substitutions, perform


class OpaqueFunction(Action):
    """Call `function(context, *args, **kwargs)`; entities that it returns are visited next."""

    def __init__(
        self,
        *,
        function: Callable[..., SomeEntities],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **left_over_kwargs: Any,
    ) -> None:
        super().__init__(**left_over_kwargs)
        self._function, self._args, self._kwargs = function, tuple(args or ()), dict(kwargs or {})

    def execute(self, context: LaunchContext) -> Sequence[Entity]:
        """Call it."""
        return as_entities(self._function(context, *self._args, **self._kwargs))


class LogInfo(Action):
    """Log a text as `[INFO] [launch.user]`."""

    def __init__(self, *, msg: SomeSubstitutionsType, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.msg = normalize_to_list_of_substitutions(msg)

    def execute(self, context: LaunchContext) -> None:
        """Log it."""
        get_logger('launch.user').info('%s', perform(context, self.msg))


class RegisterEventHandler(Action):
    """Start to handle events."""

    def __init__(self, event_handler: EventHandler, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.event_handler = event_handler

    def execute(self, context: LaunchContext) -> None:
        """Register it."""
        context.register_event_handler(self.event_handler)

    def sub_entities(self) -> Sequence[Entity]:
        """What the handler holds."""
        return self.event_handler.entities


class UnregisterEventHandler(Action):
    """Stop handling events."""

    def __init__(self, event_handler: EventHandler, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.event_handler = event_handler

    def execute(self, context: LaunchContext) -> None:
        """Take it out."""
        context.unregister_event_handler(self.event_handler)


class EmitEvent(Action):
    """Emit an event."""

    def __init__(self, *, event: Event, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.event = event

    def execute(self, context: LaunchContext) -> None:
        """Queue it."""
        context.emit_event_sync(self.event)


class Shutdown(Action):
    """End the launch."""

    def __init__(self, *, reason: str = 'reason not given', **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reason = reason

    def execute(self, context: LaunchContext) -> None:
        """Ask for the end, naming the process whose end led to it, if any."""
        process = getattr(context.get_locals_as_dict().get('event'), 'process_name', None)
        reason = self.reason if process is None else f'{self.reason}: process[{process}] has ended'
        context.emit_event_sync(ShutdownEvent(reason=reason))


class TimerAction(Action):
    """Visit actions after `period` seconds."""

    def __init__(
        self,
        *,
        period: float | SomeSubstitutionsType,
        actions: Iterable[Entity],
        cancel_on_shutdown: bool | SomeSubstitutionsType = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.actions = list(actions)
        self._period = normalize_to_list_of_substitutions(str(period) if isinstance(period, int | float) else period)
        self._cancel_on_shutdown = normalize_to_list_of_substitutions(
            str(cancel_on_shutdown) if isinstance(cancel_on_shutdown, bool) else cancel_on_shutdown
        )
        self._cancelled = asyncio.Event()

    def cancel(self) -> None:
        """Do not visit the actions."""
        self._cancelled.set()

    @property
    def completes_at_once(self) -> bool:
        """No: it waits."""
        return False

    def execute(self, context: LaunchContext) -> None:
        """Start to wait."""
        from launch.conditions import truth

        period_s = float(perform(context, self._period))
        context.start(self._wait(context, period_s, truth(perform(context, self._cancel_on_shutdown))))

    async def _wait(self, context: LaunchContext, period_s: float, cancel_on_shutdown: bool) -> None:
        stops = [self._cancelled, *([context.shutdown_started] if cancel_on_shutdown else [])]
        tasks = [asyncio.create_task(stop.wait()) for stop in stops]
        await asyncio.wait(tasks, timeout=period_s, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        if not any(stop.is_set() for stop in stops):
            mine = EventHandler(
                matcher=lambda event: isinstance(event, TimerEvent) and event.timer_action is self,
                entities=self.actions,
                handle_once=True,
            )
            context.register_event_handler(mine)
            context.emit_event_sync(TimerEvent(timer_action=self))
        context.complete(self)

    def sub_entities(self) -> Sequence[Entity]:
        """The actions."""
        return self.actions


class _Push(Action):
    """Save what a scope will restore."""

    def execute(self, context: LaunchContext) -> None:
        """Save the configurations and the environment."""
        context.saved.append((dict(context.environment), dict(context.launch_configurations)))


class _Pop(Action):
    """Restore what the matching `_Push` saved."""

    def execute(self, context: LaunchContext) -> None:
        """Restore the configurations and the environment, touching only what differs."""
        environment, configurations = context.saved.pop()
        for name in [name for name in context.environment if name not in environment]:
            del context.environment[name]
        context.environment.update({k: v for k, v in environment.items() if context.environment.get(k) != v})
        context.launch_configurations.clear()
        context.launch_configurations.update(configurations)


class GroupAction(Action):
    """Actions with a scope of their own for configurations and environment, unless `scoped` is False."""

    def __init__(
        self,
        actions: Iterable[Entity],
        *,
        scoped: bool = True,
        forwarding: bool = True,
        launch_configurations: Mapping[str, SomeSubstitutionsType] | None = None,
        **left_over_kwargs: Any,
    ) -> None:
        super().__init__(**left_over_kwargs)
        if not scoped and not forwarding:
            raise ValueError('GroupAction: forwarding=False needs scoped=True')
        self._actions, self._scoped, self._forwarding = list(actions), scoped, forwarding
        self._configurations = dict(launch_configurations or {})

    def execute(self, context: LaunchContext) -> Sequence[Entity]:
        """The actions, between saving and restoring."""

        def configure(context: LaunchContext) -> None:
            values = {name: perform(context, value) for name, value in self._configurations.items()}
            if not self._forwarding:
                context.launch_configurations.clear()
            context.launch_configurations.update(values)

        inner: list[Entity] = [OpaqueFunction(function=configure), *self._actions]
        return [_Push(), *inner, _Pop()] if self._scoped else inner

    def sub_entities(self) -> Sequence[Entity]:
        """The actions."""
        return self._actions


class IncludeLaunchDescription(Action):
    """Include another launch file; its arguments are set in the including scope, as the official one does."""

    def __init__(
        self,
        launch_description_source: LaunchDescriptionSource | SomeSubstitutionsType,
        *,
        launch_arguments: Iterable[tuple[SomeSubstitutionsType, SomeSubstitutionsType]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(launch_description_source, LaunchDescriptionSource):
            launch_description_source = PythonLaunchDescriptionSource(launch_description_source)
        self.launch_description_source = launch_description_source
        self.launch_arguments = list(launch_arguments or ())

    def execute(self, context: LaunchContext) -> Sequence[Entity]:
        """Set the arguments, then the file's entities; one that is required and missing is found when declared."""
        description = self.launch_description_source.get_launch_description(context)
        path = self.launch_description_source.path
        assert path is not None, 'get_launch_description sets the path'
        given = {perform(context, name): perform(context, value) for name, value in self.launch_arguments}
        context.launch_configurations.update(given)
        outside = context.get_locals_as_dict().get('current_launch_file_path')

        def enter(context: LaunchContext, file: Any) -> None:
            context.extend_globals(
                {'current_launch_file_path': file, 'current_launch_file_directory': file and file.parent}
            )

        return [
            OpaqueFunction(function=enter, args=[path]),
            description,
            OpaqueFunction(function=enter, args=[outside]),
        ]

    def sub_entities(self) -> Sequence[Entity]:
        """The file's entities, if its path is known without running."""
        try:
            found: LaunchDescription = self.launch_description_source.get_launch_description(LaunchContext())
        except Exception:
            return []  # if the file is ever reached, running it tells what is wrong with it
        return [found]
