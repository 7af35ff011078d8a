"""Transforms between named frames at the time of a measurement: the part of tf2 that a node of this suite needs.

`tf2_ros` has no wheels, and its Python buffer costs a thread; this one is fed by whoever subscribes to /tf.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import Quaternion, Transform
from numpy.typing import NDArray
from tf2_msgs.msg import TFMessage

from attn_robotics.conversions.stamps import to_seconds

Array = NDArray[np.float64]
MAX_DEPTH = 64  # links of a chain; longer ones are loops


class FrameError(ValueError):
    """A transform that is missing, too old or broken; the message names the frames."""


@dataclass
class _Link:
    parent: str
    stamps: deque[float]
    poses: deque[Array]  # x, y, z, qx, qy, qz, qw
    is_static: bool


class FrameTree:
    """Remember the transforms of the last seconds.

    Args:
        seconds: how long they are kept.
        tolerance: how far beyond either end of what is known a time may lie [s].
    """

    def __init__(self, seconds: float = 3.0, tolerance: float = 0.25) -> None:
        self._seconds, self._tolerance = seconds, tolerance
        self._links: dict[str, _Link] = {}

    def take(self, message: TFMessage, *, is_static: bool = False) -> int:
        """Keep a message's transforms; returns how many were broken (not finite, no rotation, own parent)."""
        broken = 0
        for item in message.transforms:
            pose = _pose(item.transform)
            child, parent = item.child_frame_id.lstrip('/'), item.header.frame_id.lstrip('/')
            if pose is None or not child or child == parent:
                broken += 1
                continue
            stamp = to_seconds(item.header.stamp)
            link = self._links.get(child)
            if link is None or link.parent != parent or is_static or (link.stamps and stamp < link.stamps[-1] - 1.0):
                link = self._links[child] = _Link(parent, deque(), deque(), is_static)
            if link.stamps and stamp <= link.stamps[-1]:
                continue
            link.stamps.append(stamp)
            link.poses.append(pose)
            while stamp - link.stamps[0] > self._seconds:
                link.stamps.popleft()
                link.poses.popleft()
        return broken

    def newest(self, child: str) -> float | None:
        """Stamp of the newest transform of a frame [s]; None when there is none."""
        link = self._links.get(child.lstrip('/'))
        return link.stamps[-1] if link is not None else None

    def lookup(self, target: str, source: str, stamp: float) -> tuple[Array, Array]:
        """Rotation (3, 3) and translation (3,) [m] that take points of `source` to `target` at a time [s].

        Raises:
            FrameError: the frames are not connected, or not known at that time.
        """
        down = self._chain(target.lstrip('/'))
        turn, shift = np.eye(3), np.zeros(3)
        frame = source.lstrip('/')
        for _ in range(MAX_DEPTH):
            if frame in down:
                break
            link = self._links.get(frame)
            if link is None:
                raise FrameError(f'no transform from {source!r} to {target!r}; is it on /tf or /tf_static?')
            own_turn, own_shift = self._at(frame, link, stamp)
            turn, shift = own_turn @ turn, own_turn @ shift + own_shift
            frame = link.parent
        else:
            raise FrameError(f'the frames around {source!r} form a loop')
        for child in reversed(down[: down.index(frame)]):
            own_turn, own_shift = self._at(child, self._links[child], stamp)
            turn, shift = own_turn.T @ turn, own_turn.T @ (shift - own_shift)
        return turn, shift

    def _chain(self, frame: str) -> list[str]:
        """A frame and its ancestors."""
        chain = [frame]
        while (link := self._links.get(chain[-1])) is not None and len(chain) < MAX_DEPTH:
            chain.append(link.parent)
        return chain

    def _at(self, child: str, link: _Link, stamp: float) -> tuple[Array, Array]:
        if link.is_static:
            return _matrix(link.poses[-1])
        first, last = link.stamps[0], link.stamps[-1]
        if not first - self._tolerance <= stamp <= last + self._tolerance:
            late = stamp - last if stamp > last else first - stamp
            raise FrameError(
                f'transform {link.parent!r} to {child!r} is {late:.2f} s too {"old" if stamp > last else "new"}'
            )
        after = bisect_left(link.stamps, stamp)
        if after == 0:
            return _matrix(link.poses[0])
        if after == len(link.stamps):
            return _matrix(link.poses[-1])
        before = link.stamps[after - 1]
        share = (stamp - before) / (link.stamps[after] - before)
        a, b = link.poses[after - 1], link.poses[after]
        near = b if a[3:] @ b[3:] >= 0.0 else np.concatenate([b[:3], -b[3:]])
        return _matrix((1.0 - share) * a + share * near)


def direction_of(turn: Array) -> tuple[float, float]:
    """Yaw and pitch [deg, pitch positive up] of the x axis of a rotation (3, 3)."""
    x, y, z = (float(value) for value in turn[:, 0])
    return math.degrees(math.atan2(y, x)), math.degrees(math.atan2(z, math.hypot(x, y)))


def turned(yaw: float, pitch: float) -> Quaternion:
    """Quaternion of a frame turned by yaw, then pitched [deg, pitch positive up]."""
    a, b = math.radians(yaw) / 2.0, -math.radians(pitch) / 2.0
    return Quaternion(
        x=-math.sin(a) * math.sin(b),
        y=math.cos(a) * math.sin(b),
        z=math.sin(a) * math.cos(b),
        w=math.cos(a) * math.cos(b),
    )


def _pose(transform: Transform) -> Array | None:
    t, q = transform.translation, transform.rotation
    pose = np.array([t.x, t.y, t.z, q.x, q.y, q.z, q.w])
    return pose if np.isfinite(pose).all() and pose[3:] @ pose[3:] > 1e-6 else None


def _matrix(pose: Array) -> tuple[Array, Array]:
    x, y, z, w = pose[3:] / np.linalg.norm(pose[3:])
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return turn, pose[:3]
