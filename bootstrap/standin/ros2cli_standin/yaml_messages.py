"""Messages to plain values for YAML, and back."""

from __future__ import annotations

import array
import re
from collections.abc import Mapping
from typing import Any

import yaml

from ros2cli_standin import CommandError
from ros2cli_standin.interfaces import load

_ARRAY = re.compile(r'^(?:sequence<(?P<sequence>.+?)(?:, \d+)?>|(?P<fixed>[^\[\]]+)\[\d+\])$')
_INTEGER = re.compile(r'^u?int\d+$')
_Dumper: Any = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)
_Loader: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


def item_type(field_type: str) -> str | None:
    """The type of an array's items, None for what is no array."""
    match = _ARRAY.match(field_type)
    return None if match is None else match['sequence'] or match['fixed']


def to_plain(message: Any, *, no_arr: bool = False, no_str: bool = False, longest: int | None = None) -> dict[str, Any]:
    """A message as nested dictionaries and lists.

    Args:
        message: the message.
        no_arr: write only the type and length of arrays.
        no_str: write only the length of texts.
        longest: cut arrays and texts after so many items, None for never.
    """

    def value_of(value: Any, field_type: str) -> Any:
        if hasattr(value, 'get_fields_and_field_types'):
            return to_plain(value, no_arr=no_arr, no_str=no_str, longest=longest)
        items = item_type(field_type)
        if items is not None:
            if no_arr:
                kind = 'sequence' if field_type.startswith('sequence') else 'array'
                return f'<{kind} type: {items}, length: {len(value)}>'
            cut = value if longest is None or len(value) <= longest else value[:longest]
            # numpy arrays and array.array turn into lists at C speed.
            plain = cut.tolist() if hasattr(cut, 'tolist') else [value_of(item, items) for item in cut]
            return plain if cut is value else [*plain, '...']
        if isinstance(value, str):
            if no_str:
                return f'<string length: <{len(value)}>>'
            return value if longest is None or len(value) <= longest else value[:longest] + '...'
        if isinstance(value, bytes):
            return value[0]
        return value.item() if hasattr(value, 'item') else value

    types = message.get_fields_and_field_types()
    return {name: value_of(getattr(message, name), kind) for name, kind in types.items()}


def to_yaml(plain: Any, *, flow: bool = False) -> str:
    """Plain values as YAML, with a newline at the end; `flow` puts what holds no further structure into one line."""
    style = None if flow else False
    text = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=style, width=10**9)
    return str(text).removesuffix('...\n')


def parse(text: str) -> dict[str, Any]:
    """The fields that a user wrote as YAML.

    Raises:
        CommandError: if it is no YAML mapping.
    """
    try:
        values = yaml.load(text, Loader=_Loader) if text else {}
    except yaml.YAMLError as error:
        raise CommandError(f'{text!r} is no YAML: {" ".join(str(error).split())}') from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise CommandError(f"{text!r} is no YAML mapping; the form is '{{field: value}}'")
    return values


def fill(message: Any, values: Mapping[str, Any], where: str = '') -> list[Any]:
    """Set fields of a message from plain values.

    Args:
        message: the message to change, made with `check_fields=True`, or else it takes any value.
        values: by field; `auto` for a header and `now` for a time stand for the time of publishing.
        where: the path of the message in the outer one, for errors.

    Returns:
        the stamps to set when publishing.

    Raises:
        CommandError: for an unknown field or a value that does not fit.
    """
    stamps: list[Any] = []
    types = message.get_fields_and_field_types()
    for name, value in values.items():
        path = f'{where}{name}'
        if name not in types:
            raise CommandError(f"{type(message).__name__} has no field '{path}'; it has: {', '.join(types)}")
        current, kind = getattr(message, name), types[name]
        if value == 'auto' and kind == 'std_msgs/Header':
            stamps.append(current.stamp)
        elif value == 'now' and kind == 'builtin_interfaces/Time':
            stamps.append(current)
        elif hasattr(current, 'get_fields_and_field_types'):
            if not isinstance(value, Mapping):
                raise CommandError(f"the field '{path}' is a {kind}: it wants a mapping, got {value!r}")
            checked = type(current)(check_fields=True)
            stamps += fill(checked, value, f'{path}.')
            setattr(message, name, checked)
        else:
            try:
                setattr(message, name, _convert(value, kind, path, stamps))
            except (AssertionError, TypeError, ValueError, OverflowError) as error:
                reason = ' '.join(str(error).split())
                raise CommandError(f"the field '{path}' is a {kind}, got {value!r}: {reason}") from error
    return stamps


def _convert(value: Any, kind: str, path: str, stamps: list[Any]) -> Any:
    """`value` as a field of type `kind` wants it."""
    items = item_type(kind)
    if items is not None:
        if not isinstance(value, list | tuple):
            raise TypeError('wants a list')
        if items in ('float', 'double'):
            # One pass at C speed instead of a check for every item.
            return array.array('f' if items == 'float' else 'd', value)
        return [_convert(item, items, f'{path}[{i}]', stamps) for i, item in enumerate(value)]
    if '/' in kind:
        message = load(kind, 'msg')(check_fields=True)
        if not isinstance(value, Mapping):
            raise TypeError('wants a mapping')
        stamps += fill(message, value, f'{path}.')
        return message
    if kind in ('float', 'double'):
        return float(value)
    if kind.startswith(('string', 'wstring')):
        return str(value)
    if kind == 'octet':
        return bytes([value])
    if _INTEGER.match(kind) and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError('wants an integer')
    return value
