"""Tracks detected faces: stable ids, one-euro smoothing, patience with lost frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import linear_sum_assignment

from attn_robotics.systems.gaze.camera import Camera

CONFIRM: Final = 2  # detections until a track is told
PATIENCE: Final = 1.0  # s without detection until a track ends
MAX_TRACKS: Final = 50


@dataclass(frozen=True)
class Box:
    """A detection in pixels."""

    x: float
    y: float
    width: float
    height: float
    confidence: float = 1.0


@dataclass(frozen=True)
class TrackedFace:
    """A face with its bearing from the camera axis; the point between the eyes, not the middle of the box."""

    id: str
    yaw: float  # deg, positive to the left
    pitch: float  # deg, positive up
    distance: float  # m
    age: float  # s since last detected


class OneEuro:
    """One-euro filter (Casiez et al. 2012): smooth when still, quick when moving."""

    def __init__(self, min_cutoff: float = 0.8, beta: float = 0.05, d_cutoff: float = 1.0) -> None:
        self._settings = min_cutoff, beta, d_cutoff
        self._value: float | None = None
        self._slope = 0.0

    def step(self, value: float, dt: float) -> float:
        """Filter one value that came `dt` seconds after the last."""
        min_cutoff, beta, d_cutoff = self._settings
        if self._value is None or dt <= 0.0:
            self._value = value if self._value is None else self._value
            return self._value
        slope = (value - self._value) / dt
        self._slope += _alpha(d_cutoff, dt) * (slope - self._slope)
        self._value += _alpha(min_cutoff + beta * abs(self._slope), dt) * (value - self._value)
        return self._value


def _alpha(cutoff: float, dt: float) -> float:
    return 1.0 / (1.0 + 1.0 / (2.0 * math.pi * cutoff * dt))


class _Track:
    def __init__(self, number: int, box: Box, stamp: float) -> None:
        self.number, self.hits, self.seen = number, 1, stamp
        self.filters = [OneEuro() for _ in range(3)]
        self.values = [0.0, 0.0, 0.0]
        self.box = box


class FaceTracker:
    """Associates boxes by the Hungarian method on distance relative to size."""

    def __init__(self, camera: Camera, prefix: str = 'face') -> None:
        self._camera = camera
        self._prefix = prefix
        self._tracks: list[_Track] = []
        self._count = 0
        self._stamp = -math.inf

    def update(self, stamp: float, boxes: Sequence[Box]) -> list[TrackedFace]:
        """Take one image's detections.

        Args:
            stamp: of the image [s]; an older one than before resets the tracks (ids go on counting).
            boxes: detections, any order; broken ones are dropped.

        Returns:
            Confirmed faces, by id.
        """
        if stamp < self._stamp:
            self._tracks.clear()
        self._stamp = stamp
        good = [box for box in boxes if _is_usable(box)]
        free = set(range(len(good)))
        if self._tracks and good:
            cost = np.array([[_apart(track.box, box) for box in good] for track in self._tracks])
            for row, column in zip(*linear_sum_assignment(cost), strict=True):
                if cost[row, column] < 1.0:
                    self._feed(self._tracks[row], good[column], stamp)
                    free.discard(int(column))
        self._tracks = [track for track in self._tracks if stamp - track.seen <= PATIENCE]
        for index in sorted(free):
            if len(self._tracks) < MAX_TRACKS:
                self._count += 1
                track = _Track(self._count, good[index], stamp)
                self._feed(track, good[index], stamp, first=True)
                self._tracks.append(track)
        return [
            TrackedFace(f'{self._prefix}{t.number}', t.values[0], t.values[1], t.values[2], stamp - t.seen)
            for t in self._tracks
            if t.hits >= CONFIRM
        ]

    def _feed(self, track: _Track, box: Box, stamp: float, *, first: bool = False) -> None:
        dt = stamp - track.seen
        # Eyes are at two fifths of a face box's height: people notice a robot that aims above or below them.
        yaw, pitch = self._camera.bearing(box.x + 0.5 * box.width, box.y + 0.4 * box.height)
        raw = (yaw, pitch, self._camera.distance(box.width))
        track.values = [f.step(value, dt) for f, value in zip(track.filters, raw, strict=True)]
        track.box, track.seen = box, stamp
        track.hits += not first


def _is_usable(box: Box) -> bool:
    """Whether a box is finite and of a size that an image can hold."""
    return all(abs(v) < 1e6 for v in (box.x, box.y)) and all(1.0 <= v < 1e6 for v in (box.width, box.height))


def _apart(a: Box, b: Box) -> float:
    """Distance of centres in box widths, and difference of size."""
    size = 0.5 * (a.width + b.width)
    way = math.hypot(a.x + a.width / 2 - b.x - b.width / 2, a.y + a.height / 2 - b.y - b.height / 2)
    return min(way / size + abs(math.log(a.width / b.width)), 1e6)
