"""A simulated humanoid head looks at people who talk in turns, as a person would; ends by itself.

ros2 launch attn_robotics gaze_sim.launch.py people:=3 seconds:=20 out:=gaze_run
"""

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    GroupAction,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

# name, default, description, type as the nodes know it (None: for this file only)
ARGUMENTS = (
    ('people', '3', 'people around the head, 2 to 4', int),
    (
        'seconds',
        '120.0',
        'length of the conversation [simulated s], 0 goes on until Ctrl-C; scores need two minutes',
        float,
    ),
    ('seed', '0', 'of places, turns, faces and human variability', int),
    ('profile', 'eyes_neck_lids', 'robot profile: a shipped name or a YAML path', str),
    ('selection', 'attention', 'who chooses the target: rules, attention or vlm', str),
    ('motion', 'analytic', 'who draws the movement: analytic or learned', str),
    ('vlm_url', '', 'OpenAI-compatible server for selection:=vlm, as http://host:port/v1', str),
    ('vlm_model', '', 'name of the model on that server', str),
    ('render', 'true', 'render the camera; false tells the node of people instead of showing them', bool),
    ('real_time_factor', '1.0', 'simulated seconds a second at most; 0 is as fast as it goes', float),
    ('out', '', 'folder for gaze.mp4, joints.npz and score.json; empty writes nothing', str),
    ('namespace', '', 'namespace of everything but /clock, /tf and /tf_static', None),
    ('use_sim_time', 'true', 'follow /clock', bool),
    ('params_file', '', 'YAML with parameters that win over all of these', None),
    ('autostart', 'true', 'nodes configure and activate themselves', bool),
    ('log_level', 'info', 'debug, info, warn or error', None),
)
KIND = {name: kind for name, _, _, kind in ARGUMENTS}


def node(executable: str, *names: str, extra: list, use_sim_time: bool = True, **known) -> Node:
    """One of our nodes with the arguments it takes."""
    taken = (*names, 'seed', 'profile', 'autostart', *(['use_sim_time'] if use_sim_time else []))
    values = {name: ParameterValue(LaunchConfiguration(name), value_type=KIND[name]) for name in taken}
    return Node(
        package='attn_robotics',
        executable=executable,
        output='screen',
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        parameters=[{**values, **known}, *extra],
    )


def check(context) -> None:
    """Refuse arguments of the wrong type by name, before anything starts."""
    for name, kind in KIND.items():
        value = LaunchConfiguration(name).perform(context)
        try:
            good = value.lower() in ('true', 'false') if kind is bool else kind is None or kind(value) is not None
        except ValueError:
            good = False
        if not good:
            words = {bool: 'true or false', int: 'a whole number', float: 'a number'}[kind]
            raise RuntimeError(f'launch argument {name} must be {words}, got {value!r}')


def everything(context) -> list:
    """Build the nodes."""
    check(context)
    path = LaunchConfiguration('params_file').perform(context)
    extra = [path] if path else []
    # Without pictures there are no faces to look for.
    faces = LaunchConfiguration('render').perform(context).lower() == 'true'
    simulator = node(
        'gaze_simulator', 'people', 'seconds', 'render', 'real_time_factor', 'out', use_sim_time=False, extra=extra
    )
    gaze = node('gaze', 'selection', 'motion', 'vlm_url', 'vlm_model', extra=extra, faces=faces)
    over = RegisterEventHandler(
        OnProcessExit(target_action=simulator, on_exit=[EmitEvent(event=Shutdown(reason='the conversation is over'))])
    )
    return [GroupAction([PushRosNamespace(LaunchConfiguration('namespace')), simulator, gaze]), over]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, stay on this machine unless told otherwise, start everything."""
    choices = {'selection': ['rules', 'attention', 'vlm'], 'motion': ['analytic', 'learned']}
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(
                    name,
                    default_value=default,
                    description=text,
                    **({'choices': choices[name]} if name in choices else {}),
                )
                for name, default, text, _ in ARGUMENTS
            ),
            SetEnvironmentVariable(
                'ROS_AUTOMATIC_DISCOVERY_RANGE',
                EnvironmentVariable('ROS_AUTOMATIC_DISCOVERY_RANGE', default_value='LOCALHOST'),
            ),
            OpaqueFunction(function=everything),
        ]
    )
