"""Clients sharing one gaze, and bearings at image time."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.systems.gaze.arbitration import MAX_CLIENTS, Arbiter, Request
from attn_robotics.systems.gaze.command import Target
from attn_robotics.systems.gaze.pose_history import HeadPredictor, PoseHistory, body_direction
from attn_robotics.systems.gaze.stale import run_servo


def request(client, yaw=0.0, **kwargs):
    return Request(client, Target(client, yaw, 0.0), **kwargs)


def test_a_higher_priority_takes_over_at_once_and_gives_back():
    arbiter = Arbiter()
    arbiter.submit(request('low', timeout=10), 0.0)
    assert arbiter.choose(0.0).client == 'low'
    arbiter.submit(request('high', priority=5, timeout=1), 0.1)
    assert arbiter.choose(0.11).client == 'high'
    assert arbiter.choose(1.2).client == 'low'
    assert arbiter.choose(20.0) is None


def test_equals_share_time_by_weight():
    arbiter = Arbiter()
    arbiter.submit(request('a', weight=3, timeout=1e4), 0.0)
    arbiter.submit(request('b', weight=1, timeout=1e4), 0.0)
    turns = [arbiter.choose(k * 0.05).client for k in range(4000)]
    assert turns.count('a') / len(turns) == pytest.approx(0.75, abs=0.03)
    switches = sum(x != y for x, y in itertools.pairwise(turns))
    assert switches < 2 * 200 / 1.5


@pytest.mark.parametrize(
    'bad', [{'weight': math.nan}, {'weight': 0.0}, {'timeout': -1.0}, {'timeout': math.inf}, {'yaw': math.nan}]
)
def test_a_bad_request_is_refused_with_the_client_named(bad):
    arbiter = Arbiter()
    assert "'x'" in arbiter.submit(request('x', **bad), 0.0)
    assert arbiter.choose(0.0) is None


def test_a_flood_of_clients_is_bounded_and_a_clock_set_back_does_not_keep_requests():
    arbiter = Arbiter()
    refusals = [arbiter.submit(request(str(k)), 100.0) for k in range(MAX_CLIENTS + 3)]
    assert sum(r is not None for r in refusals) == 3
    assert arbiter.choose(10.0) is not None
    assert arbiter.choose(12.5) is None


def test_withdrawing_twice_tells_so():
    arbiter = Arbiter()
    arbiter.submit(request('a'), 0.0)
    assert arbiter.withdraw('a') and not arbiter.withdraw('a')


def test_history_interpolates_and_admits_what_it_does_not_know():
    history = PoseHistory(seconds=1.0)
    assert history.at(0.0) is None
    for k in range(300):
        history.add(k * 0.01, k * 0.1, -k * 0.05)
    assert history.at(2.505) == pytest.approx([25.05, -12.525])
    assert history.at(1.0) is None and history.at(4.0) is None
    history.add(0.5, 1.0, 1.0)
    assert history.at(0.5) == pytest.approx([1, 1])
    history.add(math.nan, 1.0, 1.0)
    assert history.direction((math.nan, 0.0), 0.5) is None


@given(st.floats(-80, 80), st.floats(-40, 40), st.floats(-40, 40))
@settings(max_examples=50, deadline=None)
def test_a_level_camera_adds_its_yaw_and_a_centred_face_is_where_the_camera_points(yaw, bearing, pitch):
    assert body_direction(np.array([yaw, 0.0]), (bearing, 0.0)) == pytest.approx([yaw + bearing, 0.0], abs=1e-9)
    assert body_direction(np.array([yaw, pitch]), (0.0, 0.0)) == pytest.approx([yaw, pitch], abs=1e-9)


@pytest.mark.parametrize('delay', [0.05, 0.15, 0.3])
def test_stale_images_cause_no_overshoot_when_the_pose_at_image_time_is_used(delay):
    result = run_servo(delay=delay, jitter=0.03, image_time=True, seed=1)
    assert result.overshoot < 0.5
    assert result.settling < 0.7


def test_stale_images_do_cause_overshoot_when_the_present_pose_is_used():
    assert run_servo(delay=0.2, jitter=0.0, image_time=False, seed=1).overshoot > 5.0


def test_prediction_keeps_the_slip_of_a_late_and_wrong_gyro_small():
    t = np.arange(0, 1, 0.001)
    speed = 150 * np.sin(np.pi * t)
    head = np.cumsum(speed) * 0.001
    late, wrong = np.interp(t - 0.01, t, head), 1.05 * np.interp(t - 0.01, t, speed)
    predicted = HeadPredictor(0.01).predict(late, wrong)
    assert np.sqrt(np.mean((predicted - head) ** 2)) < 0.1
