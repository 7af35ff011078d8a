"""Head poses of the last seconds, so that a bearing is combined with the pose at the time of ITS image.

Adding a bearing to the pose at processing time instead makes a servo overshoot by the distance the head has turned in
between: 28 deg at 200 ms in the published prototype, divergence at 300 ms.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque

import numpy as np

from attn_robotics.systems.gaze.human import Array


class PoseHistory:
    """Ring of (stamp, pose); poses are yaw and pitch of whatever carries the camera [deg]."""

    def __init__(self, seconds: float = 3.0, tolerance: float = 0.05) -> None:
        self._seconds = seconds
        self._tolerance = tolerance  # s beyond either end that is still answered
        self._stamps: deque[float] = deque()
        self._poses: deque[tuple[float, float]] = deque()

    def add(self, stamp: float, yaw: float, pitch: float) -> None:
        """Append a pose. A stamp older than the newest starts over (the clock was set back); NaN is ignored."""
        if not (math.isfinite(stamp) and math.isfinite(yaw) and math.isfinite(pitch)):
            return
        if self._stamps and stamp <= self._stamps[-1]:
            if stamp == self._stamps[-1]:
                return
            self._stamps.clear()
            self._poses.clear()
        self._stamps.append(stamp)
        self._poses.append((yaw, pitch))
        while stamp - self._stamps[0] > self._seconds:
            self._stamps.popleft()
            self._poses.popleft()

    def at(self, stamp: float) -> Array | None:
        """Pose (2,) at `stamp`, interpolated; None when the history does not reach there."""
        if not self._stamps or not math.isfinite(stamp):
            return None
        if not self._stamps[0] - self._tolerance <= stamp <= self._stamps[-1] + self._tolerance:
            return None
        after = bisect_left(self._stamps, stamp)
        if after == 0:
            return np.array(self._poses[0])
        if after == len(self._stamps):
            return np.array(self._poses[-1])
        t0, t1 = self._stamps[after - 1], self._stamps[after]
        share = (stamp - t0) / (t1 - t0)
        return (1.0 - share) * np.array(self._poses[after - 1]) + share * np.array(self._poses[after])

    def direction(self, bearing: tuple[float, float], stamp: float) -> Array | None:
        """Body-frame direction (2,) of something seen at `bearing` (yaw, pitch from the camera axis [deg])."""
        pose = self.at(stamp)
        if pose is None or not (math.isfinite(bearing[0]) and math.isfinite(bearing[1])):
            return None
        return np.asarray(body_direction(pose, bearing))


def body_direction(pose: Array, bearing: tuple[float, float]) -> Array:
    """Rotate a bearing in a camera at yaw and pitch `pose` (yaw about the vertical, then pitch) into the body [deg]."""
    return angles(rotate(pose, vector(*bearing)))


def vector(yaw: float, pitch: float) -> Array:
    """Unit vector (3,) forward, left, up of a direction [deg]."""
    turn, tilt = math.radians(yaw), math.radians(pitch)
    return np.array([math.cos(tilt) * math.cos(turn), math.cos(tilt) * math.sin(turn), math.sin(tilt)])


def rotate(pose: Array, point: Array) -> Array:
    """Turn a point (3,) fixed to a head with yaw and pitch `pose` [deg] into the body frame."""
    x, y, z = (float(value) for value in point)
    tilt, turn = math.radians(float(pose[1])), math.radians(float(pose[0]))
    x, z = math.cos(tilt) * x - math.sin(tilt) * z, math.sin(tilt) * x + math.cos(tilt) * z
    return np.array([math.cos(turn) * x - math.sin(turn) * y, math.sin(turn) * x + math.cos(turn) * y, z])


def angles(point: Array) -> Array:
    """Yaw and pitch (2,) of a point [deg]."""
    x, y, z = (float(value) for value in point)
    return np.array([math.degrees(math.atan2(y, x)), math.degrees(math.atan2(z, math.hypot(x, y)))])


class HeadPredictor:
    """Where the head is now, from encoders that tell it late: position plus speed times delay (for the VOR).

    With 10 ms of delay and a speed 5 % wrong, 150 deg/s of head leave 0.08 deg of error.
    """

    def __init__(self, delay: float) -> None:
        if delay < 0.0:
            raise ValueError(f'delay must not be negative, got {delay}')
        self.delay = delay

    def predict(self, position: Array, velocity: Array, acceleration: Array | None = None) -> Array:
        """Pose now from the delayed measurement (..., 2) [deg, deg/s, deg/s^2]."""
        ahead = position + self.delay * velocity
        return np.asarray(ahead if acceleration is None else ahead + 0.5 * self.delay**2 * acceleration)
