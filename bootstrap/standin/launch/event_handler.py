"""The base of event handlers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from launch.event import Event

if TYPE_CHECKING:
    from launch.launch_context import LaunchContext
    from launch.launch_description import Entity

SomeEntities = Any  # an entity, several, or None


class EventHandler:
    """What follows an event."""

    def __init__(
        self,
        *,
        matcher: Callable[[Event], bool],
        entities: SomeEntities = None,
        handle_once: bool = False,
    ) -> None:
        self._matcher, self.handle_once = matcher, handle_once
        self.entities = as_entities(entities)

    def matches(self, event: Event) -> bool:
        """Whether this handler wants `event`."""
        return self._matcher(event)

    def handle(self, event: Event, context: LaunchContext) -> Sequence[Entity]:
        """The entities to visit now."""
        if self.handle_once:
            context.unregister_event_handler(self)
        return self.entities


def as_entities(entities: SomeEntities) -> list[Entity]:
    """Entities as a list, whatever form they were given in."""
    if entities is None:
        return []
    return list(entities) if isinstance(entities, list | tuple) else [entities]
