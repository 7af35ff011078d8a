"""The attention runtime: models behind services, and a KServe v2 door where one is wanted.

ros2 launch attn_robotics attention_runtime.launch.py preload:=small_transformer door_port:=8000
"""

from launch.actions import DeclareLaunchArgument, GroupAction, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

# name, default, description, type as the node knows it (None: for this file only)
ARGUMENTS = (
    ('models', '', 'folder of model entries; empty takes those that ship', None),
    ('preload', '', 'models to load first, separated by commas, such as identity,small_transformer', None),
    ('memory_budget_mib', '0', 'most that models may hold on one device, 0 is all of it [MiB]', int),
    ('door_port', '0', 'port of the KServe v2 door on the loopback interface; 0 is off', int),
    ('max_request_mib', '256', 'largest request [MiB]', int),
    ('shm_ttl_s', '10.0', 'unfetched answers in shared memory are removed after this time [s]', float),
    ('shm_limit_mib', '1024', 'most that answers in shared memory may take before they are fetched [MiB]', int),
    ('namespace', '', 'namespace of the node', None),
    ('use_sim_time', 'false', 'follow /clock', bool),
    ('params_file', '', 'YAML with parameters that win over all of these', None),
    ('autostart', 'true', 'the node configures and activates itself', bool),
    ('log_level', 'info', 'debug, info, warn or error', None),
)


def listed(context, name: str) -> list[str]:
    """An argument that names several things."""
    text = LaunchConfiguration(name).perform(context)
    return [part.strip() for part in text.split(',') if part.strip()]


def everything(context) -> list:
    """Build the node; here, since lists come as text."""
    values = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind) for name, _, _, kind in ARGUMENTS if kind
    }
    for name in ('models', 'preload'):
        if found := listed(context, name):
            values[name] = found
    path = LaunchConfiguration('params_file').perform(context)
    node = Node(
        package='attn_robotics',
        executable='attention_runtime',
        output='screen',
        parameters=[values, *([path] if path else [])],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
    )
    return [GroupAction([PushRosNamespace(LaunchConfiguration('namespace')), node])]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, stay on this machine unless told otherwise, start the runtime."""
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
