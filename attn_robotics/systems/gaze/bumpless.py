"""Bumpless transfer: a head is taken over where it is, and nothing jumps when joints or controllers come back.

A command far from where the head stands would be a jump as soon as somebody carries it out. So gaze starts from the
measured pose: at first, after silence of the joints, after somebody else has moved the head, and while it does not
follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from attn_robotics.systems.gaze.command import Command
from attn_robotics.systems.gaze.core import STALE_JOINTS, CoreResult, GazeCore

OTHER_CLOCK: Final = 2.0  # s: a stamp that is so far from now belongs to another clock
PATIENCE: Final = (2.0, 16.0)  # s before a head that did not follow is tried again: at first, and at most


@dataclass(frozen=True)
class HeadPose:
    """Measured joints of a head [deg]; eyes stay 0 where the robot has none."""

    stamp: float  # s
    head: tuple[float, float]  # yaw, pitch
    eye: tuple[float, float]


class BumplessGaze:
    """A `GazeCore` that commands only what continues the measured pose.

    Attributes:
        pose: newest measured one; None before the first.
        result: of the last tick in which gaze was decided.
    """

    def __init__(self, core: GazeCore) -> None:
        self.core = core
        self.pose: HeadPose | None = None
        self.result: CoreResult | None = None
        self._must_start = True
        self._patience, self._lost_at, self._retry_at = PATIENCE[0], -math.inf, -math.inf

    def observe(self, pose: HeadPose, now: float) -> str:
        """Take a measured pose; returns why it cannot be used, or nothing."""
        if not abs(now - pose.stamp) <= OTHER_CLOCK:
            return f'{now - pose.stamp:.1f} s from now; is use_sim_time the same everywhere?'
        if self.pose is not None and not 0.0 <= pose.stamp - self.pose.stamp <= STALE_JOINTS:
            self._must_start = True  # nobody knows where the head has been meanwhile
        self.pose = pose
        self.core.observe_head(pose.stamp, *pose.head, *pose.eye)
        return ''

    def restart(self) -> None:
        """Go on from the measured pose: somebody else may have moved the head."""
        self._must_start = True

    def silence(self, now: float) -> float:
        """Seconds without a pose, as far as that is worth a word; else 0."""
        silent = now - self.pose.stamp if self.pose is not None else math.inf
        return silent if silent > STALE_JOINTS else 0.0

    def is_waiting(self, now: float) -> bool:
        """Whether the head did not follow and is being waited for."""
        return now < self._retry_at

    def step(self, now: float, *, speaking: bool = False, follow_encoders: bool = False) -> Command | None:
        """One tick.

        Args:
            now: s.
            speaking: the robot talks.
            follow_encoders: eyes make up for the measured neck instead of the commanded one.

        Returns:
            The command; None while the pose is unknown.
        """
        pose = self.pose
        if pose is None:
            return None
        waits = self.is_waiting(now)
        if self._must_start or waits:
            self.core.start_at(pose.head, pose.eye)
            self._must_start = False
        if waits:
            return self.core.planner.step(now, None)
        self.result = self.core.step(now, speaking=speaking, head_measured=pose.head if follow_encoders else None)
        if not self.result.is_followed:
            # Wait where the head is: a controller that comes back must find its command there.
            short, long = PATIENCE
            self._patience = min(2.0 * self._patience, long) if now - self._lost_at < 4.0 * long else short
            self._lost_at, self._retry_at = now, now + self._patience
        return self.result.command
