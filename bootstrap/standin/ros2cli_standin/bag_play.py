"""`ros2 bag play`: publish what a bag holds, at its pace."""

from __future__ import annotations

import argparse
import time
from typing import Any

from mcap.reader import make_reader
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from ros2cli_standin import CommandError
from ros2cli_standin.bag_folder import Topic, find_file, read_summary
from ros2cli_standin.graph import TICK_S, absolute, cli_node
from ros2cli_standin.interfaces import load

QUEUE = 100
MATCHING_S = 0.5  # for subscribers to hear of the new publishers
FLUSH_S = 0.2


def offered(entries: list[dict[str, Any]]) -> QoSProfile:
    """A profile that offers the least of what the recorded publishers offered."""
    profile = QoSProfile(depth=QUEUE)
    # rosbag2 writes words since Jazzy and the numbers of the middleware before.
    if any(entry.get('reliability') in ('best_effort', 2) for entry in entries):
        profile.reliability = ReliabilityPolicy.BEST_EFFORT
    if entries and all(entry.get('durability') in ('transient_local', 1) for entry in entries):
        profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
    return profile


def publishers(node: Node, topics: list[Topic], args: argparse.Namespace) -> dict[str, Publisher]:
    """A publisher for each topic to play.

    Raises:
        CommandError: for a malformed remapping or a type that is not installed.
    """
    names = {}
    for word in args.remap:
        old, separator, new = word.partition(':=')
        if not separator:
            raise CommandError(f"malformed remapping '{word}', expected the form OLD:=NEW")
        names[absolute(old)] = absolute(new)
    wanted = None if args.topics is None else {absolute(name) for name in args.topics}
    return {
        topic.name: node.create_publisher(
            load(topic.type, 'msg'), names.get(topic.name, topic.name), offered(topic.qos)
        )
        for topic in topics
        if wanted is None or topic.name in wanted
    }


def play(args: argparse.Namespace) -> None:
    """Publish all messages, once or in a loop.

    Raises:
        CommandError: if the bag or the rate cannot be used.
    """
    if args.rate <= 0:
        raise CommandError(f'the rate must be above zero, got {args.rate:g}')
    path = find_file(args.bag)
    summary = read_summary(path)
    with cli_node() as node:
        sinks = publishers(node, summary.topics, args)
        sleep_until(time.monotonic() + max(args.delay, MATCHING_S))
        print(f"[INFO] [rosbag2_player]: Playing {summary.count} messages of '{path}'", flush=True)
        while summary.start_ns is not None:
            start_s = time.monotonic()
            with path.open('rb') as stream:
                for _, channel, message in make_reader(stream).iter_messages(topics=list(sinks)):
                    sleep_until(start_s + (message.log_time - summary.start_ns) * 1e-9 / args.rate)
                    sinks[channel.topic].publish(message.data)
            if not args.loop:
                break
        sleep_until(time.monotonic() + FLUSH_S)


def sleep_until(deadline_s: float) -> None:
    """Wait, in short steps so that an interruption is quick."""
    while (left := deadline_s - time.monotonic()) > 0:
        time.sleep(min(left, TICK_S))
