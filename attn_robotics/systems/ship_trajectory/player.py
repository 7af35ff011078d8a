"""Endless synthetic traffic on a winding river, as tracks: what a radar or AIS receiver would tell."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from attn_robotics.systems.ship_trajectory.data import RiverState, Traffic
from attn_robotics.systems.ship_trajectory.processor import Fairway, Track

Array = NDArray[np.float64]
KEPT = 31  # positions of a track: the model looks back 300 s


class RiverPlayer:
    """Vessels that come and go; one that leaves the stretch of river comes back under a new name at its other end.

    Args:
        traffic: the rule; `start_m` is half the length of the stretch.
        seed: of everything.
        bend_m: how far the river swings to both sides.
        bend_length_m: of a whole swing.
    """

    def __init__(self, traffic: Traffic, seed: int, *, bend_m: float = 150.0, bend_length_m: float = 3000.0) -> None:
        self.traffic = traffic
        reach = 1.5 * traffic.start_m
        along = np.linspace(-reach, reach, 301)
        self.axis = np.stack([along, bend_m * np.sin(2.0 * np.pi * along / bend_length_m)], -1)
        self.fairway = Fairway(self.axis, traffic.half_width_m)
        self._middle = float(self.fairway.to_river(np.zeros((1, 2)))[0][0, 0])
        self._rng = np.random.default_rng([seed, 5])
        self._state = RiverState.draw(traffic, 1, self._rng)
        count = traffic.vessels
        self._length = self._rng.uniform(60.0, 110.0, count) * traffic.half_width_m / 60.0
        self._names = [f'vessel_{number}' for number in range(count)]
        self._next = count
        self._past: list[deque[Array]] = [deque(maxlen=KEPT) for _ in range(count)]
        for _ in range(KEPT):
            self.step()

    def step(self) -> None:
        """Let `traffic.step_s` pass."""
        self._state.step(self.traffic)
        for vessel in range(self.traffic.vessels):
            if self._state.direction[0, vessel] * self._state.s[0, vessel] > self.traffic.start_m:
                self._renew(vessel)
            self._past[vessel].append(np.array([self._state.s[0, vessel] + self._middle, self._state.n[0, vessel]]))

    def tracks(self) -> list[Track]:
        """What is known now, in map coordinates; vessels seen only once are left out."""
        found = []
        for vessel, past in enumerate(self._past):
            if len(past) < 2:
                continue
            xy, _ = self.fairway.to_map(np.array(past))
            ages = self.traffic.step_s * np.arange(len(past) - 1, -1, -1.0)
            length = float(self._length[vessel])
            found.append(Track(self._names[vessel], ages, xy, length=length, beam=length / 9.0))
        return found

    def _renew(self, vessel: int) -> None:
        fresh = RiverState.draw(replace(self.traffic, vessels=1), 1, self._rng)
        state = self._state
        for name in ('direction', 'cruise', 'lane', 'phase', 'period_s'):
            getattr(state, name)[0, vessel] = getattr(fresh, name)[0, 0]
        state.n[0, vessel], state.speed[0, vessel] = state.lane[0, vessel], state.cruise[0, vessel]
        state.s[0, vessel] = -self.traffic.start_m * state.direction[0, vessel]
        self._past[vessel].clear()
        self._names[vessel] = f'vessel_{self._next}'
        self._next += 1
