"""Planar poses to ROS geometry and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped, Quaternion, Transform, TransformStamped, Twist
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from tf2_msgs.msg import TFMessage


def yaw_of(q: Quaternion) -> float:
    """Heading of a quaternion [rad]."""
    return math.atan2(2.0 * (q.w * q.z + q.x * q.y), 1.0 - 2.0 * (q.y * q.y + q.z * q.z))


def to_quaternion(yaw: float) -> Quaternion:
    """Quaternion of a heading [rad]."""
    return Quaternion(x=0.0, y=0.0, z=math.sin(yaw / 2), w=math.cos(yaw / 2))


def to_transforms(
    poses: NDArray[np.floating], children: Sequence[str], parents: Sequence[str], stamp: Time
) -> TFMessage:
    """Poses of many robots as one /tf message.

    Args:
        poses: (N, 3) x, y [m] and yaw [rad], each in its parent.
        children: N frame ids.
        parents: N frame ids of the poses.
        stamp: time of measurement.
    """
    message = TFMessage()
    for (x, y, yaw), child, parent in zip(poses.tolist(), children, parents, strict=True):
        transform = TransformStamped(child_frame_id=child)
        transform.header.stamp = stamp
        transform.header.frame_id = parent
        transform.transform.translation.x = x
        transform.transform.translation.y = y
        transform.transform.rotation = to_quaternion(yaw)
        message.transforms.append(transform)
    return message


def from_transform(transform: Transform) -> tuple[float, float, float]:
    """Planar part of a transform: x, y [m] and yaw [rad]."""
    return transform.translation.x, transform.translation.y, yaw_of(transform.rotation)


def compose(outer: tuple[float, float, float], inner: tuple[float, float, float]) -> tuple[float, float, float]:
    """Pose of `inner`'s child in `outer`'s parent; x, y [m] and yaw [rad]."""
    cos, sin = math.cos(outer[2]), math.sin(outer[2])
    return (
        outer[0] + cos * inner[0] - sin * inner[1],
        outer[1] + sin * inner[0] + cos * inner[1],
        math.remainder(outer[2] + inner[2], 2 * math.pi),
    )


def to_odometry(pose: Sequence[float], velocity: Sequence[float], frame_id: str, child: str, stamp: Time) -> Odometry:
    """Pose (x, y [m], yaw [rad]) and body velocity (m/s, rad/s) as odometry."""
    message = Odometry(child_frame_id=child)
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    message.pose.pose.position.x = float(pose[0])
    message.pose.pose.position.y = float(pose[1])
    message.pose.pose.orientation = to_quaternion(float(pose[2]))
    message.twist.twist.linear.x = float(velocity[0])
    message.twist.twist.angular.z = float(velocity[1])
    return message


def from_odometry(message: Odometry) -> tuple[float, float, float]:
    """x, y [m] and yaw [rad] of an odometry message."""
    pose = message.pose.pose
    return pose.position.x, pose.position.y, yaw_of(pose.orientation)


def to_twist(linear: float, angular: float) -> Twist:
    """Body velocities (m/s, rad/s) as a twist."""
    message = Twist()
    message.linear.x = float(linear)
    message.angular.z = float(angular)
    return message


def to_pose_stamped(xy: Sequence[float] | NDArray[np.floating], frame_id: str, stamp: Time) -> PoseStamped:
    """A point on the floor [m] as a pose that faces along x."""
    message = PoseStamped()
    message.header.frame_id = frame_id
    message.header.stamp = stamp
    message.pose.position.x = float(xy[0])
    message.pose.position.y = float(xy[1])
    message.pose.orientation.w = 1.0
    return message
