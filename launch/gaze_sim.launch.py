"""A simulated humanoid head looks at people who talk in turns, as a person would; ends by itself.

ros2 launch attn_robotics gaze_sim.launch.py people:=3 seconds:=20 out:=gaze_run
"""

from attn_robotics.ros.launching import Arguments, ends_with, in_namespace
from launch import LaunchDescription

ARGUMENTS = Arguments(
    (
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
        ('use_sim_time', 'true', 'follow /clock', bool),
    ),
    choices={'selection': ['rules', 'attention', 'vlm'], 'motion': ['analytic', 'learned']},
)


def everything(context) -> list:
    """Build the nodes."""
    both = ('seed', 'profile')
    simulator = ARGUMENTS.node(
        context, 'gaze_simulator', *both, 'people', 'seconds', 'render', 'real_time_factor', 'out'
    )
    # Without pictures there are no faces to look for.
    faces = {'faces': ARGUMENTS.text(context, 'render').lower() == 'true'}
    gaze = ARGUMENTS.node(
        context, 'gaze', *both, 'use_sim_time', 'selection', 'motion', 'vlm_url', 'vlm_model', more=[faces]
    )
    return [in_namespace(simulator, gaze), ends_with(simulator, 'the conversation is over')]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, stay on this machine unless told otherwise, start everything."""
    return ARGUMENTS.description(everything)
