"""Synthetic river traffic, and the node that predicts where its vessels will be and says why.

ros2 launch attn_robotics ship_trajectory_sim.launch.py vessels:=6 real_time_factor:=50.0
"""

from attn_robotics.ros.launching import Arguments, in_namespace
from launch import LaunchDescription

ARGUMENTS = Arguments(
    (
        ('vessels', '4', 'vessels on the stretch of river', int),
        ('bend', '150.0', 'how far the river swings to both sides [m]', float),
        ('seed', '0', 'of the traffic', int),
        ('real_time_factor', '20.0', 'simulated seconds in a second', float),
        ('model', 'ship_trajectory', 'model of the catalogue', str),
        ('say', 'true', 'log who mattered most to whom', bool),
    )
)


def everything(context) -> list:
    """Build both nodes."""
    river = ('vessels', 'bend', 'seed', 'real_time_factor', 'use_sim_time')
    return [
        in_namespace(
            ARGUMENTS.node(context, 'traffic_simulator', *river),
            ARGUMENTS.node(context, 'ship_trajectory', 'model', 'say', 'use_sim_time'),
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, stay on this machine unless told otherwise, start both nodes."""
    return ARGUMENTS.description(everything)
