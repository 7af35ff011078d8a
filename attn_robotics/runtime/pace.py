"""Waiting for the next tick of a loop, without drift, and an interpreter that keeps out of its way."""

from __future__ import annotations

import gc
import sys
import time
from typing import Final

# How long a thread may keep the interpreter while another waits for it; Python's 5 ms would be half a tick of 100 Hz.
SWITCH_INTERVAL_S: Final = 0.0005


class Pace:
    """Absolute times, one period apart, of the monotonic clock; the first one is now.

    Attributes:
        missed: ticks left out because one before took longer than a period; they are not made up for in a burst.
    """

    def __init__(self, period_s: float) -> None:
        self._period = period_s
        self._due = time.monotonic()
        self.missed = 0

    def wait(self) -> float:
        """Sleep until the next tick; returns how late it is [s]."""
        self._due += self._period
        behind = time.monotonic() - self._due
        if behind > self._period:
            skipped = int(behind / self._period)
            self.missed += skipped
            self._due += skipped * self._period
        time.sleep(max(0.0, self._due - time.monotonic()))
        return time.monotonic() - self._due


def settle_interpreter() -> None:
    """Before a loop starts: what exists by now is never searched for garbage again, and threads change quickly."""
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
