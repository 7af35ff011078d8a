"""Poses of many robots out of /tf, without a transform library: two links a robot, map -> odom -> base_link."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tf2_msgs.msg import TFMessage

from attn_robotics.conversions.poses import compose, from_transform
from attn_robotics.conversions.stamps import to_seconds

Pose = tuple[float, float, float]


class RobotTransforms:
    """Follow `<map> -> <robot>/odom -> <robot>/base_link`, or `<map> -> <robot>/base_link` directly.

    Args:
        names: robot names, the prefixes of their frames.
        map_frame: where poses are wanted.

    Attributes:
        stamps_s: (N,) when each robot's pose was measured [s]; 0 where nobody said.
    """

    def __init__(self, names: Sequence[str], map_frame: str) -> None:
        self._names = tuple(names)
        self._map = map_frame
        self._robot_of = {f'{name}/base_link': index for index, name in enumerate(names)}
        self._odom_of = {f'{name}/odom': index for index, name in enumerate(names)}
        self.stamps_s = np.zeros(len(names))
        self._origin: list[Pose | None] = [None] * len(names)
        self._inner: list[tuple[str, Pose] | None] = [None] * len(names)

    def take_static(self, message: TFMessage) -> None:
        """Take transforms that never change, or rarely: map -> odom."""
        for _ in self.take(message):
            pass

    def take(self, message: TFMessage) -> Iterator[tuple[int, Pose]]:
        """Take transforms; yields index and map-frame pose (x, y [m], yaw [rad]) of every robot that moved."""
        for transform in message.transforms:
            child, parent = transform.child_frame_id, transform.header.frame_id
            if (robot := self._odom_of.get(child)) is not None and parent == self._map:
                self._origin[robot] = from_transform(transform.transform)
            elif (robot := self._robot_of.get(child)) is not None:
                self._inner[robot] = (parent, from_transform(transform.transform))
                self.stamps_s[robot] = to_seconds(transform.header.stamp)
            else:
                continue
            if (pose := self.pose(robot)) is not None:
                yield robot, pose

    def strangers(self, message: TFMessage) -> list[str]:
        """Names in a message that look like robots of a fleet, by their `<name>/base_link`, but are not ours."""
        children = (transform.child_frame_id for transform in message.transforms)
        return [
            child.removesuffix('/base_link')
            for child in children
            if child.endswith('/base_link') and child not in self._robot_of
        ]

    def pose(self, robot: int) -> Pose | None:
        """Map-frame pose of a robot, None while a link is missing."""
        inner = self._inner[robot]
        if inner is None:
            return None
        parent, pose = inner
        if parent == self._map:
            return pose
        origin = self._origin[robot]
        return None if origin is None else compose(origin, pose)

    def origin(self, robot: int) -> Pose | None:
        """Map-frame pose of a robot's odom frame, where it was switched on; None while nobody said."""
        return self._origin[robot]

    def poses(self) -> NDArray[np.float64]:
        """(N, 3) map-frame poses, NaN where a link is missing."""
        return np.array([self.pose(robot) or (np.nan,) * 3 for robot in range(len(self._names))])

    def missing(self) -> list[str]:
        """Names of robots whose pose is not known."""
        return [name for robot, name in enumerate(self._names) if self.pose(robot) is None]
