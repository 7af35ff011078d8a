"""Synthetic scripted scenes with labels: two to four people taking turns, waving, passing by, and a sound aside.

The label follows a written policy on the true state: a fresh wave, then a fresh unseen sound, then a newcomer, then the
speaker, then whoever was addressed or attended last, then the nearest person who looks at the robot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from attn_robotics.systems.gaze.entities import SOUND, Entity

FRAME: Final = 0.05  # s
VOICE_LAG: Final = 0.06  # s until the voice detector follows


@dataclass(frozen=True)
class Frame:
    """What is perceived, and what would be right."""

    t: float
    entities: tuple[Entity, ...]
    label: str
    label_age: float  # s since the label changed
    speaker: str  # who truly speaks


@dataclass(frozen=True)
class _Person:
    id: str
    azimuth: float
    elevation: float
    distance: float
    enters: float
    leaves: float


def make_scene(seed: int, seconds: float = 60.0) -> list[Frame]:
    """One scene at 20 frames a second."""
    rng = np.random.default_rng([seed, 977])
    people = _people(rng, seconds)
    turns = _turns(rng, people, seconds)
    waves = [(t, t + 1.5, people[int(rng.integers(len(people)))].id) for t in _times(rng, seconds, 20.0)]
    bangs = [(t, t + 0.8, float(rng.uniform(-80, 80))) for t in _times(rng, seconds, 25.0)]
    frames: list[Frame] = []
    label, changed, talk = '', 0.0, dict.fromkeys((p.id for p in people), 0.0)
    for k in range(round(seconds / FRAME)):
        t = k * FRAME
        here = [p for p in people if p.enters <= t < p.leaves]
        ids = {p.id for p in here}
        speaker, addressed = next(((who, whom) for a, b, who, whom in turns if a <= t < b), ('', ''))
        speaker = speaker if speaker in ids else ''
        waving = {who for a, b, who in waves if a <= t < b and who in ids}
        bang = next(((i, az) for i, (a, b, az) in enumerate(bangs) if a <= t < b), None)
        new = _policy(t, here, speaker, waving, bang, label)
        if new != label:
            label, changed = new, t
        entities = [_percept(rng, p, t, speaker, addressed, waving, talk) for p in here]
        if bang is not None:
            az = bang[1] + rng.normal(0, 2)
            entities.append(Entity(f'sound{bang[0]}', SOUND, az, 0.0, 1.5, speaking=float(rng.uniform(0.7, 1))))
        frames.append(Frame(t, tuple(entities), label, t - changed, speaker))
    return frames


def _people(rng: np.random.Generator, seconds: float) -> list[_Person]:
    n = int(rng.integers(2, 5))
    places = np.linspace(-45, 45, n) + rng.normal(0, 5, n)
    late = rng.random(n) < 0.3
    people = []
    for i in range(n):
        enters = float(rng.uniform(3, seconds / 2)) if late[i] and i else 0.0
        leaves = float(rng.uniform(enters + 10, seconds)) if rng.random() < 0.2 and i else math.inf
        people.append(
            _Person(f'p{i}', float(places[i]), float(rng.normal(5, 4)), rng.uniform(0.8, 2.5), enters, leaves)
        )
    return people


def _turns(rng: np.random.Generator, people: list[_Person], seconds: float) -> list[tuple[float, float, str, str]]:
    turns, t, last = [], float(rng.uniform(0.5, 2.0)), ''
    while t < seconds:
        length = float(np.clip(rng.lognormal(np.log(2.8), 0.5), 1.0, 9.0))
        who = str(rng.choice([p.id for p in people if p.id != last]))
        whom = str(rng.choice(['robot', *(p.id for p in people if p.id != who)]))
        turns.append((t, t + length, who, whom))
        last = who
        t += length + (float(rng.uniform(0.2, 0.8)) if rng.random() < 0.8 else float(rng.uniform(2, 4)))
    return turns


def _times(rng: np.random.Generator, seconds: float, gap: float) -> list[float]:
    times, t = [], float(rng.exponential(gap)) + 2.0
    while t < seconds:
        times.append(t)
        t += float(rng.exponential(gap)) + 4.0
    return times


def _policy(
    t: float, here: list[_Person], speaker: str, waving: set[str], bang: tuple[int, float] | None, label: str
) -> str:
    if waving:
        return min(waving)
    if bang is not None:
        return f'sound{bang[0]}'
    fresh = [p.id for p in here if p.enters > 0.0 and t - p.enters < 1.5]
    if fresh:
        return fresh[0]
    if speaker:
        return speaker
    if any(p.id == label for p in here):
        return label
    return min(here, key=lambda p: p.distance).id if here else ''


def _percept(
    rng: np.random.Generator,
    p: _Person,
    t: float,
    speaker: str,
    addressed: str,
    waving: set[str],
    talk: dict[str, float],
) -> Entity:
    """Noisy percept; the voice detector is a first-order lag with noise and now and then a miss."""
    share = 1.0 - math.exp(-FRAME / VOICE_LAG)
    talk[p.id] += share * (float(p.id == speaker) - talk[p.id])
    seen = bool(rng.random() > 0.04)
    looks = (addressed == 'robot' and p.id == speaker) or math.sin(0.7 * t + p.azimuth) > 0.6
    return Entity(
        p.id,
        azimuth=p.azimuth + 3.0 * math.sin(0.3 * t + p.distance * 9) + rng.normal(0, 0.5),
        elevation=p.elevation + rng.normal(0, 0.5),
        distance=float(p.distance * (1 + rng.normal(0, 0.03))),
        face_visible=seen,
        speaking=float(np.clip(talk[p.id] + rng.normal(0, 0.12), 0, 1)),
        looks_at_robot=float(np.clip(looks + rng.normal(0, 0.2), 0, 1)) if seen else 0.0,
        addressed=float(np.clip((addressed == p.id and bool(speaker)) + rng.normal(0, 0.2), 0, 1)),
        gesture=float(np.clip((p.id in waving) + rng.normal(0, 0.12), 0, 1)),
        motion=float(np.clip(0.3 * (p.id in waving) + abs(rng.normal(0, 0.1)), 0, 1)),
    )
