"""Joint decisions on request, without wheels: for other people's simulators and for tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attn_robotics.simulation.instances import validate
from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.policy import SparcPolicy
from attn_robotics.systems.sparc.shield import Shield, ShieldConfig

MAX_CELLS = 1 << 20
MAX_ROBOTS = 1024


@dataclass(frozen=True)
class StepPlan:
    """One joint decision.

    Attributes:
        actions: (N,) int8.
        next_cells: (N, 2) int32 rows and columns after the move.
        log_probs: (N, 5) float32 of the policy.
    """

    actions: NDArray[np.int8]
    next_cells: NDArray[np.int32]
    log_probs: NDArray[np.float32]


class StepPlanner:
    """Remembers one fleet between calls: messages, priorities and path distances.

    Args:
        policy: this planner's own.
        seed: of priorities and random ties.
        shield: how preferences become moves.
    """

    def __init__(self, policy: SparcPolicy, *, seed: int = 0, shield: ShieldConfig | None = None) -> None:
        self._policy, self._seed, self._config = policy, seed, shield
        self._grid: NDArray[np.bool_] | None = None
        self._goals = np.zeros((0, 2), np.int32)

    def plan(
        self, grid: NDArray[np.bool_], cells: NDArray[np.int32], goals: NDArray[np.int32], *, reset: bool = False
    ) -> StepPlan:
        """Decide once.

        Args:
            grid: (H, W) True where an obstacle stands; a changed one starts the fleet anew.
            cells: (N, 2) where the robots stand.
            goals: (N, 2) where they want to go; may change from call to call.
            reset: forget messages and priorities first.

        Raises:
            WorldError: a robot off the map, in an obstacle, on another's cell or cut off from its goal.
            ValueError: too many cells or robots.
        """
        if grid.size > MAX_CELLS or not 1 <= len(cells) <= MAX_ROBOTS:
            raise ValueError(f'{grid.size} cells and {len(cells)} robots; up to {MAX_CELLS} and 1 to {MAX_ROBOTS}')
        validate(grid, cells, goals)
        if reset or self._grid is None or len(goals) != len(self._goals) or not np.array_equal(grid, self._grid):
            self._grid, self._goals = grid.copy(), goals.astype(np.int32)
            self._shield = Shield(self._grid, self._config)
            self._rng = np.random.default_rng(self._seed)
            self._policy.reset(self._grid, self._goals, seed=self._seed)
        elif not np.array_equal(goals, self._goals):
            changed = np.flatnonzero((goals != self._goals).any(axis=1))
            self._goals = goals.astype(np.int32)
            self._policy.set_goals(self._goals[changed], distance_fields(self._grid, self._goals[changed]), changed)
        log_probs = self._policy.step(cells)
        actions = self._shield.decide(
            cells, log_probs, self._policy.priorities, self._goals, self._policy.distances, rng=self._rng
        )  # whoever asks waits for the answer: the next call searches, if it must
        return StepPlan(actions, (cells + MOVES[actions]).astype(np.int32), log_probs)
