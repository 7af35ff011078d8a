"""What the robot knows about people, sounds and things around it, and how it becomes tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from attn_robotics.systems.gaze.human import Array

MAX_ENTITIES: Final = 16
N_FEATURES: Final = 14
PERSON: Final = 'person'
SOUND: Final = 'sound'
OBJECT: Final = 'object'


@dataclass(frozen=True)
class Entity:
    """One person, sound or object as perceived now."""

    id: str
    kind: str = PERSON
    azimuth: float = 0.0  # deg, positive to the left, body frame
    elevation: float = 0.0  # deg, positive up
    distance: float = 1.5  # m
    face_visible: bool = False
    speaking: float = 0.0  # probability
    looks_at_robot: float = 0.0  # probability
    addressed: float = 0.0  # probability that the present speaker addresses this one
    gesture: float = 0.0  # waving or pointing, 0 to 1
    motion: float = 0.0  # 0 to 1

    @property
    def is_valid(self) -> bool:
        """Whether every number is finite."""
        values = (self.azimuth, self.elevation, self.distance, self.speaking, self.looks_at_robot, self.addressed)
        return all(math.isfinite(value) for value in (*values, self.gesture, self.motion))


@dataclass(frozen=True)
class _Trace:
    """What is remembered of one entity."""

    first: float  # s
    seen: float  # s
    spoke: float  # s, last time
    habituation: float = 0.0
    attended: float = -math.inf  # s, last time
    onset: float = -math.inf  # s, last abrupt cue


@dataclass(frozen=True)
class Scene:
    """One frame for a selector."""

    now: float  # s
    entities: tuple[Entity, ...]  # at most 16, valid
    tokens: Array  # (N, 14) float32-able, section "tokens" of the README
    current: str  # id attended now, empty for none
    dwell: float  # s
    speaking: bool  # the robot
    abrupt: frozenset[str]  # ids with an abrupt onset within the last 0.3 s
    event: int  # grows whenever who is there, speaks or waves changes
    habituation: Mapping[str, float]
    novelty: Mapping[str, float]

    def robot_state(self) -> Array:
        """(3,) robot speaking, dwell / 5 s, whether anything is attended."""
        return np.array([float(self.speaking), min(self.dwell, 10.0) / 5.0, float(bool(self.current))])


class SceneMemory:
    """Adds memory to percepts: ages, habituation (inhibition of return), novelty and abrupt onsets."""

    def __init__(self) -> None:
        self._traces: dict[str, _Trace] = {}
        self._current = ''
        self._since = 0.0
        self._now = -math.inf
        self._event = 0
        self._signature: tuple[tuple[str, bool, bool], ...] = ()

    def observe(self, now: float, entities: Sequence[Entity], *, current: str = '', speaking: bool = False) -> Scene:
        """Take a frame of percepts.

        Args:
            now: s; a clock set back forgets everything but goes on.
            entities: any number, in any order; invalid and repeated ones are dropped, the nearest 16 are kept.
            current: id of what gaze is on.
            speaking: the robot is.
        """
        if now < self._now:
            self._traces.clear()
        dt = min(max(now - self._now, 0.0), 0.5) if math.isfinite(self._now) else 0.0
        self._now = now
        if current != self._current:
            self._current, self._since = current, now
        kept = {e.id: e for e in sorted((e for e in entities if e.is_valid), key=lambda e: -e.distance)}
        frame = tuple(sorted(kept.values(), key=lambda e: (e.distance, e.id)))[:MAX_ENTITIES]
        for entity in frame:
            self._update(entity, now, dt)
        self._traces = {k: v for k, v in self._traces.items() if now - v.seen < 10.0}
        signature = tuple(sorted((e.id, e.speaking > 0.5, e.gesture > 0.5) for e in frame))
        if signature != self._signature:
            self._signature, self._event = signature, self._event + 1
        traces = {e.id: self._traces[e.id] for e in frame}
        novelty = {e.id: math.exp(-(now - traces[e.id].first) / 2.0) for e in frame}
        rows = [self._token(e, traces[e.id], novelty[e.id], now) for e in frame]
        return Scene(
            now,
            frame,
            np.array(rows, dtype=np.float64).reshape(-1, N_FEATURES),
            current if current in traces else '',
            max(now - self._since, 0.0),
            speaking,
            frozenset(k for k, v in traces.items() if now - v.onset < 0.3),
            self._event,
            {k: v.habituation for k, v in traces.items()},
            novelty,
        )

    def _update(self, entity: Entity, now: float, dt: float) -> None:
        old = self._traces.get(entity.id)
        trace = old or _Trace(now, now, -math.inf, onset=now)
        quiet = now - max((t.spoke for t in self._traces.values()), default=-math.inf) > 1.0
        onset = trace.onset
        if (entity.kind == SOUND and quiet and entity.speaking > 0.5) or (
            entity.gesture > 0.5 and trace.onset < now - 2
        ):
            onset = now
        attended = entity.id == self._current
        drift = (1.0 - trace.habituation) / 6.0 if attended else -trace.habituation / 4.0
        self._traces[entity.id] = replace(
            trace,
            seen=now,
            spoke=now if entity.speaking > 0.5 else trace.spoke,
            habituation=min(max(trace.habituation + dt * drift, 0.0), 1.0),
            attended=now if attended else trace.attended,
            onset=onset,
        )

    def _token(self, e: Entity, trace: _Trace, novelty: float, now: float) -> list[float]:
        silence = min(now - trace.spoke, 2.0) / 2.0
        away = min(now - trace.attended, 60.0)
        return [
            e.azimuth / 90.0,
            e.elevation / 45.0,
            min(e.distance, 10.0) / 5.0,
            float(e.kind == PERSON),
            float(e.face_visible),
            e.speaking,
            silence,
            e.looks_at_robot,
            e.addressed,
            e.gesture,
            e.motion,
            novelty,
            trace.habituation,
            math.log1p(away) / math.log1p(60.0),
        ]
