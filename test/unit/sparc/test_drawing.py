"""What a recording keeps of a run, and which moment the picture shows."""

from __future__ import annotations

import numpy as np
import pytest

from attn_robotics.simulation.grid import GridFrame
from attn_robotics.systems.sparc.drawing import Painter, Recording, save_picture
from attn_robotics.systems.sparc.mission import ContactCounter

NOBODY = np.zeros((1, 2))


@pytest.mark.parametrize('offered', [5, 20, 21, 1000])
def test_a_long_recording_is_thinned_out_evenly_and_stays_bounded(offered):
    recording = Recording(most=20)
    for tick in range(offered):
        recording.add(float(tick), np.full((1, 2), tick), [(0, 0, float(tick))], NOBODY)
    times = np.array(recording.times_s)
    assert min(offered, 10) <= len(times) <= 20
    assert times[0] == 0 and len(set(np.diff(times))) == 1
    assert offered - 1 - times[-1] < times[1] - times[0], 'the end is missing'
    assert [frame[0, 0] for frame in recording.positions] == times.tolist()
    assert [edges[0][2] for edges in recording.edges] == times.tolist() and len(recording.goals) == len(times)


def test_the_picture_shows_the_moment_of_most_attention(tmp_path, monkeypatch):
    recording = Recording()
    edges = [[], [(0, 1, 0.2)], [(0, 1, 0.4), (1, 0, 0.5)], [(0, 1, 0.8)], []]
    for tick, seen in enumerate(edges):
        recording.add(float(tick), np.full((2, 2), 0.5 + tick), seen, np.ones((2, 2)))
    painter = Painter(np.zeros((6, 6), bool), GridFrame(6, 6), 0.3)
    painted, paint = [], painter.paint
    monkeypatch.setattr(painter, 'paint', lambda *given: painted.append(given) or paint(*given))
    save_picture(tmp_path / 'run.png', painter, recording)
    assert painted[0][2] == edges[2] and painted[0][0][0, 0] == 2.5
    assert (tmp_path / 'run.png').read_bytes().startswith(b'\x89PNG')


def test_without_attention_the_picture_shows_the_middle():
    recording = Recording()
    for tick in range(5):
        recording.add(float(tick), NOBODY, [], NOBODY)
    assert recording.busiest() == 2


def test_two_that_touch_for_long_are_one_event_whoever_tells():
    counter = ContactCounter()
    for tick in range(50):
        counter.take('a', 'b', 0.02 * tick)
        counter.take('b', 'a', 0.02 * tick)
    assert counter.events == 1
    counter.take('a', 'wall', 0.98)
    counter.take('b', 'a', 0.98 + 0.26)
    assert counter.events == 3
