"""Texts that are filled in when the launch runs, and what counts as one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launch.launch_context import LaunchContext


class SubstitutionFailure(RuntimeError):
    """A substitution has no value."""


class Substitution:
    """A text that is not known before the launch runs."""

    def perform(self, context: LaunchContext) -> str:
        """The text, for the state of `context`."""
        raise NotImplementedError

    def describe(self) -> str:
        """A short text for listings of arguments."""
        return f'{type(self).__name__}()'


class TextSubstitution(Substitution):
    """A fixed text."""

    def __init__(self, *, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f'TextSubstitution wants text, got {type(text).__name__}: {text!r}')
        self.text = text

    def perform(self, context: LaunchContext) -> str:
        """The text itself."""
        return self.text

    def describe(self) -> str:
        """The text in quotes."""
        return f"'{self.text}'"


SomeSubstitutionsType = str | Path | Substitution | Iterable[str | Path | Substitution]
SomeSubstitutionsType_types_tuple = (str, Path, Substitution, Iterable)


def normalize_to_list_of_substitutions(subs: SomeSubstitutionsType) -> list[Substitution]:
    """Substitutions from a text, a path, a substitution, or several of them in a row.

    Raises:
        TypeError: for anything else, such as a number.
    """
    if isinstance(subs, Substitution):
        return [subs]
    if isinstance(subs, str | os.PathLike):
        return [TextSubstitution(text=os.fspath(subs))]
    if isinstance(subs, Iterable):
        return [part for sub in subs for part in normalize_to_list_of_substitutions(sub)]
    raise TypeError(f'wanted text or a substitution, got {type(subs).__name__}: {subs!r}')


def perform_substitutions(context: LaunchContext, subs: Sequence[Substitution]) -> str:
    """The texts of `subs`, joined without a separator."""
    return ''.join(context.perform_substitution(sub) for sub in subs)


def describe_substitutions(subs: Sequence[Substitution]) -> str:
    """How listings of arguments show `subs`."""
    return ' + '.join(sub.describe() for sub in subs)


def perform(context: LaunchContext, value: SomeSubstitutionsType) -> str:
    """The text of anything that counts as substitutions."""
    return perform_substitutions(context, normalize_to_list_of_substitutions(value))
