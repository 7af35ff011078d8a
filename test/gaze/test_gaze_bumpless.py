"""A head is taken over where it is, and given back there."""

import numpy as np
import pytest

from attn_robotics.systems.gaze.arbitration import Request
from attn_robotics.systems.gaze.bumpless import PATIENCE, BumplessGaze, HeadPose
from attn_robotics.systems.gaze.command import Target
from attn_robotics.systems.gaze.core import GazeCore
from attn_robotics.systems.gaze.planner import PERIOD, GazePlanner
from attn_robotics.systems.gaze.profile import load_profile


class Rig:
    """A gaze, a head that goes where it is told unless it is stuck, and a clock."""

    def __init__(self):
        profile = load_profile()
        self.gaze = BumplessGaze(GazeCore(profile, GazePlanner(profile, scatter=False, idle=False)))
        self.now, self.head, self.eye, self.follows = 10.0, (0.0, 0.0), (0.0, 0.0), True

    def tick(self, *, tell=True):
        self.now += PERIOD
        if tell:
            assert self.gaze.observe(HeadPose(self.now, self.head, self.eye), self.now) == ''
        command = self.gaze.step(self.now)
        if command is not None and self.follows:
            self.head, self.eye = (tuple(map(float, part)) for part in (command.head, command.eye))
        return command

    def look(self, yaw, seconds=60.0):
        assert self.gaze.core.request(Request('app', Target('wall', yaw, 0.0), timeout=seconds), self.now) is None


@pytest.fixture
def rig():
    return Rig()


def test_nothing_is_commanded_before_the_pose_is_known_and_the_first_command_is_there(rig):
    assert rig.tick(tell=False) is None and rig.gaze.silence(rig.now) > 0.0
    rig.head = (40.0, -10.0)
    command = rig.tick()
    assert np.allclose(command.head, [40.0, -10.0], atol=0.1)


def test_after_silence_or_a_foreign_hand_it_goes_on_from_the_measured_pose(rig):
    for _ in range(50):
        rig.tick()
    for _ in range(80):
        rig.tick(tell=False)
    assert rig.gaze.silence(rig.now) > 0.0
    rig.head = (25.0, 0.0)
    assert rig.tick().head[0] == pytest.approx(25.0, abs=0.5)
    rig.head = (-30.0, 5.0)
    rig.gaze.restart()
    assert np.allclose(rig.tick().head, [-30.0, 5.0], atol=0.5)


def test_a_head_that_does_not_follow_is_waited_for_where_it_is_and_longer_each_time(rig):
    rig.tick()
    rig.follows = False
    rig.look(70.0)
    waits, since = [], None
    for _ in range(4000):
        waiting = rig.gaze.is_waiting(rig.now + PERIOD)
        command = rig.tick()
        if waiting:
            assert np.allclose(command.head, rig.head, atol=0.5), 'a controller that comes back finds its command here'
            since = rig.now if since is None else since
        elif since is not None:
            waits.append(rig.now - since)
            since = None
    assert waits[0] == pytest.approx(PATIENCE[0], abs=0.05) and waits[1] == pytest.approx(2 * PATIENCE[0], abs=0.05)
    rig.follows = True
    for _ in range(2000):
        rig.tick()
    assert rig.head[0] + rig.eye[0] == pytest.approx(70.0, abs=1.0), 'and gaze gets there in the end'


@pytest.mark.parametrize('stamp', [0.0, 1e6, float('nan')])
def test_a_pose_of_another_clock_is_refused_with_a_reason(rig, stamp):
    assert 'use_sim_time' in rig.gaze.observe(HeadPose(stamp, (0.0, 0.0), (0.0, 0.0)), rig.now)
    assert rig.gaze.pose is None
