"""`ros2 lifecycle`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ros2cli_standin import CommandError
from ros2cli_standin.cli import add_verbs
from ros2cli_standin.graph import (
    AGAIN_S,
    ANSWER_S,
    add_spin_time,
    await_answer,
    cli_node,
    find_node,
    is_hidden,
    listen,
    wait_until,
)

if TYPE_CHECKING:
    from rclpy.node import Node

# A transition may load a model: give it longer than a question.
TRANSITION_S = 120.0
STATE_SERVICE = 'lifecycle_msgs/srv/GetState'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    add = add_verbs(parser)
    verb = add('nodes', nodes, 'list lifecycle nodes')
    add_spin_time(verb)
    verb.add_argument('-a', '--all', action='store_true', help='hidden ones too')
    verb.add_argument('-c', '--count-nodes', action='store_true', help='print only how many there are')
    verb = add('get', get, 'print the state of one lifecycle node or of all')
    add_spin_time(verb)
    verb.add_argument('node_name', metavar='NODE', nargs='?')
    verb = add('set', set_, 'take a lifecycle node through a transition')
    add_spin_time(verb)
    verb.add_argument('node_name', metavar='NODE')
    verb.add_argument('transition', metavar='TRANSITION', help='label or number, such as configure or activate')
    verb = add('list', list_transitions, 'list the transitions that a lifecycle node can take now')
    add_spin_time(verb)
    verb.add_argument('node_name', metavar='NODE')
    verb.add_argument('-a', '--all', action='store_true', help='all transitions that it has')


def lifecycle_nodes(node: Node, include_hidden: bool = False) -> list[str]:
    """The names of all lifecycle nodes: those that tell their state."""
    services = node.get_service_names_and_types()
    names = {name.removesuffix('/get_state') for name, types in services if STATE_SERVICE in types}
    return sorted(name for name in names if include_hidden or not is_hidden(name))


def ask(
    node: Node,
    name: str,
    service: str,
    kind: str,
    *,
    limit_s: float = ANSWER_S,
    again_s: float = AGAIN_S,
    **fields: Any,
) -> Any:
    """The answer of one of a node's lifecycle services; limits as in `await_answer`.

    Raises:
        CommandError: if the node has no such service or does not answer.
    """
    from lifecycle_msgs import srv

    service_class = getattr(srv, kind)
    client = node.create_client(service_class, f'{name}/{service}')
    if not wait_until(lambda: client.service_is_ready() or None, ANSWER_S):
        raise CommandError(f"node '{name}' is no lifecycle node")
    return await_answer(node, lambda: client.call_async(service_class.Request(**fields)), name, limit_s, again_s)


def nodes(args: argparse.Namespace) -> None:
    """Print all lifecycle nodes."""
    with cli_node() as node:
        listen(node, args.spin_time)
        names = lifecycle_nodes(node, args.all)
        print(len(names) if args.count_nodes else '\n'.join(names), end='\n' if names or args.count_nodes else '')


def get(args: argparse.Namespace) -> None:
    """Print the state of one lifecycle node or of all."""
    with cli_node() as node:
        if args.node_name:
            state = ask(node, find_node(node, args.node_name, args.spin_time), 'get_state', 'GetState').current_state
            print(f'{state.label} [{state.id}]')
            return
        listen(node, args.spin_time)
        for name in lifecycle_nodes(node):
            state = ask(node, name, 'get_state', 'GetState').current_state
            print(f'{name}: {state.label} [{state.id}]')


def set_(args: argparse.Namespace) -> None:
    """Take a lifecycle node through a transition.

    Raises:
        CommandError: if it has no such transition now, or the transition fails.
    """
    from lifecycle_msgs.msg import Transition

    with cli_node() as node:
        name = find_node(node, args.node_name, args.spin_time)
        answer = ask(node, name, 'get_available_transitions', 'GetAvailableTransitions')
        available = {entry.transition.label: entry.transition.id for entry in answer.available_transitions}
        wanted = args.transition
        number = int(wanted) if wanted.isdigit() and int(wanted) in available.values() else available.get(wanted)
        if number is None:
            known = ', '.join(f'{label} [{each}]' for label, each in available.items())
            raise CommandError(f"'{name}' cannot take the transition '{wanted}' now; it can: {known}")
        once = {'limit_s': TRANSITION_S, 'again_s': float('inf')}  # a transition does not bear asking twice
        done = ask(node, name, 'change_state', 'ChangeState', **once, transition=Transition(id=number))
        if not done.success:
            raise CommandError(f"'{name}': the transition '{wanted}' failed")
        print('Transitioning successful')


def list_transitions(args: argparse.Namespace) -> None:
    """Print transitions with their start and goal."""
    with cli_node() as node:
        name = find_node(node, args.node_name, args.spin_time)
        service = 'get_transition_graph' if args.all else 'get_available_transitions'
        for entry in ask(node, name, service, 'GetAvailableTransitions').available_transitions:
            print(f'- {entry.transition.label} [{entry.transition.id}]')
            print(f'\tStart: {entry.start_state.label}\n\tGoal: {entry.goal_state.label}')
