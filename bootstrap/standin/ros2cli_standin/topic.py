"""`ros2 topic`: the command line of its verbs."""

from __future__ import annotations

import argparse

from ros2cli_standin import qos, topic_list, topic_pub, topic_watch
from ros2cli_standin.cli import add_verbs
from ros2cli_standin.graph import add_spin_time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    add = add_verbs(parser)

    verb = add('list', topic_list.list_topics, 'list topics')
    add_spin_time(verb)
    verb.add_argument('-t', '--show-types', action='store_true', help='add the types')
    verb.add_argument('-c', '--count-topics', action='store_true', help='print only how many there are')
    verb.add_argument('-v', '--verbose', action='store_true', help='add types and counts of publishers and subscribers')
    verb.add_argument('--include-hidden-topics', action='store_true', help='hidden ones too')

    verb = add('info', topic_list.info, 'tell about one topic')
    add_spin_time(verb)
    verb.add_argument('topic_name', metavar='TOPIC')
    verb.add_argument('-v', '--verbose', action='store_true', help='add every publisher and subscriber with its QoS')

    verb = add('type', topic_list.type_, 'print the type of a topic')
    add_spin_time(verb)
    verb.add_argument('topic_name', metavar='TOPIC')

    verb = add('echo', topic_watch.echo, 'print messages')
    verb.add_argument('topic_name', metavar='TOPIC')
    verb.add_argument('message_type', metavar='TYPE', nargs='?', help='such as std_msgs/msg/String')
    verb.add_argument('--once', action='store_true', help='print one message, then end')
    verb.add_argument('--field', help='print only this field, such as pose.position or points[0].x')
    verb.add_argument('--no-arr', action='store_true', help='do not print the items of arrays')
    verb.add_argument('--no-str', action='store_true', help='do not print texts')
    verb.add_argument('-f', '--full-length', action='store_true', help='do not cut long arrays and texts')
    verb.add_argument('-l', '--truncate-length', type=int, default=128, help='where to cut (default: %(default)s)')
    verb.add_argument('--flow-style', action='store_true', help='print arrays in one line')
    qos.add_arguments(verb)

    verb = add('hz', topic_watch.hz, 'measure the rate of a topic')
    verb.add_argument('topic_name', metavar='TOPIC')
    verb.add_argument('-w', '--window', type=int, default=10000, help='messages to average over (default: %(default)s)')
    verb.add_argument('--wall-time', action='store_true', help='accepted; the rate is always that of wall time')

    verb = add('pub', topic_pub.pub, 'publish messages')
    verb.add_argument('topic_name', metavar='TOPIC')
    verb.add_argument('message_type', metavar='TYPE', help='such as std_msgs/msg/String')
    verb.add_argument('values', metavar='VALUES', nargs='?', default='', help='fields as YAML, such as "{data: hi}"')
    verb.add_argument('-r', '--rate', type=float, default=1.0, help='messages a second (default: %(default)s)')
    verb.add_argument('-p', '--print', dest='print_every', metavar='N', type=int, default=1, help='print every N-th')
    count = verb.add_mutually_exclusive_group()
    count.add_argument('-1', '--once', action='store_true', help='publish one message, then end')
    count.add_argument('-t', '--times', type=int, default=0, help='publish so many, then end (0: without end)')
    verb.add_argument('-w', '--wait-matching-subscriptions', type=int, help='wait for so many subscribers first')
    verb.add_argument(
        '--keep-alive', type=float, default=0.1, help='stay so long [s] at the end (default: %(default)s)'
    )
    qos.add_arguments(verb)
