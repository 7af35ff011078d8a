"""The gaze node in one process with a head that follows its trajectories."""

import math
import socket

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point, PointStamped, TransformStamped
from rclpy.action import GoalResponse
from sensor_msgs.msg import CameraInfo, Image, JointState
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from attn_robotics.conversions import gaze as messages
from attn_robotics.conversions.attention import from_attention_map
from attn_robotics.conversions.frames import FrameError, FrameTree, direction_of, turned
from attn_robotics.conversions.stamps import to_seconds, to_stamp
from attn_robotics.nodes.gaze import Gaze
from attn_robotics.ros import qos
from attn_robotics.systems.gaze.camera import Camera
from attn_robotics.systems.gaze.command import Command, Phase
from attn_robotics.systems.gaze.faces import draw_face
from attn_robotics.systems.gaze.profile import load_profile
from attn_robotics_interfaces.msg import AttentionMap, GazeState, GazeTarget
from attn_robotics_interfaces.srv import LookAt

pytestmark = pytest.mark.ros

PROFILE = load_profile('eyes_neck_lids')
FASTEST = max(PROFILE.joints[axis].velocity for axis in ('neck_yaw', 'neck_pitch'))


class Head:
    """Goes where trajectories send it, tells its joints 50 times a second, and remembers every command."""

    def __init__(self, graph):
        self.graph, self.row = graph, np.zeros(6)
        self.follows, self.tells = True, True
        self.commands = []  # (stamp [s], row (6,))
        self._joints = graph.tester.create_publisher(JointState, 'joint_states', qos.SENSOR)
        graph.tester.create_subscription(JointTrajectory, 'joint_trajectory', self._on_trajectory, qos.COMMAND)
        graph.tester.create_timer(0.02, self._tell)

    def now(self):
        return self.graph.tester.get_clock().now().nanoseconds * 1e-9

    def stamp(self, ago=0.0):
        return to_stamp(self.now() - ago)

    def target(self, name='wall', yaw=20.0, pitch=0.0, distance=1.5, frame='neck_base', **fields):
        return messages.to_gaze_target(name, (yaw, pitch), distance, self.stamp(), frame, **fields)

    def largest_jump(self):
        """Most that the commanded neck moved between two commands beyond what its speed allows [deg]."""
        jumps = [
            np.abs(b[:2] - a[:2]).max() - FASTEST * 0.05  # a late step covers at most 50 ms
            for (_, a), (_, b) in zip(self.commands, self.commands[1:], strict=False)
        ]
        return max(jumps, default=-math.inf)

    def _on_trajectory(self, message):
        _, points = messages.from_trajectory(PROFILE, message)
        self.commands.append((to_seconds(message.header.stamp), points[-1]))
        if self.follows:
            self.row = points[-1]

    def _tell(self):
        if self.tells:
            self._joints.publish(messages.to_joint_state(PROFILE, self.row, self.stamp()))


@pytest.fixture
def head(graph):
    return Head(graph)


@pytest.fixture
def gaze(graph):
    """Start a gaze node; without faces, since a detector costs a process."""
    return lambda **parameters: graph.start(Gaze, **{'faces': False, 'selection': 'rules', 'idle': False, **parameters})


def gaze_yaw(head):
    return head.row[0] + head.row[2]


def test_no_command_leaves_before_the_head_pose_is_known(graph, head, gaze):
    head.tells = False
    node = gaze()
    graph.until(lambda: graph.state(node) == 'active')
    graph.settle()
    assert not head.commands
    level, text, _ = node.diagnose()
    assert level == DiagnosticStatus.WARN and 'neck_yaw_joint' in text and 'joint_states' in text
    head.tells, head.row = True, np.array([40.0, -10.0, 0.0, 0.0, 0.0, 0.0])
    graph.until(lambda: head.commands, 'a command')
    assert np.allclose(head.commands[0][1][:2], [40.0, -10.0], atol=0.5), 'it begins where the head is'
    graph.until(lambda: abs(head.row[0]) < 3.0, 'the way back to rest')
    assert head.largest_jump() < 0.0


def test_a_person_is_looked_at_and_everything_tells_so(graph, head, gaze):
    states = graph.hear(GazeState, 'gaze/state', qos.STATE)
    maps = graph.hear(AttentionMap, 'gaze/attention', qos.STATE)
    markers = graph.hear(MarkerArray, 'gaze/markers', qos.STATE)
    transforms = graph.hear(TFMessage, '/tf', qos.TRANSFORMS)
    gaze(selection='attention')
    graph.until(lambda: head.commands, 'a command')
    graph.tester.create_timer(0.1, lambda: graph.say(head.target('anna', 30.0, 5.0, 1.2), 'people', qos.STATE))
    graph.until(lambda: abs(gaze_yaw(head) - 30.0) < 4.0, 'gaze on the person')
    graph.until(lambda: states[-1].phase == GazeState.FIXATION and transforms and markers, 'a fixation')
    last = states[-1]
    assert last.target_id == 'anna' and last.header.frame_id == 'neck_base'
    assert last.head_yaw + last.eye_yaw == pytest.approx(math.radians(30.0), abs=0.1)
    assert 0.0 <= last.lid <= 1.0
    graph.until(lambda: any('anna' in m.key_ids for m in maps), 'attention to the person')
    shown = next(m for m in reversed(maps) if 'anna' in m.key_ids)
    assert from_attention_map(shown).sum() == pytest.approx(1.0, abs=1e-4)
    t = transforms[-1].transforms[0]
    assert (t.header.frame_id, t.child_frame_id) == ('neck_base', 'gaze_target')
    place = t.transform.translation
    assert math.degrees(math.atan2(place.y, place.x)) == pytest.approx(30.0, abs=4.0)
    assert not graph.errors()


def test_a_language_model_server_that_is_down_never_stops_gaze(graph, head, gaze):
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(('127.0.0.1', 0))
        node = gaze(selection='vlm', vlm_url=f'http://127.0.0.1:{closed.getsockname()[1]}/v1', vlm_model='any')
        graph.until(lambda: head.commands, 'a command')
        graph.tester.create_timer(0.1, lambda: graph.say(head.target('anna', 30.0), 'people', qos.STATE))
        graph.until(lambda: abs(gaze_yaw(head) - 30.0) < 4.0, 'gaze on the person')
        graph.until(lambda: int(node.diagnose()[2]['vlm failed']) > 0, 'the count of failures')


def test_a_voice_turns_gaze_to_where_nobody_is_seen(graph, head, gaze):
    gaze()
    graph.until(lambda: head.commands, 'a command')
    say = lambda: graph.say(head.target('voice', -50.0, modality='auditory', weight=0.9), 'targets', qos.STATE)  # noqa: E731
    graph.tester.create_timer(0.1, say)
    graph.until(lambda: gaze_yaw(head) < -42.0, 'gaze on the voice')
    assert head.largest_jump() < 0.0


def test_clients_are_served_by_priority_and_can_take_their_wish_back(graph, head, gaze):
    states = graph.hear(GazeState, 'gaze/state', qos.STATE)
    gaze()
    graph.until(lambda: head.commands, 'a command')
    client = graph.tester.create_client(LookAt, 'gaze/look_at')
    graph.until(client.service_is_ready, 'the service')

    def ask(target, *, cancel=False):
        future = client.call_async(LookAt.Request(target=target, cancel=cancel))
        graph.until(future.done, 'an answer')
        return future.result()

    door = head.target('door', 25.0, client='guard', priority=5)
    door.timeout.sec = 60
    assert ask(door).success
    graph.say(head.target('book', -25.0, client='reader', priority=1), 'gaze/look_at', qos.STATE)
    graph.until(lambda: states and states[-1].target_id == 'door' and abs(gaze_yaw(head) - 25.0) < 4.0, 'the door')
    assert ask(door, cancel=True).success
    again = ask(door, cancel=True)
    assert not again.success and "client 'guard' has no request" in again.message
    book = head.target('book', -25.0, client='reader', priority=1)
    book.timeout.sec = 60
    assert ask(book).success
    graph.until(lambda: abs(gaze_yaw(head) + 25.0) < 4.0, 'the book')
    refused = ask(head.target('moon', frame='moon_base'))
    assert not refused.success and "from 'moon_base' to 'neck_base'" in refused.message
    broken = head.target('nan')
    broken.point.x = math.nan
    assert 'no direction' in ask(broken).message
    assert head.largest_jump() < 0.0


def test_a_target_in_another_frame_is_turned_with_the_transform_of_its_time(graph, head, gaze):
    gaze()
    graph.until(lambda: head.commands, 'a command')
    link = TransformStamped(child_frame_id='table')
    link.header.frame_id, link.header.stamp = 'neck_base', head.stamp()
    link.transform.rotation = turned(90.0, 0.0)
    link.transform.translation.x = 1.0
    graph.say(TFMessage(transforms=[link]), '/tf_static', qos.TRANSFORMS_STATIC)
    target = GazeTarget(id='cup', point=Point(x=0.4), client='cook')  # 0.4 m to the left of a point 1 m ahead
    target.header.frame_id, target.header.stamp = 'table', head.stamp()
    target.timeout.sec = 60
    graph.settle()
    graph.say(target, 'gaze/look_at', qos.STATE)
    graph.until(lambda: abs(gaze_yaw(head) - math.degrees(math.atan2(0.4, 1.0))) < 4.0, 'the cup')


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
    graph.until(lambda: abs(gaze_yaw(head) - 70.0) < 5.0, 'another try')


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
    assert 'camera_info' in node.diagnose()[1]
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


class Goal:
    """A goal as an action server hands it over; remembers how it ended."""

    def __init__(self, yaw, frame='neck_base'):
        self.request, self.ended, self.is_cancel_requested = PointStamped(), '', False
        self.request.point = Point(x=math.cos(math.radians(yaw)), y=math.sin(math.radians(yaw)))
        self.request.header.frame_id = frame

    def succeed(self):
        self.ended = 'succeeded'

    def abort(self):
        self.ended = 'aborted'

    def canceled(self):
        self.ended = 'canceled'


class Server:
    """Stands in for rclpy's action server: neither control_msgs nor hri_actions_msgs has wheels."""

    Result = dict

    def __init__(self, node, kind, name, execute, *, goal_callback, cancel_callback):
        self.execute, self.judge, self.name = execute, goal_callback, name
        Server.latest = self

    def send(self, graph, goal):
        answer = self.judge(goal.request)
        if answer == GoalResponse.ACCEPT:
            graph.executor.create_task(self.execute, goal)
        return answer

    def destroy(self):
        pass


def test_an_action_of_the_ecosystem_succeeds_aborts_is_cancelled_and_refused(graph, head, gaze, monkeypatch):
    monkeypatch.setattr('attn_robotics.nodes._gaze_actions.ActionServer', Server)
    monkeypatch.setattr('attn_robotics.nodes.gaze.installed_actions', lambda: [(Server, '~/point_head', lambda g: g)])
    gaze()
    graph.until(lambda: head.commands, 'a command')
    server = Server.latest
    first = Goal(25.0)
    assert server.send(graph, first) == GoalResponse.ACCEPT
    graph.until(lambda: first.ended, 'the end')
    assert first.ended == 'succeeded' and gaze_yaw(head) == pytest.approx(25.0, abs=4.0)
    assert server.send(graph, Goal(25.0, 'moon')) == GoalResponse.REJECT
    second, third, unreachable = Goal(-40.0), Goal(10.0), Goal(179.0)
    server.send(graph, second)
    graph.settle()
    server.send(graph, third)
    graph.until(lambda: second.ended and third.ended, 'two ends')
    assert (second.ended, third.ended) == ('aborted', 'succeeded'), 'the newer one replaces the older'
    fourth = Goal(-60.0)
    server.send(graph, fourth)
    fourth.is_cancel_requested = True
    graph.until(lambda: fourth.ended, 'the end')
    assert fourth.ended == 'canceled'
    server.send(graph, unreachable)
    graph.until(lambda: unreachable.ended, 'the end')
    assert unreachable.ended == 'aborted', 'nobody can look behind'


def test_faces_of_other_packages_are_placed_by_their_transforms(graph, head, gaze):
    node = gaze()
    graph.until(lambda: head.commands, 'a command')
    percepts = node._percepts

    def tell():
        link = TransformStamped(child_frame_id='face_ab12')
        link.header.frame_id, link.header.stamp = 'neck_base', head.stamp()
        link.transform.rotation.w = 1.0
        link.transform.translation.x, link.transform.translation.y = 1.0, -0.5
        graph.say(TFMessage(transforms=[link]), '/tf', qos.TRANSFORMS)
        percepts.on_humans(['ab12', 'gone'])
        percepts.look_up_humans()

    graph.tester.create_timer(0.1, tell)
    graph.until(lambda: abs(gaze_yaw(head) - math.degrees(math.atan2(-0.5, 1.0))) < 4.0, 'gaze on the face')


def test_the_head_pose_can_come_from_transforms(graph, head, gaze):
    node = gaze(head_pose='tf')
    graph.until(lambda: graph.state(node) == 'active')
    graph.settle()
    assert "no transform from 'head' to 'neck_base'" in node.diagnose()[1] and not head.commands
    link = TransformStamped(child_frame_id='head')
    link.header.frame_id, link.header.stamp = 'neck_base', head.stamp()
    link.transform.rotation = turned(15.0, 10.0)
    graph.say(TFMessage(transforms=[link]), '/tf', qos.TRANSFORMS)
    graph.until(lambda: head.commands, 'a command')
    assert np.allclose(head.commands[0][1][:2], [15.0, 10.0], atol=0.5)


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


def test_the_node_can_be_deactivated_cleaned_up_and_brought_back(graph, head, gaze):
    node = gaze()
    graph.until(lambda: head.commands, 'a command')
    node.trigger_deactivate()
    graph.settle()
    count = len(head.commands)
    graph.settle()
    assert len(head.commands) == count
    node.trigger_cleanup()
    node.trigger_configure()
    node.trigger_activate()
    graph.until(lambda: len(head.commands) > count, 'commands again')
    assert not graph.errors()


def test_frames_are_interpolated_chained_and_refused_when_missing_or_old():
    tree = FrameTree()

    def link(parent, child, stamp, yaw=0.0, pitch=0.0, x=0.0):
        t = TransformStamped(child_frame_id=child)
        t.header.frame_id, t.header.stamp = parent, to_stamp(stamp)
        t.transform.rotation, t.transform.translation.x = turned(yaw, pitch), x
        return t

    tree.take(TFMessage(transforms=[link('body', 'neck', 0.0, x=1.0)]), is_static=True)
    tree.take(TFMessage(transforms=[link('neck', 'head', 10.0, 0.0)]))
    tree.take(TFMessage(transforms=[link('neck', 'head', 11.0, 40.0, 20.0)]))
    turn, shift = tree.lookup('body', 'head', 10.5)
    assert np.allclose(direction_of(turn), [20.0, 10.0], atol=0.7) and np.allclose(shift, [1.0, 0.0, 0.0])
    back, way = tree.lookup('head', 'body', 10.5)
    assert np.allclose(back @ turn, np.eye(3)) and np.allclose(back @ shift + way, 0.0)
    assert direction_of(tree.lookup('neck', 'head', 11.1)[0]) == pytest.approx((40.0, 20.0))
    with pytest.raises(FrameError, match=r"'neck' to 'head' is 4\.00 s too old"):
        tree.lookup('body', 'head', 15.0)
    with pytest.raises(FrameError, match="no transform from 'cup' to 'body'"):
        tree.lookup('body', 'cup', 10.5)
    broken = link('neck', 'ear', 1.0)
    broken.transform.rotation.w = math.nan
    assert tree.take(TFMessage(transforms=[broken, link('ear', 'ear', 1.0)])) == 2
    tree.take(TFMessage(transforms=[link('b', 'a', 1.0), link('a', 'b', 1.0)]))
    with pytest.raises(FrameError, match='loop'):
        tree.lookup('body', 'a', 1.0)


def test_messages_keep_signs_units_and_order():
    row = np.array([10.0, 20.0, -5.0, -8.0, 3.0, 0.25])
    command = Command(Phase.SACCADE, 'anna', np.array([0.005, 0.01]), np.stack([row * 0.5, row]))
    trajectory = messages.to_trajectory(PROFILE, command, to_stamp(5.0))
    times, points = messages.from_trajectory(PROFILE, trajectory)
    assert np.allclose(points[-1], row) and np.allclose(times, [0.005, 0.01])
    pitch = trajectory.points[-1].positions[list(trajectory.joint_names).index('neck_pitch_joint')]
    assert pitch == pytest.approx(-math.radians(20.0)), 'this robot counts pitch downwards'
    state = messages.to_gaze_state(command, to_stamp(5.0), 'neck_base')
    assert (state.head_pitch, state.lid) == (pytest.approx(-math.radians(20.0)), 0.75), 'REP-103: down is positive'
    pose = messages.from_joint_state(PROFILE, messages.to_joint_state(PROFILE, row, to_stamp(5.0)), 5.0)
    assert np.allclose([*pose.head, *pose.eye], row[:4])
    with pytest.raises(messages.MessageError, match='neck_pitch_joint'):
        messages.from_joint_state(PROFILE, JointState(name=['neck_yaw_joint'], position=[0.0]), 0.0)
    assert messages.from_joint_state(PROFILE, JointState(name=['wheel'], position=[0.0]), 0.0) is None
    trajectory.points[0].positions = [math.nan] * 6
    with pytest.raises(messages.MessageError, match='finite'):
        messages.from_trajectory(PROFILE, trajectory)


@pytest.mark.parametrize(('encoding', 'channels'), [('mono8', 1), ('rgb8', 3), ('bgr8', 3), ('bgra8', 4)])
def test_images_are_read_through_their_step_and_channel_order(encoding, channels):
    colour = {'mono8': [7], 'rgb8': [1, 2, 3], 'bgr8': [3, 2, 1], 'bgra8': [3, 2, 1, 255]}[encoding]
    step = 5 * channels + 3
    data = np.zeros((4, step), np.uint8)
    data[:, : 5 * channels] = colour * 5
    image = Image(height=4, width=5, encoding=encoding, step=step, data=data.tobytes())
    pixels = messages.from_image(image)
    assert pixels.shape == ((4, 5) if channels == 1 else (4, 5, 3))
    assert (pixels == (7 if channels == 1 else [1, 2, 3])).all()
