"""Faults come as often, as late and as large as they are asked for, and again the same with the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.faults import Faults, LossyChannel, OdometryNoise, Outage, parse_outages


def test_a_channel_without_faults_passes_everything_at_once_and_in_order():
    channel = LossyChannel(Faults())
    for item in range(10):
        channel.push(item, now=1.0)
    assert channel.pop_due(1.0) == list(range(10))
    assert channel.pop_due(9.0) == []


def test_a_channel_loses_the_share_asked_for_and_repeats_it_under_a_seed():
    received = []
    for _ in range(2):
        channel = LossyChannel(Faults(message_loss=0.2, seed=3), stream=5)
        for item in range(5000):
            channel.push(item, 0.0)
        received.append(channel.pop_due(0.0))
        assert len(received[-1]) + channel.lost == 5000
        # five standard deviations of a binomial distribution
        assert abs(channel.lost - 1000) < 5 * math.sqrt(5000 * 0.2 * 0.8)
    assert received[0] == received[1]
    other = LossyChannel(Faults(message_loss=0.2, seed=3), stream=6)
    for item in range(5000):
        other.push(item, 0.0)
    assert other.pop_due(0.0) != received[0]


def delays(faults: Faults, every_s: float) -> list[float]:
    """Delay of each of 200 messages, looked for every 10 ms."""
    channel = LossyChannel(faults)
    found: list[float] = []
    sent = 0
    for tick in range(round(200 * every_s / 0.01) + 100):
        now = tick * 0.01
        if sent < 200 and now >= sent * every_s - 1e-9:
            channel.push(sent, now)
            sent += 1
        for item in channel.pop_due(now):
            assert item == len(found), 'a message overtook another'
            found.append(now - item * every_s)
    assert len(found) == 200
    return found


def test_messages_are_late_by_delay_and_jitter_and_do_not_overtake():
    faults = Faults(message_delay_s=0.1, message_jitter_s=0.2, seed=1)
    late = delays(faults, every_s=0.25)
    assert 0.1 - 1e-9 <= min(late) < 0.12
    assert 0.28 < max(late) < 0.32
    # in a quicker stream most wait for a slower one before them, but none longer than the slowest
    assert min(delays(faults, every_s=0.01)) >= 0.1 - 1e-9 and max(delays(faults, every_s=0.01)) < 0.32


def test_odometry_errors_have_the_deviation_and_memory_asked_for_and_stay_bounded():
    faults = Faults(odometry_noise_m=0.02, odometry_noise_rad=0.01, odometry_correlation_s=1.0, seed=4)
    noise = OdometryNoise(500, faults)
    truth = np.zeros((500, 3))
    errors = np.array([noise.apply(truth, 0.5 * tick) for tick in range(40)])
    np.testing.assert_allclose(errors.std(axis=(0, 1)), [0.02, 0.02, 0.01], rtol=0.05)
    assert (np.abs(errors) <= np.array([0.06, 0.06, 0.03]) + 1e-12).all()
    correlation = (errors[1:] * errors[:-1]).mean(axis=(0, 1)) / errors.var(axis=(0, 1))
    np.testing.assert_allclose(correlation, math.exp(-0.5), atol=0.03)
    np.testing.assert_array_equal(OdometryNoise(3, Faults()).apply(np.ones((3, 3)), 0.0), np.ones((3, 3)))


def test_outages_are_read_and_cover_their_time():
    assert parse_outages('3@10+5, robot_7@20') == (Outage(3, 10.0, 5.0), Outage(7, 20.0))
    assert parse_outages('') == ()
    faults = Faults(stops=parse_outages('1@10+5'), drop_outs=parse_outages('2@12'))
    assert faults.stopped(9.9, 3).tolist() == [False, False, False]
    assert faults.stopped(12.0, 3).tolist() == [False, True, True]
    assert faults.stopped(15.0, 3).tolist() == [False, False, True]
    assert faults.dropped(99.0, 3).tolist() == [False, False, True]


@pytest.mark.parametrize('text', ['3', '3@', 'x@3', '3@10+', '3@-1', '3@10+0'])
def test_a_misspelt_outage_is_refused(text):
    with pytest.raises(WorldError, match='outage'):
        parse_outages(text)


@pytest.mark.parametrize(
    ('wrong', 'culprit'),
    [({'message_loss': 1.5}, 'message_loss'), ({'message_delay_s': -1.0}, 'message_delay_s'),
     ({'odometry_noise_m': math.nan}, 'odometry_noise_m'), ({'odometry_correlation_s': 0.0}, 'correlation')],
)  # fmt: skip
def test_impossible_faults_are_refused(wrong, culprit):
    with pytest.raises(WorldError, match=culprit):
        Faults(**wrong)
    with pytest.raises(WorldError, match='only 2 robots'):
        Faults(stops=(Outage(2, 0.0),)).stopped(0.0, 2)
