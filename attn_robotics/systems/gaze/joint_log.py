"""Joint logs from bags (MCAP), NPZ and CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from attn_robotics.systems.gaze.cdr import (
    CdrError,
    JointSample,
    read_gaze_state,
    read_joint_state,
    read_joint_trajectory,
    read_transforms,
)
from attn_robotics.systems.gaze.command import GazeLog
from attn_robotics.systems.gaze.human import Array
from attn_robotics.systems.gaze.pose_history import angles
from attn_robotics.systems.gaze.profile import AXES, Profile

TARGET_FRAME = 'gaze_target'  # as the gaze node calls it unless told otherwise
AIM_WITHIN = 0.1  # s
COLUMNS = ('t', *AXES)


def read_log(path: Path, profile: Profile) -> GazeLog:
    """Read a log.

    Args:
        path: a bag folder or .mcap file with JointState (preferred) or JointTrajectory, and GazeState and /tf, which
            tell when and where to gaze was sent, if recorded;
            or .npz / .csv with columns t [s], neck_yaw, neck_pitch, eyes_yaw, eyes_pitch [deg] and lids [0 to 1],
            missing columns meaning missing joints, and in NPZ optionally `command` [s] and `aim` [deg].
        profile: names, signs and kinds of the joints in a bag.

    Raises:
        ValueError: nothing usable in it; one line.
    """
    if path.is_dir():
        bags = sorted(path.glob('*.mcap'))
        if not bags:
            raise ValueError(f'{path}: no .mcap file in this folder; record with ros2 bag record -s mcap')
        path = bags[0]
    if not path.is_file():
        raise ValueError(f'{path}: no such file')
    if path.suffix == '.npz':
        with np.load(path, allow_pickle=False) as data:
            columns = {name: np.asarray(data[name], dtype=np.float64).ravel() for name in data.files}
    elif path.suffix == '.csv':
        columns = _read_csv(path)
    elif path.suffix == '.mcap':
        columns = _read_bag(path, profile)
    else:
        raise ValueError(f'{path}: expected a bag folder, .mcap, .npz or .csv')
    return _assemble(columns, path)


def write_log(path: Path, log: GazeLog) -> None:
    """Write a log as NPZ that `read_log` takes back."""
    part = path.with_name(path.name + '.part.npz')
    np.savez_compressed(
        part,
        t=log.t,
        neck_yaw=log.head[:, 0],
        neck_pitch=log.head[:, 1],
        eyes_yaw=log.eye[:, 0],
        eyes_pitch=log.eye[:, 1],
        lids=log.lids,
        command=log.command,
        aim=log.aim.ravel(),
    )
    part.replace(path)


def _assemble(columns: dict[str, np.ndarray], path: Path) -> GazeLog:
    if 't' not in columns or 'neck_yaw' not in columns:
        raise ValueError(f'{path}: columns t and neck_yaw are needed, found {sorted(columns)}')
    n = columns['t'].size
    track = {axis: columns.get(axis, np.zeros(n) if axis != 'lids' else np.full(n, np.nan)) for axis in AXES}
    if any(values.size != n for values in track.values()):
        raise ValueError(f'{path}: columns are of unequal length')
    order = np.argsort(columns['t'], kind='stable')
    t = columns['t'][order]
    body = np.stack([track[axis][order] for axis in AXES], axis=1)
    keep = np.concatenate([[True], np.diff(t) > 0]) & np.isfinite(t) & np.isfinite(body[:, :4]).all(1)
    t, body = t[keep], body[keep]
    if t.size < 100:
        raise ValueError(f'{path}: only {t.size} usable samples; at least 100 are needed')
    command, aim = columns.get('command', np.zeros(0)), columns.get('aim', np.zeros(0)).reshape(-1, 2)
    in_order = np.argsort(command, kind='stable')
    aim = aim[in_order] if aim.shape[0] == command.size else np.zeros((0, 2))
    return GazeLog(t, body[:, :2], body[:, 2:4], body[:, 5], command[in_order], aim)


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    names = [name for name in COLUMNS if rows and name in rows[0]]
    try:
        return {name: np.array([float(row[name]) for row in rows]) for name in names}
    except (TypeError, ValueError) as error:
        raise ValueError(f'{path}: not a number in the table: {error}') from error


def _read_bag(path: Path, profile: Profile) -> dict[str, np.ndarray]:
    from mcap.exceptions import McapError
    from mcap.reader import make_reader

    states: list[JointSample] = []
    plans: list[JointSample] = []
    targets: list[tuple[float, str]] = []
    aims: list[tuple[float, float, float]] = []
    broken = 0
    try:
        with path.open('rb') as stream:
            for schema, channel, message in make_reader(stream).iter_messages():
                kind = schema.name if schema is not None and channel.message_encoding == 'cdr' else ''
                try:
                    if kind == 'sensor_msgs/msg/JointState':
                        states.append(read_joint_state(message.data))
                    elif kind == 'trajectory_msgs/msg/JointTrajectory':
                        plans += read_joint_trajectory(message.data)
                    elif kind == 'attn_robotics_interfaces/msg/GazeState':
                        targets.append(read_gaze_state(message.data))
                    elif kind == 'tf2_msgs/msg/TFMessage':
                        for stamp, child, point in read_transforms(message.data):
                            if child == TARGET_FRAME:
                                yaw, pitch = angles(point - np.array(profile.eye_offset))
                                aims.append((stamp, float(yaw), float(pitch)))
                except CdrError:
                    broken += 1
    except McapError as error:
        raise ValueError(f'{path}: not a readable MCAP bag: {error}') from error
    axis_of = {joint.name: (axis, joint.sign) for axis, joint in profile.joints.items()}
    for samples in (states, plans):
        columns = _columns(samples, axis_of)
        if columns is not None:
            columns['command'], aim = match_aims(_changes(targets), aims)
            columns['aim'] = aim.ravel()
            return columns
    wanted = ', '.join(sorted(axis_of))
    raise ValueError(f'{path}: no joint messages for {wanted} ({broken} undecodable); is this the right --profile?')


def _columns(samples: list[JointSample], axis_of: dict[str, tuple[str, float]]) -> dict[str, np.ndarray] | None:
    """Tracks on the time base of the neck; joints published apart are interpolated onto it."""
    series: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        for name, position in zip(sample.names, sample.positions, strict=True):
            if name in axis_of and math.isfinite(position):
                axis, sign = axis_of[name]
                value = float(position) if axis == 'lids' else math.degrees(float(position))
                series.setdefault(axis, []).append((sample.stamp, sign * value))
    if 'neck_yaw' not in series:
        return None
    tracks = {axis: np.array(sorted(rows)) for axis, rows in series.items()}
    t = tracks['neck_yaw'][:, 0]
    return {'t': t} | {axis: np.interp(t, rows[:, 0], rows[:, 1]) for axis, rows in tracks.items()}


def match_aims(changes: Sequence[float], aims: Sequence[tuple[float, float, float]]) -> tuple[Array, Array]:
    """Times of the changes (K,) [s] and where gaze was sent with each (K, 2) [deg].

    Args:
        changes: when another target was chosen [s].
        aims: time [s], yaw and pitch [deg] of the target, told now and then.

    Returns:
        A change whose target was not told within 0.1 s has NaN; without any told the second is empty, for unknown.
    """
    times = np.array(sorted(changes), dtype=np.float64)
    told = np.array(sorted(aims), dtype=np.float64).reshape(-1, 3)
    if not told.shape[0]:
        return times, np.zeros((0, 2))
    index = np.minimum(np.searchsorted(told[:, 0], times - 1e-6), told.shape[0] - 1)
    late = told[index, 0] - times
    fresh = (late > -1e-6) & (late < AIM_WITHIN)
    return times, np.where(fresh[:, None], told[index, 1:], np.nan)


def _changes(targets: list[tuple[float, str]]) -> list[float]:
    """Times at which the target's id changed."""
    times, last = [], None
    for stamp, name in sorted(targets):
        if name != last:
            times.append(stamp)
        last = name
    return times
