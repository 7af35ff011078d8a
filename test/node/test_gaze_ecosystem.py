"""Interfaces of other packages: pointing actions, REP-155 people, transforms."""

import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from geometry_msgs.msg import Point, PointStamped, TransformStamped
from rclpy.action import GoalResponse
from tf2_msgs.msg import TFMessage

from attn_robotics.conversions.frames import turned
from attn_robotics.nodes.gaze import Gaze
from attn_robotics.ros import qos
from attn_robotics_interfaces.msg import GazeTarget

pytestmark = pytest.mark.ros


class Goal:
    """A goal as an action server hands it over; remembers how it ended."""

    def __init__(self, field, yaw, frame='neck_base'):
        point = PointStamped(point=Point(x=math.cos(math.radians(yaw)), y=math.sin(math.radians(yaw))))
        point.header.frame_id = frame
        self.request, self.ended, self.is_cancel_requested = SimpleNamespace(**{field: point}), '', False

    def succeed(self):
        self.ended = 'succeeded'

    def abort(self):
        self.ended = 'aborted'

    def canceled(self):
        self.ended = 'canceled'


class Server:
    """Stands in for rclpy's action server, which needs generated types."""

    def __init__(self, node, kind, name, execute, *, goal_callback, cancel_callback):
        self.execute, self.judge = execute, goal_callback
        kind.server = self

    def send(self, graph, goal):
        answer = self.judge(goal.request)
        if answer == GoalResponse.ACCEPT:
            graph.executor.create_task(self.execute, goal)
        return answer

    def destroy(self):
        pass


@pytest.fixture
def actions(monkeypatch):
    """Stand-ins of the two packages, of which this suite's tests have no real ones: what their goals are called."""
    kinds = {}
    for package, action, field in (
        ('control_msgs', 'PointHead', 'target'),
        ('hri_actions_msgs', 'LookAt', 'look_goal'),
    ):
        kinds[action] = type(action, (), {'Result': dict, 'field': field})
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        inner = ModuleType(f'{package}.action')
        setattr(inner, action, kinds[action])
        monkeypatch.setitem(sys.modules, inner.__name__, inner)
    monkeypatch.setattr('attn_robotics.nodes._gaze_actions.ActionServer', Server)
    return kinds


@pytest.mark.parametrize('action', ['PointHead', 'LookAt'])
def test_an_action_of_the_ecosystem_succeeds_aborts_is_cancelled_and_refused(graph, head, gaze, actions, action):
    gaze()
    graph.until(lambda: head.commands, 'a command')
    server = actions[action].server

    def goal(yaw, frame='neck_base'):
        return Goal(actions[action].field, yaw, frame)

    first = goal(25.0)
    assert server.send(graph, first) == GoalResponse.ACCEPT
    graph.until(lambda: first.ended, 'the end')
    assert first.ended == 'succeeded' and head.gaze_yaw() == pytest.approx(25.0, abs=4.0)
    assert server.send(graph, goal(25.0, 'moon')) == GoalResponse.REJECT
    second, third, unreachable = goal(-40.0), goal(10.0), goal(179.0)
    server.send(graph, second)
    graph.settle()
    server.send(graph, third)
    graph.until(lambda: second.ended and third.ended, 'two ends')
    assert (second.ended, third.ended) == ('aborted', 'succeeded'), 'the newer one replaces the older'
    fourth = goal(-60.0)
    server.send(graph, fourth)
    fourth.is_cancel_requested = True
    graph.until(lambda: fourth.ended, 'the end')
    assert fourth.ended == 'canceled'
    server.send(graph, unreachable)
    graph.until(lambda: unreachable.ended, 'the end')
    assert unreachable.ended == 'aborted', 'nobody can look behind'


def test_people_of_a_rep_155_package_are_heard_of_on_its_topic(graph, head, gaze, monkeypatch):
    monkeypatch.setitem(sys.modules, 'hri_msgs', ModuleType('hri_msgs'))
    inner = ModuleType('hri_msgs.msg')
    inner.IdsList = type('IdsList', (), {})
    monkeypatch.setitem(sys.modules, 'hri_msgs.msg', inner)
    heard = {}
    create = Gaze.create_subscription

    def subscribe(self, kind, topic, callback, quality, **more):
        if kind is inner.IdsList:  # rclpy itself would ask for generated type support
            heard[topic] = callback
            return create(self, GazeTarget, 'unused', lambda _: None, quality)
        return create(self, kind, topic, callback, quality, **more)

    monkeypatch.setattr(Gaze, 'create_subscription', subscribe)
    gaze(humans=True)
    graph.until(lambda: head.commands, 'a command')

    def tell():
        graph.say(face_transform('ab12', -0.5, head), '/tf', qos.TRANSFORMS)
        heard['/humans/faces/tracked'](SimpleNamespace(ids=['ab12']))

    graph.tester.create_timer(0.1, tell)
    graph.until(lambda: abs(head.gaze_yaw() - math.degrees(math.atan2(-0.5, 1.0))) < 4.0, 'gaze on the face')


def face_transform(name, left, head):
    """A face one metre ahead."""
    link = TransformStamped(child_frame_id=f'face_{name}')
    link.header.frame_id, link.header.stamp = 'neck_base', head.stamp()
    link.transform.rotation.w = 1.0
    link.transform.translation.x, link.transform.translation.y = 1.0, left
    return TFMessage(transforms=[link])


def test_faces_of_other_packages_are_placed_by_their_transforms(graph, head, gaze):
    node = gaze()
    graph.until(lambda: head.commands, 'a command')
    percepts = node._percepts

    def tell():
        graph.say(face_transform('ab12', -0.5, head), '/tf', qos.TRANSFORMS)
        percepts.on_humans(['ab12', 'gone'])
        percepts.look_up_humans()

    graph.tester.create_timer(0.1, tell)
    graph.until(lambda: abs(head.gaze_yaw() - math.degrees(math.atan2(-0.5, 1.0))) < 4.0, 'gaze on the face')


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
