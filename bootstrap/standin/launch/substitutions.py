"""The substitutions that launch files use."""

from __future__ import annotations

import importlib
import math
import os
import shutil
from collections.abc import Iterable
from typing import Any

from launch.conditions import truth
from launch.launch_context import LaunchContext
from launch.missing import module_getattr
from launch.substitution import (
    SomeSubstitutionsType,
    Substitution,
    SubstitutionFailure,
    TextSubstitution,
    describe_substitutions,
    normalize_to_list_of_substitutions,
    perform_substitutions,
)

__all__ = [
    'AllSubstitution',
    'AndSubstitution',
    'AnySubstitution',
    'EnvironmentVariable',
    'EqualsSubstitution',
    'FindExecutable',
    'IfElseSubstitution',
    'LaunchConfiguration',
    'LaunchLogDir',
    'LocalSubstitution',
    'NotEqualsSubstitution',
    'NotSubstitution',
    'OrSubstitution',
    'PathJoinSubstitution',
    'PythonExpression',
    'SubstitutionFailure',
    'TextSubstitution',
    'ThisLaunchFile',
    'ThisLaunchFileDir',
]


class _Composed(Substitution):
    """A substitution made of other substitutions."""

    def __init__(self, *parts: SomeSubstitutionsType) -> None:
        self.parts = [normalize_to_list_of_substitutions(part) for part in parts]

    def texts(self, context: LaunchContext) -> list[str]:
        """The text of every part."""
        return [perform_substitutions(context, part) for part in self.parts]

    def describe(self) -> str:
        """The class and its parts."""
        return f'{type(self).__name__}({", ".join(describe_substitutions(part) for part in self.parts)})'


class LaunchConfiguration(Substitution):
    """The value of a launch configuration, such as a launch argument."""

    def __init__(self, variable_name: SomeSubstitutionsType, *, default: Any = None) -> None:
        self.variable_name = normalize_to_list_of_substitutions(variable_name)
        # The official class also takes plain values, as in `default=5`.
        plain = isinstance(default, bool | int | float)
        self.default = (
            None if default is None else normalize_to_list_of_substitutions(str(default) if plain else default)
        )

    def perform(self, context: LaunchContext) -> str:
        """The value, or the default's.

        Raises:
            SubstitutionFailure: if it has neither.
        """
        name = perform_substitutions(context, self.variable_name)
        if name in context.launch_configurations:
            return str(context.launch_configurations[name])
        if self.default is None:
            raise SubstitutionFailure(f"launch configuration '{name}' does not exist")
        return perform_substitutions(context, self.default)

    def describe(self) -> str:
        """The class and the name."""
        return f'LaunchConfiguration({describe_substitutions(self.variable_name)})'


class EnvironmentVariable(Substitution):
    """The value of an environment variable."""

    def __init__(self, name: SomeSubstitutionsType, *, default_value: SomeSubstitutionsType | None = None) -> None:
        self.name = normalize_to_list_of_substitutions(name)
        self.default_value = None if default_value is None else normalize_to_list_of_substitutions(default_value)

    def perform(self, context: LaunchContext) -> str:
        """The value, or the default's.

        Raises:
            SubstitutionFailure: if it has neither.
        """
        name = perform_substitutions(context, self.name)
        if name in context.environment:
            return context.environment[name]
        if self.default_value is None:
            raise SubstitutionFailure(f"environment variable '{name}' does not exist")
        return perform_substitutions(context, self.default_value)

    def describe(self) -> str:
        """The class and the name."""
        return f'EnvironmentVariable({describe_substitutions(self.name)})'


class PathJoinSubstitution(_Composed):
    """Paths joined by the separator; each item of the list is one part, a nested list is concatenated."""

    def __init__(self, substitutions: Iterable[SomeSubstitutionsType]) -> None:
        super().__init__(*substitutions)

    def perform(self, context: LaunchContext) -> str:
        """The joined path."""
        return os.path.join(*self.texts(context))  # noqa: PTH118 - keeps './' and '..' as given, like the official one


class FindExecutable(_Composed):
    """The path of a program on PATH."""

    def __init__(self, name: SomeSubstitutionsType) -> None:
        super().__init__(name)

    def perform(self, context: LaunchContext) -> str:
        """The path.

        Raises:
            SubstitutionFailure: if PATH has no such program.
        """
        (name,) = self.texts(context)
        found = shutil.which(name, path=context.environment.get('PATH'))
        if found is None:
            raise SubstitutionFailure(f"executable '{name}' not found on the PATH")
        return found


class PythonExpression(Substitution):
    """The result of a Python expression; `math` and its names are at hand unless other modules are asked for."""

    def __init__(self, expression: SomeSubstitutionsType, python_modules: SomeSubstitutionsType = ('math',)) -> None:
        self.expression = normalize_to_list_of_substitutions(expression)
        modules = [python_modules] if isinstance(python_modules, str) else python_modules
        self.python_modules = [normalize_to_list_of_substitutions(module) for module in modules]  # type: ignore[union-attr]

    def perform(self, context: LaunchContext) -> str:
        """The result as text.

        Raises:
            SubstitutionFailure: if the expression cannot be evaluated.
        """
        names: dict[str, Any] = {}
        for module_name in (perform_substitutions(context, module) for module in self.python_modules):
            module = importlib.import_module(module_name)
            names[module_name] = module
            if module_name == 'math':
                names |= {key: value for key, value in vars(module).items() if not key.startswith('_')}
        expression = perform_substitutions(context, self.expression)
        try:
            return str(eval(expression, {}, names))
        except Exception as error:
            raise SubstitutionFailure(f'cannot evaluate the expression {expression!r}: {error}') from error

    def describe(self) -> str:
        """The class and the expression."""
        return f'PythonExpression({describe_substitutions(self.expression)})'


class LocalSubstitution(Substitution):
    """A local of the launch, such as the `event` while one is handled: `event.returncode`."""

    def __init__(self, expression: str, description: str | None = None) -> None:
        self.expression, self.description = expression, description

    def perform(self, context: LaunchContext) -> str:
        """The value as text.

        Raises:
            SubstitutionFailure: if there is no such local.
        """
        try:
            return str(eval(self.expression, {}, context.get_locals_as_dict()))
        except Exception as error:
            raise SubstitutionFailure(f'cannot evaluate the local {self.expression!r}: {error}') from error


class ThisLaunchFile(Substitution):
    """The path of the launch file that is being read."""

    local = 'current_launch_file_path'

    def perform(self, context: LaunchContext) -> str:
        """The path.

        Raises:
            SubstitutionFailure: outside of a launch file.
        """
        try:
            return str(context.get_locals_as_dict()[self.local])
        except KeyError:
            raise SubstitutionFailure(f'{type(self).__name__} is used outside of a launch file') from None


class ThisLaunchFileDir(ThisLaunchFile):
    """The folder of the launch file that is being read."""

    local = 'current_launch_file_directory'


class LaunchLogDir(Substitution):
    """The folder of this launch's log."""

    def perform(self, context: LaunchContext) -> str:
        """The path."""
        from launch.logging import launch_config

        return str(launch_config.log_dir)


class NotSubstitution(_Composed):
    """The opposite of a truth value."""

    def __init__(self, value: SomeSubstitutionsType) -> None:
        super().__init__(value)

    def perform(self, context: LaunchContext) -> str:
        """`true` or `false`."""
        return _word(not truth(self.texts(context)[0]))


class AllSubstitution(_Composed):
    """Whether all values are true."""

    def perform(self, context: LaunchContext) -> str:
        """`true` or `false`."""
        return _word(all([truth(text) for text in self.texts(context)]))


class AnySubstitution(_Composed):
    """Whether any value is true."""

    def perform(self, context: LaunchContext) -> str:
        """`true` or `false`."""
        return _word(any([truth(text) for text in self.texts(context)]))


class AndSubstitution(AllSubstitution):
    """Whether both values are true."""

    def __init__(self, left: SomeSubstitutionsType, right: SomeSubstitutionsType) -> None:
        super().__init__(left, right)


class OrSubstitution(AnySubstitution):
    """Whether either value is true."""

    def __init__(self, left: SomeSubstitutionsType, right: SomeSubstitutionsType) -> None:
        super().__init__(left, right)


class EqualsSubstitution(_Composed):
    """Whether two values are equal: as truth values, as numbers, or else as texts."""

    def __init__(self, left: Any, right: Any) -> None:
        super().__init__(
            *(str(side) if side is None or isinstance(side, int | float) else side for side in (left, right))
        )

    def perform(self, context: LaunchContext) -> str:
        """`true` or `false`."""
        return _word(self.equal(context))

    def equal(self, context: LaunchContext) -> bool:
        """The comparison itself."""
        left, right = self.texts(context)
        try:
            return truth(left) == truth(right)
        except ValueError:
            pass
        try:
            return math.isclose(float(left), float(right))
        except ValueError:
            return left == right


class NotEqualsSubstitution(EqualsSubstitution):
    """Whether two values differ."""

    def perform(self, context: LaunchContext) -> str:
        """`true` or `false`."""
        return _word(not self.equal(context))


class IfElseSubstitution(_Composed):
    """One of two values, by a truth value."""

    def __init__(
        self,
        condition: SomeSubstitutionsType,
        if_value: SomeSubstitutionsType = '',
        else_value: SomeSubstitutionsType = '',
    ) -> None:
        super().__init__(condition, if_value, else_value)

    def perform(self, context: LaunchContext) -> str:
        """The chosen value; the other is not evaluated."""
        condition, if_value, else_value = self.parts
        return perform_substitutions(
            context, if_value if truth(perform_substitutions(context, condition)) else else_value
        )


def _word(value: bool) -> str:
    return 'true' if value else 'false'


__getattr__ = module_getattr(__name__)
