"""Stand-in of attn_robotics for a part of ROS 2 Jazzy's `launch`, for machines without it; see its README."""

from launch import (
    actions,
    conditions,
    event_handlers,
    events,
    launch_description_sources,
    logging,
    substitutions,
    utilities,
)
from launch.action import Action
from launch.condition import Condition
from launch.event import Event
from launch.event_handler import EventHandler
from launch.launch_context import LaunchContext
from launch.launch_description import LaunchDescription
from launch.launch_description_sources import LaunchDescriptionSource
from launch.launch_service import LaunchService
from launch.missing import module_getattr
from launch.substitution import SomeSubstitutionsType, SomeSubstitutionsType_types_tuple, Substitution

__all__ = [
    'Action',
    'Condition',
    'Event',
    'EventHandler',
    'LaunchContext',
    'LaunchDescription',
    'LaunchDescriptionSource',
    'LaunchService',
    'SomeSubstitutionsType',
    'SomeSubstitutionsType_types_tuple',
    'Substitution',
    'actions',
    'conditions',
    'event_handlers',
    'events',
    'launch_description_sources',
    'logging',
    'substitutions',
    'utilities',
]

__getattr__ = module_getattr(__name__)
