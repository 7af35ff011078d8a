"""How a catalogue entry's `system:` becomes a torch module."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from attn_robotics.runtime.errors import EngineError, one_line

if TYPE_CHECKING:
    from torch import nn


class SystemConfig(Protocol):
    """A dataclass of a system's settings that can build its network.

    The module's forward takes the entry's inputs and state by keyword and returns a dictionary of its outputs and
    new state (or the bare tensor where there is one). It must not change its inputs.
    """

    def build(self) -> nn.Module:
        """Build the network with fresh weights, on the CPU, without side effects."""
        ...


Config = TypeVar('Config', bound=type)

_SYSTEMS: dict[str, type] = {}
_EXAMPLES = {'identity', 'small_transformer'}


def register_system(name: str) -> Callable[[Config], Config]:
    """Make a configuration dataclass known as `name`, which is also its package below attn_robotics.systems."""

    def register(config: Config) -> Config:
        if not dataclasses.is_dataclass(config) or not callable(getattr(config, 'build', None)):
            raise TypeError(f'{config.__name__} must be a dataclass with a build() method to be system {name!r}')
        if (known := _SYSTEMS.setdefault(name, config)) is not config and known.__qualname__ != config.__qualname__:
            raise TypeError(f'system {name!r} is {known.__qualname__} already; register {config.__name__} elsewhere')
        _SYSTEMS[name] = config
        return config

    return register


def build_system(name: str, config: Mapping[str, Any]) -> nn.Module:
    """Build a registered system, importing its package when first needed.

    Args:
        name: as registered.
        config: fields of its configuration; the rest keep their defaults.

    Raises:
        EngineError: `bad_entry`: no such system, an unknown field, or values that it refuses.
    """
    if name not in _SYSTEMS:
        package = 'attn_robotics.runtime.examples' if name in _EXAMPLES else f'attn_robotics.systems.{name}'
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise EngineError('bad_entry', f'system {name!r}: {error}') from error
    if name not in _SYSTEMS:
        raise EngineError('bad_entry', f'system {name!r}: its package registers no such system (register_system)')
    known = {field.name for field in dataclasses.fields(_SYSTEMS[name]) if field.init}
    if unknown := set(config) - known:
        raise EngineError(
            'bad_entry',
            f'system {name!r}: config has no field {sorted(unknown)[0]!r}; it has {", ".join(sorted(known))}',
        )
    try:
        settings: SystemConfig = _SYSTEMS[name](**config)
        return settings.build()
    except (TypeError, ValueError) as error:
        raise EngineError('bad_entry', f'system {name!r}: {one_line(error)}') from error
