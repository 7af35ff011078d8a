"""Synthetic kitchens, and the node that anticipates what is done next in them.

ros2 launch attn_robotics action_anticipation_sim.launch.py streams:=2 real_time_factor:=2.0
"""

from attn_robotics.ros.launching import Arguments, in_namespace
from launch import LaunchDescription

ARGUMENTS = Arguments(
    (
        ('streams', '1', 'people who cook at once', int),
        ('kitchen', '100', 'number of the first kitchen; 0 to 3 were used in training', int),
        ('shift', '0.5', 'how much kitchens differ, in lengths of an action', float),
        ('seed', '0', 'of what is cooked', int),
        ('real_time_factor', '1.0', 'seconds of the stamps in a second', float),
        ('model', 'aga', 'model of the catalogue', str),
        ('say', 'true', 'log what is expected and why', bool),
    )
)


def everything(context) -> list:
    """Build both nodes."""
    kitchen = ('streams', 'kitchen', 'shift', 'seed', 'real_time_factor', 'use_sim_time')
    return [
        in_namespace(
            ARGUMENTS.node(context, 'kitchen_simulator', *kitchen),
            ARGUMENTS.node(context, 'action_anticipation', 'model', 'say', 'use_sim_time'),
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, stay on this machine unless told otherwise, start both nodes."""
    return ARGUMENTS.description(everything)
