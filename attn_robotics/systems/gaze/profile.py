"""Robot profiles: which joints a head has, how far and how fast they go. Read from `config/robots/<name>.yaml`."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from attn_robotics.systems.gaze.human import Array
from attn_robotics.systems.gaze.motor import Limits

# Order of every command of this system.
AXES: Final = ('neck_yaw', 'neck_pitch', 'eyes_yaw', 'eyes_pitch', 'vergence', 'lids')
REQUIRED: Final = ('neck_yaw', 'neck_pitch')
_KEYS: Final = {'joint', 'lower', 'upper', 'velocity', 'acceleration', 'sign'}


@dataclass(frozen=True)
class Joint:
    """One axis of the head, in this system's units: degrees, +yaw left, +pitch up, lids 0 open to 1 closed."""

    name: str  # joint name in the robot description; may repeat a name for coupled joints
    lower: float
    upper: float
    velocity: float  # per second
    acceleration: float  # per second squared
    sign: float = 1.0  # multiply by it for the robot's own direction


@dataclass(frozen=True)
class Profile:
    """A head: axis name to joint; axes that are missing do not exist on the robot."""

    name: str
    joints: Mapping[str, Joint]
    eye_end: float = 30.0  # deg of eccentricity kept at the end of a shift
    camera_on: str = 'head'  # what carries the camera: head, eyes or body
    camera_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # m: forward, left, up from the neck, head level
    eye_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # m: middle between the eyes, likewise

    @property
    def has_eyes(self) -> bool:
        """Whether the eyes move."""
        return 'eyes_yaw' in self.joints

    def limits(self) -> Limits:
        """The same body as the motor model wants it."""
        yaw, pitch = self.joints['neck_yaw'], self.joints['neck_pitch']
        eyes = (0.0, 0.0, 0.0)
        eye_speed = 700.0
        if self.has_eyes:
            across, along = self.joints['eyes_yaw'], self.joints['eyes_pitch']
            eyes = (min(across.upper, -across.lower), along.upper, -along.lower)
            eye_speed = min(across.velocity, along.velocity)
        return Limits(
            eye_range=eyes,
            eye_end=min(self.eye_end, 0.8 * eyes[0]) if self.has_eyes else 0.0,
            # A margin for the correction of delays and of disturbances, which rides on top of the plan.
            eye_speed=0.95 * eye_speed,
            head_speed=0.95 * min(yaw.velocity, pitch.velocity),
            head_acceleration=0.9 * min(yaw.acceleration, pitch.acceleration),
            head_low=(yaw.lower, pitch.lower),
            head_high=(yaw.upper, pitch.upper),
        )


def joint_rows(profile: Profile, points: Array) -> tuple[list[str], Array]:
    """Command points as a joint trajectory wants them.

    Args:
        profile: the robot.
        points: (S, 6) in the order of `AXES`: degrees, lids 0 to 1.

    Returns:
        Joint names (J) and positions (S, J) in the robot's own directions [rad; lids 0 to 1].
    """
    axes = [axis for axis in AXES if axis in profile.joints]
    columns = []
    for axis in axes:
        values = points[:, AXES.index(axis)] * profile.joints[axis].sign
        columns.append(values if axis == 'lids' else np.radians(values))
    return [profile.joints[axis].name for axis in axes], np.stack(columns, axis=1)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f'{where} must be a finite number, got {value!r}')
    return float(value)


def _offset(value: Any, where: str) -> tuple[float, float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise ValueError(f'{where} must be three numbers in metres, got {value!r}')
    x, y, z = (_number(part, where) for part in value)
    return x, y, z


def _joint(axis: str, entry: Any, where: str) -> Joint:
    here = f'{where}: joint {axis}'
    if not isinstance(entry, Mapping):
        raise ValueError(f'{here} must be a mapping with lower, upper, velocity and acceleration')
    if unknown := set(entry) - _KEYS:
        raise ValueError(f'{here} has unknown keys {sorted(map(str, unknown))}; known are {sorted(_KEYS)}')
    if missing := sorted(_KEYS - {'sign'} - set(entry)):
        raise ValueError(f'{here} lacks {", ".join(missing)}')
    lower, upper = (_number(entry[key], f'{here}: {key}') for key in ('lower', 'upper'))
    if lower >= upper:
        raise ValueError(f'{here} has reversed limits: lower {lower:g} is not below upper {upper:g}')
    if axis.startswith(('neck', 'eyes')) and not lower < 0.0 < upper:
        raise ValueError(f'{here} cannot look ahead: 0 is not inside {lower:g} to {upper:g}')
    speeds = [_number(entry[key], f'{here}: {key}') for key in ('velocity', 'acceleration')]
    if min(speeds) <= 0.0:
        raise ValueError(f'{here}: velocity and acceleration must be positive')
    sign = _number(entry.get('sign', 1.0), f'{here}: sign')
    if abs(sign) != 1.0:
        raise ValueError(f'{here}: sign must be 1 or -1, got {sign:g}')
    return Joint(str(entry['joint']), lower, upper, speeds[0], speeds[1], sign)


def parse_profile(data: Any, where: str = 'profile') -> Profile:
    """Check a parsed YAML profile.

    Args:
        data: mapping with `name`, `joints` and optionally `eye_end` [deg], `camera_on`, `camera_offset` and
            `eye_offset` [m].
        where: name of the source for error messages.

    Raises:
        ValueError: one line naming the culprit.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f'{where}: expected a mapping with name and joints')
    if unknown := set(data) - {'name', 'joints', 'eye_end', 'camera_on', 'camera_offset', 'eye_offset'}:
        raise ValueError(f'{where}: unknown keys {sorted(map(str, unknown))}')
    joints = data.get('joints')
    if not isinstance(joints, Mapping):
        raise ValueError(f'{where}: joints must be a mapping of axis to limits')
    if unknown := set(joints) - set(AXES):
        raise ValueError(f'{where}: unknown axes {sorted(map(str, unknown))}; known are {", ".join(AXES)}')
    if missing := [axis for axis in REQUIRED if axis not in joints]:
        raise ValueError(f'{where}: missing joint {", ".join(missing)}; every head needs {" and ".join(REQUIRED)}')
    if ('eyes_yaw' in joints) != ('eyes_pitch' in joints):
        raise ValueError(f'{where}: eyes_yaw and eyes_pitch come together or not at all')
    if 'vergence' in joints and 'eyes_yaw' not in joints:
        raise ValueError(f'{where}: vergence needs eyes_yaw and eyes_pitch')
    camera = data.get('camera_on', 'head')
    if camera not in ('head', 'eyes', 'body'):
        raise ValueError(f'{where}: camera_on must be head, eyes or body, got {camera!r}')
    eye_end = _number(data.get('eye_end', 30.0), f'{where}: eye_end')
    if eye_end < 0.0:
        raise ValueError(f'{where}: eye_end must not be negative')
    checked = {axis: _joint(axis, joints[axis], where) for axis in AXES if axis in joints}
    offsets = [_offset(data.get(key, (0.0, 0.0, 0.0)), f'{where}: {key}') for key in ('camera_offset', 'eye_offset')]
    return Profile(str(data.get('name', where)), checked, eye_end, str(camera), *offsets)


def _folders() -> list[Path]:
    shared = [Path(p) / 'share/attn_robotics' for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    roots = [Path(__file__).resolve().parents[3], *shared, Path(sys.prefix) / 'share/attn_robotics']
    return [root / 'config/robots' for root in roots]


def load_profile(name: str | Path = 'eyes_neck_lids') -> Profile:
    """Load a profile by file path or by the name of a shipped one.

    Raises:
        FileNotFoundError: no such file; the message lists the shipped names.
        ValueError: the file is not a valid profile.
    """
    path = Path(name)
    if path.suffix not in ('.yaml', '.yml'):
        path = next((p for f in _folders() if (p := f / f'{name}.yaml').is_file()), path)
    if not path.is_file():
        known = sorted({p.stem for folder in _folders() for p in folder.glob('*.yaml')})
        raise FileNotFoundError(f'robot profile {str(name)!r} not found; give a YAML path or one of {", ".join(known)}')
    try:
        data = yaml.safe_load(path.read_text(encoding='utf-8'))
    except yaml.YAMLError as error:
        raise ValueError(f'{path}: not valid YAML: {" ".join(str(error).split())}') from error
    return parse_profile(data, str(path))
