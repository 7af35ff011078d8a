"""Driving from cell centre to cell centre: a differential-drive controller for all robots at once.

A robot turns on the spot towards its next cell, then follows the line between the two centres. Its disc must stay
inside the cells it holds and was granted (see `execution`), so the distance from the line stays below half a cell
minus the radius: in a 1 m cell with a 0.3 m robot that is 0.2 m, half of which is kept for the odometry's error.

Steering is the usual line follower: the wanted heading leans towards the line in proportion to the distance from it.
Speed is what still allows to stop, within the acceleration, at the end of the straight part of the route
(v^2 = 2 a s), so that cells are passed without stopping while the way ahead is granted. It also allows for the
controller's own death: wheels that roll on with the last command until their watchdog brakes stop there too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attn_robotics.simulation.robot import RobotModel

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MotionLimits:
    """What the wheels can do, and what the controller makes of it.

    Attributes:
        max_speed: [m/s].
        max_acceleration: [m/s^2].
        max_turn_rate: [rad/s].
        max_turn_acceleration: [rad/s^2].
        latency_s: time from a pose to the moment its command takes hold [s]; the pose is extrapolated by it.
        roll_on_s: how long the wheels keep a command when no newer one comes, their watchdog's time [s]; speeds are
            such that a robot whose controller dies still stops in its last granted cell.
        arrival_m: distance to a cell's centre at which the robot counts as arrived [m].
        braking: share of the acceleration that is planned with; the rest is for disturbances.
    """

    max_speed: float = 1.0
    max_acceleration: float = 2.0
    max_turn_rate: float = 2.5
    max_turn_acceleration: float = 6.0
    latency_s: float = 0.0
    roll_on_s: float = 0.25
    arrival_m: float = 0.08
    braking: float = 0.7

    @classmethod
    def of(cls, robot: RobotModel, *, latency_s: float = 0.0, roll_on_s: float = 0.25) -> MotionLimits:
        """The limits of a world's robot."""
        return cls(
            max_speed=robot.max_speed,
            max_acceleration=robot.max_acceleration,
            max_turn_rate=robot.max_turn_rate,
            max_turn_acceleration=robot.max_turn_acceleration,
            latency_s=latency_s,
            roll_on_s=roll_on_s,
        )

    def __post_init__(self) -> None:
        for name in ('max_speed', 'max_acceleration', 'max_turn_rate', 'max_turn_acceleration', 'arrival_m'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name} must be positive, got {getattr(self, name)}')
        for name in ('latency_s', 'roll_on_s'):
            if not getattr(self, name) >= 0:
                raise ValueError(f'{name} must be at least 0, got {getattr(self, name)}')
        if not 0 < self.braking <= 1:
            raise ValueError(f'braking must be above 0 and at most 1, got {self.braking}')


_MISALIGNED = 0.3  # [rad] a robot only drives when it looks this well along its way
_LEAN = 2.5  # [rad/m] how strongly the wanted heading leans towards the line
_MAX_LEAN = 0.6  # [rad]
_STEER = 4.0  # [1/s] turn rate per heading error
_OVERRUN = 0.05  # [m] how far beyond its last centre a robot with a dead controller may roll
_DEADBAND = 0.03  # [m] a waiting robot this near its cell's centre stands still


class CellController:
    """Velocity commands for N robots that follow routes of cells."""

    def __init__(self, robots: int, limits: MotionLimits | None = None) -> None:
        """Start with all robots at rest.

        Args:
            robots: N.
            limits: what the wheels can do.
        """
        self.limits = limits or MotionLimits()
        self._sent = np.zeros((robots, 2))

    def step(self, poses: ArrayLike, routes: ArrayLike, dt: float) -> tuple[Array, Array]:
        """Command the next period.

        Args:
            poses: (N, 3) measured x, y [m] and yaw [rad].
            routes: (N, K, 2) x and y [m] of cell centres, K >= 2: the held cell, then the granted cells in order, the
                last one repeated (`ExecutionGraph.routes` through `GridFrame.to_xy`). Two equal first cells mean
                waiting there.
            dt: time until the next call [s].

        Returns:
            linear: (N,) forward speed [m/s], never negative on the way, slightly so when a waiting robot recentres.
            angular: (N,) turn rate [rad/s], positive to the left.
        """
        limits = self.limits
        poses = self._extrapolate(np.asarray(poses, np.float64))
        routes = np.asarray(routes, np.float64)
        here, target = routes[:, 0], routes[:, 1]
        way = target - here
        length = np.hypot(way[:, 0], way[:, 1])
        waiting = length < 1e-9

        offset = target - poses[:, :2]
        distance = np.hypot(offset[:, 0], offset[:, 1])
        direction = np.where(waiting[:, None], offset, way)
        along = np.arctan2(direction[:, 1], direction[:, 0])
        unit = np.stack([np.cos(along), np.sin(along)], axis=-1)
        remaining = (offset * unit).sum(axis=1)
        beside = unit[:, 0] * -offset[:, 1] + unit[:, 1] * offset[:, 0]  # (N,) left of the line is positive

        # A waiting robot that stands off the centre goes there forwards or backwards, whichever needs less turning.
        error = _wrap(along - np.clip(_LEAN * beside, -_MAX_LEAN, _MAX_LEAN) - poses[:, 2])
        backwards = waiting & (np.abs(error) > np.pi / 2)
        error = np.where(backwards, _wrap(error + np.pi), error)
        settled = waiting & (distance < _DEADBAND)
        error = np.where(settled, 0.0, error)

        stretch = np.maximum(remaining + _straight_ahead(routes), 0.0)
        speed = np.minimum(self._stopping_speed(stretch), limits.max_speed)
        speed = np.minimum(speed, stretch / max(dt, 1e-6))  # speed * dt is driven before the next look at the pose
        speed *= np.clip(1 - np.abs(error) / _MISALIGNED, 0.0, 1.0)
        speed = np.where(settled, 0.0, np.where(backwards, -speed, speed))

        turn = np.sqrt(2 * limits.braking * limits.max_turn_acceleration * np.abs(error))
        turn = np.sign(error) * np.minimum(np.minimum(turn, _STEER * np.abs(error)), limits.max_turn_rate)

        wanted = np.stack([speed, turn], axis=-1)
        ramp = np.array([limits.max_acceleration, limits.max_turn_acceleration]) * dt
        self._sent = self._sent + np.clip(wanted - self._sent, -ramp, ramp)
        return self._sent[:, 0].copy(), self._sent[:, 1].copy()

    def arrived(self, poses: ArrayLike, routes: ArrayLike) -> NDArray[np.bool_]:
        """Which robots have reached the centre of their next cell, or driven past it: report these to the graph.

        Args:
            poses: (N, 3) measured x, y [m] and yaw [rad].
            routes: (N, K, 2) as in `step`.

        Returns:
            (N,) False for robots that wait.
        """
        poses, routes = np.asarray(poses, np.float64), np.asarray(routes, np.float64)
        way = routes[:, 1] - routes[:, 0]
        length = np.hypot(way[:, 0], way[:, 1])
        moving = length > 1e-9
        offset = routes[:, 1] - poses[:, :2]
        remaining = (offset * way).sum(axis=1) / np.where(moving, length, 1.0)
        arrived: NDArray[np.bool_] = moving & (remaining <= self.limits.arrival_m)
        return arrived

    def _stopping_speed(self, stretch: Array) -> Array:
        """(N,) largest speed from which a robot can stop within `stretch` metres, even if its controller dies now."""
        limits = self.limits
        braking = np.sqrt(2 * limits.braking * limits.max_acceleration * stretch)
        # v t + v^2 / 2 a = stretch + overrun, solved for v
        blind = limits.max_acceleration * (limits.roll_on_s + limits.latency_s)
        rolling = np.sqrt(blind**2 + 2 * limits.max_acceleration * (stretch + _OVERRUN)) - blind
        slower: Array = np.minimum(braking, rolling)
        return slower

    def _extrapolate(self, poses: Array) -> Array:
        """Where the robots will be when the command takes hold, if they do as they were told."""
        if not self.limits.latency_s:
            return poses
        ahead = self._sent * self.limits.latency_s
        middle = poses[:, 2] + ahead[:, 1] / 2
        return poses + np.stack([ahead[:, 0] * np.cos(middle), ahead[:, 0] * np.sin(middle), ahead[:, 1]], axis=-1)


def _straight_ahead(routes: Array) -> Array:
    """(N,) metres that a route goes on straight beyond its first target."""
    steps = np.diff(routes, axis=1)
    goes_on = np.hypot(steps[..., 0], steps[..., 1]) > 1e-9
    same = np.abs(steps[:, 1:] - steps[:, :1]).max(axis=-1, initial=0.0) < 1e-9
    straight = np.logical_and.accumulate(same & goes_on[:, 1:] & goes_on[:, :1], axis=1)
    beyond: Array = (straight * np.hypot(steps[:, 1:, 0], steps[:, 1:, 1])).sum(axis=1)
    return beyond


def _wrap(angle: Array) -> Array:
    turned: Array = np.remainder(angle + np.pi, 2 * np.pi) - np.pi
    return turned
