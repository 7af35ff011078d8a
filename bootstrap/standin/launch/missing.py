"""How the stand-in says that a feature of the official tools is not part of it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NoReturn

ADVICE = 'this is the attn_robotics stand-in for launch; install ROS 2 Jazzy (ros-jazzy-launch-ros) for all of it'


class MissingFeatureError(ImportError):
    """A launch file asks for something that only the official tools have."""


def missing(feature: str) -> NoReturn:
    """Stop with one line that names `feature`.

    Raises:
        MissingFeatureError: always.
    """
    raise MissingFeatureError(f'{feature} is missing here: {ADVICE}')


def refuse_keywords(owner: object, keywords: dict[str, Any]) -> None:
    """Refuse keyword arguments that nothing took.

    Raises:
        MissingFeatureError: if any are left.
    """
    if keywords:
        missing(f"{type(owner).__name__}'s keyword argument {', '.join(sorted(keywords))}")


def module_getattr(module: str) -> Callable[[str], Any]:
    """A module-level `__getattr__` that names what `module` lacks.

    An AttributeError inside `from module import name` would lose its text, so this raises an ImportError, except for
    private names and submodules, where the import system itself probes with `hasattr`.
    """

    def getattr_(name: str) -> Any:
        if name.startswith('_') or find_spec(f'{module}.{name}') is not None:
            raise AttributeError(f'module {module!r} has no attribute {name!r}')
        missing(f'{module}.{name}')

    return getattr_
