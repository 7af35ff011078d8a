"""People and sounds that others tell of, taken to the neck frame and to the gaze core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from attn_robotics.conversions.frames import FrameError, FrameTree
from attn_robotics.conversions.gaze import MessageError, to_direction
from attn_robotics.conversions.stamps import to_seconds
from attn_robotics.ros.lifecycle import ConfigurationError
from attn_robotics.systems.gaze.core import GazeCore
from attn_robotics.systems.gaze.entities import OBJECT, PERSON, Entity
from attn_robotics.systems.gaze.tracker import TrackedFace
from attn_robotics.systems.gaze.voices import FACING, Voices
from attn_robotics_interfaces.msg import GazeTarget

MAX_HUMANS = 50


def ids_list() -> type[Any]:
    """Message type of REP-155's lists of people.

    Raises:
        ConfigurationError: its package is not installed.
    """
    try:
        from hri_msgs.msg import IdsList
    except ImportError as error:
        raise ConfigurationError('humans needs hri_msgs; type: sudo apt install ros-jazzy-hri-msgs') from error
    return cast('type[Any]', IdsList)


class Percepts:
    """Everything that can be looked at.

    Args:
        core: takes the entities.
        neck_frame: its frame.
        now: seconds of the node's clock.
        drop: told of everything that is not used, by reason and detail.
    """

    def __init__(
        self, core: GazeCore, neck_frame: str, now: Callable[[], float], drop: Callable[[str, str], None]
    ) -> None:
        self._core, self._neck_frame, self._now, self._drop = core, neck_frame, now, drop
        self._voices = Voices()
        self._humans: tuple[str, ...] = ()
        self._human_stamps: dict[str, float] = {}
        self.frames = FrameTree()

    def on_person(self, message: GazeTarget) -> None:
        """Somebody's face, from another package."""
        self._perceive(message, PERSON)

    def on_target(self, message: GazeTarget) -> None:
        """A sound (auditory) or a thing (visual)."""
        if message.modality == 'auditory':
            self._hear(message)
        elif message.modality in ('visual', ''):
            self._perceive(message, OBJECT)
        else:
            self._drop('target of unknown modality', f'{message.modality!r}; use visual, auditory or ~/look_at')

    def on_humans(self, ids: Sequence[str]) -> None:
        """Ids of the faces that a REP-155 package tracks; their frames are `face_<id>`."""
        if len(ids) > MAX_HUMANS:
            self._drop('more faces than can be followed', f'{len(ids)}; the first {MAX_HUMANS} count')
        self._humans = tuple(ids[:MAX_HUMANS])

    def look_up_humans(self) -> None:
        """Place REP-155 faces whose transforms are new."""
        for name in self._humans:
            frame = f'face_{name}'
            stamp = self.frames.newest(frame)
            if stamp is None or self._human_stamps.get(name) == stamp:
                continue
            self._human_stamps[name] = stamp
            try:
                _, place = self.frames.lookup(self._neck_frame, frame, stamp)
                self._add(PERSON, frame, to_direction(place), stamp)
            except (FrameError, MessageError) as error:
                self._drop('face not usable', f'{name!r}: {error}')
        self._human_stamps = {name: stamp for name, stamp in self._human_stamps.items() if name in self._humans}

    def on_faces(self, stamp: float, tracked: Sequence[TrackedFace]) -> None:
        """Faces of the image taken at `stamp`."""
        # A face that this image does not show has an old bearing, which belongs to an old pose: the core remembers.
        faces = [face for face in tracked if face.age <= 0.0]
        places = {face.id: self._core.place(face, stamp) for face in faces}
        azimuths = {name: float(way[0]) for name, way in places.items() if way is not None}
        chances = self._voices.speaking(stamp, azimuths)
        cues = {name: Entity(name, speaking=chance, looks_at_robot=FACING) for name, chance in chances.items()}
        self._core.observe_faces(stamp, faces, cues)

    def point(self, message: GazeTarget) -> NDArray[np.float64]:
        """A target's point (3,) in the neck frame, at the time it was measured.

        Raises:
            FrameError: its frame is not connected to the neck, or not at that time.
        """
        point = np.array([message.point.x, message.point.y, message.point.z])
        if message.header.frame_id in ('', self._neck_frame):
            return point
        turn, shift = self.frames.lookup(self._neck_frame, message.header.frame_id, self._stamp(message))
        return np.asarray(turn @ point + shift)

    def _stamp(self, message: GazeTarget) -> float:
        return to_seconds(message.header.stamp) or self._now()

    def _perceive(self, message: GazeTarget, kind: str) -> None:
        try:
            way = to_direction(self.point(message))
        except (MessageError, FrameError) as error:
            self._drop('target not usable', f'{message.id!r}: {error}')
            return
        self._add(kind, message.id, way, self._stamp(message))

    def _add(self, kind: str, name: str, way: tuple[float, float, float], stamp: float) -> None:
        if kind == PERSON:
            people = {e.id: e.azimuth for e in self._seen() if e.kind == PERSON} | {name: way[0]}
            speaking = self._voices.speaking(stamp, people)[name]
            entity = Entity(name, kind, *way, face_visible=True, speaking=speaking, looks_at_robot=FACING)
        else:
            entity = Entity(name, kind, *way)
        self._core.observe_entities(stamp, [entity])

    def _hear(self, message: GazeTarget) -> None:
        try:
            way = to_direction(self.point(message))
        except (MessageError, FrameError) as error:
            self._drop('sound not usable', f'{message.id!r}: {error}')
            return
        stamp = self._stamp(message)
        # A message whose weight nobody filled has 0.
        sound = self._voices.hear(stamp, message.id, way, message.weight or 1.0, self._seen())
        if sound is not None:
            self._core.observe_entities(stamp, [sound])

    def _seen(self) -> tuple[Entity, ...]:
        return self._core.scene.entities if self._core.scene is not None else ()
