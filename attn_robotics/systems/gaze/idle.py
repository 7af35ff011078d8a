"""Life while nothing happens: scanning a face and breaking mutual gaze."""

from __future__ import annotations

import math

import numpy as np

# Left eye, right eye and mouth from the middle of a face, in metres to the left and up.
_FACE = ((0.032, 0.03), (-0.032, 0.03), (0.0, -0.06))
MUTUAL_GAZE = (3.3, 0.8)  # s of mutual gaze before it is broken (Binetti 2016 preferred mean; SD of the design)


class IdleLife:
    """Offsets [deg] to add to the direction of a fixated face.

    Fixations of 0.5 to 2 s wander over eyes and mouth; after about 3.3 s gaze is averted by 8 to 15 deg for 0.5 to
    1.5 s: down or aside while listening, up or aside while the robot speaks.
    """

    def __init__(self, rng: np.random.Generator, *, aversion: bool = True) -> None:
        self._rng = rng
        self._aversion = aversion
        self._point = 0
        self._until = 0.0
        self._break_at = math.inf
        self._away: tuple[float, float] | None = None
        self._id = ''

    def step(self, t: float, target_id: str, distance: float, *, speaking: bool, mutual: bool) -> tuple[float, float]:
        """Offset (yaw, pitch) at time t for the face now fixated."""
        if target_id != self._id:
            self._id, self._away = target_id, None
            self._until = t + self._rng.uniform(0.5, 2.0)
            self._break_at = t + self._bout()
        if not mutual or not self._aversion:
            self._break_at = max(self._break_at, t + 1.0)
        if t >= self._break_at:
            if self._away is None:
                self._away = self._draw_away(speaking)
                self._break_at = t + self._rng.uniform(0.5, 1.5)
            else:
                self._away = None
                self._break_at = t + self._bout()
        if self._away is not None:
            return self._away
        if t >= self._until:
            self._point = int(self._rng.integers(len(_FACE)))
            self._until = t + self._rng.uniform(0.5, 2.0)
        left, up = _FACE[self._point]
        reach = max(distance, 0.4)
        return math.degrees(math.atan2(left, reach)), math.degrees(math.atan2(up, reach))

    @property
    def is_averting(self) -> bool:
        """Whether gaze is broken now."""
        return self._away is not None

    def _bout(self) -> float:
        return max(1.0, float(self._rng.normal(*MUTUAL_GAZE)))

    def _draw_away(self, speaking: bool) -> tuple[float, float]:
        size = self._rng.uniform(8.0, 15.0)
        angle = math.radians(self._rng.uniform(0.0, 70.0))
        side = 1.0 if self._rng.random() < 0.5 else -1.0
        tilt = 1.0 if speaking else -1.0
        return side * size * math.cos(angle), tilt * size * math.sin(angle)
