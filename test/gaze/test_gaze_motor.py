"""The motor model against the published figures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.systems.gaze.human import (
    HORIZONTAL,
    VERTICAL,
    acceleration_share,
    peak_speed,
    saccade_duration,
    vergence_angle,
)
from attn_robotics.systems.gaze.motor import plan_shift, still_head
from attn_robotics.systems.gaze.style import Draws, Style


def shift_to(yaw, pitch=0.0, *, scatter=False, auditory=False, seed=0, style=None, n=1):
    rng = np.random.default_rng(seed)
    target = np.broadcast_to(np.stack(np.broadcast_arrays(yaw, pitch), axis=-1).astype(float), (n, 2))
    draws = Draws.draw(rng, n, auditory=auditory, scatter=scatter)
    rest = np.zeros((n, 2))
    return plan_shift(target, rest, still_head(rest), np.zeros(n), style or Style(), draws, auditory=auditory)


@pytest.mark.parametrize('row', HORIZONTAL, ids=lambda r: f'{r.amplitude:g}deg')
def test_horizontal_peaks_are_within_half_a_standard_deviation_of_people(row):
    eye, head, _ = shift_to(row.amplitude - 0.5).sample(np.arange(0, 0.6, 0.001))
    peak = np.abs(np.diff((eye + head)[0, :, 0])).max() / 0.001
    assert abs(peak - row.peak) < 0.5 * row.sd


@pytest.mark.parametrize('row', VERTICAL, ids=lambda r: f'{r.amplitude:g}deg')
def test_vertical_peaks_are_within_half_a_standard_deviation_of_people(row):
    eye, head, _ = shift_to(0.0, row.amplitude - 0.5).sample(np.arange(0, 0.6, 0.001))
    peak = np.abs(np.diff((eye + head)[0, :, 1])).max() / 0.001
    assert abs(peak - row.peak) < 0.5 * row.sd


@pytest.mark.parametrize('amplitude', [5, 10, 20, 30, 40])
def test_duration_and_skew_above_threshold_follow_the_published_laws(amplitude):
    eye, head, _ = shift_to(amplitude).sample(np.arange(0, 0.6, 0.0005))
    speed = np.abs(np.diff((eye + head)[0, :, 0])) / 0.0005
    above = np.flatnonzero(speed > 30.0)
    above = above[above < above[0] + 600]
    assert above.size * 0.0005 == pytest.approx(float(saccade_duration(amplitude)), rel=0.1)
    skew = (speed.argmax() - above[0] + 0.5) / above.size
    assert skew == pytest.approx(float(acceleration_share(amplitude)), rel=0.1)


@pytest.mark.parametrize(('amplitude', 'head'), [(10, 0.3), (20, 2.9), (30, 9.1), (40, 16.5), (60, 31.5), (80, 50.0)])
def test_the_median_head_ends_where_the_reconstruction_says(amplitude, head):
    assert shift_to(amplitude).sample(np.array([2.0]))[1][0, 0, 0] == pytest.approx(head, abs=0.06)


def test_main_sequence_saturates_and_grows_everywhere():
    sizes = np.linspace(0.1, 90, 500)
    assert (np.diff(peak_speed(sizes)) > 0).all()
    assert float(peak_speed(60.0)) == pytest.approx(502, abs=10)


def test_sounds_turn_the_head_further_than_sights():
    assert shift_to(30, auditory=True).head.end[0, 0] > shift_to(30).head.end[0, 0] + 2


def test_mean_head_share_is_small_up_to_15_deg_half_at_55_and_monotone():
    rng = np.random.default_rng(3)
    shares = []
    for size in (5.0, 15.0, 25.0, 35.0, 45.0, 55.0, 68.0):
        shift = shift_to(np.full(2000, size), style=Style.draw(rng, 2000), n=2000, scatter=True)
        shares.append(np.abs(shift.head.end[:, 0]).mean() / size)
    assert shares[0] < 0.15 and shares[1] < 0.15
    assert shares[5] == pytest.approx(0.5, abs=0.1)
    assert (np.diff(shares) > 0).all()


@given(
    st.floats(-120, 120), st.floats(-50, 50), st.floats(-30, 30), st.integers(0, 1000), st.booleans()
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_every_shift_is_continuous_finite_and_lands(yaw, pitch, start, seed, auditory):
    rng = np.random.default_rng(seed)
    rest = np.array([[start, 0.0]])
    shift = plan_shift(
        np.array([[yaw, pitch]]),
        rest,
        still_head(rest * 0.5),
        np.zeros(1),
        Style.draw(rng, 1),
        Draws.draw(rng, 1, auditory=auditory),
    )
    t = np.arange(0, 3, 0.001)
    eye, head, _ = shift.sample(t)
    assert np.isfinite(eye).all() and np.isfinite(head).all()
    # 1 ms at the fastest eye (main sequence plus head): nothing jumps
    assert np.abs(np.diff(eye, axis=1)).max() < 0.9
    assert np.abs(np.diff(head, axis=1)).max() < 0.4
    reachable = abs(yaw) <= 90 and np.hypot(yaw, pitch) < 100
    if reachable:
        assert np.hypot(*((eye + head)[0, -1] - [yaw, pitch])) < 2.5


def test_vergence_matches_the_table_of_distances():
    assert vergence_angle(np.array([0.4, 0.5, 1, 2, 3])) == pytest.approx([9.0, 7.2, 3.6, 1.8, 1.2], abs=0.05)


def test_a_second_turn_takes_over_the_moving_head_without_a_kink():
    first = shift_to(60)
    rest = np.array([[60.0, 0.0]])
    second = plan_shift(
        np.array([[-30.0, 0.0]]), rest, first.head, np.array([0.3]), Style(), Draws.draw(None, 1, scatter=False)
    )
    t = np.arange(0.0, 2.5, 0.001)
    _, head, speed = second.sample(t)
    assert np.abs(np.diff(speed[0, :, 0])).max() < 5.0
    assert np.abs(np.diff(head[0, :, 0]) / 0.001 - speed[0, 1:, 0]).max() < 5.0
