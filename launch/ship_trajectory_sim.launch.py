"""Synthetic river traffic, and the node that predicts where its vessels will be and says why.

ros2 launch attn_robotics ship_trajectory_sim.launch.py vessels:=6 real_time_factor:=50.0
"""

from launch.actions import DeclareLaunchArgument, GroupAction, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

# name, default, description, type as the nodes know it (None: for this file only)
ARGUMENTS = (
    ('vessels', '4', 'vessels on the stretch of river', int),
    ('bend', '150.0', 'how far the river swings to both sides [m]', float),
    ('seed', '0', 'of the traffic', int),
    ('real_time_factor', '20.0', 'simulated seconds in a second', float),
    ('model', 'ship_trajectory', 'model of the catalogue', str),
    ('say', 'true', 'log who mattered most to whom', bool),
    ('namespace', '', 'namespace of both nodes', None),
    ('use_sim_time', 'false', 'follow /clock', bool),
    ('params_file', '', 'YAML with parameters that win over all of these', None),
    ('autostart', 'true', 'nodes configure and activate themselves', bool),
    ('log_level', 'info', 'debug, info, warn or error', None),
)
KIND = {name: kind for name, _, _, kind in ARGUMENTS}


def node(executable: str, *names: str, extra: list) -> Node:
    """One of our nodes with the arguments it takes."""
    taken = (*names, 'use_sim_time', 'autostart')
    return Node(
        package='attn_robotics',
        executable=executable,
        output='screen',
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        parameters=[
            {name: ParameterValue(LaunchConfiguration(name), value_type=KIND[name]) for name in taken},
            *extra,
        ],
    )


def everything(context) -> list:
    """Build both nodes."""
    path = LaunchConfiguration('params_file').perform(context)
    extra = [path] if path else []
    return [
        GroupAction(
            [
                PushRosNamespace(LaunchConfiguration('namespace')),
                node('traffic_simulator', 'vessels', 'bend', 'seed', 'real_time_factor', extra=extra),
                node('ship_trajectory', 'model', 'say', extra=extra),
            ]
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, stay on this machine unless told otherwise, start both nodes."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text, _ in ARGUMENTS
            ),
            SetEnvironmentVariable(
                'ROS_AUTOMATIC_DISCOVERY_RANGE',
                EnvironmentVariable('ROS_AUTOMATIC_DISCOVERY_RANGE', default_value='LOCALHOST'),
            ),
            OpaqueFunction(function=everything),
        ]
    )
