"""The gaze node as its users run it, in a process of its own, and everything that can go wrong around it."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory

from attn_robotics.conversions import gaze as messages
from attn_robotics.ros import qos
from attn_robotics.systems.gaze.camera import Camera

pytestmark = pytest.mark.ros


class Running:
    """`gaze` in a process; its output is read in a thread."""

    def __init__(self, *parameters):
        flags = [flag for parameter in parameters for flag in ('-p', parameter)]
        command = [sys.executable, '-m', 'attn_robotics.nodes.gaze', '--ros-args', *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(iter(self.process.stdout.readline, '')))
        self._reader.start()

    def says(self, words):
        return any(words in line for line in self.lines)

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(20.0)
        self._reader.join()
        self.process.stdout.close()
        return code


@pytest.fixture
def run():
    """Start the node; whatever is left of it at the end is killed."""
    started = []

    def start(*parameters):
        started.append(Running(*parameters))
        return started[-1]

    yield start
    for node in started:
        if node.process.poll() is None:
            os.kill(node.process.pid, signal.SIGKILL)
            node.end()


def test_whatever_fails_around_it_is_named_and_the_head_never_jumps(graph, head, run):
    node = run('selection:=rules', 'idle:=false')
    graph.until(lambda: head.commands, 'a command')
    image = messages.to_image(np.full((120, 160, 3), 90, np.uint8), head.stamp(), 'eye')
    camera = graph.tester.create_publisher(Image, 'image', qos.SENSOR)
    graph.until(camera.get_subscription_count, 'a listener')

    def show(words, **fields):
        for name, value in fields.items():
            setattr(image, name, value)

        def told():
            image.header.stamp = head.stamp()
            camera.publish(image)
            return node.says(words)

        graph.until(told, words)

    show("dropped: image without camera info: nothing usable on 'camera_info' yet")
    info = messages.to_camera_info(Camera.from_field_of_view(160, 120, 60.0), head.stamp(), 'eye')
    # Again and again: what is published while two processes find each other may be lost.
    graph.tester.create_timer(0.2, lambda: graph.say(info, 'camera_info', qos.SENSOR))
    show("dropped: bad image: encoding 'bayer_rggb8'; use mono8", encoding='bayer_rggb8')
    image.header.frame_id = 'wrist'
    show("dropped: image in another frame: 'wrist' instead of 'eye'")

    def ask(words, topic='gaze/look_at', **fields):
        """Tell again and again: what is published while two processes find each other may be lost."""

        def told():
            target = head.target(**fields)
            target.timeout.sec = 60
            graph.say(target, topic, qos.STATE)
            return node.says(words)

        graph.until(told, words)

    ask("look-at refused: no transform from 'moon_base' to 'neck_base'", name='moon', frame='moon_base')
    link = TransformStamped(child_frame_id='table')
    link.header.frame_id, link.header.stamp = 'neck_base', head.stamp(ago=10.0)
    link.transform.rotation.w = 1.0
    graph.say(TFMessage(transforms=[link]), '/tf', qos.TRANSFORMS)
    graph.tester.create_timer(0.2, lambda: graph.say(TFMessage(transforms=[link]), '/tf', qos.TRANSFORMS))
    words = "dropped: target not usable: 'cup': transform 'neck_base' to 'table' is"
    ask(words, topic='people', name='cup', frame='table')

    rival = graph.tester.create_publisher(JointTrajectory, 'joint_trajectory', qos.COMMAND)
    graph.until(lambda: node.says('/tester commands this head too, on /joint_trajectory; silent until'), 'a word')
    graph.settle()
    count = len(head.commands)
    graph.settle()
    assert len(head.commands) == count, 'silent beside another commander'
    graph.tester.destroy_publisher(rival)
    graph.until(lambda: node.says('alone again: going on from where the head is'), 'a word')
    graph.until(lambda: len(head.commands) > count, 'commands again')
    assert head.largest_jump() < 0.0

    head.follows = False
    ask('the head does not follow its commands; is the trajectory', name='wall', yaw=60.0, client='app')
    graph.until(lambda: abs(head.commands[-1][1][0] - head.row[0]) < 0.5, 'the hold where the head is')
    head.follows = True
    graph.until(lambda: abs(head.gaze_yaw() - 60.0) < 5.0, 'another try')
    where = len(head.commands)
    head.tells = False
    graph.until(lambda: node.says('no joint states for'), 'a word')
    graph.until(lambda: abs(head.commands[-1][1][0]) < 2.0, 'hold, then rest')
    head.commands = head.commands[where:]
    assert head.largest_jump() < 0.0
    assert node.end() == 0 and not node.says('Traceback')


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('neck_yaw: {joint: a, lower: -80, upper: 80, velocity: 9, acceleration: 9}', 'missing joint neck_pitch'),
        (
            'neck_yaw: {joint: a, lower: 80, upper: -80, velocity: 9, acceleration: 9}, '
            'neck_pitch: {joint: b, lower: -8, upper: 8, velocity: 9, acceleration: 9}',
            'reversed limits',
        ),
    ],
    ids=['missing', 'reversed'],
)
def test_a_profile_that_cannot_be_leaves_the_node_unconfigured_and_silent(graph, head, run, tmp_path, text, words):
    path = tmp_path / 'head.yaml'
    path.write_text(f'name: head\njoints: {{{text}}}\n')
    node = run(f'profile:={path}', 'faces:=false')
    graph.until(lambda: node.says(words), words)
    graph.settle()
    assert not head.commands
    assert node.end() == 0 and not node.says('Traceback') and node.says('cannot configure')
