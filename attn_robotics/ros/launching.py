"""What our launch files share: a table of arguments that declares, explains and checks them, and what starts nodes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    GroupAction,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_context import LaunchContext
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription  # type: ignore[attr-defined]  # our folder of launch files bears this name

Row = tuple[str, str, str, type | None]
# Of every launch file: name, default, description, type as the nodes know it (None: for the launch file only).
COMMON: tuple[Row, ...] = (
    ('namespace', '', 'namespace of everything but /clock, /tf and /tf_static', None),
    ('use_sim_time', 'false', 'follow /clock', bool),
    ('params_file', '', 'YAML with parameters that win over all of these', None),
    ('autostart', 'true', 'nodes configure and activate themselves', bool),
    ('log_level', 'info', 'debug, info, warn or error', None),
)
_WORDS: Mapping[type, str] = {bool: 'true or false', int: 'a whole number', float: 'a number'}


def _check_file(path: str) -> None:
    """Refuse a parameter file that no node could read, once and before any of them tries."""
    if not path:
        return
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise RuntimeError(f'params_file {path} cannot be read: {error.strerror}') from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RuntimeError(f'params_file {path} is no YAML: {" ".join(str(error).split())}') from None
    if not (isinstance(content, dict) and content and all(isinstance(part, dict) for part in content.values())):
        raise RuntimeError(
            f'params_file {path} is no parameter file; it must say for whom (/** or a node) and ros__parameters'
        )


class Arguments:
    """The arguments of a launch file.

    Args:
        rows: name, default, description and type of each, before those of `COMMON`, which they may replace.
        choices: allowed values of some.
    """

    def __init__(self, rows: Sequence[Row], choices: Mapping[str, Sequence[str]] | None = None) -> None:
        own = {row[0] for row in rows}
        self.rows = (*rows, *(row for row in COMMON if row[0] not in own))
        self._kinds = {name: kind for name, _, _, kind in self.rows}
        self._choices = choices or {}

    def description(self, build: Callable[[LaunchContext], list[Any]]) -> LaunchDescription:
        """The whole launch file: these arguments, checked, then what `build` makes of them."""

        def everything(context: LaunchContext) -> list[Any]:
            return [*self.check(context), *build(context)]

        return LaunchDescription([*self.declarations(), OpaqueFunction(function=everything)])

    def declarations(self) -> list[Any]:
        """Actions that declare everything and keep the nodes on this machine unless told otherwise."""
        return [
            *(
                DeclareLaunchArgument(
                    name,
                    default_value=default,
                    description=text,
                    **({'choices': list(self._choices[name])} if name in self._choices else {}),
                )
                for name, default, text, _ in self.rows
            ),
            SetEnvironmentVariable(
                'ROS_AUTOMATIC_DISCOVERY_RANGE',
                EnvironmentVariable('ROS_AUTOMATIC_DISCOVERY_RANGE', default_value='LOCALHOST'),
            ),
        ]

    def check(self, context: LaunchContext) -> list[Any]:
        """Refuse values of the wrong type by name, before anything starts.

        Returns:
            One message for every name that nobody declared and that looks like a misspelt one of these.

        Raises:
            RuntimeError: names the argument, what it must be and what was given.
        """
        for name, kind in self._kinds.items():
            value = self.text(context, name)
            try:
                good = value.lower() in ('true', 'false') if kind is bool else kind is None or kind(value) is not None
            except ValueError:
                good = False
            if not good and kind is not None:
                raise RuntimeError(f'launch argument {name} must be {_WORDS[kind]}, got {value!r}')
        _check_file(self.text(context, 'params_file'))
        # Not an error: a launch file that includes this one may mean it for another.
        strangers = [name for name in context.launch_configurations if name not in self._kinds]
        near = {name: difflib.get_close_matches(name, self._kinds, n=1, cutoff=0.75) for name in strangers}
        return [
            LogInfo(msg=f"WARNING: unknown launch argument '{name}' is ignored; did you mean '{match[0]}'?")
            for name, match in near.items()
            if match
        ]

    def text(self, context: LaunchContext, name: str) -> str:
        """Value of an argument as it was given."""
        text: str = LaunchConfiguration(name).perform(context)
        return text

    def values(self, context: LaunchContext, *names: str) -> dict[str, Any]:
        """Values of arguments in their types."""
        return {name: (self._kinds[name] or str)(self.text(context, name)) for name in names}

    def parameter(self, name: str) -> ParameterValue:
        """A node parameter from the argument of a name."""
        return ParameterValue(LaunchConfiguration(name), value_type=self._kinds[name])

    def node(
        self,
        context: LaunchContext,
        executable: str,
        *names: str,
        more: Sequence[Mapping[str, Any]] = (),
        **options: Any,
    ) -> Node:
        """One of our nodes.

        Args:
            context: of the launch.
            executable: its name.
            names: arguments that are its parameters too, besides `autostart`.
            more: further parameters; the user's file wins over all.
            options: of launch's Node.
        """
        path = self.text(context, 'params_file')
        return Node(
            package='attn_robotics',
            executable=executable,
            output='screen',
            arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
            parameters=[
                {name: self.parameter(name) for name in (*names, 'autostart')},
                *more,
                *([path] if path else []),
            ],
            **options,
        )


def in_namespace(*actions: Any) -> GroupAction:
    """Actions below the namespace that the argument names."""
    return GroupAction([PushRosNamespace(LaunchConfiguration('namespace')), *actions])


def ends_with(node: Node, reason: str) -> RegisterEventHandler:
    """End everything when a node has ended."""
    return RegisterEventHandler(OnProcessExit(target_action=node, on_exit=[EmitEvent(event=Shutdown(reason=reason))]))
