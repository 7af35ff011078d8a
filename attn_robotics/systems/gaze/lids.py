"""Blinks: with gaze shifts, and spontaneous ones."""

from __future__ import annotations

import math

import numpy as np

from attn_robotics.systems.gaze.human import BLINK_RATE

BLINK_DURATION = 0.15  # s
DOWN_SHARE = 1.0 / 3.0  # of the duration
MIN_GAP = 0.3  # s between a blink and a spontaneous one
REOPENING = 0.05  # s between a blink and one with a shift


def closure(since_onset: float) -> float:
    """Lid closure, 0 open to 1 closed, this long after a blink's onset [s]; smooth at both ends."""
    x = since_onset / BLINK_DURATION
    if not 0.0 < x < 1.0:
        return 0.0
    phase = x / DOWN_SHARE if x < DOWN_SHARE else (1.0 - x) / (1.0 - DOWN_SHARE)
    return 0.5 - 0.5 * math.cos(math.pi * phase)


class Blinker:
    """Draws spontaneous blinks (16 a minute, log-normal gaps, twice as often while speaking) and takes planned ones."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._credit = 0.0
        self._gap = self._draw_gap()
        self._onset = self._before = self._planned = -math.inf

    def plan(self, now: float, onset: float) -> None:
        """Blink with the shift in preparation at `onset` [s], NaN for not; replaces what was planned for it before.

        A blink that has begun is not begun again. People blink with large shifts even if they have just blinked.
        """
        if self._planned > now:
            self._onset = self._before
        self._planned = -math.inf
        if onset - self._onset > BLINK_DURATION + REOPENING:
            self._before, self._onset, self._planned = self._onset, onset, onset
            self._credit = 0.0

    def step(self, t: float, dt: float, *, speaking: bool = False) -> float:
        """Advance to time t and return the lid closure."""
        self._credit += dt * (2.0 if speaking else 1.0)
        if self._credit >= self._gap:
            self._credit, self._gap = 0.0, self._draw_gap()
            if t - self._onset > BLINK_DURATION + MIN_GAP:
                self._onset = t
        return closure(t - self._onset)

    def _draw_gap(self) -> float:
        sigma = 0.6
        return float(self._rng.lognormal(math.log(1.0 / BLINK_RATE) - 0.5 * sigma**2, sigma))
