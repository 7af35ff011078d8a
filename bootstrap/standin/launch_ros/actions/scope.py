"""What holds for every node that follows in the same scope.

Kept in launch configurations, so that a GroupAction restores it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch.action import Action
from launch.launch_context import LaunchContext
from launch.substitution import SomeSubstitutionsType, normalize_to_list_of_substitutions, perform

from launch_ros.parameter_descriptions import Parameter, ParameterFile

NAMESPACE, PARAMETERS, REMAPS = 'ros_namespace', 'global_params', 'ros_remaps'


def join_namespaces(outer: str, inner: str) -> str:
    """`inner` below `outer`, unless it is absolute."""
    if inner.startswith('/'):
        return inner.rstrip('/') or '/'
    return '/' + '/'.join(part for part in (outer.strip('/'), inner.strip('/')) if part)


class PushROSNamespace(Action):
    """Add a namespace for the nodes that follow."""

    def __init__(self, namespace: SomeSubstitutionsType, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.namespace = normalize_to_list_of_substitutions(namespace)

    def execute(self, context: LaunchContext) -> None:
        """Add it."""
        configurations = context.launch_configurations
        configurations[NAMESPACE] = join_namespaces(configurations.get(NAMESPACE, ''), perform(context, self.namespace))


PushRosNamespace = PushROSNamespace


class SetParameter(Action):
    """Set a parameter of the nodes that follow."""

    def __init__(self, name: SomeSubstitutionsType, value: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._parameter = Parameter(name, value)

    def execute(self, context: LaunchContext) -> None:
        """Remember it."""
        entry = {perform(context, self._parameter.name): self._parameter.evaluate(context)}
        _append(context, PARAMETERS, entry)


class SetUseSimTime(SetParameter):
    """Set `use_sim_time` of the nodes that follow."""

    def __init__(self, value: Any, **kwargs: Any) -> None:
        super().__init__('use_sim_time', value, **kwargs)


class SetParametersFromFile(Action):
    """Give a parameter file to the nodes that follow."""

    def __init__(self, filename: SomeSubstitutionsType, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._file = ParameterFile(filename)

    def execute(self, context: LaunchContext) -> None:
        """Remember it."""
        _append(context, PARAMETERS, self._file.evaluate(context))


class SetRemap(Action):
    """Remap a name of the nodes that follow."""

    def __init__(self, src: SomeSubstitutionsType, dst: SomeSubstitutionsType, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._src, self._dst = normalize_to_list_of_substitutions(src), normalize_to_list_of_substitutions(dst)

    def execute(self, context: LaunchContext) -> None:
        """Remember it."""
        _append(context, REMAPS, (perform(context, self._src), perform(context, self._dst)))


def _append(context: LaunchContext, name: str, entry: dict[str, Any] | Path | tuple[str, str]) -> None:
    # A new list each time: the scope outside holds on to the old one.
    context.launch_configurations[name] = [*context.launch_configurations.get(name, []), entry]
