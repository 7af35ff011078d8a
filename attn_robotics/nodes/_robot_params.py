"""Parameters of the robot node."""

from __future__ import annotations

from dataclasses import dataclass

from attn_robotics.nodes._planner import PlannerParams
from attn_robotics.ros.parameters import param


@dataclass(frozen=True)
class SparcRobotParams(PlannerParams):
    """Tunables of the robot node."""

    robot: str = param('robot_0', 'This robot.', read_only=True)
    horizon: int = param(6, 'Decisions the robot may be ahead of its wheels.', low=1, high=16, read_only=True)
    lost_s: float = param(
        3.0, 'A robot silent for this long is an obstacle [s of wall time].', low=0.5, high=60.0, read_only=True
    )
    start_s: float = param(
        30.0, 'Wait this long for robots that were never heard [s of wall time].', low=0.5, high=600.0, read_only=True
    )
    stale_s: float = param(0.3, 'With a pose older than this the robot waits for a newer one [s].', low=0.05, high=60.0)
    message_loss: float = param(
        0.0, 'Fault: share of received messages that are thrown away.', low=0.0, high=0.95, read_only=True
    )
    message_delay_s: float = param(
        0.0,
        'Fault: received messages are held back for this long [s of wall time].',
        low=0.0,
        high=10.0,
        read_only=True,
    )
    seed: int = param(
        0, 'Of priorities and random ties; the same on all robots.', low=0, high=2**31 - 1, read_only=True
    )
