"""The robot model that the embedded world, the SDF world and the controller share."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from attn_robotics.simulation.errors import WorldError


@dataclass(frozen=True)
class RobotModel:
    """A round differential-drive robot: two wheels on one axis through its centre, casters in front and behind.

    Attributes:
        radius: of the round chassis [m]; nothing of the robot lies outside.
        height: of the whole robot [m].
        mass: of the whole robot [kg].
        wheel_radius: [m].
        wheel_separation: between the middles of the wheels [m].
        max_speed: forwards [m/s].
        max_acceleration: forwards, and braking [m/s^2].
        max_turn_rate: [rad/s].
        max_turn_acceleration: [rad/s^2].
    """

    radius: float = 0.3
    height: float = 0.25
    mass: float = 10.0
    wheel_radius: float = 0.08
    wheel_separation: float = 0.4
    max_speed: float = 1.0
    max_acceleration: float = 2.0
    max_turn_rate: float = 2.5
    max_turn_acceleration: float = 6.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
                raise WorldError(f'robot.{field.name} must be a positive number, got {value!r}')
        if math.hypot(self.wheel_separation / 2, self.wheel_radius) >= self.radius:
            raise WorldError(
                f'robot.wheel_separation {self.wheel_separation} and wheel_radius {self.wheel_radius} '
                f'reach beyond robot.radius {self.radius}; make them smaller'
            )
        if self.height <= self.wheel_radius:
            raise WorldError(f'robot.height {self.height} must exceed robot.wheel_radius {self.wheel_radius}')

    @property
    def clearance(self) -> float:
        """Height of the chassis' underside over the floor [m]."""
        return self.wheel_radius / 2
