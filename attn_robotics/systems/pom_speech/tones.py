"""A stand-in for speech that needs numpy alone: every letter is a chord of its own, spaces are pauses.

It sounds like no language. Tests and a first try of training use it, so that no speech program is needed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attn_robotics.systems.pom_speech.processor import SAMPLE_RATE
from attn_robotics.systems.pom_speech.text import CHARACTERS

LOW, HIGH = (300.0, 1200.0), (1500.0, 3600.0)  # [Hz], where a letter's two tones lie


def chord(letter: str) -> tuple[float, float]:
    """The two tones of a letter [Hz]; six by five places, so that no two letters share both."""
    index = CHARACTERS.index(letter)
    low = LOW[0] * (LOW[1] / LOW[0]) ** (index % 6 / 5)
    high = HIGH[0] * (HIGH[1] / HIGH[0]) ** (index // 6 / 4)
    return low, high


def speak(text: str, rng: np.random.Generator, *, letter_s: float = 0.09) -> NDArray[np.float32]:
    """Play a text: (n,) samples at 16 kHz, peak below 1.

    Args:
        text: of `text.CHARACTERS`.
        rng: of pitch (one factor a call), lengths and phases.
        letter_s: mean length of a letter [s].
    """
    pitch = rng.uniform(0.95, 1.05)
    parts = []
    for letter in text:
        count = int(letter_s * rng.uniform(0.8, 1.2) * SAMPLE_RATE)
        time = np.arange(count) / SAMPLE_RATE
        envelope = np.sin(np.pi * (np.arange(count) + 0.5) / count) ** 0.5 * (letter != ' ')
        tones = [np.sin(2 * np.pi * (pitch * f * time + rng.random())) for f in chord(letter)]
        parts.append(0.45 * envelope * (tones[0] + tones[1]))
    result: NDArray[np.float32] = np.concatenate(parts or [np.zeros(0)]).astype(np.float32)
    return result
