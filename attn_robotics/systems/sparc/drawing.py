"""Pictures of a run: map, tracks, robots, goals and who attends to whom."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attn_robotics.simulation.grid import GridFrame

Edge = tuple[int, int, float]  # who attends, to whom, weight 0..1

_WALL, _FLOOR, _LINES = (58, 52, 48), (250, 250, 248), (226, 224, 220)
_ATTENTION = (30, 100, 235)  # BGR: orange


@dataclass
class Recording:
    """What was seen of a run, at a few frames a second; a long run keeps every second, fourth, ... frame of them.

    Attributes:
        most: frames that are kept at most.
        times_s: T times [s].
        positions: T arrays (N, 2) of x and y [m].
        edges: T lists of attention edges.
        goals: T arrays (N, 2) of x and y [m].
    """

    most: int = 2000
    times_s: list[float] = field(default_factory=list)
    positions: list[NDArray[np.float64]] = field(default_factory=list)
    edges: list[Sequence[Edge]] = field(default_factory=list)
    goals: list[NDArray[np.float64]] = field(default_factory=list)
    _offered: int = 0
    _stride: int = 1

    def add(
        self, time_s: float, positions: NDArray[np.float64], edges: Sequence[Edge], goals: NDArray[np.float64]
    ) -> None:
        """Offer one frame."""
        self._offered += 1
        if (self._offered - 1) % self._stride:
            return
        self.times_s.append(time_s)
        self.positions.append(positions.copy())
        self.edges.append(edges)
        self.goals.append(goals.copy())
        if len(self.times_s) > self.most:
            for kept in (self.times_s, self.positions, self.edges, self.goals):
                del kept[1::2]  # type: ignore[attr-defined]
            self._stride *= 2

    def busiest(self) -> int:
        """The frame in which robots pay each other most attention, the middle one when there never was any."""
        weights = [sum(weight for _, _, weight in edges) for edges in self.edges]
        return int(np.argmax(weights)) if any(weights) else len(weights) // 2


class Painter:
    """Draw frames of one map.

    Args:
        grid: (H, W) True where an obstacle stands.
        frame: where it lies [m].
        radius_m: of a robot [m].
        side: of the longer side of the picture [pixels].
    """

    _SHIFT = 4  # sub-pixel bits of OpenCV's coordinates

    def __init__(self, grid: NDArray[np.bool_], frame: GridFrame, radius_m: float, side: int = 640) -> None:
        self._frame = frame
        self._zoom = max(4, side // max(grid.shape))
        self._radius_m = radius_m
        cells = np.where(grid[..., None], np.array(_WALL, np.uint8), np.array(_FLOOR, np.uint8))
        self._base: NDArray[np.uint8] = cells.repeat(self._zoom, axis=0).repeat(self._zoom, axis=1)
        # Thin lines between cells, drawn only where they are darker than what is there.
        self._base[self._zoom :: self._zoom] = np.minimum(self._base[self._zoom :: self._zoom], _LINES)
        self._base[:, self._zoom :: self._zoom] = np.minimum(self._base[:, self._zoom :: self._zoom], _LINES)

    def paint(
        self,
        positions: NDArray[np.float64],
        goals: NDArray[np.float64],
        edges: Sequence[Edge] = (),
        tracks: Sequence[NDArray[np.float64]] = (),
    ) -> NDArray[np.uint8]:
        """Draw one frame.

        Args:
            positions: (N, 2) x and y [m].
            goals: (N, 2) x and y [m].
            edges: attention, drawn the stronger the heavier.
            tracks: N arrays (T, 2) of past x and y [m].

        Returns:
            (rows, columns, 3) uint8, blue green red.
        """
        image = self._base.copy()
        colors = _colors(len(positions))
        fixed = 1 << self._SHIFT
        radius = max(2, round(self._radius_m / self._frame.resolution * self._zoom * fixed))
        for track, color in zip(tracks, colors, strict=False):
            points = self._pixels(track).reshape(-1, 1, 2)
            cv2.polylines(image, [points], False, color, 1, cv2.LINE_AA, self._SHIFT)
        spots, ends = self._pixels(positions), self._pixels(goals)
        for end, color in zip(ends, colors, strict=True):
            half = round(0.28 * self._zoom * fixed)
            cv2.rectangle(image, tuple(end - half), tuple(end + half), color, 2, cv2.LINE_AA, self._SHIFT)
        peak = max((weight for _, _, weight in edges), default=1.0)
        for query, key, weight in sorted(edges, key=lambda edge: edge[2]):
            share = 0.2 + 0.8 * weight / peak  # faded towards the floor's colour, since OpenCV draws opaque lines
            faded = tuple(
                round(share * line + (1 - share) * floor) for line, floor in zip(_ATTENTION, _FLOOR, strict=True)
            )
            cv2.line(image, tuple(spots[query]), tuple(spots[key]), faded, 2, cv2.LINE_AA, self._SHIFT)
        for spot, color in zip(spots, colors, strict=True):
            cv2.circle(image, tuple(spot), radius, color, -1, cv2.LINE_AA, self._SHIFT)
            cv2.circle(image, tuple(spot), radius, (60, 60, 60), 1, cv2.LINE_AA, self._SHIFT)
        return image

    def _pixels(self, xy: NDArray[np.float64]) -> NDArray[np.int32]:
        frame = self._frame
        columns = (xy[:, 0] - frame.origin_x) / frame.resolution * self._zoom
        rows = (frame.height - (xy[:, 1] - frame.origin_y) / frame.resolution) * self._zoom
        return np.round(np.stack([columns, rows], axis=-1) * (1 << self._SHIFT)).astype(np.int32)


def _colors(count: int) -> list[tuple[int, int, int]]:
    """Well-spread hues, blue green red."""
    hues = ((0.58 + 0.618034 * index) % 1.0 for index in range(count))
    return [tuple(int(255 * part) for part in reversed(colorsys.hsv_to_rgb(hue, 0.62, 0.86))) for hue in hues]  # type: ignore[misc]


def save_picture(path: Path, painter: Painter, recording: Recording) -> None:
    """Write one PNG: the tracks of the whole run, and the attention of its busiest moment."""
    moment = recording.busiest()
    tracks = [np.array([frame[robot] for frame in recording.positions]) for robot in range(len(recording.positions[0]))]
    image = painter.paint(recording.positions[moment], recording.goals[moment], recording.edges[moment], tracks)
    _write(path, cv2.imencode('.png', image)[1].tobytes())


def save_video(
    path: Path, painter: Painter, recording: Recording, *, most_frames: int = 150, seconds: float = 12.0
) -> None:
    """Write an animated GIF of at most `most_frames` frames that plays in about `seconds`."""
    chosen = np.unique(np.linspace(0, len(recording.times_s) - 1, most_frames).round().astype(int))
    frames: list[Image.Image] = []
    for index in chosen:
        image = painter.paint(recording.positions[index], recording.goals[index], recording.edges[index])
        picture = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
        # One palette for all frames: finding one takes ten times as long as using it.
        palette = frames[0] if frames else None
        frames.append(picture.quantize(128, palette=palette, dither=Image.Dither.NONE))
    temporary = path.with_suffix('.tmp')
    duration = max(20, round(seconds * 1000 / len(frames) / 10) * 10)
    frames[0].save(temporary, format='GIF', save_all=True, append_images=frames[1:], duration=duration, loop=0)
    temporary.replace(path)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_suffix('.tmp')
    temporary.write_bytes(content)
    temporary.replace(path)
