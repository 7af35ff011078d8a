"""Voices and faces are one: a voice that comes from where a person is makes that person a speaker."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from attn_robotics.systems.gaze.entities import PERSON, SOUND, Entity

NEAR: Final = 12.0  # deg of azimuth between a voice and its face; beamformers of small arrays are off by some degrees
FRESH: Final = 0.3  # s that a voice counts after it was last heard
# The cascade finds frontal faces only, so whoever it finds is turned to the robot.
FACING: Final = 0.6
MAX_VOICES: Final = 32


@dataclass(frozen=True)
class _Voice:
    stamp: float  # s
    azimuth: float  # deg
    certainty: float


class Voices:
    """Voices heard lately."""

    def __init__(self) -> None:
        self._heard: dict[str, _Voice] = {}

    def hear(
        self, stamp: float, name: str, way: tuple[float, float, float], certainty: float, seen: Iterable[Entity]
    ) -> Entity | None:
        """Take a sound's direction.

        Args:
            stamp: of the sound [s].
            name: of its source.
            way: azimuth, elevation [deg] and distance [m].
            certainty: that somebody speaks, 0 to 1.
            seen: who is there already.

        Returns:
            An entity for the sound; None when it comes from a person who is seen, or is not finite.
        """
        if not all(map(math.isfinite, (stamp, *way, certainty))):
            return None
        certainty = min(max(certainty, 0.0), 1.0)
        if name in self._heard or len(self._heard) < MAX_VOICES:
            self._heard[name] = _Voice(stamp, way[0], certainty)
        if any(e.kind == PERSON and e.face_visible and _apart(e.azimuth, way[0]) < NEAR for e in seen):
            return None
        return Entity(name, SOUND, *way, speaking=certainty)

    def speaking(self, now: float, azimuths: Mapping[str, float]) -> dict[str, float]:
        """How probably each of these people (id to azimuth [deg]) speaks: a voice belongs to the nearest alone."""
        self._heard = {name: voice for name, voice in self._heard.items() if abs(now - voice.stamp) <= FRESH}
        chances = dict.fromkeys(azimuths, 0.0)
        for voice in self._heard.values():
            nearest = min(azimuths, key=lambda name: _apart(azimuths[name], voice.azimuth), default=None)
            if nearest is not None and _apart(azimuths[nearest], voice.azimuth) < NEAR:
                chances[nearest] = max(chances[nearest], voice.certainty)
        return chances


def _apart(a: float, b: float) -> float:
    return abs(math.remainder(a - b, 360.0))
