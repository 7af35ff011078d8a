"""`ros2 service`."""

from __future__ import annotations

import argparse
import time

from ros2cli_standin import CommandError
from ros2cli_standin.cli import add_verbs
from ros2cli_standin.graph import TICK_S, absolute, add_spin_time, await_answer, cli_node, is_hidden, listen, wait_until
from ros2cli_standin.interfaces import load
from ros2cli_standin.yaml_messages import fill, parse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    add = add_verbs(parser)
    verb = add('list', list_services, 'list services')
    add_spin_time(verb)
    verb.add_argument('-t', '--show-types', action='store_true', help='add the types')
    verb.add_argument('-c', '--count-services', action='store_true', help='print only how many there are')
    verb.add_argument('--include-hidden-services', action='store_true', help='hidden ones too')
    verb = add('type', type_, 'print the type of a service')
    add_spin_time(verb)
    verb.add_argument('service_name', metavar='SERVICE')
    verb = add('call', call, 'call a service')
    verb.add_argument('service_name', metavar='SERVICE')
    verb.add_argument('service_type', metavar='TYPE', help='such as std_srvs/srv/Trigger')
    verb.add_argument('values', metavar='VALUES', nargs='?', default='', help='request as YAML, such as "{data: true}"')
    verb.add_argument('-r', '--rate', type=float, help='call again and again, so many times a second')


def list_services(args: argparse.Namespace) -> None:
    """Print all services."""
    with cli_node() as node:
        listen(node, args.spin_time)
        pairs = [
            (name, types)
            for name, types in sorted(node.get_service_names_and_types())
            if args.include_hidden_services or not is_hidden(name)
        ]
        if args.count_services:
            print(len(pairs))
            return
        for name, types in pairs:
            print(f'{name} [{", ".join(types)}]' if args.show_types else name)


def type_(args: argparse.Namespace) -> None:
    """Print the type of a service.

    Raises:
        CommandError: if there is no such service.
    """
    with cli_node() as node:
        listen(node, args.spin_time)
        types = dict(node.get_service_names_and_types()).get(absolute(args.service_name))
        if types is None:
            raise CommandError(f"unknown service '{args.service_name}'")
        print('\n'.join(types))


def call(args: argparse.Namespace) -> None:
    """Call a service as soon as it is there, and print its answer."""
    service_class = load(args.service_type, 'srv')
    request = service_class.Request(check_fields=True)
    values = parse(args.values)
    name = absolute(args.service_name)
    endless = float('inf')
    with cli_node() as node:
        stamps = fill(request, values)
        client = node.create_client(service_class, name)
        if not wait_until(lambda: client.service_is_ready() or None, 1.0):
            print('waiting for service to become available...', flush=True)
            wait_until(lambda: client.service_is_ready() or None, endless)
        while True:
            for stamp in stamps:
                now = node.get_clock().now().to_msg()
                stamp.sec, stamp.nanosec = now.sec, now.nanosec
            print(f'requester: making request: {request!r}\n', flush=True)
            response = await_answer(node, lambda: client.call_async(request), name, endless, endless)
            print(f'response:\n{response!r}\n', flush=True)
            if args.rate is None:
                return
            due = time.monotonic() + 1 / args.rate
            while time.monotonic() < due:
                time.sleep(TICK_S)
