"""`ros2 bag`: the command line of its verbs."""

from __future__ import annotations

import argparse

from ros2cli_standin import bag_play, bag_record
from ros2cli_standin.bag_folder import info
from ros2cli_standin.cli import add_verbs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    add = add_verbs(parser)

    verb = add('record', bag_record.record, 'record topics')
    verb.add_argument('topics', metavar='TOPIC', nargs='*', help='topics to record')
    verb.add_argument('--topics', dest='more_topics', metavar='TOPIC', nargs='+', default=[], help='topics to record')
    verb.add_argument('-a', '--all', '--all-topics', action='store_true', help='record all topics')
    verb.add_argument('-e', '--regex', help='record topics whose names match')
    verb.add_argument('-x', '--exclude-regex', help='do not record topics whose names match')
    verb.add_argument('--exclude-topics', nargs='+', default=[], metavar='TOPIC', help='topics not to record')
    verb.add_argument('--include-hidden-topics', action='store_true', help='hidden ones too')
    verb.add_argument('-o', '--output', metavar='FOLDER', help='folder to make (default: rosbag2_DATE)')
    verb.add_argument('-s', '--storage', choices=['mcap'], default='mcap', help='storage format (default: %(default)s)')
    verb.add_argument(
        '--compression', choices=['zstd', 'lz4', 'none'], default='zstd', help='of the chunks (default: %(default)s)'
    )

    verb = add('play', bag_play.play, 'publish what a bag holds')
    verb.add_argument('bag', metavar='BAG', help='folder or .mcap file')
    verb.add_argument('-r', '--rate', type=float, default=1.0, help='speed (default: %(default)s)')
    verb.add_argument('-l', '--loop', action='store_true', help='begin again at the end')
    verb.add_argument('-d', '--delay', type=float, default=0.0, help='wait so long [s] before the first message')
    verb.add_argument('--topics', nargs='+', metavar='TOPIC', help='play only these')
    verb.add_argument('-m', '--remap', nargs='+', default=[], metavar='OLD:=NEW', help='publish under other names')

    verb = add('info', info, 'tell what a bag holds')
    verb.add_argument('bag', metavar='BAG', help='folder or .mcap file')
