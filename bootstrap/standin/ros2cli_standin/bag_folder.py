"""A bag on disk: a folder with `metadata.yaml` and one MCAP file, as rosbag2 lays it out."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ros2cli_standin import CommandError

if TYPE_CHECKING:
    from rclpy.qos import QoSProfile

METADATA = 'metadata.yaml'
METADATA_VERSION = 9  # Jazzy's
FOREVER = {'sec': 9223372036, 'nsec': 854775807}


@dataclass
class Topic:
    """A recorded topic."""

    name: str
    type: str
    qos: list[dict[str, Any]] = field(default_factory=list)
    type_hash: str = ''
    count: int = 0


@dataclass
class Summary:
    """What a bag holds, times in nanoseconds since the epoch."""

    topics: list[Topic]
    start_ns: int | None
    end_ns: int | None

    @property
    def count(self) -> int:
        """How many messages."""
        return sum(topic.count for topic in self.topics)

    @property
    def duration_ns(self) -> int:
        """From the first message to the last."""
        return 0 if self.start_ns is None or self.end_ns is None else self.end_ns - self.start_ns


def qos_entry(profile: QoSProfile) -> dict[str, Any]:
    """A profile as rosbag2 writes it."""

    def duration(value: Any) -> dict[str, int]:
        nanoseconds = value.nanoseconds
        if nanoseconds in (0, 2**63 - 1):
            return FOREVER
        return {'sec': nanoseconds // 10**9, 'nsec': nanoseconds % 10**9}

    return {
        'history': profile.history.name.lower(),
        'depth': profile.depth,
        'reliability': profile.reliability.name.lower(),
        'durability': profile.durability.name.lower(),
        'deadline': duration(profile.deadline),
        'lifespan': duration(profile.lifespan),
        'liveliness': profile.liveliness.name.lower(),
        'liveliness_lease_duration': duration(profile.liveliness_lease_duration),
        'avoid_ros_namespace_conventions': False,
    }


def write_metadata(folder: Path, file_name: str, summary: Summary) -> None:
    """Write `metadata.yaml`, whole or not at all."""
    # rosbag2 writes its largest time when nothing was recorded.
    start_ns = 2**63 - 1 if summary.start_ns is None else summary.start_ns
    span = {'nanoseconds': summary.duration_ns}
    content = {
        'rosbag2_bagfile_information': {
            'version': METADATA_VERSION,
            'storage_identifier': 'mcap',
            'duration': dict(span),
            'starting_time': {'nanoseconds_since_epoch': start_ns},
            'message_count': summary.count,
            'topics_with_message_count': [
                {
                    'topic_metadata': {
                        'name': topic.name,
                        'type': topic.type,
                        'serialization_format': 'cdr',
                        'offered_qos_profiles': topic.qos,
                        'type_description_hash': topic.type_hash,
                    },
                    'message_count': topic.count,
                }
                for topic in summary.topics
            ],
            'compression_format': '',
            'compression_mode': '',
            'relative_file_paths': [file_name],
            'files': [
                {
                    'path': file_name,
                    'starting_time': {'nanoseconds_since_epoch': start_ns},
                    'duration': dict(span),
                    'message_count': summary.count,
                }
            ],
            'custom_data': None,
            'ros_distro': os.environ.get('ROS_DISTRO', 'jazzy'),
        }
    }
    partial = folder / f'.{METADATA}.partial'
    partial.write_text(_dump(content), encoding='utf-8')
    partial.replace(folder / METADATA)


def find_file(bag: str) -> Path:
    """The MCAP file of a bag.

    Raises:
        CommandError: if there is none, or if the bag was split into several.
    """
    path = Path(bag)
    if path.is_file():
        return path
    files = sorted(path.glob('*.mcap'))
    if len(files) != 1:
        raise CommandError(f"'{bag}' is no bag: wanted a folder with one .mcap file, found {len(files)}")
    return files[0]


def read_summary(path: Path) -> Summary:
    """What an MCAP file holds.

    Raises:
        CommandError: if it is no MCAP file, or one that was never finished.
    """
    from mcap.exceptions import McapError
    from mcap.reader import make_reader

    try:
        with path.open('rb') as stream:
            summary = make_reader(stream).get_summary()
    except (McapError, EOFError, OSError, ValueError) as error:
        raise CommandError(f"'{path}' is no complete MCAP file: {type(error).__name__} {error}") from error
    if summary is None or summary.statistics is None:
        raise CommandError(f"'{path}' has no summary; it was not finished")
    statistics = summary.statistics
    topics = [
        Topic(
            channel.topic,
            summary.schemas[channel.schema_id].name,
            yaml.safe_load(channel.metadata.get('offered_qos_profiles') or '[]'),
            channel.metadata.get('topic_type_hash', ''),
            statistics.channel_message_counts.get(number, 0),
        )
        for number, channel in summary.channels.items()
    ]
    some = statistics.message_count > 0
    start_ns, end_ns = statistics.message_start_time, statistics.message_end_time
    return Summary(sorted(topics, key=lambda topic: topic.name), start_ns if some else None, end_ns if some else None)


def info(args: argparse.Namespace) -> None:
    """Print what a bag holds."""
    path = find_file(args.bag)
    summary = read_summary(path)
    print(f'\nFiles:             {path.name}')
    print(f'Bag size:          {path.stat().st_size / 1024:.1f} KiB')
    print('Storage id:        mcap')
    print('ROS Distro:        jazzy')
    print(f'Duration:          {summary.duration_ns / 1e9:.9f}s')
    print(f'Start:             {_time(summary.start_ns)}')
    print(f'End:               {_time(summary.end_ns)}')
    print(f'Messages:          {summary.count}')
    label = 'Topic information:'
    for topic in summary.topics:
        print(
            f'{label:<18} Topic: {topic.name} | Type: {topic.type} | Count: {topic.count} | Serialization Format: cdr'
        )
        label = ''


def _time(stamp_ns: int | None) -> str:
    if stamp_ns is None:
        return 'no messages'
    when = datetime.fromtimestamp(stamp_ns // 10**9, tz=UTC).astimezone()
    return f'{when:%b %d %Y %H:%M:%S}.{stamp_ns % 10**9:09d} ({stamp_ns / 1e9:.9f})'


def _dump(content: Any) -> str:
    class Dumper(yaml.SafeDumper):
        """Without anchors, which rosbag2's reader would have to resolve."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(content, Dumper=Dumper, sort_keys=False)


def qos_text(profiles: list[dict[str, Any]]) -> str:
    """Profiles as the channel's metadata holds them."""
    return _dump(profiles)
