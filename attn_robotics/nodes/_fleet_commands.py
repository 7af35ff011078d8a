"""Velocities of a fleet's robots."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Twist
from numpy.typing import NDArray
from rclpy.node import Node

from attn_robotics.conversions.poses import to_twist
from attn_robotics.ros import qos


class FleetCommands:
    """One publisher a robot.

    Args:
        node: publishes.
        names: the robots.
    """

    def __init__(self, node: Node, names: tuple[str, ...]) -> None:
        self._node = node
        self._publishers = [node.create_publisher(Twist, f'{name}/cmd_vel', qos.COMMAND) for name in names]
        self._last_sent = np.zeros((len(names), 2))

    @property
    def moving(self) -> NDArray[np.bool_]:
        """(N,) robots that were sent a velocity last."""
        moving: NDArray[np.bool_] = (self._last_sent != 0).any(axis=1)
        return moving

    def send(self, velocities: NDArray[np.float64]) -> None:
        """Send what changed and what moves; robots' watchdogs and the simulator's clock wait for the latter.

        Args:
            velocities: (N, 2) forwards [m/s] and turning [rad/s].
        """
        changed = (np.abs(velocities - self._last_sent) > 1e-3).any(axis=1)
        due = changed | (velocities != 0).any(axis=1)
        for robot in np.flatnonzero(due):
            self._publishers[robot].publish(to_twist(*velocities[robot]))
        self._last_sent[due] = velocities[due]

    def stop(self) -> None:
        """Tell every robot to stand still."""
        for publisher in self._publishers:
            publisher.publish(to_twist(0.0, 0.0))

    def close(self) -> None:
        """Give the publishers back."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
