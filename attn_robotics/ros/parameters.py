"""Node parameters from one frozen dataclass: declaration, validation, YAML and documentation follow it."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

T = TypeVar('T')

# What rclpy declares by itself; everything else that a user sets must be ours.
_OWN_OF_RCLPY = ('use_sim_time', 'start_type_description_service', 'qos_overrides')
_LIKE = 0.75  # from this similarity on an unknown name counts as a misspelt one
_KINDS: Mapping[Any, Parameter.Type] = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
    list[str]: Parameter.Type.STRING_ARRAY,
    list[float]: Parameter.Type.DOUBLE_ARRAY,
    list[int]: Parameter.Type.INTEGER_ARRAY,
}


class ParameterError(ValueError):
    """A parameter that was refused; the message names it, what is allowed and what was given."""


def param(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    read_only: bool = False,
) -> Any:
    """Describe one field of a parameter dataclass.

    Args:
        default: value when nobody sets it; its field's annotation gives the type.
        description: one sentence with the unit in brackets.
        low: smallest allowed number.
        high: largest allowed number.
        choices: allowed strings, any when empty.
        read_only: only settable at start, since memory or connections depend on it.
    """
    metadata = {'description': description, 'low': low, 'high': high, 'choices': choices, 'read_only': read_only}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Default value of a field, made fresh where it is a list."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def allowed(field: dataclasses.Field[Any], kind: Any) -> str:
    """Say in words what a parameter accepts, such as `integer from 1 to 1024`."""
    name = {bool: 'true or false', int: 'integer', float: 'number', str: 'string'}.get(kind, 'list')
    low, high, choices = field.metadata['low'], field.metadata['high'], field.metadata['choices']
    if choices:
        return ' or '.join(repr(choice) for choice in choices)
    if low is not None and high is not None:
        return f'{name} from {low:g} to {high:g}'
    if low is not None:
        return f'{name} of at least {low:g}'
    if high is not None:
        return f'{name} of at most {high:g}'
    return name


def coerce(field: dataclasses.Field[Any], kind: Any, value: Any) -> Any:
    """Check one value against its field; whole numbers are fine where a float is asked for.

    Raises:
        ParameterError: wrong type, out of range or not among the choices.
    """
    if kind is float and type(value) is int:
        value = float(value)
    if kind in (list[str], list[float], list[int]):
        item = kind.__args__[0]
        given = [] if value is None else value
        fits = not isinstance(given, str | bytes) and isinstance(given, Iterable)
        if fits:
            value = [float(v) if item is float and type(v) is int else v for v in given]
            fits = all(type(v) is item and v == v for v in value)
    else:
        fits = type(value) is kind
    low, high, choices = field.metadata['low'], field.metadata['high'], field.metadata['choices']
    if fits and kind in (int, float):
        fits = (low is None or value >= low) and (high is None or value <= high) and value == value
    if fits and choices:
        fits = value in choices
    if not fits:
        raise ParameterError(f"parameter '{field.name}' must be {allowed(field, kind)}, got {value!r}")
    return value


def _descriptor(field: dataclasses.Field[Any], kind: Any) -> ParameterDescriptor:
    meta = field.metadata
    descriptor = ParameterDescriptor(
        name=field.name,
        type=_KINDS[kind].value,
        description=meta['description'],
        additional_constraints=allowed(field, kind),
        read_only=meta['read_only'],
    )
    low, high = meta['low'], meta['high']
    if low is not None or high is not None:
        if kind is int:
            span = IntegerRange(from_value=int(-(2**63) if low is None else low))
            span.to_value = int(2**63 - 1 if high is None else high)
            descriptor.integer_range = [span]
        elif kind is float:
            bounds = (-1.7e308 if low is None else float(low), 1.7e308 if high is None else float(high))
            descriptor.floating_point_range = [FloatingPointRange(from_value=bounds[0], to_value=bounds[1])]
    return descriptor


class Parameters:
    """The parameters of one node.

    Bad values given at start don't kill the node: they are listed in `problems`, the default stands in, and a good
    value set later (`ros2 param set`) clears the entry. A node with problems must not leave `unconfigured`. A parameter
    that this node does not have is a problem when it looks like a misspelt one, and one logged warning otherwise.
    """

    def __init__(self, node: Node, kind: type[T]) -> None:
        self._kind = kind
        self._hints = get_type_hints(kind)
        self._fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        self.problems: dict[str, str] = {}
        overrides: Mapping[str, Parameter] = node._parameter_overrides
        for name, field in self._fields.items():
            value = default_of(field)
            if name in overrides:
                try:
                    value = coerce(field, self._hints[name], overrides[name].value)
                except ParameterError as error:
                    self.problems[name] = str(error)
            node.declare_parameter(name, value, _descriptor(field, self._hints[name]), ignore_override=True)
        unknown = [name for name in overrides if name not in self._fields and not name.startswith(_OWN_OF_RCLPY)]
        # rclpy merges what was meant for this node with what a file says to all nodes (`/**`). A name like one of ours
        # is taken for a slip of the pen, unless another node has just that one; any other for a word to somebody else.
        strangers = []
        for name in unknown:
            near = difflib.get_close_matches(name, self._fields, n=1, cutoff=_LIKE)
            if near and name not in _names_of_others():
                self.problems[name] = f"unknown parameter '{name}'; did you mean '{near[0]}'?"
            elif name not in _names_of_others():
                strangers.append(name)
        for name in strangers:
            near = difflib.get_close_matches(name, _names_of_others(), n=1, cutoff=_LIKE)
            hint = f"did you mean '{near[0]}' of another node?" if near else f'this node has: {", ".join(self._fields)}'
            node.get_logger().warning(f"unknown parameter '{name}' is ignored; {hint}")
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._settle)
        self._node = node

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            field = self._fields.get(parameter.name)
            if field is None:
                continue
            try:
                coerce(field, self._hints[parameter.name], parameter.value)
            except ParameterError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _settle(self, parameters: list[Parameter]) -> None:
        """Forget the problems of parameters that have a good value now; only once the whole set was accepted."""
        for parameter in parameters:
            self.problems.pop(parameter.name, None)

    def read(self) -> Any:
        """Read all values into a new instance of the dataclass."""
        values = {
            name: coerce(field, self._hints[name], self._node.get_parameter(name).value)
            for name, field in self._fields.items()
        }
        return self._kind(**values)


@lru_cache
def _names_of_others() -> frozenset[str]:
    """Parameters of all nodes of this suite, out of their sources: importing them all would take seconds."""
    sources = (Path(__file__).parent.parent / 'nodes').glob('*.py')
    return frozenset(
        name for path in sources for name in re.findall(r'^    (\w+): .+ = param\(', path.read_text(), re.M)
    )


def table(kind: type[Any]) -> str:
    """Render the parameters as the Markdown table that README shows."""
    hints = get_type_hints(kind)
    lines = ['| parameter | default | allowed | meaning |', '| --- | --- | --- | --- |']
    for field in dataclasses.fields(kind):
        default = default_of(field)
        shown = str(default).lower() if isinstance(default, bool) else (repr(default) if default == '' else default)
        description = field.metadata['description'] + (' Fixed at start.' if field.metadata['read_only'] else '')
        lines.append(f'| `{field.name}` | `{shown}` | {allowed(field, hints[field.name])} | {description} |')
    return '\n'.join(lines)
