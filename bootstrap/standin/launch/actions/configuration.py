"""Launch arguments, launch configurations and environment variables."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from launch.action import Action
from launch.launch_context import LaunchContext
from launch.substitution import (
    SomeSubstitutionsType,
    describe_substitutions,
    normalize_to_list_of_substitutions,
    perform_substitutions,
)


class DeclareLaunchArgument(Action):
    """An argument that `ros2 launch` or an including file may set, read through a LaunchConfiguration."""

    def __init__(
        self,
        name: str,
        *,
        default_value: SomeSubstitutionsType | None = None,
        description: str | None = None,
        choices: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.default_value = None if default_value is None else normalize_to_list_of_substitutions(default_value)
        self.choices = None if choices is None else list(choices)
        if self.choices == []:
            raise ValueError(f"launch argument '{name}': choices must not be empty")
        text = description or 'no description given'
        self.description = text if self.choices is None else f'{text}. Valid choices are: {self.choices}'

    def execute(self, context: LaunchContext) -> None:
        """Take the given value or the default.

        Raises:
            RuntimeError: if there is neither, or it is none of the choices.
        """
        configurations = context.launch_configurations
        if self.name not in configurations:
            if self.default_value is None:
                raise RuntimeError(
                    f"required launch argument '{self.name}' (description: '{self.description}') was not provided"
                )
            configurations[self.name] = perform_substitutions(context, self.default_value)
        if self.choices is not None and configurations[self.name] not in self.choices:
            raise RuntimeError(
                f"launch argument '{self.name}' has the value '{configurations[self.name]}', "
                f'valid choices are: {self.choices}'
            )

    def help(self) -> str:
        """Its paragraph in the list of launch arguments."""
        default = (
            '' if self.default_value is None else f'\n        (default: {describe_substitutions(self.default_value)})'
        )
        return f"    '{self.name}':\n        {self.description}{default}"


class _Assignment(Action):
    """A name, and for most a value."""

    def __init__(self, name: SomeSubstitutionsType, value: SomeSubstitutionsType = '', **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._name = normalize_to_list_of_substitutions(name)
        self._value = normalize_to_list_of_substitutions(value)

    def _texts(self, context: LaunchContext) -> tuple[str, str]:
        return perform_substitutions(context, self._name), perform_substitutions(context, self._value)


class SetLaunchConfiguration(_Assignment):
    """Set a launch configuration."""

    def __init__(self, name: SomeSubstitutionsType, value: SomeSubstitutionsType, **kwargs: Any) -> None:
        super().__init__(name, value, **kwargs)

    def execute(self, context: LaunchContext) -> None:
        """Set it."""
        name, value = self._texts(context)
        context.launch_configurations[name] = value


class UnsetLaunchConfiguration(_Assignment):
    """Remove a launch configuration."""

    def __init__(self, name: SomeSubstitutionsType, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)

    def execute(self, context: LaunchContext) -> None:
        """Remove it if it is there."""
        context.launch_configurations.pop(self._texts(context)[0], None)


class SetEnvironmentVariable(_Assignment):
    """Set an environment variable for the processes that follow."""

    def __init__(self, name: SomeSubstitutionsType, value: SomeSubstitutionsType, **kwargs: Any) -> None:
        super().__init__(name, value, **kwargs)

    def execute(self, context: LaunchContext) -> None:
        """Set it."""
        name, value = self._texts(context)
        context.environment[name] = value


class UnsetEnvironmentVariable(_Assignment):
    """Remove an environment variable for the processes that follow."""

    def __init__(self, name: SomeSubstitutionsType, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)

    def execute(self, context: LaunchContext) -> None:
        """Remove it if it is there."""
        context.environment.pop(self._texts(context)[0], None)


class AppendEnvironmentVariable(_Assignment):
    """Append to an environment variable that holds a list, or prepend."""

    def __init__(
        self,
        name: SomeSubstitutionsType,
        value: SomeSubstitutionsType,
        prepend: bool = False,
        separator: str = os.pathsep,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, value, **kwargs)
        self._prepend, self._separator = prepend, separator

    def execute(self, context: LaunchContext) -> None:
        """Append it, or set it if there was nothing."""
        name, value = self._texts(context)
        old = context.environment.get(name)
        parts = [value] if not old else [value, old] if self._prepend else [old, value]
        context.environment[name] = self._separator.join(parts)
