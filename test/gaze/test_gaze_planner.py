"""The planner stays safe whatever it is told."""

import math

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.systems.gaze.command import Phase, Target
from attn_robotics.systems.gaze.planner import GazePlanner
from attn_robotics.systems.gaze.profile import AXES, joint_rows, load_profile, parse_profile
from attn_robotics.systems.gaze.safety import AxisLimiter

ROBOTS = ['neck_only', 'neck_screen_eyes', 'eyes_neck_lids']


def drive(planner, target_at, seconds, dt=0.01, **kwargs):
    points = [planner.step(k * dt, target_at(k * dt), **kwargs).points for k in range(round(seconds / dt))]
    return np.concatenate(points)


def minimal():
    joint = {'joint': 'j', 'lower': -40, 'upper': 40, 'velocity': 100, 'acceleration': 1000}
    return {'name': 'r', 'joints': {'neck_yaw': dict(joint), 'neck_pitch': dict(joint)}}


@pytest.mark.parametrize('robot', ROBOTS)
def test_every_shipped_head_reaches_a_target_and_rests_when_it_is_lost(robot):
    planner = GazePlanner(load_profile(robot), scatter=False, idle=False)
    rows = drive(planner, lambda t: Target('a', 35, 8) if t < 2 else None, 8)
    seen, last = rows[390], rows[-1]
    assert seen[:2] + seen[2:4] == pytest.approx([35, 8], abs=0.3)
    assert np.abs(last[:2]).max() < 1.0 and np.abs(last[:2] + last[2:4]).max() < 0.5


@pytest.mark.parametrize('robot', ROBOTS)
@given(st.data())
@settings(max_examples=12, deadline=None)
def test_no_input_makes_a_joint_leave_its_limits_or_speed(robot, data):
    profile = load_profile(robot)
    planner = GazePlanner(profile, seed=data.draw(st.integers(0, 99)))
    number = st.one_of(st.floats(-400, 400), st.just(math.nan), st.just(math.inf))
    target = st.one_of(st.none(), st.builds(Target, st.sampled_from('abc'), number, number, number))
    now, last = 0.0, None
    for _ in range(40):
        now += data.draw(st.sampled_from([0.01, 0.01, 0.01, 0.0, -3.0, 0.03, 7.0]))
        command = planner.step(now, data.draw(target))
        assert np.isfinite(command.points).all()
        for i, axis in enumerate(AXES):
            if axis not in profile.joints:
                assert (command.points[:, i] == 0).all()
                continue
            joint = profile.joints[axis]
            assert (command.points[:, i] >= joint.lower).all() and (command.points[:, i] <= joint.upper).all()
            track = command.points[:, i] if last is None else np.concatenate([[last[i]], command.points[:, i]])
            assert np.abs(np.diff(track)).max(initial=0) <= joint.velocity * 0.005 * 1.0001 + 1e-9
        last = command.points[-1]


def test_shrunk_limits_are_returned_to_without_a_jump():
    data = minimal()
    planner = GazePlanner(parse_profile(data), scatter=False, idle=False)
    before = drive(planner, lambda t: Target('a', 38, 0), 2)[-1, 0]
    data['joints']['neck_yaw']['upper'] = 10
    planner.set_profile(parse_profile(data))
    points = np.concatenate([planner.step(2 + k * 0.01, Target('a', 38, 0)).points for k in range(200)])[:, 0]
    assert before > 37 and points[-1] <= 10.0
    assert np.abs(np.diff(points)).max() <= 100 * 0.005 + 1e-9


def test_a_target_that_keeps_moving_is_still_reached():
    planner = GazePlanner(load_profile(), scatter=False, idle=False)
    rows = drive(planner, lambda t: Target('a', 10 + 8 * t, 0), 3)
    gaze = rows[:, 0] + rows[:, 2]
    assert abs(gaze[-1] - 34) < 2.0


def test_targets_that_flicker_every_step_do_not_freeze_the_head():
    planner = GazePlanner(load_profile(), scatter=False, idle=False)
    turn = iter(range(10**6))
    rows = drive(planner, lambda t: Target('ab'[next(turn) % 2], 30, 0), 1)
    assert abs(rows[-1, 0] + rows[-1, 2] - 30) < 0.5


def test_a_saccade_in_flight_is_finished_before_the_next_target():
    planner = GazePlanner(load_profile(), scatter=False, idle=False)
    rows = drive(planner, lambda t: Target('a', 20, 0) if t < 0.15 else Target('b', -20, 0), 1.2)
    gaze = rows[:, 0] + rows[:, 2]
    assert gaze.max() == pytest.approx(20, abs=0.5)
    assert gaze[-1] == pytest.approx(-20, abs=0.5)


def test_lost_input_holds_then_rests():
    planner = GazePlanner(load_profile(), scatter=False, idle=False)
    drive(planner, lambda t: Target('a', 20, 0), 1)
    assert planner.step(1.5, None).phase in (Phase.FIXATION, Phase.HOLD)
    phases = [planner.step(1.5 + 0.01 * k, None).phase for k in range(600)]
    assert Phase.HOLD in phases and phases[-1] is Phase.REST


def test_eyes_hold_the_target_while_a_slow_neck_lags():
    planner = GazePlanner(load_profile(), scatter=False, idle=False)
    head, gaze = 0.0, []
    for k in range(300):
        command = planner.step(k * 0.01, Target('a', 50, 0), head_measured=(head, 0.0))
        gaze.append(head + command.eye[0])
        head += 0.1 * (command.head[0] - head)  # neck with a lag of 100 ms
    assert np.abs(np.array(gaze[150:]) - 50).max() < 2.0


def test_same_seed_same_movement_other_seed_another():
    def run(seed):
        return drive(GazePlanner(load_profile(), seed=seed), lambda t: Target('a', 30, 5, is_face=True), 2)

    assert (run(1) == run(1)).all()
    assert np.abs(run(1) - run(2)).max() > 1


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (lambda d: d['joints'].pop('neck_pitch'), 'missing joint neck_pitch'),
        (lambda d: d['joints']['neck_yaw'].update(lower=50), 'reversed limits'),
        (lambda d: d['joints']['neck_yaw'].pop('velocity'), 'lacks velocity'),
        (lambda d: d['joints']['neck_yaw'].update(velocity=-1), 'must be positive'),
        (lambda d: d['joints']['neck_yaw'].update(upper=float('nan')), 'finite number'),
        (lambda d: d['joints'].update(tail={}), 'unknown axes'),
        (lambda d: d['joints'].update(eyes_yaw=d['joints']['neck_yaw']), 'come together'),
        (lambda d: d.update(camera_on='hat'), 'camera_on'),
        (lambda d: d.update(joints=3), 'mapping'),
    ],
    ids=lambda x: x if isinstance(x, str) else '',
)
def test_a_bad_profile_is_refused_in_one_line(spoil, words):
    data = minimal()
    spoil(data)
    with pytest.raises(ValueError, match=words) as error:
        parse_profile(data, 'robot.yaml')
    assert '\n' not in str(error.value) and 'robot.yaml' in str(error.value)


def test_a_missing_profile_names_the_shipped_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match='eyes_neck_lids'):
        load_profile('nobody')
    broken = tmp_path / 'x.yaml'
    broken.write_text('a: [', encoding='utf-8')
    with pytest.raises(ValueError, match='not valid YAML'):
        load_profile(broken)
    good = tmp_path / 'y.yaml'
    good.write_text(yaml.safe_dump(minimal()), encoding='utf-8')
    assert load_profile(good).name == 'r'


@given(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=1, max_size=60), st.floats(1e-4, 0.05))
@settings(max_examples=80, deadline=None)
def test_the_limiter_never_leaves_its_joint(wanted, dt):
    joint = parse_profile(minimal()).joints['neck_yaw']
    limiter = AxisLimiter(joint)
    for value in wanted:
        before = limiter.position
        position = limiter.step(value, dt)
        assert joint.lower <= position <= joint.upper
        assert abs(position - before) <= joint.velocity * dt * 1.000001


def test_joint_rows_speak_the_robots_names_radians_and_signs():
    points = np.array([[10.0, 20.0, 5.0, 6.0, 2.0, 0.5]])
    names, rows = joint_rows(load_profile('eyes_neck_lids'), points)
    assert names[0] == 'neck_yaw_joint' and rows[0, 0] == pytest.approx(np.radians(10))
    assert rows[0, 1] == pytest.approx(-np.radians(20)) and rows[0, -1] == 0.5
    assert joint_rows(load_profile('neck_only'), points)[1].shape == (1, 2)
