"""Recognise spoken robot commands, from a WAV file that is played as a microphone would, or from `audio` of your own.

ros2 launch attn_robotics speech.launch.py
ros2 launch attn_robotics speech.launch.py wav:=''    # listen to `audio`, whoever publishes it
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
    ('wav', 'audio/commands.wav', "WAV file to play: a path, or a name below config/; '' plays nothing", None),
    ('loop', 'false', 'play it again and again', bool),
    ('model', 'pom_speech', 'model of the catalogue', str),
    ('channel', '0', 'channel of audio to listen to', int),
    ('block_tokens', '8', 'tokens of 40 ms that go to the model at once', int),
    ('end_s', '0.6', 'silence that ends an utterance [s]', float),
    ('namespace', '', 'namespace of the nodes', None),
    ('use_sim_time', 'false', 'follow /clock', bool),
    ('params_file', '', 'YAML with parameters that win over all of these', None),
    ('autostart', 'true', 'the nodes configure and activate themselves', bool),
    ('log_level', 'info', 'debug, info, warn or error', None),
)
KIND = {name: kind for name, _, _, kind in ARGUMENTS}


def node(executable: str, *names: str, extra: list, **known) -> Node:
    """One of our nodes with the arguments it takes."""
    taken = (*names, 'use_sim_time', 'autostart')
    values = {name: ParameterValue(LaunchConfiguration(name), value_type=KIND[name]) for name in taken}
    return Node(
        package='attn_robotics',
        executable=executable,
        output='screen',
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        parameters=[{**values, **known}, *extra],
    )


def everything(context) -> list:
    """Build the nodes."""
    path = LaunchConfiguration('params_file').perform(context)
    extra = [path] if path else []
    wav = LaunchConfiguration('wav').perform(context)
    encoder = node('speech_encoder', 'model', 'channel', 'block_tokens', 'end_s', extra=extra)
    nodes, over = [encoder], []
    if wav.strip('\'"'):
        from attn_robotics.paths import find_config

        if not find_config(wav).is_file():
            raise RuntimeError(f"launch argument wav: no file {wav!r}; wav:='' listens to audio instead")
        player = node('wav_player', 'loop', extra=extra, wav=wav)
        nodes.append(player)
        over.append(
            RegisterEventHandler(
                OnProcessExit(target_action=player, on_exit=[EmitEvent(event=Shutdown(reason='the file is over'))])
            )
        )
    return [GroupAction([PushRosNamespace(LaunchConfiguration('namespace')), *nodes]), *over]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, stay on this machine unless told otherwise, start the nodes."""
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
