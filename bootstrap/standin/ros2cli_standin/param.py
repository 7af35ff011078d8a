"""`ros2 param`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ros2cli_standin import CommandError
from ros2cli_standin.cli import add_verbs
from ros2cli_standin.graph import ANSWER_S, add_spin_time, await_answer, cli_node, find_node, full_node_names, listen

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.parameter_client import AsyncParameterClient

LABELS = (
    '',
    'Boolean value is:',
    'Integer value is:',
    'Double value is:',
    'String value is:',
    'Byte values are:',
    'Boolean values are:',
    'Integer values are:',
    'Double values are:',
    'String values are:',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    add = add_verbs(parser)

    def add_verb(name: str, main: Any, summary: str, *words: str) -> argparse.ArgumentParser:
        verb = add(name, main, summary)
        add_spin_time(verb)
        for word in words:
            verb.add_argument(f'{word}_name', metavar=word.upper())
        return verb

    verb = add_verb('list', list_parameters, 'list parameters')
    verb.add_argument('node_name', metavar='NODE', nargs='?', help='only those of this node')
    verb = add_verb('get', get, 'print a parameter', 'node', 'parameter')
    verb.add_argument('--hide-type', action='store_true', help='print the value alone')
    verb = add_verb('set', set_, 'set a parameter', 'node', 'parameter')
    verb.add_argument('value', metavar='VALUE', help='as YAML, such as 1, 1.0, true, text or [1, 2]')
    add_verb('dump', dump, 'print the parameters of a node as a parameter file', 'node')
    add_verb('describe', describe, 'print the description of a parameter', 'node', 'parameter')


def client_of(node: Node, name: str) -> AsyncParameterClient:
    """A client for the parameters of a node.

    Raises:
        CommandError: if the node does not offer them.
    """
    from rclpy.parameter_client import AsyncParameterClient

    client = AsyncParameterClient(node, name)
    if not client.wait_for_services(ANSWER_S):
        raise CommandError(f"node '{name}' offers no parameter services")
    return client


def names_of(node: Node, name: str) -> list[str]:
    """The parameters of a node, sorted."""
    return sorted(await_answer(node, client_of(node, name).list_parameters, name).result.names)


def values_of(node: Node, name: str, parameters: Sequence[str]) -> list[Any]:
    """The values (`rcl_interfaces/msg/ParameterValue`) of parameters of a node."""
    client = client_of(node, name)
    return list(await_answer(node, lambda: client.get_parameters(list(parameters)), name).values)


def plain(value: Any) -> Any:
    """The Python value of a `rcl_interfaces/msg/ParameterValue`."""
    from rclpy.parameter import parameter_value_to_python

    found = parameter_value_to_python(value)
    if hasattr(found, 'tolist'):
        return found.tolist()
    return list(found) if isinstance(found, Sequence) and not isinstance(found, str) else found


def list_parameters(args: argparse.Namespace) -> None:
    """Print the parameters of one node or of all."""
    with cli_node() as node:
        if args.node_name:
            for parameter in names_of(node, find_node(node, args.node_name, args.spin_time)):
                print(f'  {parameter}')
            return
        listen(node, args.spin_time)
        for name in full_node_names(node):
            try:
                found = names_of(node, name)
            except CommandError:
                continue
            print('\n'.join([f'{name}:', *(f'  {parameter}' for parameter in found)]))


def get(args: argparse.Namespace) -> None:
    """Print a parameter.

    Raises:
        CommandError: if it is not set.
    """
    with cli_node() as node:
        name = find_node(node, args.node_name, args.spin_time)
        (value,) = values_of(node, name, [args.parameter_name]) or [None]
        if value is None or value.type == 0:
            raise CommandError(f"parameter '{args.parameter_name}' of '{name}' is not set")
        print(plain(value) if args.hide_type else f'{LABELS[value.type]} {plain(value)}')


def set_(args: argparse.Namespace) -> None:
    """Set a parameter.

    Raises:
        CommandError: if the node refuses.
    """
    from rclpy.parameter import Parameter, get_parameter_value

    with cli_node() as node:
        name = find_node(node, args.node_name, args.spin_time)
        message = Parameter(args.parameter_name).to_parameter_msg()
        message.value = get_parameter_value(args.value)
        client = client_of(node, name)
        (result,) = await_answer(node, lambda: client.set_parameters([message]), name).results
        if not result.successful:
            raise CommandError(
                f"'{name}' refused {args.parameter_name}={args.value}: {result.reason or 'no reason given'}"
            )
        print('Set parameter successful' + (f': {result.reason}' if result.reason else ''))


def dump(args: argparse.Namespace) -> None:
    """Print the parameters of a node as a parameter file."""
    from ros2cli_standin.yaml_messages import to_yaml

    with cli_node() as node:
        name = find_node(node, args.node_name, args.spin_time)
        names = names_of(node, name)
        tree: dict[str, Any] = {}
        for parameter, value in zip(names, values_of(node, name, names), strict=True):
            *folders, leaf = parameter.split('.')
            branch = tree
            for folder in folders:
                branch = branch.setdefault(folder, {})
            branch[leaf] = plain(value)
        print(to_yaml({name: {'ros__parameters': tree}}), end='')


def describe(args: argparse.Namespace) -> None:
    """Print the description of a parameter.

    Raises:
        CommandError: if it is not declared.
    """
    with cli_node() as node:
        name = find_node(node, args.node_name, args.spin_time)
        client = client_of(node, name)
        found = await_answer(node, lambda: client.describe_parameters([args.parameter_name]), name).descriptors
        if not found or found[0].type == 0:
            raise CommandError(f"parameter '{args.parameter_name}' of '{name}' is not declared")
        print(description_text(found[0]))


def description_text(descriptor: Any) -> str:
    """What `describe` prints."""
    scalars = ['boolean', 'integer', 'double', 'string']
    kinds = ['not set', *scalars, 'byte array', *(f'{kind} array' for kind in scalars)]
    lines = [f'Parameter name: {descriptor.name}', f'  Type: {kinds[descriptor.type]}']
    if descriptor.description:
        lines.append(f'  Description: {descriptor.description}')
    lines.append('  Constraints:')
    if descriptor.read_only:
        lines.append('    Read only: true')
    for limits in (*descriptor.floating_point_range, *descriptor.integer_range):
        lines += [
            f'    Min value: {limits.from_value}',
            f'    Max value: {limits.to_value}',
            f'    Step: {limits.step}',
        ]
    if descriptor.additional_constraints:
        lines.append(f'    Additional constraints: {descriptor.additional_constraints}')
    return '\n'.join(lines)
