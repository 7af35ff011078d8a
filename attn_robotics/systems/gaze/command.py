"""What the planner takes and gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from attn_robotics.systems.gaze.human import Array


class Phase(IntEnum):
    """What gaze is doing; the numbers are those of `attn_robotics_interfaces/msg/GazeState`."""

    REST = 0
    FIXATION = 1
    SACCADE = 2
    PURSUIT = 3
    BLINK = 4
    HOLD = 5


@dataclass(frozen=True)
class Target:
    """A direction to look at, in the body frame."""

    id: str
    yaw: float  # deg, positive to the left
    pitch: float  # deg, positive up
    distance: float = 1.5  # m
    modality: str = 'visual'  # visual, auditory or commanded
    is_face: bool = False  # eyes and mouth are scanned, mutual gaze is broken now and then
    looks_back: bool = False  # mutual gaze
    from_neck: bool = False  # the direction is seen from the neck; `GazeCore` takes it to the eyes, which move

    @property
    def is_valid(self) -> bool:
        """Whether every number is finite, so that it may be followed."""
        return all(math.isfinite(value) for value in (self.yaw, self.pitch, self.distance))


@dataclass(frozen=True)
class Command:
    """One control tick. Columns of `points` follow `profile.AXES`: degrees, lids 0 open to 1 closed."""

    phase: Phase
    target_id: str  # empty at rest
    times: Array  # (S,) s after the previous command, the last one is this tick
    points: Array  # (S, 6), at 200 Hz or more
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def head(self) -> Array:
        """(2,) head yaw and pitch [deg]."""
        return self.points[-1, :2]

    @property
    def eye(self) -> Array:
        """(2,) eye yaw and pitch in the head [deg]."""
        return self.points[-1, 2:4]

    @property
    def vergence(self) -> float:
        """Angle between the lines of sight [deg]."""
        return float(self.points[-1, 4])

    @property
    def lids(self) -> float:
        """Lid closure, 0 open to 1 closed."""
        return float(self.points[-1, 5])


@dataclass(frozen=True)
class GazeLog:
    """What a joint log knows of gaze: the input of the score and the output of every simulation here."""

    t: Array  # (T,) s, increasing
    head: Array  # (T, 2) deg
    eye: Array  # (T, 2) deg
    lids: Array  # (T,) closure
    command: Array = field(default_factory=lambda: np.zeros(0))  # (K,) s when targets changed; empty if unknown
    aim: Array = field(default_factory=lambda: np.zeros((0, 2)))  # (K, 2) deg to the new targets; empty if unknown

    @property
    def gaze(self) -> Array:
        """(T, 2) deg."""
        return np.asarray(self.head + self.eye)
