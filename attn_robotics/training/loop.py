"""A time budget that also ends on Ctrl-C, and the learning rate over it."""

from __future__ import annotations

import math
import signal
import time
from types import FrameType


class TimeBudget:
    """Says when a training loop should save and leave.

    The first Ctrl-C asks for a clean end, the second one interrupts at once.

    Args:
        seconds: budget of this run.
        spent: seconds that earlier runs of the same training took.
    """

    def __init__(self, seconds: float, spent: float = 0.0) -> None:
        self.seconds = seconds
        self.spent = spent
        self.interrupted = False
        self._start = time.monotonic()

    def __enter__(self) -> TimeBudget:
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        self._start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, self._before)

    @property
    def elapsed(self) -> float:
        """Seconds since this run began."""
        return time.monotonic() - self._start

    @property
    def total(self) -> float:
        """Seconds of all runs of this training so far."""
        return self.spent + self.elapsed

    @property
    def is_over(self) -> bool:
        """Whether to stop."""
        return self.interrupted or self.elapsed >= self.seconds


def cosine_rate(progress: float, step: int, *, peak: float, floor: float, warmup: int) -> float:
    """Learning rate: linear over `warmup` steps, then a half cosine from peak to floor as progress goes 0 to 1."""
    fall = floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return fall * min(1.0, (step + 1) / warmup)
