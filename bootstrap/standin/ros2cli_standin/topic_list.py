"""`ros2 topic list`, `info` and `type`."""

from __future__ import annotations

import argparse

from rclpy.topic_endpoint_info import TopicEndpointInfo

from ros2cli_standin import CommandError
from ros2cli_standin.graph import absolute, cli_node, is_hidden, listen, topic_type, wait_until


def list_topics(args: argparse.Namespace) -> None:
    """Print all topics."""
    with cli_node() as node:
        listen(node, args.spin_time)
        pairs = [
            (name, ', '.join(types))
            for name, types in sorted(node.get_topic_names_and_types())
            if args.include_hidden_topics or not is_hidden(name)
        ]
        if args.count_topics:
            print(len(pairs))
        elif args.verbose:
            for title, count in (('Published', node.count_publishers), ('Subscribed', node.count_subscribers)):
                print(f'{title} topics:')
                for name, types in pairs:
                    if number := count(name):
                        print(f' * {name} [{types}] {number} {title[:-2].lower()}er{"s" if number > 1 else ""}')
                print()
        else:
            for name, types in pairs:
                print(f'{name} [{types}]' if args.show_types else name)


def type_(args: argparse.Namespace) -> None:
    """Print the type of a topic."""
    with cli_node() as node:
        print(topic_type(node, absolute(args.topic_name)))


def info(args: argparse.Namespace) -> None:
    """Print the type of a topic and who uses it.

    Raises:
        CommandError: if nobody does.
    """
    topic = absolute(args.topic_name)
    with cli_node() as node:
        listen(node, args.spin_time)
        types = wait_until(lambda: dict(node.get_topic_names_and_types()).get(topic), 0.0)
        if types is None:
            raise CommandError(f"unknown topic '{topic}'")
        print(f'Type: {types[0] if len(types) == 1 else types}')
        for title, endpoints in (
            ('Publisher', node.get_publishers_info_by_topic(topic)),
            ('Subscription', node.get_subscriptions_info_by_topic(topic)),
        ):
            print(f'\n{title} count: {len(endpoints)}' if args.verbose else f'{title} count: {len(endpoints)}')
            if args.verbose:
                print(''.join(f'\n{describe(endpoint)}\n' for endpoint in endpoints), end='')


def describe(endpoint: TopicEndpointInfo) -> str:
    """One publisher or subscriber."""
    profile = endpoint.qos_profile
    return '\n'.join(
        [
            f'Node name: {endpoint.node_name}',
            f'Node namespace: {endpoint.node_namespace}',
            f'Topic type: {endpoint.topic_type}',
            f'Topic type hash: {endpoint.topic_type_hash}',
            f'Endpoint type: {endpoint.endpoint_type.name}',
            f'GID: {".".join(f"{byte:02x}" for byte in endpoint.endpoint_gid)}',
            'QoS profile:',
            f'  Reliability: {profile.reliability.name}',
            f'  History (Depth): {profile.history.name} ({profile.depth})',
            f'  Durability: {profile.durability.name}',
            f'  Lifespan: {duration(profile.lifespan.nanoseconds)}',
            f'  Deadline: {duration(profile.deadline.nanoseconds)}',
            f'  Liveliness: {profile.liveliness.name}',
            f'  Liveliness lease duration: {duration(profile.liveliness_lease_duration.nanoseconds)}',
        ]
    )


def duration(nanoseconds: int) -> str:
    """Nanoseconds, or that there is no limit."""
    return 'Infinite' if nanoseconds >= 2**63 - 1 else f'{nanoseconds} nanoseconds'
