"""Ways of moving a head that people build otherwise, behind the planner's `step`."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from attn_robotics.systems.gaze.command import Command, Phase, Target
from attn_robotics.systems.gaze.human import Array
from attn_robotics.systems.gaze.planner import SUBSTEP
from attn_robotics.systems.gaze.profile import AXES, Profile
from attn_robotics.systems.gaze.safety import SafetyLayer


class Controller(Protocol):
    """Whatever turns a target into commands tick by tick."""

    def step(self, now: float, target: Target | None) -> Command:
        """Command at time `now` [s]."""
        ...


class _Baseline:
    """Shared parts: the last target, limits, sub-steps of 5 ms."""

    def __init__(self, profile: Profile) -> None:
        self.safety = SafetyLayer(profile)
        self._profile = profile
        self._now = 0.0
        self._target = np.zeros(2)
        self._id = ''

    def step(self, now: float, target: Target | None) -> Command:
        """Advance to `now`."""
        if target is not None and target.is_valid:
            wanted = np.array([target.yaw, target.pitch])
            if target.id != self._id or np.hypot(*(wanted - self._target)) > 2.5:
                self._id = target.id
                self.begin(now, wanted)
            self._target = wanted
        times = np.arange(self._now + SUBSTEP, now + 1e-9, SUBSTEP)
        self._now = now if times.size == 0 else float(times[-1])
        rows = [self._limit(*self.pose(float(t))) for t in times]
        points = np.array(rows) if rows else np.array([[self.safety.positions()[axis] for axis in AXES]])
        return Command(Phase.FIXATION, self._id, times, points)

    def begin(self, now: float, target: Array) -> None:
        """A new target."""

    def pose(self, t: float) -> tuple[Array, Array]:
        """Wanted eye and head (2,) at time t [deg]."""
        raise NotImplementedError

    def _limit(self, eye: Array, head: Array) -> list[float]:
        wanted = (*head, *eye, 0.0, 0.0)
        return [self.safety.step(axis, float(value), SUBSTEP) for axis, value in zip(AXES, wanted, strict=True)]


class ServoBaseline(_Baseline):
    """Exponential servo: 15 % of the remaining way every 20 ms, with the head alone (as small companion robots do)."""

    alpha = 0.15
    tick = 0.02  # s

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self._head = np.zeros(2)

    def pose(self, t: float) -> tuple[Array, Array]:
        """Eye stays in the middle."""
        share = 1.0 - (1.0 - self.alpha) ** (SUBSTEP / self.tick)
        self._head = self._head + share * (self._target - self._head)
        return np.zeros(2), self._head


class NearestFaceBaseline(_Baseline):
    """What a first demonstration does: turn the neck to the face at constant joint speed, eyes fixed."""

    speed = 90.0  # deg/s

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self._head = np.zeros(2)

    def pose(self, t: float) -> tuple[Array, Array]:
        """Eye stays in the middle."""
        way = self._target - self._head
        size = float(np.hypot(*way))
        self._head = self._head + way * min(1.0, self.speed * SUBSTEP / max(size, 1e-9))
        return np.zeros(2), self._head


class FixedTimesBaseline(_Baseline):
    """Fixed times as iCub's gaze controller has by default: neck 0.75 s, eyes 0.25 s, no latency, VOR gain 1.

    Minimum-jerk neck that takes the whole way; a saccade for more than 10 deg, else the eyes go with the neck's time.
    """

    neck_time = 0.75  # s
    eye_time = 0.25  # s

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self._begun = -10.0
        self._head = (np.zeros(2), np.zeros(2))
        self._gaze = (np.zeros(2), np.zeros(2))
        self._time = self.eye_time
        self._last = (np.zeros(2), np.zeros(2))

    def begin(self, now: float, target: Array) -> None:
        """Start both from where they are."""
        eye, head = self._last
        self._begun = now
        self._head, self._gaze = (head, target), (eye + head, target)
        self._time = self.eye_time if np.hypot(*(target - eye - head)) > 10.0 else self.neck_time

    def pose(self, t: float) -> tuple[Array, Array]:
        """Both at t."""
        head = _min_jerk(*self._head, (t - self._begun) / self.neck_time)
        gaze = _min_jerk(*self._gaze, (t - self._begun) / self._time)
        across = self._profile.limits().eye_range[0]
        eye = np.clip(gaze - head, -across, across)
        self._last = (eye, head)
        return eye, head


def _min_jerk(start: Array, end: Array, x: float) -> Array:
    x = min(max(x, 0.0), 1.0)
    return np.asarray(start + (end - start) * (x**3 * (10.0 - 15.0 * x + 6.0 * x * x)))
