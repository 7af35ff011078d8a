"""Gaze commands, targets, joint states and camera images as messages and back.

Inside, angles are degrees with pitch positive up; messages follow REP-103: radians, pitch positive DOWN. The neck frame
lies where both neck axes meet, is fixed to the body, x forward and z up.
"""

from __future__ import annotations

import array
import math
from collections.abc import Mapping, Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, TransformStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import ColorRGBA
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from visualization_msgs.msg import Marker, MarkerArray

from attn_robotics.conversions.attention import to_attention_map
from attn_robotics.systems.gaze.bumpless import HeadPose
from attn_robotics.systems.gaze.camera import Camera
from attn_robotics.systems.gaze.command import Command, Target
from attn_robotics.systems.gaze.entities import Entity
from attn_robotics.systems.gaze.human import Array
from attn_robotics.systems.gaze.pose_history import angles, rotate, vector
from attn_robotics.systems.gaze.profile import AXES, Profile, joint_rows
from attn_robotics_interfaces.msg import AttentionMap, GazeState, GazeTarget

MARKER_LIFE_S = 0.5
_CHANNELS = {'mono8': 1, 'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4}


class MessageError(ValueError):
    """A message that cannot be used; the text says why."""


def to_duration(seconds: float) -> Duration:
    """Seconds as a duration; negative ones become zero."""
    nanoseconds = max(0, round(seconds * 1e9))
    return Duration(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


# Commands.
def to_trajectory(profile: Profile, command: Command, stamp: Time) -> JointTrajectory:
    """A tick's points; they are to be reached within the tick that follows `stamp`.

    A command without motion in time (a clock that stood still) becomes one point 10 ms ahead, since controllers refuse
    points at the start.
    """
    names, rows = joint_rows(profile, command.points)
    message = JointTrajectory(joint_names=names)
    message.header.stamp = stamp
    for time, row in zip(command.times, rows, strict=True):
        point = JointTrajectoryPoint(time_from_start=to_duration(float(time) if time > 0.0 else 0.01))
        point.positions = array.array('d', row.tobytes())
        message.points.append(point)
    return message


def from_trajectory(profile: Profile, message: JointTrajectory) -> tuple[Array, Array]:
    """Times (S,) [s from the message's stamp] and points (S, 6) in the order of `AXES` of a trajectory.

    Raises:
        MessageError: other joints than the profile's, points of the wrong length, or numbers that are not finite.
    """
    column = {name: index for index, name in enumerate(message.joint_names)}
    if missing := sorted(joint.name for joint in profile.joints.values() if joint.name not in column):
        raise MessageError(f'trajectory without {", ".join(missing)}')
    points = np.zeros((len(message.points), len(AXES)))
    times = np.zeros(len(message.points))
    for row, point in enumerate(message.points):
        positions = np.asarray(point.positions)
        if positions.size != len(column) or not np.isfinite(positions).all():
            raise MessageError(f'trajectory point {row} needs {len(column)} finite positions')
        times[row] = point.time_from_start.sec + point.time_from_start.nanosec * 1e-9
        for axis, joint in profile.joints.items():
            value = joint.sign * float(positions[column[joint.name]])
            points[row, AXES.index(axis)] = value if axis == 'lids' else math.degrees(value)
    return times, points


def to_joint_state(profile: Profile, row: Array, stamp: Time) -> JointState:
    """Joint states of a head at one command row (6,)."""
    names, rows = joint_rows(profile, row[None])
    message = JointState(name=names, position=array.array('d', rows[0].tobytes()))
    message.header.stamp = stamp
    return message


def from_joint_state(profile: Profile, message: JointState, stamp: float) -> HeadPose | None:
    """The head's pose; None when the message tells of other joints only, as robots publish them in parts.

    Raises:
        MessageError: neck joints in part, unequal lengths, or numbers that are not finite.
    """
    if len(message.name) != len(message.position):
        raise MessageError(f'{len(message.name)} joint names and {len(message.position)} positions')
    found = dict(zip(message.name, message.position, strict=True))
    neck = [profile.joints[axis].name for axis in ('neck_yaw', 'neck_pitch')]
    if not any(name in found for name in neck):
        return None
    if missing := [name for name in neck if name not in found]:
        raise MessageError(f'joint states without {", ".join(missing)}')

    def read(axis: str) -> float:
        joint = profile.joints.get(axis)
        return math.degrees(joint.sign * found.get(joint.name, 0.0)) if joint is not None else 0.0

    yaw, pitch, eye_yaw, eye_pitch = (read(axis) for axis in AXES[:4])
    if not all(map(math.isfinite, (yaw, pitch, eye_yaw, eye_pitch))):
        raise MessageError('a joint position is not a number')
    return HeadPose(stamp, (yaw, pitch), (eye_yaw, eye_pitch))


def to_gaze_state(command: Command, stamp: Time, frame_id: str) -> GazeState:
    """Where the head looks now."""
    message = GazeState(phase=int(command.phase), target_id=command.target_id)
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    (head_yaw, head_pitch), (eye_yaw, eye_pitch) = np.radians(command.head), np.radians(command.eye)
    message.head_yaw, message.head_pitch = float(head_yaw), -float(head_pitch)
    message.eye_yaw, message.eye_pitch = float(eye_yaw), -float(eye_pitch)
    message.vergence = math.radians(command.vergence)
    message.lid = 1.0 - command.lids
    return message


# Targets.
def to_gaze_target(
    name: str, direction: tuple[float, float], distance: float, stamp: Time, frame_id: str, **fields: object
) -> GazeTarget:
    """Something at a direction (yaw, pitch [deg], up positive) and distance [m] from the origin of `frame_id`."""
    x, y, z = (float(value) for value in distance * vector(*direction))
    message = GazeTarget(id=name, point=Point(x=x, y=y, z=z), **fields)
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    return message


def to_direction(point: Array) -> tuple[float, float, float]:
    """Yaw, pitch [deg] and distance [m] of a point (3,) in the neck frame.

    Raises:
        MessageError: not finite, or so near the neck that it has no direction.
    """
    distance = float(np.linalg.norm(point))
    if not math.isfinite(distance) or distance < 1e-3:
        raise MessageError(f'point {np.round(point, 3).tolist()} has no direction from the neck')
    yaw, pitch = angles(point)
    return float(yaw), float(pitch), distance


def to_target(name: str, point: Array) -> Target:
    """A client's target at a point (3,) in the neck frame [m].

    Raises:
        MessageError: the point has no direction.
    """
    return Target(name, *to_direction(point), 'commanded', from_neck=True)


# Cameras.
def to_camera(message: CameraInfo) -> Camera:
    """Intrinsics of a rectified image: P where it is given, else K.

    Raises:
        MessageError: not calibrated.
    """
    k = (message.p[0], message.p[5], message.p[2], message.p[6]) if message.p[0] > 0.0 else None
    fx, fy, cx, cy = k or (message.k[0], message.k[4], message.k[2], message.k[5])
    try:
        return Camera(message.width, message.height, fx, fy, cx, cy)
    except ValueError as error:
        raise MessageError(str(error)) from error


def to_camera_info(camera: Camera, stamp: Time, frame_id: str) -> CameraInfo:
    """An ideal camera's description."""
    message = CameraInfo(width=camera.width, height=camera.height, distortion_model='plumb_bob', d=[0.0] * 5)
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    message.k = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
    message.p = [camera.fx, 0.0, camera.cx, 0.0, 0.0, camera.fy, camera.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    return message


def to_image(pixels: NDArray[np.uint8], stamp: Time, frame_id: str) -> Image:
    """An RGB image (H, W, 3)."""
    height, width = pixels.shape[:2]
    message = Image(height=height, width=width, encoding='rgb8', step=3 * width)
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    message.data = array.array('B', pixels.tobytes())
    return message


def from_image(message: Image) -> NDArray[np.uint8]:
    """Pixels (H, W) of a grey image, or (H, W, 3) in the order red, green, blue.

    Raises:
        MessageError: another encoding, or fewer bytes than the size asks for.
    """
    channels = _CHANNELS.get(message.encoding)
    if channels is None:
        raise MessageError(f'encoding {message.encoding!r}; use {", ".join(_CHANNELS)}')
    width = channels * message.width
    if message.step < width or len(message.data) < message.step * message.height or message.height < 1:
        raise MessageError(
            f'{message.encoding} of {message.width} x {message.height} with {len(message.data)} bytes in rows of '
            f'{message.step}'
        )
    rows = np.frombuffer(message.data, dtype=np.uint8, count=message.step * message.height)
    pixels = rows.reshape(message.height, message.step)[:, :width]
    if channels == 1:
        return np.ascontiguousarray(pixels)
    pixels = pixels.reshape(message.height, message.width, channels)[:, :, :3]
    return np.ascontiguousarray(pixels[:, :, ::-1] if message.encoding.startswith('bgr') else pixels)


def to_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """An image as `from_image` gives it, compressed."""
    import cv2

    shown = pixels[:, :, ::-1] if pixels.ndim == 3 else pixels
    return bytes(cv2.imencode('.jpg', shown, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes())


# What is looked at.
def gaze_error(command: Command, target: Target | None) -> float:
    """Angle between gaze and its target [deg]; infinite without one."""
    if target is None:
        return math.inf
    yaw, pitch = command.head + command.eye
    return math.hypot(float(yaw) - target.yaw, float(pitch) - target.pitch)


def attention_shares(scores: Mapping[str, float], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Share of each entity in the choice: the network's attention, or the soft maximum of scores without one."""
    if weights:
        return dict(weights)
    if not scores:
        return {}
    values = np.array([*scores.values()])
    powers = np.exp(values - values.max())
    return dict(zip(scores, (powers / powers.sum()).tolist(), strict=True))


def to_attention(shares: Mapping[str, float], mechanism: str, tick: int, stamp: Time, frame_id: str) -> AttentionMap:
    """Whom the selector attends to; the entity without a name, nobody, is called `idle`."""
    names = [name or 'idle' for name in shares]
    weights = np.array([*shares.values()]).reshape(1, 1, -1)
    return to_attention_map(
        weights, ['gaze'], names, mechanism=mechanism, layer='selector', tick=tick, stamp=stamp, frame_id=frame_id
    )


def gaze_ray(profile: Profile, command: Command, reach: float) -> tuple[Array, Array]:
    """Origin (3,) between the eyes and the point (3,) `reach` metres along the line of sight, in the neck frame."""
    head = command.head
    origin = rotate(head, np.array(profile.eye_offset))
    # The eye turns in the head, which carries it: first the eye's own turn, then the head's.
    return origin, origin + reach * rotate(head, vector(float(command.eye[0]), float(command.eye[1])))


def target_point(profile: Profile, command: Command, target: Target) -> Array:
    """Where a target is (3,) in the neck frame: its direction is seen from between the eyes, which the head carries."""
    origin = rotate(command.head, np.array(profile.eye_offset))
    return np.asarray(origin + target.distance * vector(target.yaw, target.pitch))


def to_point_transform(point: Array, stamp: Time, parent: str, child: str) -> TransformStamped:
    """A frame at a point (3,), turned like its parent."""
    message = TransformStamped(child_frame_id=child)
    message.header.stamp = stamp
    message.header.frame_id = parent
    t = message.transform.translation
    t.x, t.y, t.z = (float(value) for value in point)
    message.transform.rotation.w = 1.0
    return message


def to_markers(
    ray: tuple[Array, Array], entities: Sequence[Entity], shares: Mapping[str, float], stamp: Time, frame_id: str
) -> MarkerArray:
    """The line of sight, and a ball for every entity, the more opaque the more it is attended to."""
    markers: list[Marker] = []

    def add(kind: int, scale: float, color: ColorRGBA) -> Marker:
        marker = Marker(type=kind, action=Marker.ADD, ns='gaze', id=len(markers), color=color)
        marker.header.stamp = stamp
        marker.header.frame_id = frame_id
        marker.pose.orientation.w = 1.0
        marker.scale.x = marker.scale.y = marker.scale.z = scale
        marker.lifetime = to_duration(MARKER_LIFE_S)
        markers.append(marker)
        return marker

    line = add(Marker.LINE_LIST, 0.01, ColorRGBA(r=1.0, g=0.85, b=0.1, a=1.0))
    line.points = [Point(**dict(zip('xyz', map(float, end), strict=True))) for end in ray]
    for entity in entities:
        share = shares.get(entity.id, 0.0)
        ball = add(Marker.SPHERE, 0.15, ColorRGBA(r=1.0, g=0.45, b=0.1, a=float(0.1 + 0.9 * min(max(share, 0.0), 1.0))))
        x, y, z = (float(value) for value in entity.distance * vector(entity.azimuth, entity.elevation))
        ball.pose.position.x, ball.pose.position.y, ball.pose.position.z = x, y, z
    return MarkerArray(markers=markers)
