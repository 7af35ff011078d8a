"""Faults to switch on in a simulation: lost and late messages, odometry noise, robots that stop or drop out.

Everything is drawn from one seed, so that a run with faults can be repeated.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attn_robotics.simulation.errors import WorldError

T = TypeVar('T')
_OUTAGE = re.compile(r'(?:robot_)?(\d+)@(\d+(?:\.\d*)?)(?:\+(\d+(?:\.\d*)?))?')


@dataclass(frozen=True)
class Outage:
    """A time during which one robot is out of order.

    Attributes:
        robot: index.
        at_s: when it begins [s of simulated time].
        duration_s: how long it lasts [s].
    """

    robot: int
    at_s: float
    duration_s: float = math.inf

    def __post_init__(self) -> None:
        if self.robot < 0 or not self.at_s >= 0 or not self.duration_s > 0:
            raise WorldError(f'an outage needs robot >= 0, time >= 0 and duration > 0, got {self}')

    def covers(self, now: float) -> bool:
        """Whether it is on at a time [s]."""
        return self.at_s <= now < self.at_s + self.duration_s


def parse_outages(text: str) -> tuple[Outage, ...]:
    """Read outages as written in a parameter: `3@10+5, robot_7@20` is robot 3 from 10 s for 5 s, robot 7 from 20 s on.

    Raises:
        WorldError: a part is not of that form.
    """
    outages = []
    for part in filter(None, (piece.strip() for piece in text.split(','))):
        if not (match := _OUTAGE.fullmatch(part)):
            raise WorldError(f'{part!r} is no outage; write robot@seconds or robot@seconds+duration, such as 3@10+5')
        robot, at, duration = match.groups()
        outages.append(Outage(int(robot), float(at), math.inf if duration is None else float(duration)))
    return tuple(outages)


@dataclass(frozen=True)
class Faults:
    """What goes wrong.

    Attributes:
        message_loss: probability that a message is lost.
        message_delay_s: least delay of a message [s].
        message_jitter_s: largest delay on top, uniformly drawn; messages don't overtake each other [s].
        odometry_noise_m: standard deviation of a pose's error along x and y [m].
        odometry_noise_rad: standard deviation of its yaw's error [rad].
        odometry_correlation_s: how long an error lasts [s]; the error is that of odometry which is corrected by a
            localisation, so it wanders but does not grow.
        stops: robots whose wheels stand still for a while; they keep talking.
        drop_outs: robots that are lost for good: silent and immobile.
        seed: of everything that is drawn.
    """

    message_loss: float = 0.0
    message_delay_s: float = 0.0
    message_jitter_s: float = 0.0
    odometry_noise_m: float = 0.0
    odometry_noise_rad: float = 0.0
    odometry_correlation_s: float = 2.0
    stops: tuple[Outage, ...] = ()
    drop_outs: tuple[Outage, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.message_loss <= 1:
            raise WorldError(f'message_loss must be from 0 to 1, got {self.message_loss}')
        for name in ('message_delay_s', 'message_jitter_s', 'odometry_noise_m', 'odometry_noise_rad'):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise WorldError(f'{name} must be at least 0, got {getattr(self, name)}')
        if not self.odometry_correlation_s > 0:
            raise WorldError(f'odometry_correlation_s must be positive, got {self.odometry_correlation_s}')

    def stopped(self, now: float, robots: int) -> NDArray[np.bool_]:
        """(N,) robots whose wheels stand still at a time [s]; lost ones too."""
        return _covered((*self.stops, *self.drop_outs), now, robots)

    def dropped(self, now: float, robots: int) -> NDArray[np.bool_]:
        """(N,) robots that are lost at a time [s]."""
        return _covered(self.drop_outs, now, robots)


def _covered(outages: Sequence[Outage], now: float, robots: int) -> NDArray[np.bool_]:
    mask = np.zeros(robots, bool)
    for outage in outages:
        if outage.robot >= robots:
            raise WorldError(f'an outage names robot {outage.robot}, but there are only {robots} robots')
        mask[outage.robot] |= outage.covers(now)
    return mask


class LossyChannel(Generic[T]):
    """One stream of messages that loses some and delays the others, in order.

    Attributes:
        lost: messages lost so far.
    """

    def __init__(self, faults: Faults, stream: int = 0) -> None:
        """Open a stream.

        Args:
            faults: loss, delay, jitter and seed.
            stream: tells streams of one seed apart, for instance the robot's index.
        """
        self._faults = faults
        self._rng = np.random.default_rng((faults.seed, 1, stream))
        self._waiting: deque[tuple[float, T]] = deque()
        self._last_due = -math.inf
        self.lost = 0

    def push(self, item: T, now: float) -> None:
        """Send an item at a time [s]."""
        lucky, delay = self._rng.random(2)
        if lucky < self._faults.message_loss:
            self.lost += 1
            return
        due = now + self._faults.message_delay_s + delay * self._faults.message_jitter_s
        self._last_due = max(due, self._last_due)
        self._waiting.append((self._last_due, item))

    def pop_due(self, now: float) -> list[T]:
        """Items that have come through by a time [s], in order."""
        due = []
        while self._waiting and self._waiting[0][0] <= now + 1e-9:
            due.append(self._waiting.popleft()[1])
        return due


class OdometryNoise:
    """Errors of the robots' poses: a mean-reverting walk per robot and coordinate (Ornstein-Uhlenbeck process).

    Errors are cut off at three standard deviations.
    """

    def __init__(self, robots: int, faults: Faults) -> None:
        """Draw the first errors.

        Args:
            robots: N.
            faults: standard deviations, correlation time and seed.
        """
        self._rng = np.random.default_rng((faults.seed, 2))
        self._deviation = np.array([faults.odometry_noise_m, faults.odometry_noise_m, faults.odometry_noise_rad])
        self._correlation_s = faults.odometry_correlation_s
        self._error = self._rng.standard_normal((robots, 3))
        self._at: float | None = None

    def apply(self, poses: ArrayLike, now: float) -> NDArray[np.float64]:
        """Poses as odometry would tell them.

        Args:
            poses: (N, 3) true x, y [m] and yaw [rad].
            now: time [s], not before that of the call before.

        Returns:
            (N, 3) with errors; the yaw is not wrapped again.
        """
        if self._at is not None:
            keep = math.exp(-max(now - self._at, 0.0) / self._correlation_s)
            fresh = self._rng.standard_normal(self._error.shape)
            self._error = keep * self._error + math.sqrt(1 - keep**2) * fresh
        self._at = now
        noisy: NDArray[np.float64] = np.asarray(poses) + np.clip(self._error, -3, 3) * self._deviation
        return noisy
