"""Message and service types: their Python classes, and the text of their definitions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from ament_index_python import get_resource, get_resources
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

from ros2cli_standin import CommandError

KINDS = ('msg', 'srv', 'action')
INDEX = 'rosidl_interfaces'
SEPARATOR = '=' * 80
_INTEGERS = (f'{sign}int{bits}' for sign in ('', 'u') for bits in (8, 16, 32, 64))
PRIMITIVES = frozenset(('bool', 'byte', 'char', 'float32', 'float64', 'string', 'wstring', *_INTEGERS))
_FIELD = re.compile(r'^\s*(?P<type>[A-Za-z][\w/]*)(?:<=\d+)?(?:\[[^\]]*\])?\s+[A-Za-z]\w*')


def split_type(name: str, kind: str | None = None) -> tuple[str, str, str]:
    """Package, kind and name of `package/kind/Name`; `package/Name` is allowed where the kind is given.

    Raises:
        CommandError: for any other form.
    """
    parts = name.split('/')
    if len(parts) == 2 and kind is not None:
        parts.insert(1, kind)
    if len(parts) != 3 or not all(parts) or parts[1] not in KINDS or (kind is not None and parts[1] != kind):
        raise CommandError(f"'{name}' is no interface type; the form is package/{kind or 'msg'}/Name")
    return parts[0], parts[1], parts[2]


def load(name: str, kind: str) -> Any:
    """The Python class of a message or service type.

    Raises:
        CommandError: if its package is not installed or has no such type.
    """
    package, _, short = split_type(name, kind)
    try:
        return getattr(import_module(f'{package}.{kind}'), short)
    except (ImportError, AttributeError):
        raise CommandError(f"the {kind} type '{name}' is not installed; is its package sourced?") from None


def by_package(kinds: tuple[str, ...] = KINDS) -> dict[str, list[str]]:
    """Interface names such as `msg/String`, package by package."""
    found = {}
    for package in sorted(get_resources(INDEX)):
        lines = get_resource(INDEX, package)[0].splitlines()
        names = {line.rsplit('.', 1)[0] for line in lines if line.endswith(('.msg', '.srv', '.action'))}
        found[package] = sorted(name for name in names if name.split('/')[0] in kinds)
    return {package: names for package, names in found.items() if names}


def definition(name: str) -> str:
    """The text of `package/kind/Name`.

    Raises:
        CommandError: if it is not installed.
    """
    package, kind, short = split_type(name)
    try:
        path = Path(get_package_share_directory(package), kind, f'{short}.{kind}')
        return path.read_text(encoding='utf-8')
    except (PackageNotFoundError, ValueError, OSError):
        raise CommandError(f"the interface '{name}' is not installed; is its package sourced?") from None


def nested_type(line: str, package: str) -> str | None:
    """The message type of a field in one line of a definition, None if it is none or a primitive one."""
    match = _FIELD.match(line)
    if match is None or match['type'] in PRIMITIVES:
        return None
    parts = match['type'].split('/')
    return f'{parts[0] if len(parts) > 1 else package}/msg/{parts[-1]}'


def nested_types(name: str) -> Iterator[str]:
    """The message types that the fields of `name` have, in their order, repeated as they repeat."""
    package = split_type(name)[0]
    for line in definition(name).splitlines():
        if found := nested_type(line, package):
            yield found


def full_definition(name: str) -> str:
    """The text of a message type followed by those of all types in it: MCAP's schema encoding `ros2msg`."""
    found: list[str] = []
    waiting = [name]
    while waiting:
        current = waiting.pop(0)
        if current not in found:
            found.append(current)
            waiting.extend(nested_types(current))
    texts = [definition(name)]
    for each in found[1:]:
        package, _, short = split_type(each)
        texts.append(f'{SEPARATOR}\nMSG: {package}/{short}\n{definition(each)}')
    return '\n'.join(text.rstrip('\n') for text in texts) + '\n'
