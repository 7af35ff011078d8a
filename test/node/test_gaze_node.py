"""The gaze node in one process with a head that follows its trajectories."""

import math
import socket

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point, TransformStamped
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from attn_robotics.conversions.attention import from_attention_map
from attn_robotics.conversions.frames import turned
from attn_robotics.ros import qos
from attn_robotics_interfaces.msg import AttentionMap, GazeState, GazeTarget
from attn_robotics_interfaces.srv import LookAt

pytestmark = pytest.mark.ros


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
    graph.until(lambda: abs(head.gaze_yaw() - 30.0) < 4.0, 'gaze on the person')
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
        graph.until(lambda: abs(head.gaze_yaw() - 30.0) < 4.0, 'gaze on the person')
        graph.until(lambda: int(node.diagnose()[2]['vlm failed']) > 0, 'the count of failures')


def test_a_voice_turns_gaze_to_where_nobody_is_seen(graph, head, gaze):
    gaze()
    graph.until(lambda: head.commands, 'a command')
    say = lambda: graph.say(head.target('voice', -50.0, modality='auditory', weight=0.9), 'targets', qos.STATE)  # noqa: E731
    graph.tester.create_timer(0.1, say)
    graph.until(lambda: head.gaze_yaw() < -42.0, 'gaze on the voice')
    assert head.largest_jump() < 0.0


def test_clients_are_served_by_priority_and_can_take_their_wish_back(graph, head, gaze):
    states = graph.hear(GazeState, 'gaze/state', qos.STATE)
    gaze()
    graph.until(lambda: head.commands, 'a command')

    def ask(target, *, cancel=False):
        return graph.call(LookAt, 'gaze/look_at', target=target, cancel=cancel)

    door = head.target('door', 25.0, client='guard', priority=5)
    door.timeout.sec = 60
    assert ask(door).success
    graph.say(head.target('book', -25.0, client='reader', priority=1), 'gaze/look_at', qos.STATE)
    graph.until(lambda: states and states[-1].target_id == 'door' and abs(head.gaze_yaw() - 25.0) < 4.0, 'the door')
    assert ask(door, cancel=True).success
    again = ask(door, cancel=True)
    assert not again.success and "client 'guard' has no request" in again.message
    book = head.target('book', -25.0, client='reader', priority=1)
    book.timeout.sec = 60
    assert ask(book).success
    graph.until(lambda: abs(head.gaze_yaw() + 25.0) < 4.0, 'the book')
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
    graph.until(lambda: abs(head.gaze_yaw() - math.degrees(math.atan2(0.4, 1.0))) < 4.0, 'the cup')


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
