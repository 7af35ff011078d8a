"""Measures a selector on scripted scenes: right frames, reaction to a new speaker, ping-pong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from attn_robotics.systems.gaze.entities import Scene, SceneMemory
from attn_robotics.systems.gaze.scenes import make_scene
from attn_robotics.systems.gaze.selection import Choice, Hysteresis, Selector
from attn_robotics.systems.gaze.selector import AttentionSelector

GRACE: Final = 0.35  # s after a change of the label that are not counted: people need them, and reaction is measured


@dataclass(frozen=True)
class SelectionFigures:
    """Over all scenes."""

    accuracy: float  # share of counted frames that are right
    reaction: float  # s, median from a person beginning to speak (label going there) to the switch
    reaction_p10: float
    reaction_p90: float
    ping_pong: float  # A-B-A within 1 s, per switch
    switches: float  # per labelled switch
    frames: int


class _Run:
    """One scene in progress."""

    def __init__(self, seed: int, hysteresis: bool) -> None:
        self.frames = make_scene(seed)
        self.memory = SceneMemory()
        self.settle = Hysteresis() if hysteresis else Hysteresis(margin=0.0, hold=0.0, dwell=0.0, back=0.0)
        self.current = self.label = ''
        self.waiting: tuple[float, str] | None = None
        self.changes: list[tuple[float, str]] = []
        self.right = self.counted = self.labelled = self.bounces = 0
        self.reactions: list[float] = []

    def observe(self, k: int) -> Scene:
        """Percepts of frame k."""
        return self.memory.observe(self.frames[k].t, self.frames[k].entities, current=self.current)

    def decide(self, k: int, scene: Scene, choice: Choice) -> None:
        """Move gaze and compare with the label."""
        frame, new = self.frames[k], self.settle.settle(scene, choice)
        if new != self.current:
            changes = self.changes
            self.bounces += len(changes) > 1 and changes[-2][1] == new and frame.t - changes[-1][0] < 1.0 - 1e-6
            changes.append((frame.t, new))
        self.current = new
        if frame.label != self.label:
            self.labelled += 1
            is_turn = frame.label == frame.speaker != '' and new != frame.label
            self.waiting = (frame.t, frame.label) if is_turn else None
            self.label = frame.label
        if self.waiting is not None and new == self.waiting[1]:
            self.reactions.append(frame.t - self.waiting[0])
            self.waiting = None
        if frame.label_age >= GRACE:
            self.counted += 1
            self.right += new == frame.label


def check_selector(selector: Selector, scenes: int = 200, *, hysteresis: bool = True) -> SelectionFigures:
    """Run `selector` on scenes 0 to `scenes` - 1, all in step."""
    runs = [_Run(seed, hysteresis) for seed in range(scenes)]
    for k in range(len(runs[0].frames)):
        seen = [run.observe(k) for run in runs]
        if isinstance(selector, AttentionSelector):
            choices = selector.score_many(seen)
        else:
            choices = [selector.score(scene) for scene in seen]
        for run, scene, choice in zip(runs, seen, choices, strict=True):
            run.decide(k, scene, choice)
    reactions = [value for run in runs for value in run.reactions]
    spread = np.percentile(reactions, [10, 50, 90]) if reactions else np.full(3, np.nan)
    counted, switches = sum(run.counted for run in runs), sum(len(run.changes) for run in runs)
    return SelectionFigures(
        sum(run.right for run in runs) / max(counted, 1),
        float(spread[1]),
        float(spread[0]),
        float(spread[2]),
        sum(run.bounces for run in runs) / max(switches, 1),
        switches / max(sum(run.labelled for run in runs), 1),
        counted,
    )
