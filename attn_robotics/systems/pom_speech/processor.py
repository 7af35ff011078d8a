"""Sound to features: 16 kHz mono samples to log-mel frames, and frames to tokens of 40 ms.

Frame i covers the samples from 160 i to 160 i + 400 (25 ms, every 10 ms) and nothing outside, so that a stream cut
into blocks of any size gives the frames of the whole recording.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000  # [Hz]
WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
BANDS = 80
FRAMES_PER_TOKEN = 4
TOKEN_S = FRAMES_PER_TOKEN * HOP / SAMPLE_RATE
# Below this energy of a band everything is silence: under it, 16-bit samples carry their own rounding only.
FLOOR = 1e-6


@cache
def mel_filters() -> NDArray[np.float64]:
    """Triangles from 0 to 8 kHz, equally spaced in mel (O'Shaughnessy: 2595 log10(1 + f / 700)): (201, 80)."""
    top = 2595.0 * np.log10(1.0 + SAMPLE_RATE / 2 / 700.0)
    corners = 700.0 * (10.0 ** (np.linspace(0.0, top, BANDS + 2) / 2595.0) - 1.0)  # [Hz]
    bins = np.arange(WINDOW // 2 + 1) * SAMPLE_RATE / WINDOW
    rising = (bins[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins[:, None]) / (corners[2:] - corners[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


@cache
def _window() -> NDArray[np.float64]:
    return np.hanning(WINDOW + 1)[:-1]  # periodic Hann


def log_mel(samples: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Natural logarithm of mel-band energies, computed in float64.

    Args:
        samples: (n,) from -1 to 1 at 16 kHz.

    Returns:
        (T, 80) with T = 1 + (n - 400) // 160, or 0 for fewer than 400 samples.
    """
    x = np.asarray(samples, np.float64)
    if len(x) < WINDOW:
        return np.zeros((0, BANDS), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(x, WINDOW)[::HOP] * _window()
    energy = np.abs(np.fft.rfft(frames)) ** 2
    result: NDArray[np.float32] = np.log(np.maximum(energy @ mel_filters(), FLOOR)).astype(np.float32)
    return result


def to_tokens(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, 80) frames to (T // 4, 4, 80) tokens; frames of an unfinished token are left out."""
    whole = len(frames) // FRAMES_PER_TOKEN
    return frames[: whole * FRAMES_PER_TOKEN].reshape(whole, FRAMES_PER_TOKEN, BANDS)


class LogMelStream:
    """`log_mel` and `to_tokens` of a sound that comes in blocks."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._rest = np.zeros(0, np.float32)
        self._frames: NDArray[np.float32] = np.zeros((0, BANDS), np.float32)

    def push(self, samples: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Take (n,) samples, n of any size; give the tokens (K, 4, 80) that they complete."""
        waiting = np.concatenate([self._rest, np.asarray(samples, np.float32)])
        fresh = log_mel(waiting)
        self._rest = waiting[len(fresh) * HOP :]
        frames = np.concatenate([self._frames, fresh])
        tokens = to_tokens(frames)
        self._frames = frames[len(tokens) * FRAMES_PER_TOKEN :]
        return tokens
