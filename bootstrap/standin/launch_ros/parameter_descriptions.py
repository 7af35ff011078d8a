"""Parameters of nodes: values, files, and how they become YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from launch.launch_context import LaunchContext
from launch.missing import missing, module_getattr
from launch.substitution import SomeSubstitutionsType, Substitution, normalize_to_list_of_substitutions, perform

__all__ = ['Parameter', 'ParameterFile', 'ParameterValue']


class ParameterValue:
    """A value with a type; without one, substitutions are read as YAML (`1` is an integer, `true` a boolean)."""

    def __init__(self, value: Any, *, value_type: Any = None) -> None:
        self.value, self.value_type = value, value_type

    def evaluate(self, context: LaunchContext) -> Any:
        """The value.

        Raises:
            TypeError: if it is not of the wanted type.
        """
        value = self.value
        if _is_substitution(value) or (
            self.value_type is str and not isinstance(value, str) and isinstance(value, Iterable)
        ):
            value = perform(context, value)
            if self.value_type is not str:
                value = _read(value)
        elif self.value_type is not None and self.value_type is not str and isinstance(value, str):
            value = _read(value)
        if self.value_type is None:
            return evaluate_value(context, value)
        return _typed(value, self.value_type)


class Parameter(ParameterValue):
    """A named value."""

    def __init__(self, name: SomeSubstitutionsType, value: Any, *, value_type: Any = None) -> None:
        super().__init__(value, value_type=value_type)
        self.name = normalize_to_list_of_substitutions(name)


class ParameterFile:
    """A YAML file of parameters; with `allow_substs`, `$(var name)` and so on would be filled in."""

    def __init__(
        self, param_file: SomeSubstitutionsType, *, allow_substs: bool | SomeSubstitutionsType = False
    ) -> None:
        if allow_substs is not False:
            missing("ParameterFile's keyword argument allow_substs")
        self.param_file = normalize_to_list_of_substitutions(param_file)

    def evaluate(self, context: LaunchContext) -> Path:
        """The path.

        Raises:
            FileNotFoundError: if there is no such file.
        """
        path = Path(perform(context, self.param_file))
        if not path.is_file():
            raise FileNotFoundError(f"parameter file '{path}' does not exist")
        return path


def evaluate_value(context: LaunchContext, value: Any) -> Any:
    """The plain value of what a launch file gives for one parameter.

    Raises:
        TypeError: for a list that mixes substitutions with other values: ParameterValue says what is meant.
    """
    if isinstance(value, ParameterValue):
        return value.evaluate(context)
    if isinstance(value, Substitution):
        return _read(perform(context, value))
    if isinstance(value, Mapping):
        return {_key(context, key): evaluate_value(context, item) for key, item in value.items()}
    if isinstance(value, bytes):
        missing('a parameter of type bytes')
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence):
        if any(isinstance(item, Substitution | ParameterValue | list | tuple | Mapping) for item in value):
            raise TypeError(f'{value!r}: write ParameterValue([...], value_type=str) to join the parts of one text')
        return list(value)
    raise TypeError(f'{value!r} ({type(value).__name__}) cannot be a parameter')


def evaluate_parameters(context: LaunchContext, parameters: Mapping[Any, Any]) -> dict[str, Any]:
    """Plain values from a dictionary of a launch file; nested dictionaries stay nested."""
    return {_key(context, name): evaluate_value(context, value) for name, value in parameters.items()}


def write_parameters(context: LaunchContext, node: str, values: Mapping[str, Any]) -> Path:
    """A YAML file with the values for `node` (`/**` for any), which lives as long as the launch."""
    path = context.temporary_folder() / f'params_{context.next_file_number()}.yaml'
    path.write_text(yaml.safe_dump({node: {'ros__parameters': dict(values)}}, sort_keys=False))
    return path


def _key(context: LaunchContext, key: Any) -> str:
    return perform(context, key)


def _is_substitution(value: Any) -> bool:
    if isinstance(value, Substitution):
        return True
    return isinstance(value, list | tuple) and any(isinstance(item, Substitution) for item in value)


def _read(text: str) -> Any:
    """What YAML makes of a text."""
    try:
        return yaml.safe_load(text) if text else ''
    except yaml.YAMLError as error:
        raise TypeError(f'{text!r} is no YAML value: {error}') from error


def _typed(value: Any, wanted: Any) -> Any:
    """`value`, if it is of the wanted type; an integer may stand for a float.

    Raises:
        TypeError: if it is not.
    """
    if get_origin(wanted) in (list, Sequence):
        (item_type,) = get_args(wanted)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [_typed(item, item_type) for item in value]
    elif wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif wanted is str and not isinstance(value, list | tuple | Mapping):
        return str(value)
    elif isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    raise TypeError(f'parameter value {value!r} is not of the type {getattr(wanted, "__name__", wanted)}')


__getattr__ = module_getattr(__name__)
