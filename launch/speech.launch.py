"""Recognise spoken robot commands, from a WAV file that is played as a microphone would, or from `audio` of your own.

ros2 launch attn_robotics speech.launch.py
ros2 launch attn_robotics speech.launch.py wav:=''    # listen to `audio`, whoever publishes it
"""

from attn_robotics.ros.launching import Arguments, ends_with, in_namespace
from launch import LaunchDescription

ARGUMENTS = Arguments(
    (
        ('wav', 'audio/commands.wav', "WAV file to play: a path, or a name below config/; '' plays nothing", None),
        ('loop', 'false', 'play it again and again', bool),
        ('model', 'pom_speech', 'model of the catalogue', str),
        ('channel', '0', 'channel of audio to listen to', int),
        ('block_tokens', '8', 'tokens of 40 ms that go to the model at once', int),
        ('end_s', '0.6', 'silence that ends an utterance [s]', float),
    )
)


def everything(context) -> list:
    """Build the nodes."""
    wav = ARGUMENTS.text(context, 'wav')
    encoder = ARGUMENTS.node(context, 'speech_encoder', 'model', 'channel', 'block_tokens', 'end_s', 'use_sim_time')
    if not wav.strip('\'"'):
        return [in_namespace(encoder)]
    from attn_robotics.paths import find_config

    if not find_config(wav).is_file():
        raise RuntimeError(f"launch argument wav: no file {wav!r}; wav:='' listens to audio instead")
    player = ARGUMENTS.node(context, 'wav_player', 'loop', 'use_sim_time', more=[{'wav': wav}])
    return [in_namespace(encoder, player), ends_with(player, 'the file is over')]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, stay on this machine unless told otherwise, start the nodes."""
    return ARGUMENTS.description(everything)
