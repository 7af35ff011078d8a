"""What the gaze node says and does when its input fails."""

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo, Image
from trajectory_msgs.msg import JointTrajectory

from attn_robotics.conversions import gaze as messages
from attn_robotics.ros import qos
from attn_robotics.systems.gaze.camera import Camera
from attn_robotics.systems.gaze.faces import draw_face

pytestmark = pytest.mark.ros


def test_silent_joints_make_it_hold_and_rest_and_nothing_jumps_when_they_come_back(graph, head, gaze):
    node = gaze()
    graph.until(lambda: head.commands, 'a command')
    wall = head.target('wall', 45.0, client='app')
    wall.timeout.sec = 60
    graph.say(wall, 'gaze/look_at', qos.STATE)
    graph.until(lambda: head.row[0] > 10.0, 'the turn')
    head.tells = head.follows = False
    graph.until(lambda: 'no head pose for' in node.diagnose()[1], 'the diagnosis')
    assert node.diagnose()[0] == DiagnosticStatus.ERROR
    graph.until(lambda: abs(head.commands[-1][1][0]) < 2.0, 'the return to rest')
    count = len(head.commands)
    where = head.row[0]
    head.tells = True
    graph.until(lambda: abs(head.commands[-1][1][0] - where) < 2.0, 'a command where the head is')
    back = next(k for k in range(count, len(head.commands)) if abs(head.commands[k][1][0]) > 5.0)
    assert head.commands[back][1][0] == pytest.approx(where, abs=1.0), 'the first one, not a way towards it'


def test_a_controller_that_stops_answering_finds_its_command_where_the_head_is(graph, head, gaze):
    node = gaze()
    graph.until(lambda: head.commands, 'a command')
    head.follows = False
    wall = head.target('wall', 70.0, client='app')
    wall.timeout.sec = 60
    graph.say(wall, 'gaze/look_at', qos.STATE)
    graph.until(lambda: 'does not follow' in node.diagnose()[1], 'the diagnosis')
    assert node.diagnose()[0] == DiagnosticStatus.ERROR
    graph.until(lambda: abs(head.commands[-1][1][0] - head.row[0]) < 0.5, 'the hold')
    head.follows = True
    graph.until(lambda: abs(head.gaze_yaw() - 70.0) < 5.0, 'another try')


def test_a_second_commander_silences_the_first_until_it_has_left(graph, head, gaze):
    node = gaze()
    graph.until(lambda: head.commands, 'a command')
    other = graph.tester.create_publisher(JointTrajectory, 'joint_trajectory', qos.COMMAND)
    graph.until(lambda: node.diagnose()[0] == DiagnosticStatus.ERROR, 'the diagnosis')
    assert '/tester commands this head too' in node.diagnose()[1]
    graph.settle()
    count = len(head.commands)
    graph.settle()
    assert len(head.commands) == count
    head.row = np.array([-30.0, 0.0, 0.0, 0.0, 0.0, 0.0])  # the other one has moved the head
    graph.settle()
    graph.tester.destroy_publisher(other)
    graph.until(lambda: len(head.commands) > count, 'commands again')
    assert head.commands[count][1][0] == pytest.approx(-30.0, abs=1.0)


def test_faces_in_images_are_found_and_bad_images_are_named(graph, head, gaze):
    camera = Camera.from_field_of_view(320, 240, 60.0)
    node = gaze(faces=True)
    graph.until(lambda: head.commands, 'a command')
    pixels = np.full((240, 320, 3), 160, np.uint8)
    face = draw_face(3)
    small = face[:: face.shape[0] // 110, :: face.shape[1] // 110]
    pixels[60 : 60 + small.shape[0], 30 : 30 + small.shape[1]] = small[..., :3]

    def image(**fields):
        message = messages.to_image(pixels, head.stamp(), 'eye')
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    def dropped(reason):
        return lambda: node.dropped[reason]

    publisher = graph.tester.create_publisher(Image, 'image', qos.SENSOR)

    def show(**fields):
        graph.until(publisher.get_subscription_count, 'a listener')
        publisher.publish(image(**fields))

    show()
    graph.until(dropped('image without camera info'), 'the complaint')
    graph.until(lambda: 'camera_info' in node.diagnose()[1], 'the complaint among the diagnostics')
    graph.say(CameraInfo(width=320, height=240), 'camera_info', qos.SENSOR)
    graph.until(dropped('bad camera info'), 'the complaint')
    graph.say(messages.to_camera_info(camera, head.stamp(), 'eye'), 'camera_info', qos.SENSOR)
    graph.until(lambda: not node.diagnose()[1].startswith('images come'), 'the camera')
    for fields, reason in (
        ({'encoding': 'bayer_rggb8'}, 'bad image'),
        ({'width': 100}, 'image of another size'),
        ({'step': 10}, 'bad image'),
    ):
        before = node.dropped[reason]
        show(**fields)
        graph.until(lambda: node.dropped[reason] > before, reason)  # noqa: B023
    old = image()
    old.header.stamp = head.stamp(ago=60.0)
    publisher.publish(old)
    graph.until(dropped('image of another time'), 'the complaint')
    stranger = image()
    stranger.header.frame_id = 'wrist'
    publisher.publish(stranger)
    graph.until(dropped('image in another frame'), 'the complaint')
    timer = graph.tester.create_timer(0.1, show)
    graph.until(lambda: head.row[0] + head.row[2] > 5.0, 'a look at the face on the left')
    graph.tester.destroy_timer(timer)
    assert not graph.errors()
    node._faces._detector._process.kill()
    graph.until(dropped('face detector died'), 'the complaint')
    searched = node._faces.images
    graph.tester.create_timer(0.1, show)
    graph.until(lambda: node._faces.images > searched, 'a search by its successor')


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        ({'profile': 'nowhere'}, "robot profile 'nowhere' not found"),
        ({'humans': True}, 'humans needs hri_msgs'),
        ({'selection': 'vlm'}, 'selection vlm needs vlm_url'),
        ({'selection': 'oracle'}, "'rules' or 'attention' or 'vlm'"),
    ],
)
def test_a_bad_parameter_is_one_clear_line(graph, gaze, parameters, words):
    gaze(**parameters)
    graph.until(lambda: graph.errors(), 'an error')
    assert words in graph.errors()[0] and 'Traceback' not in graph.log()


@pytest.mark.parametrize(
    ('joints', 'words'),
    [
        ('{neck_yaw: {joint: a, lower: -80, upper: 80, velocity: 9, acceleration: 9}}', 'missing joint neck_pitch'),
        (
            '{neck_yaw: {joint: a, lower: 80, upper: -80, velocity: 9, acceleration: 9}, '
            'neck_pitch: {joint: b, lower: -8, upper: 8, velocity: 9, acceleration: 9}}',
            'reversed limits',
        ),
    ],
)
def test_a_bad_profile_is_one_clear_line(graph, gaze, tmp_path, joints, words):
    path = tmp_path / 'head.yaml'
    path.write_text(f'name: head\njoints: {joints}\n')
    node = gaze(profile=str(path))
    graph.until(lambda: graph.errors(), 'an error')
    assert words in graph.errors()[0] and 'Traceback' not in graph.log()
    assert graph.state(node) == 'unconfigured'
