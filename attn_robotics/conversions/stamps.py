"""Seconds and ROS time stamps."""

from __future__ import annotations

from builtin_interfaces.msg import Time


def to_stamp(seconds: float) -> Time:
    """Seconds since the epoch (or since the start of a simulation) as a stamp; negative times become zero."""
    nanoseconds = max(0, round(seconds * 1e9))
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def to_seconds(stamp: Time) -> float:
    """A stamp as seconds."""
    return float(stamp.sec + stamp.nanosec * 1e-9)
