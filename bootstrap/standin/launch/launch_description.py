"""What a launch file returns: a list of entities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from launch.actions.configuration import DeclareLaunchArgument
    from launch.launch_context import LaunchContext


class Entity(Protocol):
    """An action or a launch description."""

    def visit(self, context: LaunchContext) -> Sequence[Entity] | None:
        """Do it; what comes back is visited next."""

    def sub_entities(self) -> Sequence[Entity]:
        """What it holds, as far as that is known before it runs."""


class LaunchDescription:
    """Entities, visited in their order."""

    def __init__(self, initial_entities: Iterable[Entity] | None = None) -> None:
        self.entities: list[Entity] = list(initial_entities or ())

    def add_entity(self, entity: Entity) -> None:
        """Append an action or another description."""
        self.entities.append(entity)

    def add_action(self, action: Entity) -> None:
        """Append an action."""
        self.add_entity(action)

    def visit(self, context: LaunchContext) -> Sequence[Entity]:
        """The entities."""
        return self.entities

    def sub_entities(self) -> Sequence[Entity]:
        """The entities."""
        return self.entities

    def get_launch_arguments(self, conditional_inclusion: bool = False) -> list[DeclareLaunchArgument]:
        """The declared arguments, those of included files too, each name once."""
        from launch.actions.configuration import DeclareLaunchArgument

        found: dict[str, DeclareLaunchArgument] = {}

        def walk(entities: Iterable[Entity]) -> None:
            for entity in entities:
                if isinstance(entity, DeclareLaunchArgument):
                    found.setdefault(entity.name, entity)
                else:
                    walk(entity.sub_entities())

        walk(self.entities)
        return list(found.values())
