"""Where the robots of a fleet stand when it starts, and what it waits for until then."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from rclpy.impl.rcutils_logger import RcutilsLogger

from attn_robotics.conversions.transforms import RobotTransforms


class FleetStart:
    """Waits for the robots.

    Args:
        names: the robots.
        transforms: their poses as they come.
        map_frame: in which frame.
        start_s: start without robots that were never heard for this long [s of wall time].
        logger: says who is missing.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        transforms: RobotTransforms,
        map_frame: str,
        start_s: float,
        logger: RcutilsLogger,
    ) -> None:
        self._names, self._transforms, self._map_frame, self._start_s = names, transforms, map_frame, start_s
        self._logger = logger
        self._since_s: float | None = None  # wall time at which the first robot was heard

    def poses(self) -> NDArray[np.float64] | None:
        """(N, 3) where the robots stand; one that was never heard stands where its odometry begins, after a while.

        Where even that is unknown everybody waits: it could stand anywhere.
        """
        poses = self._transforms.poses()
        unheard = np.flatnonzero(np.isnan(poses[:, 0]))
        if len(unheard) == len(poses):
            self._since_s = None
            return None
        if len(unheard):
            self._since_s = time.monotonic() if self._since_s is None else self._since_s
            places = [self._transforms.origin(robot) for robot in unheard.tolist()]
            if time.monotonic() - self._since_s < self._start_s or None in places:
                return None
            poses[unheard] = places
            names = ', '.join(self._names[robot] for robot in unheard)
            self._logger.warning(
                f'never heard of {names} in {self._start_s:g} s: the others start without, it is an obstacle'
            )
        return poses

    def waits_for(self, *, has_map: bool) -> str:
        """What is missing, in one line."""
        if not has_map:
            return "map not received on 'map'; is a map server running with transient local QoS?"
        missing = self._transforms.missing()
        if not missing:
            return 'about to start'
        line = f'no transform {self._map_frame} -> {missing[0]}/base_link yet ({len(missing)} robots missing)'
        places = [self._transforms.origin(self._names.index(name)) for name in missing]
        if self._since_s is not None and None in places:
            name = missing[places.index(None)]
            line += f'; nobody says where {name} stands, so all wait: start it, or set `robots` to those that are there'
        return line
