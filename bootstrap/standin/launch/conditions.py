"""Conditions of actions."""

from __future__ import annotations

from launch.condition import Condition
from launch.launch_context import LaunchContext
from launch.missing import module_getattr
from launch.substitution import (
    SomeSubstitutionsType,
    Substitution,
    normalize_to_list_of_substitutions,
    perform_substitutions,
)

__all__ = [
    'IfCondition',
    'InvalidConditionExpressionError',
    'LaunchConfigurationEquals',
    'LaunchConfigurationNotEquals',
    'UnlessCondition',
    'evaluate_condition_expression',
]


class InvalidConditionExpressionError(ValueError):
    """A condition is neither true nor false."""


def truth(text: str) -> bool:
    """The truth value of `true`, `1`, `false` or `0`, in any case.

    Raises:
        InvalidConditionExpressionError: for anything else.
    """
    word = text.strip().lower()
    if word in ('true', '1'):
        return True
    if word in ('false', '0'):
        return False
    raise InvalidConditionExpressionError(f"'{text}' is no truth value; use true, false, 1 or 0")


def evaluate_condition_expression(context: LaunchContext, expression: list[Substitution]) -> bool:
    """The truth value of `expression`.

    Raises:
        InvalidConditionExpressionError: if it is neither true nor false.
    """
    return truth(perform_substitutions(context, expression))


class IfCondition(Condition):
    """Run if the expression is true."""

    def __init__(self, predicate_expression: SomeSubstitutionsType) -> None:
        expression = normalize_to_list_of_substitutions(predicate_expression)
        super().__init__(predicate=lambda context: evaluate_condition_expression(context, expression))


class UnlessCondition(Condition):
    """Run if the expression is false."""

    def __init__(self, predicate_expression: SomeSubstitutionsType) -> None:
        expression = normalize_to_list_of_substitutions(predicate_expression)
        super().__init__(predicate=lambda context: not evaluate_condition_expression(context, expression))


class LaunchConfigurationEquals(Condition):
    """Run if a launch configuration has a value; None means that it is not set."""

    def __init__(self, launch_configuration_name: str, expected_value: SomeSubstitutionsType | None) -> None:
        self._name = launch_configuration_name
        self._expected = None if expected_value is None else normalize_to_list_of_substitutions(expected_value)
        super().__init__(predicate=self._equal)

    def _equal(self, context: LaunchContext) -> bool:
        expected = None if self._expected is None else perform_substitutions(context, self._expected)
        return context.launch_configurations.get(self._name) == expected


class LaunchConfigurationNotEquals(LaunchConfigurationEquals):
    """Run if a launch configuration has another value."""

    def _equal(self, context: LaunchContext) -> bool:
        return not super()._equal(context)


__getattr__ = module_getattr(__name__)
