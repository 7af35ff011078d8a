"""Synthetic kitchens, and the node that anticipates what is done next in them.

ros2 launch attn_robotics action_anticipation_sim.launch.py streams:=2 real_time_factor:=2.0
"""

from launch.actions import DeclareLaunchArgument, GroupAction, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

# name, default, description, type as the nodes know it (None: for this file only)
ARGUMENTS = (
    ('streams', '1', 'people who cook at once', int),
    ('kitchen', '100', 'number of the first kitchen; 0 to 3 were used in training', int),
    ('shift', '0.5', 'how much kitchens differ, in lengths of an action', float),
    ('seed', '0', 'of what is cooked', int),
    ('real_time_factor', '1.0', 'seconds of the stamps in a second', float),
    ('model', 'aga', 'model of the catalogue', str),
    ('say', 'true', 'log what is expected and why', bool),
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
                node('kitchen_simulator', 'streams', 'kitchen', 'shift', 'seed', 'real_time_factor', extra=extra),
                node('action_anticipation', 'model', 'say', extra=extra),
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
