"""Host several nodes in one process, so that they share one engine: weights, batches, and tensors by reference.

    ros2 run attn_robotics container --ros-args -p nodes:="[attention_runtime, sparc_fleet]"

A hosted node keeps its name, namespace and parameters. `sparc_fleet@left` names it, `sparc_fleet@left/sparc` puts it
into a namespace below the container's, `sparc_fleet@/left/sparc` into that one.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

from attn_robotics import nodes
from attn_robotics.ros.hosting import HostedNode
from attn_robotics.ros.lifecycle import AttnNode, ConfigurationError, run_node
from attn_robotics.ros.parameters import param
from attn_robotics.runtime.engine import SWITCH_INTERVAL_S
from attn_robotics.runtime.errors import one_line

_ITEM = re.compile(r'(?P<executable>[a-z][a-z0-9_]*)(@(?P<place>/?([A-Za-z_]\w*/)*)(?P<name>[A-Za-z_]\w*))?', re.ASCII)


@dataclass(frozen=True)
class ContainerParams:
    """Tunables of the container."""

    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    nodes: list[str] = param(  # noqa: RUF009 - param makes a list's default afresh
        [],
        'Executables to host, each with its name after an @ where it is not the usual one.',
        read_only=True,
    )


class Container(AttnNode):
    """The `container` node: starts the others, and says how they are."""

    NAME = 'container'
    Params = ContainerParams
    params: ContainerParams

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._hosted: list[HostedNode] = []
        self._broken: dict[str, str] = {}  # executables that can't even be imported

    def configure(self) -> None:
        """Find and start the nodes; a wrong list is a mistake, a node that fails is its own affair."""
        self._broken = {}
        places = self._places()
        names = [f'{namespace.rstrip("/")}/{name}' for _, namespace, name in places]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ConfigurationError(f"parameter 'nodes' has {min(doubled)} twice; name one after an @")
        self._switch_interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL_S)  # nodes hand over to one another many times a tick
        self._is_ending = False
        foreign = {field.name for field in fields(ContainerParams)}
        self._hosted = [HostedNode(kind, name, namespace, foreign=foreign) for kind, namespace, name in places]
        for hosted in self._hosted:
            hosted.start(self._on_end)
        self.get_logger().info(f'hosts {", ".join(names)}')

    def release(self) -> None:
        """End the nodes, all at once, and wait for them."""
        if not self._hosted:
            return
        self._is_ending = True
        for hosted in self._hosted:
            hosted.stop()
        for hosted in self._hosted:
            hosted.join()
        self._hosted = []
        sys.setswitchinterval(self._switch_interval)

    def diagnose(self) -> tuple[bytes, str, Mapping[str, object]]:
        """Say how each node is."""
        values = {
            hosted.name: f'{hosted.state}: {hosted.problem}' if hosted.problem else hosted.state
            for hosted in self._hosted
        }
        values |= {item: f'failed: {problem}' for item, problem in self._broken.items()}
        failed = [name for name, state in values.items() if state.startswith('failed')]
        if failed:
            return DiagnosticStatus.ERROR, f'failed: {", ".join(failed)}', values
        return DiagnosticStatus.OK, 'running', values

    def _places(self) -> list[tuple[type[AttnNode], str, str]]:
        """Kind, namespace and name of every node that can be imported."""
        places = []
        for item in self.params.nodes:
            try:
                places.append(parse_item(item, self.get_namespace()))
            except ConfigurationError:
                raise
            except Exception as error:  # its module or what it imports; whatever it is, the others go on
                self._broken[item] = one_line(f'{type(error).__name__}: {error}')
                self.get_logger().error(f'{item} can not be imported: {self._broken[item]}')
                self.exit_code = 1
        if not places:
            raise ConfigurationError(f"parameter 'nodes' has none to host; choose from: {', '.join(executables())}")
        return places

    def _on_end(self, ended: HostedNode) -> None:
        """Called in the thread of a node that has ended; the process ends with the last one."""
        if ended.problem:
            self.get_logger().error(f'{ended.name} failed, the others go on: {ended.problem}')
        self.exit_code = max(self.exit_code, ended.exit_code)
        if not self._is_ending and all(hosted.is_over for hosted in self._hosted):
            self.is_done = True


def executables() -> list[str]:
    """What can be hosted: every executable but this one."""
    names = sorted(module.name for module in pkgutil.iter_modules(nodes.__path__))
    return [name for name in names if not name.startswith('_') and name != 'container']


def parse_item(item: str, namespace: str) -> tuple[type[AttnNode], str, str]:
    """Kind, absolute namespace and name of one item of the parameter `nodes`.

    Raises:
        ConfigurationError: no such executable, or a name that ROS does not allow.
    """
    match = _ITEM.fullmatch(item.strip())
    if match is None:
        raise ConfigurationError(
            f"parameter 'nodes': {item[:100]!r} must be executable, executable@name or executable@/namespace/name"
        )
    if match['executable'] not in executables():
        raise ConfigurationError(
            f"parameter 'nodes': there is no {match['executable']!r} to host; choose from: {', '.join(executables())}"
        )
    module = importlib.import_module(f'{nodes.__name__}.{match["executable"]}')
    kinds = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, AttnNode) and kind.__module__ == module.__name__
    ]
    if len(kinds) != 1:
        raise ConfigurationError(f"parameter 'nodes': {match['executable']} defines {len(kinds)} nodes, not one")
    place = match['place'] or ''
    if not place.startswith('/'):
        place = f'{namespace.rstrip("/")}/{place}'
    return kinds[0], place.rstrip('/') or '/', match['name'] or kinds[0].NAME


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(Container, args)


if __name__ == '__main__':
    sys.exit(main())
