"""`ros2 topic echo` and `hz`."""

from __future__ import annotations

import argparse
import copy
import re
import sys
import time
from collections import deque
from itertools import pairwise
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data

from ros2cli_standin import CommandError, qos
from ros2cli_standin.graph import TICK_S, absolute, cli_node, topic_type, wait_until
from ros2cli_standin.interfaces import load
from ros2cli_standin.yaml_messages import to_plain, to_yaml

REPORT_S = 1.0
PUBLISHERS_S = 1.0
LOOK_S = 0.5  # how often echo looks for publishers that were not there before


def echo(args: argparse.Namespace) -> None:
    """Print messages until the end or the interruption."""
    topic = absolute(args.topic_name)
    with cli_node() as node:
        type_name = args.message_type or topic_type(node, topic)
        message_class = load(type_name, 'msg')
        done = False

        def show(message: Any) -> None:
            nonlocal done
            if done:
                return
            print(text_of(message, args), end='---\n', flush=True)
            done = args.once

        wait_until(lambda: node.get_publishers_info_by_topic(topic) or None, PUBLISHERS_S)
        subscription, profile = None, None
        while not done:
            fitting = profile_for(node, topic, args)
            if profile is None or not is_same(profile, fitting):
                # Also later: a publisher that is discovered late may offer less than those before it.
                if subscription is not None:
                    node.destroy_subscription(subscription)
                subscription, profile = node.create_subscription(message_class, topic, show, fitting), fitting
            until = time.monotonic() + LOOK_S
            while not done and time.monotonic() < until:
                rclpy.spin_once(node, timeout_sec=TICK_S)


def profile_for(node: Node, topic: str, args: argparse.Namespace) -> QoSProfile:
    """What the options say, and for the rest what hears every publisher."""
    publishers = node.get_publishers_info_by_topic(topic)
    # While none is known: what every publisher can serve.
    base = qos.fitting(publishers, depth=100) if publishers else copy.copy(qos_profile_sensor_data)
    return qos.from_arguments(args, base)


def is_same(one: QoSProfile, other: QoSProfile) -> bool:
    """Whether two profiles hear the same publishers."""
    return (one.reliability, one.durability) == (other.reliability, other.durability)


def text_of(message: Any, args: argparse.Namespace) -> str:
    """What `echo` prints of a message."""
    longest = None if args.full_length else args.truncate_length
    plain: Any = to_plain(message, no_arr=args.no_arr, no_str=args.no_str, longest=longest)
    for part in re.findall(r'[^.\[\]]+', args.field or ''):
        try:
            plain = plain[int(part)] if isinstance(plain, list) else plain[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise CommandError(f"the message has no field '{args.field}' (at '{part}')") from None
    return to_yaml(plain, flow=args.flow_style)


def hz(args: argparse.Namespace) -> None:
    """Print the rate every second until the interruption."""
    topic = absolute(args.topic_name)
    with cli_node() as node:
        try:
            type_name = topic_type(node, topic)
        except CommandError as error:
            print(f'WARNING: {error}; waiting', file=sys.stderr, flush=True)
            type_name = topic_type(node, topic, float('inf'))
        times: deque[float] = deque(maxlen=args.window + 1)
        # Undecoded and without acknowledgements, so that measuring costs little and slows nobody.
        node.create_subscription(
            load(type_name, 'msg'),
            topic,
            lambda _: times.append(time.perf_counter()),
            qos_profile_sensor_data,
            raw=True,
        )
        shown = 0.0
        report_at = time.perf_counter() + REPORT_S
        while True:
            rclpy.spin_once(node, timeout_sec=TICK_S)
            if time.perf_counter() >= report_at:
                report_at += REPORT_S
                if len(times) > 1 and times[-1] != shown:
                    shown = times[-1]
                    print(rate_report(list(times)), flush=True)


def rate_report(times_s: list[float]) -> str:
    """Rate and spread of at least two arrival times."""
    gaps = [later - earlier for earlier, later in pairwise(times_s)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    rate = f'{1 / mean:.3f}' if mean > 0 else 'inf'
    return (
        f'average rate: {rate}\n'
        f'\tmin: {min(gaps):.3f}s max: {max(gaps):.3f}s std dev: {deviation:.5f}s window: {len(gaps)}'
    )
