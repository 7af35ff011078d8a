"""Run a node as a process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from launch.actions.execute_process import ExecuteProcess
from launch.launch_context import LaunchContext
from launch.substitution import SomeSubstitutionsType, normalize_to_list_of_substitutions, perform

from launch_ros.actions.scope import NAMESPACE, PARAMETERS, REMAPS, join_namespaces
from launch_ros.packages import executable_path
from launch_ros.parameter_descriptions import Parameter, ParameterFile, evaluate_parameters, write_parameters

ANY_NODE = '/**'


class Node(ExecuteProcess):
    """A node: an executable of a package, with its name, namespace, parameters and remappings."""

    def __init__(
        self,
        *,
        executable: SomeSubstitutionsType,
        package: SomeSubstitutionsType | None = None,
        name: SomeSubstitutionsType | None = None,
        namespace: SomeSubstitutionsType | None = None,
        exec_name: SomeSubstitutionsType | None = None,
        parameters: Iterable[Any] | None = None,
        remappings: Iterable[tuple[SomeSubstitutionsType, SomeSubstitutionsType]] | None = None,
        ros_arguments: Iterable[SomeSubstitutionsType] | None = None,
        arguments: Iterable[SomeSubstitutionsType] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(parameters, str | bytes | Mapping):
            raise TypeError(f'Node: parameters must be a list of dictionaries and files, got {parameters!r}')
        self._package = package
        self._executable = normalize_to_list_of_substitutions(executable)
        self._node_name, self._namespace, self._exec_name = name, namespace, exec_name
        self._parameters = list(parameters or ())
        self._remappings = list(remappings or ())
        self._ros_arguments = list(ros_arguments or ())
        super().__init__(cmd=[executable, *(arguments or ())], **kwargs)

    def command(self, context: LaunchContext) -> tuple[str, list[str], str | None, dict[str, str]]:
        """The process's name, command, folder and environment."""
        name, cmd, cwd, env = super().command(context)
        # A prefix such as `gdb --args` comes before the executable: find it from the end.
        executable = perform(context, self._executable)
        where = len(cmd) - len(self.cmd)
        if self._package is not None:
            cmd[where] = str(executable_path(perform(context, self._package), executable))
        name = name if self._exec_name is None else perform(context, self._exec_name)
        return name, [*cmd, '--ros-args', *self._ros_command(context)], cwd, env

    def _ros_command(self, context: LaunchContext) -> list[str]:
        """What follows `--ros-args`."""
        configurations = context.launch_configurations
        ros = [perform(context, argument) for argument in self._ros_arguments]
        name = None if self._node_name is None else perform(context, self._node_name)
        namespace = configurations.get(NAMESPACE)
        if self._namespace is not None:
            namespace = join_namespaces(namespace or '', perform(context, self._namespace))
        if name is not None:
            ros += ['-r', f'__node:={name}']
        if namespace:
            ros += ['-r', f'__ns:={namespace}']
        for entry in configurations.get(PARAMETERS, []):
            ros += ['--params-file', str(self._file(context, entry, ANY_NODE))]
        # Only a name with its namespace tells which node is meant.
        node = f'{namespace.rstrip("/")}/{name}' if name is not None and namespace else ANY_NODE
        for entry in self._parameters:
            ros += ['--params-file', str(self._file(context, entry, node))]
        pairs = [(perform(context, src), perform(context, dst)) for src, dst in self._remappings]
        for src, dst in [*configurations.get(REMAPS, []), *pairs]:
            ros += ['-r', f'{src}:={dst}']
        return ros

    def _file(self, context: LaunchContext, entry: Any, node: str) -> Path:
        """The parameter file of one entry of `parameters`."""
        if isinstance(entry, Mapping):
            return write_parameters(context, node, evaluate_parameters(context, entry))
        if isinstance(entry, Parameter):
            return write_parameters(context, node, {perform(context, entry.name): entry.evaluate(context)})
        return (entry if isinstance(entry, ParameterFile) else ParameterFile(entry)).evaluate(context)


class LifecycleNode(Node):
    """A node with a life cycle; here it differs from Node only in that name and namespace are required."""

    def __init__(self, *, name: SomeSubstitutionsType, namespace: SomeSubstitutionsType, **kwargs: Any) -> None:
        super().__init__(name=name, namespace=namespace, **kwargs)
