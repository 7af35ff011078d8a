"""Finds the saccades in a joint log and measures each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from attn_robotics.systems.gaze.command import GazeLog
from attn_robotics.systems.gaze.human import ONSET_SPEED, Array

RATE: Final = 500.0  # Hz to which a log is interpolated
MERGE: Final = 0.02  # s between two parts of one saccade
HEAD_ONSET_SPEED: Final = 5.0  # deg/s
HEAD_LAG: Final = 0.3  # s after eye onset; a head that starts later does so for another reason
HEAD_WINDOW: Final = 1.2  # s after onset in which the head's part is counted


@dataclass(frozen=True)
class Saccades:
    """K saccades, one value each."""

    onset: Array  # s
    amplitude: Array  # deg
    vertical: Array  # squared sine of the direction
    peak: Array  # deg/s
    duration: Array  # s
    skew: Array  # share of the duration before the peak
    offset: Array  # deg from where the head pointed before to where gaze landed
    head_share: Array  # part of `offset` that the head took; NaN when another shift cut in
    head_delay: Array  # s from eye to head onset; NaN where the head stays, or starts long after
    slip: Array  # deg RMS of gaze while the head still turns after landing; NaN where it does not
    end_yaw: Array  # deg, where gaze was at the end
    end_pitch: Array  # deg
    blinked: Array  # 1 when the lids closed within 0.25 s of onset, NaN without lids


def _smooth_speed(track: Array, t: Array) -> Array:
    """(T,) speed of a (T, 2) track by central differences."""
    return np.asarray(np.linalg.norm(np.gradient(track, t, axis=0), axis=1))


def find_saccades(log: GazeLog, min_amplitude: float = 1.0) -> Saccades:
    """Detect every gaze movement above 30 deg/s and measure it.

    The log is interpolated to 500 Hz with cubic splines, so that peaks of logs of 100 Hz or more are not cut.
    """
    from scipy.interpolate import CubicSpline

    t = np.arange(log.t[0], log.t[-1], 1.0 / RATE)
    gaze, head = (np.asarray(CubicSpline(log.t, part, axis=0)(t)) for part in (log.gaze, log.head))
    lids = np.interp(t, log.t, log.lids)
    speed, head_speed = _smooth_speed(gaze, t), _smooth_speed(head, t)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], speed > ONSET_SPEED, [False]]).astype(int)))
    spans = edges.reshape(-1, 2).tolist()
    merged: list[list[int]] = []
    for first, last in spans:
        if merged and first - merged[-1][1] < MERGE * RATE:
            merged[-1][1] = last
        else:
            merged.append([first, last])
    rows = []
    for i, (first, last) in enumerate(merged):
        last = min(last, t.size - 1)
        way = gaze[last] - gaze[first]
        amplitude = float(np.hypot(*way))
        if amplitude < min_amplitude or last - first < 3:
            continue
        following = merged[i + 1][0] if i + 1 < len(merged) else t.size
        rows.append(_measure(t, gaze, head, speed, head_speed, lids, first, last, following, amplitude))
    table = np.array(rows).reshape(-1, 13)
    return Saccades(*table.T)


def _measure(
    t: Array,
    gaze: Array,
    head: Array,
    speed: Array,
    head_speed: Array,
    lids: Array,
    first: int,
    last: int,
    following: int,
    amplitude: float,
) -> list[float]:
    way = gaze[last] - gaze[first]
    top = first + int(speed[first : last + 1].argmax())
    window = min(first + int(HEAD_WINDOW * RATE), following, t.size)
    lead = max(first - int(0.1 * RATE), 0)
    moving = np.flatnonzero(head_speed[lead:window] > HEAD_ONSET_SPEED)
    # A head that already moved when the window opened belongs to an earlier shift.
    fresh = moving.size > 0 and moving[0] > 0
    stopped = bool(window > last and head_speed[window - 1] < HEAD_ONSET_SPEED)
    offset = gaze[last] - head[lead]
    distance = max(float(np.hypot(*offset)), 1e-6)
    share = np.nan
    if stopped and (fresh or not moving.size):
        share = float((head[window - 1] - head[lead]) @ offset) / distance**2
    delay = (moving[0] + lead - first) / RATE if fresh else np.nan
    delay = delay if delay < HEAD_LAG else np.nan
    landed = np.arange(last + int(0.02 * RATE), window)
    turning = landed[head_speed[landed] > 20.0] if landed.size else landed
    slip = np.nan
    if turning.size > 0.03 * RATE:
        part = gaze[turning]
        slip = float(np.sqrt(np.square(part - part.mean(0)).sum(1).mean()))
    reach = int(0.25 * RATE)
    nearby = lids[max(first - reach, 0) : first + reach]
    blinked = np.nan if np.isnan(nearby).any() else float(nearby.max() > 0.5)
    return [
        t[first],
        amplitude,
        float(way[1] ** 2) / amplitude**2,
        float(speed[top]),
        (last - first) / RATE,
        (top - first) / max(last - first, 1),
        distance,
        share,
        delay,
        slip,
        float(gaze[last, 0]),
        float(gaze[last, 1]),
        blinked,
    ]
