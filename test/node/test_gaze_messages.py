"""Frames and messages of the gaze system."""

import math

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import Image, JointState
from tf2_msgs.msg import TFMessage

from attn_robotics.conversions import gaze as messages
from attn_robotics.conversions.frames import FrameError, FrameTree, direction_of, turned
from attn_robotics.conversions.stamps import to_stamp
from attn_robotics.systems.gaze.command import Command, Phase
from attn_robotics.systems.gaze.profile import load_profile

PROFILE = load_profile('eyes_neck_lids')

pytestmark = pytest.mark.ros


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
