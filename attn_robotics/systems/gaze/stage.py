"""The scripted conversation for a head that is commanded from outside: people, voices, log, score and video."""

from __future__ import annotations

import ctypes.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from attn_robotics.systems.gaze.camera import Camera
from attn_robotics.systems.gaze.command import GazeLog
from attn_robotics.systems.gaze.conversation import ON_TARGET
from attn_robotics.systems.gaze.head_sim import HeadSim
from attn_robotics.systems.gaze.head_world import EYE_MIDDLE, FOV, IMAGE, Person, default_people
from attn_robotics.systems.gaze.human import Array
from attn_robotics.systems.gaze.joint_log import match_aims
from attn_robotics.systems.gaze.pose_history import angles

FRAME_RATE: Final = 20.0  # Hz of camera and video
SETTLED: Final = 0.7  # s after a turn began from which gaze should be on the speaker


def choose_renderer() -> str:
    """Choose how MuJoCo renders, before it is imported; returns why it cannot, or nothing."""
    if os.environ.get('MUJOCO_GL') or os.environ.get('DISPLAY'):
        return ''
    for name, library in (('egl', 'EGL'), ('osmesa', 'OSMesa')):
        if ctypes.util.find_library(library):
            os.environ['MUJOCO_GL'] = name
            return ''
    os.environ['MUJOCO_GL'] = 'disable'
    return 'no OpenGL without a display: install libegl1 and libegl-mesa0, or libosmesa6'


class Stage:
    """People who talk in turns around a simulated head.

    Attributes:
        problem: why nothing can be rendered; empty while it can.
        speaker: who talks now.

    Args:
        n_people: two to four.
        seed: of places, turns and faces.
        render: draw camera images; needs OpenGL.
    """

    def __init__(self, n_people: int = 3, *, seed: int = 0, render: bool = True) -> None:
        self.problem = choose_renderer() if render else 'rendering is off'
        self.people = default_people(n_people, seed)
        self.camera = Camera.from_field_of_view(*IMAGE, FOV)
        self.sim = HeadSim(self.people)
        self.speaker: Person = self.people[0]
        self._rng = np.random.default_rng([seed, 3])
        self._begun = self._until = 0.0
        self._times: list[Array] = []
        self._rows: list[Array] = []
        self._changes: list[float] = []
        self._aims: list[tuple[float, float, float]] = []
        self._on_speaker = self._counted = 0

    def move(self, t: float) -> None:
        """Put people where the script wants them at `t` seconds."""
        if t >= self._until:
            index = self.people.index(self.speaker)
            self.speaker = self.people[(index + int(self._rng.integers(1, len(self.people)))) % len(self.people)]
            self._begun, self._until = t, t + float(self._rng.uniform(2.0, 4.5))
        for i, person in enumerate(self.people):
            is_open = person is self.speaker and int(t * 6) % 2 == 0
            self.sim.move_person(person, person.azimuth + 2.0 * float(np.sin(0.5 * t + i)), mouth_open=is_open)

    def apply(self, now: float, times: Array, points: Array) -> None:
        """Move the head along command points (S, 6), of which the last is reached `now`, and log them.

        A command that makes up for missed ones covers more than a tick, hence times (S,) are counted back from `now`.
        """
        self.sim.set_axes(points[-1])
        due = now + times - times[-1]
        fresh = due > (self._times[-1][-1] if self._times else -np.inf)
        if fresh.any():
            self._times.append(due[fresh])
            self._rows.append(points[fresh])
        if now - self._begun > SETTLED:
            self._counted += 1
            self._on_speaker += self.sim.gaze_error(self.speaker) < ON_TARGET

    def note_change(self, t: float) -> None:
        """Another target was chosen at `t`."""
        self._changes.append(t)

    def note_aim(self, t: float, point: Array) -> None:
        """What is looked at from `t` on is at a point (3,) in the neck frame."""
        yaw, pitch = angles(point - np.array(EYE_MIDDLE))
        self._aims.append((t, float(yaw), float(pitch)))

    def view(self) -> npt.NDArray[np.uint8] | None:
        """The head camera's RGB image; None, and `problem` set, when rendering fails."""
        if self.problem:
            return None
        try:
            return self.sim.render()
        except Exception as error:  # every OpenGL platform fails with an exception of its own
            self.problem = f'cannot render ({" ".join(str(error).split()) or type(error).__name__})'
            return None

    def picture(self, view: npt.NDArray[np.uint8], shares: Mapping[str, float]) -> npt.NDArray[np.uint8]:
        """Own view with gaze cross, portrait, overview with lines of sight and attention bars: (H, 3 W, 3) BGR."""
        import cv2

        own = np.ascontiguousarray(view[:, :, ::-1])
        if self._rows:
            yaw, pitch = np.radians(self._rows[-1][-1, 2:4])
            spot = (
                int(self.camera.cx - self.camera.fx * np.tan(yaw)),
                int(self.camera.cy - self.camera.fy * np.tan(pitch)),
            )
            cv2.drawMarker(own, spot, (20, 220, 255), cv2.MARKER_CROSS, 26, 3)
        over = np.ascontiguousarray(self.sim.render('overview', rays=True)[:, :, ::-1])
        for row, (name, share) in enumerate(sorted(shares.items())):
            y = 22 + 20 * row
            cv2.rectangle(over, (90, y - 12), (90 + int(150 * share), y), (60, 160, 240), -1)
            cv2.putText(over, name, (6, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), 1, cv2.LINE_AA)
        return np.hstack([own, self.sim.render('portrait')[:, :, ::-1], over])

    @property
    def on_speaker(self) -> float:
        """Share of the time from 0.7 s after a turn began in which gaze is on the speaker's face."""
        return self._on_speaker / max(self._counted, 1)

    def log(self) -> GazeLog:
        """Everything the head did."""
        track = np.concatenate([np.zeros((0, 6)), *self._rows])
        times = np.concatenate([np.zeros(0), *self._times])
        return GazeLog(times, track[:, :2], track[:, 2:4], track[:, 5], *match_aims(self._changes, self._aims))

    def close(self) -> None:
        """Free the renderers; from the thread that drew."""
        self.sim.close()


class VideoFile:
    """A video that takes its name when it is complete."""

    def __init__(self, path: Path) -> None:
        import cv2

        self._path, self._part = path, path.with_name(f'{path.stem}.part{path.suffix}')
        size = (3 * IMAGE[0], IMAGE[1])
        self._writer: Any = cv2.VideoWriter(str(self._part), cv2.VideoWriter.fourcc(*'mp4v'), FRAME_RATE, size)
        if not self._writer.isOpened():
            raise OSError(f'{path}: this OpenCV cannot write the video; use a name ending in .mp4')

    def write(self, picture: npt.NDArray[np.uint8]) -> None:
        """Append a picture (BGR)."""
        self._writer.write(picture)

    def close(self) -> None:
        """Complete the file."""
        self._writer.release()
        self._part.replace(self._path)
