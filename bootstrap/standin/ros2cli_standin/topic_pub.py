"""`ros2 topic pub`."""

from __future__ import annotations

import argparse
import time

import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile

from ros2cli_standin import CommandError, qos
from ros2cli_standin.graph import TICK_S, absolute, cli_node, wait_until
from ros2cli_standin.interfaces import load
from ros2cli_standin.yaml_messages import fill, parse


def pub(args: argparse.Namespace) -> None:
    """Publish until the end or the interruption.

    Raises:
        CommandError: if the fields or the rate cannot be used.
    """
    if args.rate <= 0:
        raise CommandError(f'the rate must be above zero, got {args.rate:g}')
    message = load(args.message_type, 'msg')(check_fields=True)
    stamps = fill(message, parse(args.values))
    times = 1 if args.once else args.times
    # Reliable and transient local fits every subscriber.
    base = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    with cli_node() as node:
        publisher = node.create_publisher(type(message), absolute(args.topic_name), qos.from_arguments(args, base))
        wanted = args.wait_matching_subscriptions
        if wanted is None:
            wanted = 1 if times else 0
        if publisher.get_subscription_count() < wanted:
            print(f'Waiting for at least {wanted} matching subscription(s)...', flush=True)
            wait_until(lambda: publisher.get_subscription_count() >= wanted or None, float('inf'))
        print('publisher: beginning loop', flush=True)
        count, due = 0, time.monotonic()
        while True:
            for stamp in stamps:
                now = node.get_clock().now().to_msg()
                stamp.sec, stamp.nanosec = now.sec, now.nanosec
            publisher.publish(message)
            count += 1
            if args.print_every and count % args.print_every == 0:
                print(f'publishing #{count}: {message!r}\n', flush=True)
            if count == times:
                break
            due += 1 / args.rate
            while (left := due - time.monotonic()) > 0:
                time.sleep(min(left, TICK_S))
        rclpy.spin_once(node, timeout_sec=0.0)
        time.sleep(args.keep_alive)
