"""Quality of service: command-line options, and what fits publishers that are already there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rclpy.qos import QoSProfile
    from rclpy.topic_endpoint_info import TopicEndpointInfo

PROFILES = ('system_default', 'sensor_data', 'services_default', 'parameters', 'parameter_events', 'default')
CHOICES = {
    'history': ('system_default', 'keep_last', 'keep_all'),
    'reliability': ('system_default', 'reliable', 'best_effort'),
    'durability': ('system_default', 'transient_local', 'volatile'),
    'liveliness': ('system_default', 'automatic', 'manual_by_topic'),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('--qos-profile', choices=PROFILES, help='start from this profile')
    parser.add_argument('--qos-depth', type=int, help='queue length')
    for name, choices in CHOICES.items():
        parser.add_argument(f'--qos-{name}', choices=choices, help=f'{name} setting')


def from_arguments(args: argparse.Namespace, base: QoSProfile) -> QoSProfile:
    """`base`, which is changed, or the profile asked for, with the single options on top."""
    from rclpy import qos

    profile = base
    if args.qos_profile is not None:
        profile = (
            qos.QoSProfile(depth=10)
            if args.qos_profile == 'default'
            else qos.QoSPresetProfiles.get_from_short_key(args.qos_profile)
        )
    if args.qos_depth is not None:
        profile.depth = args.qos_depth
    policies: dict[str, Any] = {
        'history': qos.HistoryPolicy,
        'reliability': qos.ReliabilityPolicy,
        'durability': qos.DurabilityPolicy,
        'liveliness': qos.LivelinessPolicy,
    }
    for name, policy in policies.items():
        if (value := getattr(args, f'qos_{name}')) is not None:
            setattr(profile, name, policy.get_from_short_key(value))
    return profile


def fitting(publishers: Sequence[TopicEndpointInfo], depth: int = 10) -> QoSProfile:
    """A profile that hears every publisher: as strict as the least strict of them."""
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    profile = QoSProfile(depth=depth)
    reliable = all(info.qos_profile.reliability == ReliabilityPolicy.RELIABLE for info in publishers)
    latched = all(info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for info in publishers)
    profile.reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    profile.durability = DurabilityPolicy.TRANSIENT_LOCAL if latched and publishers else DurabilityPolicy.VOLATILE
    return profile
