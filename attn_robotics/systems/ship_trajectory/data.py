"""Synthetic river traffic with a known rule of who reacts to whom.

Vessels move along a fairway, s along its axis and n across it to the left [m], keep to the right, weave slowly, and
react to others as long as the two come closer to each other: within about `reach_m` they slow down by `slowing` and
move aside. Whoever moves away does not matter. Nothing here was recorded on a river.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ENCOUNTER_M = 120.0


@dataclass(frozen=True)
class Traffic:
    """The rule and its numbers; all lengths and times scale together, so that corridors are small rivers."""

    vessels: int = 4
    half_width_m: float = 60.0
    speed_m_s: tuple[float, float] = (2.2, 4.4)
    lane_m: float = 20.0  # to the right of the axis
    lane_spread_m: float = 12.0
    start_m: float = 1800.0  # along the river, to both sides
    reach_m: float = 350.0
    slowing: float = 0.35
    aside_m: float = 20.0
    aside_reach_m: float = 40.0
    lag: float = 0.7  # share of speed and lateral place that stays in a simulation step
    step_s: float = 10.0
    weave_m: float = 4.0
    every: int = 3  # simulation steps between positions that a model sees


@dataclass(frozen=True)
class Scenes:
    """N scenes of V vessels at T moments.

    Attributes:
        positions: (N, V, T, 2) s and n [m].
        sizes: (N, V, 2) length and beam [m].
        half_width_m: of the fairway.
    """

    positions: Array
    sizes: Array
    half_width_m: float

    def encounters(self, history: int) -> NDArray[np.bool_]:
        """(N, V) whether the vessel comes closer than `ENCOUNTER_M` to another one after moment `history`."""
        future = self.positions[:, :, history + 1 :]
        apart = np.linalg.norm(future[:, :, None] - future[:, None], axis=-1)  # (N, V, V, T)
        apart[:, *np.diag_indices(apart.shape[1])] = np.inf
        found: NDArray[np.bool_] = apart.min((2, 3)) < ENCOUNTER_M
        return found


@dataclass
class RiverState:
    """Moving vessels of N scenes, all (N, V); `step` changes it in place."""

    s: Array
    n: Array
    speed: Array
    direction: Array
    cruise: Array
    lane: Array
    phase: Array
    period_s: Array
    time_s: float = 0.0
    unseen: NDArray[np.bool_] | None = None

    @classmethod
    def draw(cls, traffic: Traffic, scenes: int, rng: np.random.Generator) -> RiverState:
        """Start traffic."""
        shape = (scenes, traffic.vessels)
        direction = rng.choice([-1.0, 1.0], shape)
        cruise = rng.uniform(*traffic.speed_m_s, shape)
        lane = -traffic.lane_m * direction + traffic.lane_spread_m * rng.standard_normal(shape)
        lane = np.clip(lane, -0.85 * traffic.half_width_m, 0.85 * traffic.half_width_m)
        scale = traffic.step_s / 10.0
        return cls(
            s=rng.uniform(-traffic.start_m, traffic.start_m, shape),
            n=lane.copy(),
            speed=cruise.copy(),
            direction=direction,
            cruise=cruise,
            lane=lane,
            phase=rng.uniform(0.0, 2.0 * np.pi, shape),
            period_s=scale * rng.uniform(200.0, 500.0, shape),
        )

    def attention(self, traffic: Traffic) -> Array:
        """(N, V, V) the truth: how much vessel i reacts to vessel j, whom nobody sees where `unseen`."""
        ds = self.s[:, None, :] - self.s[:, :, None]
        along = self.direction * self.speed
        closing = (ds * (along[:, None, :] - along[:, :, None])) < 0
        found: Array = np.where(closing, np.exp(-((ds / traffic.reach_m) ** 2)), 0.0)
        return found if self.unseen is None else np.where(self.unseen[:, None, :], 0.0, found)

    def step(self, traffic: Traffic) -> None:
        """One simulation step."""
        weight = self.attention(traffic)
        dn = self.n[:, :, None] - self.n[:, None, :]
        side = np.where(dn == 0, -self.direction[:, :, None], np.sign(dn))
        push = traffic.aside_m * (weight * side * np.exp(-np.abs(dn) / traffic.aside_reach_m)).sum(-1)
        weave = traffic.weave_m * np.sin(2.0 * np.pi * self.time_s / self.period_s + self.phase)
        bound = 0.95 * traffic.half_width_m
        aim = np.clip(self.lane + push + weave, -bound, bound)
        speed = self.cruise * (1.0 - traffic.slowing * np.minimum(weight.sum(-1), 1.0))
        self.s = self.s + self.direction * self.speed * traffic.step_s
        self.n = traffic.lag * self.n + (1.0 - traffic.lag) * aim
        self.speed = traffic.lag * self.speed + (1.0 - traffic.lag) * speed
        self.time_s += traffic.step_s


def draw_scenes(
    traffic: Traffic, count: int, moments: int, seed: int, *, unseen: int = -1, unseen_from: int = 0
) -> Scenes:
    """Simulate N scenes and keep every `traffic.every`-th position.

    Args:
        traffic: the rule.
        count: N.
        moments: T positions kept.
        seed: of everything.
        unseen: number of a vessel that nobody reacts to any more, a counterfactual; -1 for none.
        unseen_from: the moment after which that holds.
    """
    rng = np.random.default_rng([seed, 0])
    state = RiverState.draw(traffic, count, rng)
    kept = []
    for step in range((moments - 1) * traffic.every + 1):
        if step % traffic.every == 0:
            kept.append(np.stack([state.s, state.n], -1))
        if unseen >= 0 and step == unseen_from * traffic.every:
            state.unseen = np.broadcast_to(np.arange(traffic.vessels) == unseen, state.s.shape)
        state.step(traffic)
    scale = traffic.half_width_m / 60.0
    length = scale * rng.uniform(60.0, 110.0, state.s.shape)
    sizes = np.stack([length, length / rng.uniform(8.0, 10.0, length.shape)], -1)
    return Scenes(np.stack(kept, 2), sizes, traffic.half_width_m)
