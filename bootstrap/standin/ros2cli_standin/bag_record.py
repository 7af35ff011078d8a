"""`ros2 bag record`: raw messages into an MCAP file that Foxglove opens."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import Any

from mcap.writer import CompressionType, Writer
from rclpy.node import Node

from ros2cli_standin import CommandError, qos
from ros2cli_standin.bag_folder import Summary, Topic, qos_entry, qos_text, write_metadata
from ros2cli_standin.graph import absolute, cli_node, is_hidden
from ros2cli_standin.interfaces import full_definition, load

DISCOVERY_S = 0.1
DRAIN_S = 0.01
QUEUE = 1000
CHUNK_BYTES = 1 << 20
COMPRESSION = {'zstd': CompressionType.ZSTD, 'lz4': CompressionType.LZ4, 'none': CompressionType.NONE}


class Recorder:
    """Subscribes topics as they appear and writes what they carry, undecoded."""

    def __init__(self, node: Node, writer: Writer) -> None:
        self._node, self._writer = node, writer
        self._schemas: dict[str, int] = {}
        self.topics: dict[str, Topic | None] = {}  # None: cannot be recorded
        self._sources: list[tuple[Any, int, Topic]] = []
        self.start_ns: int | None = None
        self.end_ns: int | None = None

    def subscribe(self, name: str, types: list[str]) -> None:
        """Record a topic from now on; warn in one line if that is not possible."""
        publishers = self._node.get_publishers_info_by_topic(name)
        try:
            if len(types) > 1:
                raise CommandError(f'it has more than one type: {", ".join(types)}')
            message_class = load(types[0], 'msg')
            schema = self._schema(types[0])
        except CommandError as error:
            self.topics[name] = None
            print(f"[WARN] [rosbag2_recorder]: cannot record '{name}': {error}", file=sys.stderr, flush=True)
            return
        topic = Topic(
            name,
            types[0],
            [qos_entry(info.qos_profile) for info in publishers],
            str(publishers[0].topic_type_hash) if publishers else '',
        )
        self.topics[name] = topic
        channel = self._writer.register_channel(
            topic=name,
            message_encoding='cdr',
            schema_id=schema,
            metadata={'offered_qos_profiles': qos_text(topic.qos), 'topic_type_hash': topic.type_hash},
        )

        profile = qos.fitting(publishers, QUEUE)
        subscription = self._node.create_subscription(message_class, name, lambda _: None, profile, raw=True)
        self._sources.append((subscription, channel, topic))
        print(f"[INFO] [rosbag2_recorder]: Subscribed to topic '{name}'", flush=True)

    def drain(self) -> None:
        """Write what has arrived.

        Taken straight from the subscriptions: an executor looks at all of them again for every single message, which
        a fleet's topics are too many for. The time of arrival is the middleware's, so looking rarely costs no accuracy.
        """
        for subscription, channel, topic in self._sources:
            with subscription.handle:
                while (taken := subscription.handle.take_message(subscription.msg_type, True)) is not None:
                    data, info = taken
                    arrived_ns = info['received_timestamp'] or time.time_ns()
                    self._writer.add_message(
                        channel, arrived_ns, data, info['source_timestamp'] or arrived_ns, topic.count
                    )
                    topic.count += 1
                    self.start_ns = min(self.start_ns or arrived_ns, arrived_ns)
                    self.end_ns = max(self.end_ns or arrived_ns, arrived_ns)

    def _schema(self, type_name: str) -> int:
        if type_name not in self._schemas:
            text = full_definition(type_name).encode()
            self._schemas[type_name] = self._writer.register_schema(type_name, 'ros2msg', text)
        return self._schemas[type_name]

    def summary(self) -> Summary:
        """What was recorded."""
        return Summary([topic for topic in self.topics.values() if topic is not None], self.start_ns, self.end_ns)


def is_wanted(name: str, args: argparse.Namespace) -> bool:
    """Whether the command line asks for a topic."""
    if name in {absolute(each) for each in args.exclude_topics}:
        return False
    if args.exclude_regex and re.search(args.exclude_regex, name):
        return False
    if name in {absolute(each) for each in (*args.topics, *args.more_topics)}:
        return True
    if is_hidden(name) and not args.include_hidden_topics:
        return False
    return args.all or bool(args.regex and re.search(args.regex, name))


def record(args: argparse.Namespace) -> None:
    """Record until SIGINT or SIGTERM, then finish the file.

    Raises:
        CommandError: if nothing is asked for, or the folder exists.
    """
    if not (args.all or args.regex or args.topics or args.more_topics):
        raise CommandError('name topics to record, or use --all')
    folder = Path(args.output or time.strftime('rosbag2_%Y_%m_%d-%H_%M_%S'))
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise CommandError(f"cannot make the folder '{folder}': {error.strerror}") from error
    file_name = f'{folder.name}_0.mcap'
    with cli_node() as node, (folder / file_name).open('wb') as stream:
        writer = Writer(stream, chunk_size=CHUNK_BYTES, compression=COMPRESSION[args.compression])
        writer.start(profile='ros2', library='attn_robotics stand-in for ros2 bag')
        recorder = Recorder(node, writer)
        print(f"[INFO] [rosbag2_recorder]: Recording to '{folder / file_name}', Ctrl-C ends", flush=True)
        try:
            look_at = 0.0
            while True:
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + DISCOVERY_S
                    for name, types in node.get_topic_names_and_types():
                        # Without a publisher its QoS is unknown.
                        if name not in recorder.topics and is_wanted(name, args) and node.count_publishers(name):
                            recorder.subscribe(name, types)
                recorder.drain()
                time.sleep(DRAIN_S)
        except KeyboardInterrupt:
            recorder.drain()
        finally:
            writer.finish()
            write_metadata(folder, file_name, recorder.summary())
        summary = recorder.summary()
        print(
            f'[INFO] [rosbag2_recorder]: Recorded {summary.count} messages of {len(summary.topics)} topics '
            f"in {summary.duration_ns / 1e9:.1f} s into '{folder}'",
            flush=True,
        )
