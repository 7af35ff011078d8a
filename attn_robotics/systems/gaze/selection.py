"""Who is looked at: the contract of all selectors, the rule selector, and the hysteresis they share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from attn_robotics.systems.gaze.entities import SOUND, Entity, Scene

IDLE: Final = ''


@dataclass(frozen=True)
class Choice:
    """A selector's answer."""

    target_id: str  # empty: nobody
    scores: Mapping[str, float]
    reason: str


class Selector(Protocol):
    """Scores a scene; returns at once, whatever it asks elsewhere."""

    def score(self, scene: Scene) -> Choice:
        """The best entity of this frame, without memory of the last choice beyond what the scene holds."""
        ...


class RuleSelector:
    """Weighted cues (the reconstruction's weights; engineering choices, not published ones)."""

    weights: Mapping[str, float] = {
        'speaking': 1.0,
        'addresses the robot': 0.6,
        'looks at the robot': 0.5,
        'waves': 0.9,
        'is new': 0.8,
        'moves': 0.4,
        'is heard but not seen': 0.9,
    }

    def score(self, scene: Scene) -> Choice:
        """Score every entity; the reason names the strongest cue."""
        scores: dict[str, float] = {}
        reasons: dict[str, str] = {}
        current = next((e for e in scene.entities if e.id == scene.current), None)
        for entity in scene.entities:
            cues = self._cues(entity, scene.novelty[entity.id])
            angle = (
                math.hypot(entity.azimuth - current.azimuth, entity.elevation - current.elevation) if current else 0.0
            )
            scores[entity.id] = (
                sum(cues.values())
                + 0.5 * math.exp(-entity.distance / 1.2)
                - 1.2 * scene.habituation[entity.id]
                + (0.35 if entity.id == scene.current else 0.0)
                - 0.004 * angle
            )
            reasons[entity.id] = max(cues, key=lambda name: cues[name])
        if not scores:
            return Choice(IDLE, {}, 'nobody is there')
        best = max(scores, key=lambda name: scores[name])
        return Choice(best, scores, f'{best} {reasons[best]}')

    def _cues(self, e: Entity, novelty: float) -> dict[str, float]:
        values = {
            'speaking': e.speaking,
            'addresses the robot': e.speaking * e.looks_at_robot,
            'looks at the robot': e.looks_at_robot,
            'waves': e.gesture,
            'is new': novelty,
            'moves': e.motion,
            'is heard but not seen': e.speaking if e.kind == SOUND and not e.face_visible else 0.0,
        }
        return {name: self.weights[name] * value for name, value in values.items()}


class NearestFaceSelector:
    """Baseline: the nearest visible face."""

    def score(self, scene: Scene) -> Choice:
        """Nearest first."""
        scores = {e.id: -e.distance for e in scene.entities if e.face_visible}
        best = max(scores, key=lambda name: scores[name], default=IDLE)
        return Choice(best, scores, 'nearest face')


class LoudestSelector:
    """Baseline: whoever most probably speaks, else whoever is looked at already."""

    def score(self, scene: Scene) -> Choice:
        """Most probable speaker first."""
        scores = {e.id: e.speaking for e in scene.entities}
        best = max(scores, key=lambda name: scores[name], default=IDLE)
        if best and scores[best] < 0.5:
            best = scene.current
        return Choice(best, scores, 'loudest')


class Hysteresis:
    """Turns frame by frame choices into gaze: no flicker, no ping-pong, but quick for abrupt cues.

    A switch needs a lead of `margin` for `hold` seconds and a dwell of `dwell` on the present target, which an abrupt
    onset waives; going back to the target just left takes `back` seconds, whatever the cue,
    even when the target itself is gone: gaze stays a moment where a sound was.
    """

    def __init__(self, *, margin: float = 0.15, hold: float = 0.2, dwell: float = 0.4, back: float = 1.0) -> None:
        self.margin, self.hold, self.dwell, self.back = margin, hold, dwell, back
        self._left = IDLE
        self._current = IDLE
        self._since = -math.inf
        self._rival = IDLE
        self._rival_since = 0.0

    def settle(self, scene: Scene, choice: Choice) -> str:
        """The id to look at after this frame."""
        now = scene.now
        present = {e.id for e in scene.entities}
        lost = self._current != IDLE and self._current not in present
        lead = choice.scores.get(choice.target_id, 0.0) - choice.scores.get(self._current, -math.inf)
        if choice.target_id == self._current or (lead < self.margin and not lost and self._current != IDLE):
            self._rival = self._current
            return self._current
        if choice.target_id != self._rival:
            self._rival, self._rival_since = choice.target_id, now
        abrupt = choice.target_id in scene.abrupt
        waited = now - self._rival_since >= self.hold - 1e-9
        if choice.target_id == self._left and now - self._since < self.back:
            waited = False
        if waited and (now - self._since >= self.dwell or abrupt or lost):
            self._left, self._current, self._since = self._current, choice.target_id, now
        return self._current
