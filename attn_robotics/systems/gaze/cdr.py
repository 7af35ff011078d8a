"""Bounded reader for the few ROS messages that a joint log needs, so that scoring a bag needs no ROS."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from attn_robotics.systems.gaze.human import Array

MAX_ITEMS = 4096  # per sequence; a head has a dozen joints


class CdrError(ValueError):
    """The bytes are not the message they claim to be."""


class CdrReader:
    """Reads plain CDR (XCDR1), both byte orders; alignment counts from after the 4-byte header."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 4 or data[0] != 0 or data[1] not in (0, 1):
            raise CdrError('not plain CDR: the encapsulation header is missing or of another kind')
        self._data = data
        self._at = 4
        self._order = '<' if data[1] == 1 else '>'

    def _take(self, code: str, size: int) -> float:
        self._at += -(self._at - 4) % size
        if self._at + size > len(self._data):
            raise CdrError(f'message ends at byte {len(self._data)}, {self._at + size} are needed')
        value = struct.unpack_from(self._order + code, self._data, self._at)[0]
        self._at += size
        return float(value) if code in 'df' else int(value)

    def count(self) -> int:
        """Length of a sequence, refused when beyond reason."""
        n = int(self._take('I', 4))
        if n > MAX_ITEMS:
            raise CdrError(f'sequence of {n} items; at most {MAX_ITEMS} are read')
        return n

    def text(self) -> str:
        """A string."""
        n = int(self._take('I', 4))
        if n > len(self._data) - self._at:
            raise CdrError(f'string of {n} bytes runs past the end')
        raw = self._data[self._at : self._at + n]
        self._at += n
        return raw.rstrip(b'\0').decode('utf-8', 'replace')

    def byte(self) -> int:
        """A uint8."""
        return int(self._take('B', 1))

    def double(self) -> float:
        """A float64."""
        return self._take('d', 8)

    def doubles(self) -> Array:
        """A sequence of float64."""
        return np.array([self._take('d', 8) for _ in range(self.count())], dtype=np.float64)

    def time(self) -> float:
        """builtin_interfaces/Time or Duration [s]."""
        seconds = self._take('i', 4)
        return seconds + self._take('I', 4) * 1e-9

    def header(self) -> float:
        """std_msgs/Header; returns its stamp [s]."""
        stamp = self.time()
        self.text()
        return stamp


@dataclass(frozen=True)
class JointSample:
    """Named positions at one time [rad]."""

    stamp: float  # s
    names: tuple[str, ...]
    positions: Array


def read_joint_state(data: bytes) -> JointSample:
    """Decode sensor_msgs/msg/JointState; names and positions of unequal length are refused."""
    reader = CdrReader(data)
    stamp = reader.header()
    names = tuple(reader.text() for _ in range(reader.count()))
    positions = reader.doubles()
    if positions.size != len(names):
        raise CdrError(f'JointState with {len(names)} names and {positions.size} positions')
    return JointSample(stamp, names, positions)


def read_joint_trajectory(data: bytes) -> list[JointSample]:
    """Decode trajectory_msgs/msg/JointTrajectory into its points, at stamp plus time from start."""
    reader = CdrReader(data)
    stamp = reader.header()
    names = tuple(reader.text() for _ in range(reader.count()))
    samples = []
    for _ in range(reader.count()):
        positions = reader.doubles()
        for _unused in ('velocities', 'accelerations', 'effort'):
            reader.doubles()
        if positions.size != len(names):
            raise CdrError(f'JointTrajectory with {len(names)} names and {positions.size} positions')
        samples.append(JointSample(stamp + reader.time(), names, positions))
    return samples


def read_gaze_state(data: bytes) -> tuple[float, str]:
    """Stamp [s] and target of attn_robotics_interfaces/msg/GazeState (its first fields)."""
    reader = CdrReader(data)
    stamp = reader.header()
    reader.byte()
    return stamp, reader.text()


def read_transforms(data: bytes) -> list[tuple[float, str, Array]]:
    """Stamp [s], child frame and translation (3,) [m] of every transform in a tf2_msgs/msg/TFMessage."""
    reader = CdrReader(data)
    transforms = []
    for _ in range(reader.count()):
        stamp, child = reader.header(), reader.text()
        values = [reader.double() for _ in range(7)]  # translation, then the quaternion
        transforms.append((stamp, child, np.array(values[:3])))
    return transforms
