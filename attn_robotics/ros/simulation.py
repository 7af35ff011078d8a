"""Base of nodes that make simulated time: a thread that steps the world while the node is active, and its pace."""

from __future__ import annotations

import threading
import time
from typing import Any

from attn_robotics.ros.lifecycle import AttnNode

CATCH_UP_S = 0.1  # of wall time: never sprint for longer to make up for a pause
_SPEED_EVERY_S = 1.0


class Pace:
    """Keeps simulated time from running ahead of a multiple of wall time, and measures what it comes to.

    Attributes:
        real_time_factor: simulated seconds a second, of the last second or so; 0 before that.
    """

    def __init__(self) -> None:
        self.real_time_factor = 0.0
        self._due = self._since = time.perf_counter()
        self._simulated_s = 0.0

    def keep(self, period_s: float, factor: float) -> None:
        """Account for `period_s` simulated seconds and sleep until they may be over; factor 0 never sleeps."""
        now = time.perf_counter()
        self._simulated_s += period_s
        if now - self._since >= _SPEED_EVERY_S:
            self.real_time_factor = self._simulated_s / (now - self._since)
            self._since, self._simulated_s = now, 0.0
        if factor > 0:
            self._due = max(self._due + period_s / factor, now - CATCH_UP_S)
            if self._due > now:
                time.sleep(self._due - now)


class SimulationNode(AttnNode):
    """A node that steps a world in a thread of its own, from activation to deactivation.

    Subclasses override `simulate`, which goes on while `is_running`.
    """

    def __init__(self, **options: Any) -> None:
        self._thread: threading.Thread | None = None
        self._runs = threading.Event()
        self.failure = ''
        super().__init__(**options)

    def simulate(self) -> None:
        """Step, publish and keep pace while `is_running`."""
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        """Whether time should go on."""
        return self._runs.is_set()

    def activate(self) -> None:
        """Let time run."""
        self._runs.set()
        self._thread = threading.Thread(target=self._simulate_guarded, name='simulation', daemon=True)
        self._thread.start()

    def deactivate(self) -> None:
        """Stop time."""
        self._runs.clear()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _simulate_guarded(self) -> None:
        """Run; whatever goes wrong ends the process, since a world whose time stands still helps nobody."""
        try:
            self.simulate()
        except Exception as error:
            self.failure = f'simulation failed: {type(error).__name__}: {" ".join(str(error).split())}'
            self.get_logger().error(self.failure)
            self._report()  # now, since the process ends before the next report is due
            self.exit_code = 1
            self.is_done = True
