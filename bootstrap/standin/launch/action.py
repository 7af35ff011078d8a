"""The base of actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from launch.condition import Condition
from launch.missing import refuse_keywords

if TYPE_CHECKING:
    from launch.launch_context import LaunchContext
    from launch.launch_description import Entity


class Action:
    """Something that a launch does when it reaches it, if its condition holds."""

    def __init__(self, *, condition: Condition | None = None, **kwargs: Any) -> None:
        refuse_keywords(self, kwargs)
        self.condition = condition

    def visit(self, context: LaunchContext) -> Sequence[Entity] | None:
        """Run if the condition holds; what comes back is visited next."""
        if self.condition is not None and not self.condition.evaluate(context):
            return None
        entities = self.execute(context)
        if self.completes_at_once:
            context.complete(self)
        return entities

    @property
    def completes_at_once(self) -> bool:
        """Whether the action is over when `execute` returns."""
        return True

    def execute(self, context: LaunchContext) -> Sequence[Entity] | None:
        """Do it; what comes back is visited next."""
        return None

    def sub_entities(self) -> Sequence[Entity]:
        """What the action holds, as far as that is known before it runs (for the list of launch arguments)."""
        return []
