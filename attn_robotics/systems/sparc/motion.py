"""Driving along routes of cell centres: a differential-drive controller for all robots at once.

A robot steers towards a point that runs ahead of it on its route (pure pursuit: Coulter, "Implementation of the Pure
Pursuit Path Tracking Algorithm", CMU-RI-TR-92-01, 1992), so that it holds a line and rounds a corner without stopping;
where the way lies too far to the side it turns on the spot. Its disc must stay inside the cells it holds and was
granted (see `execution`). In 1 m cells with a 0.3 m robot that leaves 0.2 m on both sides of a line, half of which is
kept for the odometry's error, and a corner may be cut as far as a quarter circle of half a cell does, which comes no
nearer to the cell inside the corner than a line does.

Speed is what still allows to stop, within the acceleration, at the end of the route (v^2 = 2 a s), so that cells are
passed without stopping while the way ahead is granted. It also allows for the controller's own death: wheels that roll
on with the last command until their watchdog brakes stop there too.
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
        radius: of the robot's disc [m].
        arrival_m: distance to a cell's centre at which the robot counts as arrived [m]; the cell that it leaves is
            given to the next one then (see `lean`).
        braking: share of the acceleration that is planned with; the rest is for disturbances.
    """

    max_speed: float = 1.0
    max_acceleration: float = 2.0
    max_turn_rate: float = 2.5
    max_turn_acceleration: float = 6.0
    latency_s: float = 0.0
    roll_on_s: float = 0.25
    radius: float = 0.3
    arrival_m: float = 0.2
    braking: float = 0.7

    @classmethod
    def of(cls, robot: RobotModel, *, latency_s: float = 0.0, roll_on_s: float = 0.25) -> MotionLimits:
        """The limits of a world's robot."""
        return cls(
            max_speed=robot.max_speed,
            max_acceleration=robot.max_acceleration,
            max_turn_rate=robot.max_turn_rate,
            max_turn_acceleration=robot.max_turn_acceleration,
            radius=robot.radius,
            latency_s=latency_s,
            roll_on_s=roll_on_s,
        )

    def __post_init__(self) -> None:
        for name in ('max_speed', 'max_acceleration', 'max_turn_rate', 'max_turn_acceleration', 'radius', 'arrival_m'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name} must be positive, got {getattr(self, name)}')
        for name in ('latency_s', 'roll_on_s'):
            if not getattr(self, name) >= 0:
                raise ValueError(f'{name} must be at least 0, got {getattr(self, name)}')
        if not 0 < self.braking <= 1:
            raise ValueError(f'braking must be above 0 and at most 1, got {self.braking}')

    def lean(self, cell: float) -> float:
        """How far a robot may stand out of the middle of its cell towards another's [m], in cells of `cell` metres.

        Whoever stands in the middle of the next cell, comes or goes there is then at least two radii and `_GAP` away.
        """
        return max(cell - 2 * self.radius - _GAP, 0.0)


# Lengths that are shares of a cell, so that a smaller map is driven alike.
_AHEAD = 0.45  # how far ahead on its route a robot looks
_CORNER_BEGINS = 0.35  # before a corner's cell centre its speed must be reached
_CORNER_LEG = 0.15  # a corner is rounded when the route goes on behind it for at least this much
_CORNER_SPEED = 0.65  # [m/s] at most, round a right angle of 1 m cells
_DRIFT = 0.07  # what turning while driving may carry a robot aside
_MISALIGNED = 0.85  # [rad] a robot only drives when it looks this well along its way
_STEER = 5.0  # [1/s] turn rate per heading error
_GAP = 0.2  # [m] between two discs, for what odometry and wheels do wrong
_OVERRUN = 0.05  # [m] how far beyond its last centre a robot with a dead controller may roll
_DEADBAND = 0.03  # [m] a waiting robot this near its cell's centre stands still


class CellController:
    """Velocity commands for N robots that follow routes of cells."""

    def __init__(self, robots: int, limits: MotionLimits | None = None, cell: float = 1.0) -> None:
        """Start with all robots at rest.

        Args:
            robots: N.
            limits: what the wheels can do.
            cell: side of a cell [m].
        """
        self.limits = limits or MotionLimits()
        self._cell = cell
        self._arrival_m = min(self.limits.arrival_m, max(self.limits.lean(cell), _OVERRUN))
        self._sent = np.zeros((robots, 2))

    def step(self, poses: ArrayLike, routes: ArrayLike, dt: float) -> tuple[Array, Array]:
        """Command the next period.

        Args:
            poses: (N, 3) measured x, y [m] and yaw [rad].
            routes: (N, K, 2) x and y [m] of cell centres, K >= 2: the held cell, then the granted cells in order, the
                last one repeated (`ExecutionGraph.routes` through `GridFrame.to_xy`). Two equal first cells mean
                waiting there. The last point may lie between two centres (see `lean_in`).
            dt: time until the next call [s].

        Returns:
            linear: (N,) forward speed [m/s], never negative on the way, slightly so when a waiting robot recentres.
            angular: (N,) turn rate [rad/s], positive to the left.
        """
        limits = self.limits
        poses = self._extrapolate(np.asarray(poses, np.float64))
        routes = np.asarray(routes, np.float64)
        way = _Way(poses[:, :2], routes, _CORNER_LEG * self._cell)
        aim = way.pursue(_AHEAD * self._cell) - poses[:, :2]
        error = _wrap(np.arctan2(aim[:, 1], aim[:, 0]) - poses[:, 2])

        # A waiting robot that stands off the centre goes there forwards or backwards, whichever needs less turning.
        backwards = way.waiting & (np.abs(error) > np.pi / 2)
        error = np.where(backwards, _wrap(error + np.pi), error)
        settled = way.waiting & (way.remaining < _DEADBAND)
        error = np.where(settled, 0.0, error)

        stretch = np.maximum(way.length, 0.0)
        speed = np.minimum(self._stopping_speed(stretch), limits.max_speed)
        speed = np.minimum(speed, stretch / max(dt, 1e-6))  # speed * dt is driven before the next look at the pose
        speed = np.minimum(speed, self._cornering_speed(way.corners))
        speed = np.minimum(speed, self._drifting_speed(np.abs(error), dt))
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
        arrived: NDArray[np.bool_] = moving & (remaining <= self._arrival_m)
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

    def _drifting_speed(self, error: Array, dt: float) -> Array:
        """(N,) speed at which a robot that still turns by `error` goes no more than `_DRIFT` aside meanwhile."""
        limits = self.limits
        turning_s = np.maximum(
            (2 * error / (limits.braking * limits.max_turn_acceleration)) ** 0.5, error / limits.max_turn_rate
        )
        aside = np.sin(np.minimum(error, np.pi / 2)) * (turning_s / 2 + dt + 2 * limits.latency_s)
        fade = np.clip((_MISALIGNED - error) / (_MISALIGNED / 2), 0.0, 1.0)
        drifting: Array = _DRIFT * self._cell / np.maximum(aside, 1e-6) * fade
        return drifting

    def _cornering_speed(self, corners: Array) -> Array:
        """(N,) largest speed from which a robot can still slow down for every corner; corners (N, K) [m] ahead."""
        limits = self.limits
        # the turn rate has to be built up within a fifth of a cell or so
        round_it = min(
            _CORNER_SPEED * self._cell**0.5,
            0.3 * limits.max_turn_rate * self._cell,
            (0.07 * limits.max_turn_acceleration) ** 0.5 * self._cell,
        )
        room = np.maximum(corners - _CORNER_BEGINS * self._cell, 0.0)
        slowed = np.sqrt(round_it**2 + 2 * limits.braking * limits.max_acceleration * room)
        slowest: Array = slowed.min(axis=1, initial=np.inf)
        return slowest

    def _extrapolate(self, poses: Array) -> Array:
        """Where the robots will be when the command takes hold, if they do as they were told."""
        if not self.limits.latency_s:
            return poses
        ahead = self._sent * self.limits.latency_s
        middle = poses[:, 2] + ahead[:, 1] / 2
        return poses + np.stack([ahead[:, 0] * np.cos(middle), ahead[:, 0] * np.sin(middle), ahead[:, 1]], axis=-1)


def lean_in(routes: Array, granted: NDArray[np.integer], upcoming: Array, lean_m: float) -> Array:
    """Let robots that have to wait for a cell face it, and stand as near to it as nobody minds.

    Args:
        routes: (N, K, 2) as for `CellController.step`.
        granted: (N,) how many moves of each route are granted.
        upcoming: (N, 2) centre of the cell after the granted ones, the last granted one where there is none [m].
        lean_m: `MotionLimits.lean`.

    Returns:
        (N, K + 1, 2) routes with another point behind the granted ones.
    """
    last = routes[:, -1]
    way = upcoming - last
    far = np.hypot(way[:, 0], way[:, 1])[:, None]
    point = last + way / np.maximum(far, 1e-9) * max(lean_m, 1e-3)  # a millimetre tells where to look
    longer = np.concatenate([routes, routes[:, -1:]], axis=1)
    behind = np.arange(longer.shape[1]) > np.asarray(granted)[:, None]
    return np.where(behind[..., None], point[:, None], longer)


class _Way:
    """Where N robots are on their routes, and what lies ahead.

    Attributes:
        waiting: (N,) the route has no length.
        remaining: (N,) to the first target, along the line to it, negative beyond it [m].
        length: (N,) to where the route ends or has to be left for a turn on the spot [m].
        corners: (N, K - 2) distances to right angles ahead, infinite where there is none [m].
    """

    def __init__(self, points: Array, routes: Array, leg: float) -> None:
        steps = np.diff(routes, axis=1)  # (N, K - 1, 2)
        sizes = np.hypot(steps[..., 0], steps[..., 1])
        self.waiting = sizes[:, 0] < 1e-9
        offset = routes[:, 1] - points
        distance = np.hypot(offset[:, 0], offset[:, 1])
        first = np.where(self.waiting[:, None], offset, steps[:, 0])
        first = first / np.maximum(np.where(self.waiting, distance, sizes[:, 0]), 1e-9)[:, None]
        self.remaining = (offset * first).sum(axis=1)
        self._target, self._first = routes[:, 1], first
        self._second, self._turns = first, np.zeros(len(points), bool)

        goes_on = ~self.waiting
        self.length = self.remaining.copy()
        self.corners = np.full((len(points), steps.shape[1] - 1), np.inf)
        unit = first
        for k in range(1, steps.shape[1]):
            following = steps[:, k] / np.maximum(sizes[:, k], 1e-9)[:, None]
            cosine = (unit * following).sum(axis=1)
            straight = cosine > 0.99
            corner = (np.abs(cosine) < 0.5) & (sizes[:, k] >= leg)
            goes_on = goes_on & (straight | corner)
            self.corners[:, k - 1] = np.where(goes_on & corner, self.length, np.inf)
            self.length = self.length + np.where(goes_on, sizes[:, k], 0.0)
            if k == 1:
                self._turns = goes_on & corner
                self._second = np.where(self._turns[:, None], following, first)
            unit = following

    def pursue(self, ahead: float) -> Array:
        """(N, 2) the point `ahead` metres on; beyond the end of the route, on its last line."""
        rest = np.where(self._turns, np.maximum(self.remaining, 0.0), np.inf)
        on_first = np.where(self.waiting, self.remaining, np.minimum(ahead, rest))
        on_second = np.maximum(ahead - rest, 0.0)
        start = self._target - self._first * self.remaining[:, None]  # nearest to the robot on the first line
        point: Array = start + self._first * on_first[:, None] + self._second * on_second[:, None]
        return point


def _wrap(angle: Array) -> Array:
    turned: Array = np.remainder(angle + np.pi, 2 * np.pi) - np.pi
    return turned
