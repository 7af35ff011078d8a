"""Bases of nodes that make simulated time, in a thread that steps a world, or that play data, by a timer."""

from __future__ import annotations

import threading
import time
from typing import Any

from rclpy.publisher import Publisher
from rclpy.timer import Timer
from rosgraph_msgs.msg import Clock

from attn_robotics.conversions.stamps import to_stamp
from attn_robotics.ros import qos
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
    """A node that steps a world in a thread of its own, from activation to deactivation, and publishes `/clock`.

    Subclasses override `step`, and `speed` where time may go faster or slower than the wall's; `simulate` where
    something is to be opened before and closed after; `wake` where `step` waits.

    Attributes:
        PERIOD_S: simulated seconds of a step.
        pace: of the present activation.
    """

    PERIOD_S: float

    def __init__(self, **options: Any) -> None:
        self.pace = Pace()
        self._clock_out: Publisher | None = None
        self._thread: threading.Thread | None = None
        self._runs = threading.Event()
        self.failure = ''
        super().__init__(**options)

    def step(self, number: int) -> bool:
        """Do one step, counted from the activation, and say whether time goes on."""
        raise NotImplementedError

    def speed(self) -> float:
        """Simulated seconds a second at most; 0 is as fast as it goes."""
        return 1.0

    def wake(self) -> None:
        """End a wait of `step` early, when time stops; nothing where `step` never waits."""

    def simulate(self) -> None:
        """Step and keep pace, in the thread, until `step` or the deactivation ends it."""
        self.pace = Pace()
        number = 0
        while self.is_running and self.step(number):
            number += 1
            self.pace.keep(self.PERIOD_S, self.speed())

    def open_clock(self) -> None:
        """Begin to own the time, when the node configures."""
        self._clock_out = self.create_publisher(Clock, '/clock', qos.CLOCK)

    def close_clock(self) -> None:
        """Give the time back, when the node is released."""
        if self._clock_out is not None:
            self.destroy_publisher(self._clock_out)
            self._clock_out = None

    def tell_time(self, time_s: float) -> None:
        """Publish the simulated time [s]."""
        assert self._clock_out is not None
        self._clock_out.publish(Clock(clock=to_stamp(time_s)))

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
        self.wake()
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


class PlayerNode(AttnNode):
    """A node that plays data while it is active, by stamps that begin with the node's clock and may run faster.

    Subclasses call `wind_up` when they configure and override `play`.

    Attributes:
        played: calls of `play` since then.
    """

    def __init__(self, **options: Any) -> None:
        self.played = 0
        self._timer: Timer | None = None
        super().__init__(**options)

    def wind_up(self, period_s: float, factor: float) -> None:
        """Be ready to call `play` every `period_s` [s] of the stamps, which run `factor` times as fast as the wall."""
        self._period_s, self._factor = period_s, factor
        self._start_s, self.played = self._now_s(), 0

    def play(self, stamp_s: float) -> None:
        """Publish what belongs to a stamp [s]."""
        raise NotImplementedError

    @property
    def played_s(self) -> float:
        """How long it has played, by the stamps [s]."""
        return self.played * self._period_s

    def activate(self) -> None:
        """Let time run."""
        self._timer = self.create_timer(self._period_s / self._factor, self._turn, clock=self.wall_clock)

    def deactivate(self) -> None:
        """Stop time."""
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None

    def _turn(self) -> None:
        self.play(self._start_s + self.played_s)
        self.played += 1
