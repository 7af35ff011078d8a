"""What differs between people, and between two shifts of one person."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from attn_robotics.systems.gaze.human import LATENCY_MEAN, UNDERSHOOT, Array


def _full(value: float) -> Array:
    return np.array(value, dtype=np.float64)


@dataclass(frozen=True)
class Style:
    """Head habits of one person, or of N (every field then (N,)).

    Defaults are the median person of the reconstruction: soft hinge at 18 deg, slope 0.75, head gain 2.5 per second.
    """

    hinge: Array = field(default_factory=lambda: _full(18.0))  # deg of target re head below which the head rests
    slope: Array = field(default_factory=lambda: _full(0.75))  # head deg per deg beyond the hinge
    gain: Array = field(default_factory=lambda: _full(2.5))  # 1/s, head peak speed = gain * H + 20

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int) -> Style:
        """Draw N people."""
        return cls(
            hinge=np.clip(rng.normal(18.0, 7.0, n), 4.0, 40.0),
            slope=np.clip(rng.normal(0.75, 0.12, n), 0.4, 1.0),
            gain=rng.uniform(1.6, 3.6, n),
        )


@dataclass(frozen=True)
class Draws:
    """Chance of N shifts: latencies, landing error, speed scatter and blink."""

    latency: Array  # (N,) s from command to eye onset
    head_delay: Array  # (N,) s from eye to head onset
    undershoot: Array  # (N,) deg short of the target
    sideways: Array  # (N,) deg across the path
    vigour: Array  # (N,) factor on peak speed
    blink: Array  # (N,) uniform in [0, 1): a blink happens when below its probability
    blink_lead: Array  # (N,) s before head onset

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int, *, auditory: bool = False, scatter: bool = True) -> Draws:
        """Draw N shifts; without scatter every shift is the median one and never blinks.

        Latency is Gamma (shape 16, mean 0.2 s) within 0.12 to 0.40 s. The head follows the eye by 0.03 s, for sounds
        by nothing (Goossens and Van Opstal 1997 report a smaller delay).
        """
        lag = 0.0 if auditory else 0.03
        if not scatter:
            zero = np.zeros(n)
            return cls(zero + LATENCY_MEAN, zero + lag, zero, zero, zero + 1.0, zero + 1.0, zero + 0.02)
        return cls(
            latency=np.clip(rng.gamma(16.0, LATENCY_MEAN / 16.0, n), 0.12, 0.40),
            head_delay=np.clip(lag + rng.normal(0.0, 0.03, n), -0.04, 0.12),
            undershoot=rng.normal(UNDERSHOOT, 0.3, n),
            sideways=rng.normal(0.0, 0.3, n),
            vigour=np.clip(rng.normal(1.0, 0.025, n), 0.9, 1.1),
            blink=rng.random(n),
            blink_lead=rng.uniform(0.0, 0.04, n),
        )
