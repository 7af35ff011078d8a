"""`ros2 node`."""

from __future__ import annotations

import argparse

from ros2cli_standin.cli import add_verbs
from ros2cli_standin.graph import add_spin_time, cli_node, find_node, full_node_names, listen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    add = add_verbs(parser)
    verb = add('list', list_nodes, 'list nodes')
    add_spin_time(verb)
    verb.add_argument('-a', '--all', action='store_true', help='hidden ones too')
    verb.add_argument('-c', '--count-nodes', action='store_true', help='print only how many there are')
    verb = add('info', info, 'tell what a node offers')
    add_spin_time(verb)
    verb.add_argument('node_name', metavar='NODE')


def list_nodes(args: argparse.Namespace) -> None:
    """Print all nodes."""
    with cli_node() as node:
        listen(node, args.spin_time)
        names = full_node_names(node, args.all)
        print(len(names) if args.count_nodes else '\n'.join(names), end='\n' if names or args.count_nodes else '')


def info(args: argparse.Namespace) -> None:
    """Print what a node publishes, subscribes and serves."""
    from rclpy.action import graph as actions

    with cli_node() as node:
        full_name = find_node(node, args.node_name, args.spin_time)
        listen(node, args.spin_time)
        namespace, _, name = full_name.rpartition('/')
        namespace = namespace or '/'
        print(full_name)
        for title, pairs in (
            ('Subscribers', node.get_subscriber_names_and_types_by_node(name, namespace)),
            ('Publishers', node.get_publisher_names_and_types_by_node(name, namespace)),
            ('Service Servers', node.get_service_names_and_types_by_node(name, namespace)),
            ('Service Clients', node.get_client_names_and_types_by_node(name, namespace)),
            ('Action Servers', actions.get_action_server_names_and_types_by_node(node, name, namespace)),
            ('Action Clients', actions.get_action_client_names_and_types_by_node(node, name, namespace)),
        ):
            print(f'  {title}:')
            for topic, types in sorted(pairs):
                print(f'    {topic}: {", ".join(types)}')
