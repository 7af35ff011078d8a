"""The last word before a command leaves: limits of position, speed and acceleration, whatever was asked."""

from __future__ import annotations

import math
from collections.abc import Mapping

from attn_robotics.systems.gaze.profile import AXES, Joint, Profile

# Added to the acceleration allowance when braking before a limit, so that rounding never decides.
_MARGIN = 0.98


class AxisLimiter:
    """Follows a wanted position within one joint's limits; never returns NaN and never leaves them."""

    def __init__(self, joint: Joint, position: float = 0.0) -> None:
        self.joint = joint
        self.position = min(max(position, joint.lower), joint.upper)
        self.velocity = 0.0
        self._wanted = self.position

    def step(self, wanted: float, dt: float) -> float:
        """Move towards `wanted` for `dt` seconds and return the new position.

        A reachable path is followed without lag: its own speed is fed forward and only the error left from before is
        worked off, no faster than it can be braked. A wanted value that is not finite means: stay. Limits that have
        shrunk past the present position are returned to at the allowed speed.
        """
        joint = self.joint
        if dt <= 0.0:
            return self.position
        if not math.isfinite(wanted):
            wanted = self.position
        wanted = min(max(wanted, joint.lower), joint.upper)
        error = self._wanted - self.position
        feed = (wanted - self._wanted) / dt
        self._wanted = wanted
        catch_up = math.copysign(min(abs(error) / dt, math.sqrt(2.0 * joint.acceleration * abs(error))), error)
        change = joint.acceleration * dt
        velocity = min(max(feed + catch_up, self.velocity - change), self.velocity + change)
        top = min(joint.velocity, self._brake(joint.upper - self.position, dt))
        low = -min(joint.velocity, self._brake(self.position - joint.lower, dt))
        velocity = min(max(velocity, low), top) if low <= top else low
        position = self.position + velocity * dt
        if joint.lower <= self.position <= joint.upper:
            position = min(max(position, joint.lower), joint.upper)
        self.velocity = (position - self.position) / dt
        self.position = position
        return position

    def _brake(self, room: float, dt: float) -> float:
        """Fastest speed towards a limit `room` away that can still be braked; negative when already beyond it."""
        if room <= 0.0:
            return -min(self.joint.velocity, -room / dt)
        return min(room / dt, math.sqrt(2.0 * _MARGIN * self.joint.acceleration * room))


class SafetyLayer:
    """One limiter for each axis that the robot has."""

    def __init__(self, profile: Profile) -> None:
        self.axes = {axis: AxisLimiter(joint) for axis, joint in profile.joints.items()}

    def step(self, axis: str, wanted: float, dt: float) -> float:
        """Limit one axis; an axis that the robot lacks stays at 0."""
        limiter = self.axes.get(axis)
        return limiter.step(wanted, dt) if limiter is not None else 0.0

    def set_joints(self, joints: Mapping[str, Joint]) -> None:
        """Take over new limits while running (same axes)."""
        for axis, joint in joints.items():
            self.axes[axis].joint = joint

    def positions(self) -> dict[str, float]:
        """Commanded position of every axis, 0 for missing ones."""
        return {axis: self.axes[axis].position if axis in self.axes else 0.0 for axis in AXES}
