"""Going on from a measured pose, and targets that are given from the neck."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.systems.gaze.arbitration import Request
from attn_robotics.systems.gaze.command import Target
from attn_robotics.systems.gaze.core import GazeCore
from attn_robotics.systems.gaze.planner import PERIOD, GazePlanner
from attn_robotics.systems.gaze.pose_history import rotate, vector
from attn_robotics.systems.gaze.profile import load_profile

PROFILE = load_profile('eyes_neck_lids')
ANGLE = st.one_of(st.floats(-200.0, 200.0), st.sampled_from([math.nan, math.inf]))


@settings(max_examples=25, deadline=None)
@given(ANGLE, ANGLE, ANGLE, st.sampled_from([None, Target('a', -20.0, 5.0)]))
def test_a_planner_starts_at_any_measured_pose_within_its_limits_and_without_a_jump(yaw, pitch, eye, target):
    planner = GazePlanner(PROFILE, seed=1)
    for k in range(20):
        planner.step(k * PERIOD, Target('b', 40.0, 0.0))
    planner.start_at((yaw, pitch), (eye, 0.0))
    start = planner.head
    for value, given_value, axis in zip(start, (yaw, pitch), ('neck_yaw', 'neck_pitch'), strict=True):
        joint = PROFILE.joints[axis]
        finite = given_value if math.isfinite(given_value) else 0.0
        assert value == min(max(finite, joint.lower), joint.upper)
    last = start
    for k in range(20, 120):
        head = planner.step(k * PERIOD, target).head
        assert (np.abs(head - last) <= PROFILE.joints['neck_yaw'].velocity * PERIOD + 1e-9).all()
        last = head


def test_a_target_given_from_the_neck_is_met_by_the_line_of_sight_from_the_eyes():
    core = GazeCore(PROFILE, GazePlanner(PROFILE, scatter=False, idle=False))
    way = (40.0, -10.0, 0.6)  # near, so that the eyes' place in the head counts
    core.request(Request('app', Target('cup', *way, from_neck=True), timeout=60.0), 0.0)
    for k in range(300):
        core.observe_head(k * PERIOD, *core.planner.head)
        result = core.step(k * PERIOD)
    head, eye = result.command.head, result.command.eye
    to_cup = way[2] * vector(way[0], way[1]) - rotate(head, np.array(PROFILE.eye_offset))
    sight = vector(*(head + eye))
    angle = math.degrees(math.acos(float(sight @ to_cup) / float(np.linalg.norm(to_cup))))
    assert angle < 1.5, 'the undershoot of half a degree and a little more'
    assert result.target.pitch == pytest.approx(math.degrees(math.asin(to_cup[2] / np.linalg.norm(to_cup))), abs=0.2)
