"""Rooms and noise for clean speech: everything is drawn and synthetic."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter, resample_poly

from attn_robotics.systems.pom_speech.processor import SAMPLE_RATE

Sound = NDArray[np.floating[Any]]
NOISES = ('white', 'pink', 'motor')


def reverberate(sound: Sound, rng: np.random.Generator, rt60_s: float, direct_db: float) -> Sound:
    """Play in a room: the direct sound, then noise that decays by 60 dB in `rt60_s`.

    Args:
        sound: (n,).
        rng: of the room.
        rt60_s: reverberation time [s].
        direct_db: energy of the direct sound over that of the rest [dB].

    Returns:
        (n + rt60_s of tail,).
    """
    count = int(rt60_s * SAMPLE_RATE)
    tail = rng.standard_normal(count) * 10.0 ** (-3.0 * np.arange(count) / count)
    tail[: SAMPLE_RATE // 400] = 0.0  # 2.5 ms: nothing is nearer than that
    tail *= 10.0 ** (-direct_db / 20) / np.sqrt((tail**2).sum() + 1e-12)
    tail[0] = 1.0
    out: Sound = fftconvolve(sound, tail)
    return out


def make_noise(kind: str, count: int, rng: np.random.Generator) -> Sound:
    """(count,) samples of unit RMS: 'white', 'pink' (1/f power), or 'motor' (harmonics of a wandering speed)."""
    noise: Sound
    if kind == 'motor':
        speed = rng.uniform(40.0, 180.0) * (1.0 + 0.03 * np.cumsum(rng.standard_normal(count)) / np.sqrt(count))
        phase = 2 * np.pi * np.cumsum(speed) / SAMPLE_RATE
        weights = rng.uniform(0.2, 1.0, 12) / np.arange(1, 13)
        noise = sum(
            (w * np.sin((k + 1) * phase + rng.uniform(0, 6.28)) for k, w in enumerate(weights)), np.zeros(count)
        )
        noise = noise + 0.1 * rng.standard_normal(count)
    else:
        noise = rng.standard_normal(count)
        if kind == 'pink':
            # Three poles and zeros that fall by 3 dB an octave from 40 Hz on (a standard filter of audio practice).
            noise = lfilter([0.049922, -0.095993, 0.050613, -0.004409], [1.0, -2.494956, 2.017266, -0.522190], noise)
    even: Sound = noise / np.sqrt((noise**2).mean() + 1e-12)
    return even


def play_faster(sound: Sound, speed: float) -> Sound:
    """Play (n,) samples `speed` times as fast, to a hundredth: shorter and higher for more than 1."""
    out: Sound = resample_poly(sound, 100, round(100 * speed))
    return out


def rms(sound: Sound) -> float:
    """Root of the mean square."""
    return float(np.sqrt((np.asarray(sound, np.float64) ** 2).mean() + 1e-12))
