"""Tracks, predictions and ship domains as messages and RViz markers."""

from __future__ import annotations

import array
import math
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, PoseStamped, Quaternion
from nav_msgs.msg import Path
from numpy.typing import NDArray
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from attn_robotics.conversions.attention import to_attention_map
from attn_robotics.conversions.stamps import to_seconds, to_stamp
from attn_robotics.systems.ship_trajectory.processor import Fairway, Prediction, Track, TrackError
from attn_robotics_interfaces.msg import AttentionMap, TrackPrediction, Tracks
from attn_robotics_interfaces.msg import Track as TrackMessage

Array = NDArray[np.float64]
MAX_POINTS = 10_000  # of one track or fairway


def from_tracks(message: Tracks) -> tuple[list[Track], Fairway | None]:
    """Read tracks and the fairway, None without one.

    Raises:
        TrackError: arrays of different lengths, an id given twice, too many points, or a bad fairway.
    """
    found: dict[str, Track] = {}
    for track in message.tracks:
        count = len(track.ages)
        if len(track.x) != count or len(track.y) != count or count > MAX_POINTS:
            raise TrackError(
                f'track {track.id[:60]!r} has {count} ages, {len(track.x)} x and {len(track.y)} y; send equally many, '
                f'at most {MAX_POINTS}'
            )
        if track.id in found:
            raise TrackError(f'track {track.id[:60]!r} is given twice')
        found[track.id] = Track(
            track.id,
            np.array(track.ages, np.float64),
            np.stack([np.array(track.x, np.float64), np.array(track.y, np.float64)], -1),
            float(track.heading),
            float(track.length),
            float(track.beam),
        )
    if not message.fairway_axis:
        return list(found.values()), None
    if len(message.fairway_axis) > MAX_POINTS:
        raise TrackError(f'fairway_axis has {len(message.fairway_axis)} points, allowed are {MAX_POINTS}')
    axis = np.array([(point.x, point.y) for point in message.fairway_axis])
    return list(found.values()), Fairway(axis, message.fairway_half_width)


def to_tracks(tracks: Sequence[Track], header: Header, axis: Array | None, half_width_m: float) -> Tracks:
    """Write tracks, and the fairway's axis (M, 2) [m] where there is one."""
    message = Tracks(header=header, fairway_half_width=half_width_m)
    for track in tracks:
        message.tracks.append(
            TrackMessage(
                id=track.id,
                ages=array.array('f', track.ages_s),
                x=array.array('d', track.xy[:, 0]),
                y=array.array('d', track.xy[:, 1]),
                heading=track.heading,
                length=track.length,
                beam=track.beam,
            )
        )
    if axis is not None:
        message.fairway_axis = [Point(x=float(x), y=float(y), z=0.0) for x, y in axis]
    return message


def to_path(found: Prediction, vessel: int, header: Header) -> Path:
    """The predicted poses of one vessel, its present one first."""
    path = Path(header=header)
    start_s = to_seconds(header.stamp)
    times = np.concatenate([[0.0], found.times_s])
    xy = np.concatenate([found.positions[vessel, None], found.paths[vessel]])
    headings = np.concatenate([[found.present_headings[vessel]], found.headings[vessel]])
    for after, (x, y), heading in zip(times, xy, headings, strict=True):
        pose = PoseStamped(header=Header(stamp=to_stamp(start_s + float(after)), frame_id=header.frame_id))
        pose.pose.position.x, pose.pose.position.y = float(x), float(y)
        pose.pose.orientation = Quaternion(z=math.sin(heading / 2), w=math.cos(heading / 2))
        path.poses.append(pose)
    return path


def to_track_predictions(found: Prediction, header: Header) -> list[TrackPrediction]:
    """Every vessel's prediction with its reason."""
    messages = []
    for vessel, name in enumerate(found.ids):
        message = TrackPrediction(id=name, path=to_path(found, vessel, header), because=found.because(vessel))
        message.deviation_along = array.array('f', found.deviation[vessel, :, 0])
        message.deviation_across = array.array('f', found.deviation[vessel, :, 1])
        other = int(found.neighbour[vessel])
        if other >= 0:
            message.neighbour = found.ids[other]
            message.share = float(found.shares[vessel, other])
            message.distance = float(found.distance[vessel, other])
            message.domain_radius = float(found.radius[vessel, other])
        messages.append(message)
    return messages


def to_influence(found: Prediction, header: Header, tick: int) -> AttentionMap:
    """Who mattered for whom: rows sum to one, or are zero for a vessel with nobody in its domain."""
    return to_attention_map(
        found.shares[None],
        found.ids,
        found.ids,
        mechanism='ship_domain',
        layer='decoder',
        tick=tick,
        stamp=header.stamp,
        frame_id=header.frame_id,
        distances=found.distance,
    )


def to_domain_markers(
    found: Prediction, domain_m: Array, heading: int, header: Header, *, width_m: float, lifetime_s: float
) -> MarkerArray:
    """Draw predictions, the domain around every vessel, and a line to the neighbour that mattered most.

    Args:
        found: the predictions.
        domain_m: (M, M) radii by bearing and relative heading [m].
        heading: which class of relative heading to draw.
        header: of the tracks.
        width_m: of lines [m].
        lifetime_s: how long a viewer keeps them [s].
    """
    lifetime = Duration(sec=int(lifetime_s), nanosec=int(lifetime_s % 1 * 1e9))

    def marker(kind: int, name: str, number: int, alpha: float, rgb: tuple[float, float, float]) -> Marker:
        made = Marker(header=header, ns=name, id=number, type=kind, action=Marker.ADD, lifetime=lifetime)
        made.pose.orientation.w = 1.0
        made.scale.x = width_m
        made.color = ColorRGBA(r=rgb[0], g=rgb[1], b=rgb[2], a=alpha)
        return made

    bins = len(domain_m)
    fan = 2.0 * np.pi * np.arange(bins + 1) / bins
    radii = np.append(domain_m[:, heading], domain_m[0, heading])
    markers = []
    for vessel in range(len(found.ids)):
        x, y = found.positions[vessel]
        path = marker(Marker.LINE_STRIP, 'prediction', vessel, 1.0, (0.1, 0.5, 1.0))
        path.points = [Point(x=float(x), y=float(y), z=0.0)]
        path.points += [Point(x=float(px), y=float(py), z=0.0) for px, py in found.paths[vessel]]
        angles = found.present_headings[vessel] + fan
        domain = marker(Marker.LINE_STRIP, 'domain', vessel, 0.5, (0.2, 0.8, 0.3))
        domain.points = [
            Point(x=float(x + r * math.cos(angle)), y=float(y + r * math.sin(angle)), z=0.0)
            for angle, r in zip(angles, radii, strict=True)
        ]
        markers += [path, domain]
        other = int(found.neighbour[vessel])
        if other >= 0:
            line = marker(Marker.ARROW, 'influence', vessel, float(found.shares[vessel, other]), (1.0, 0.45, 0.1))
            line.scale.y, line.scale.z = 2.5 * width_m, 5.0 * width_m
            ox, oy = found.positions[other]
            line.points = [Point(x=float(ox), y=float(oy), z=0.0), Point(x=float(x), y=float(y), z=0.0)]
            markers.append(line)
    return MarkerArray(markers=markers)
