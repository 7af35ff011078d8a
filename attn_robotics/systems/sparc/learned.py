"""The learned methods: the policy's wishes, and each rule that turns them into a joint move."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attn_robotics.simulation.instances import Instance
from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.conflicts import one_winner
from attn_robotics.systems.sparc.distance_fields import distance_fields, neighbours
from attn_robotics.systems.sparc.shield import Priorities, Shield, ShieldConfig

# Method -> which network, and which rule decides.
LEARNED = {
    'shipped': ('rmha', 'shipped'),
    'rmha': ('rmha', 'one_winner'),
    'rmha_shield': ('rmha', 'shield'),
    'rmha_values': ('rmha', 'value_winner'),
    'rmha_all_stay': ('rmha', 'all_stay'),
    'content_only': ('content_only', 'one_winner'),
    'content_only_shield': ('content_only', 'shield'),
    'no_comm': ('no_comm', 'one_winner'),
    'no_comm_shield': ('no_comm', 'shield'),
}
# One network each of the ablation's first training seed, see `ablation`.
ABLATION_WEIGHTS = Path(__file__).parent / 'weights' / 'ablation'
RULES = ('one_winner', 'value_winner', 'all_stay', 'shield', 'shipped')
# Shield without the swap rule and without any help of path distances: what the policy alone is worth.
BARE_SHIELD = ShieldConfig(swap=False, distance_weight=0.0, temperature=1.0, hindrance=0.0, confidence=0.0)


class Policy(Protocol):
    """What an evaluation needs of a policy."""

    def reset(
        self,
        grid: NDArray[np.bool_],
        goals: NDArray[np.int32],
        distances: NDArray[np.int16] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """Start an episode: grid (H, W), goals (N, 2), path distances (N, H, W), seed of the priorities."""

    def set_goals(
        self,
        goals: NDArray[np.int32],
        distances: NDArray[np.int16] | None = None,
        robots: NDArray[np.intp] | None = None,
    ) -> None:
        """Give some robots (M,) new goals (M, 2) with path distances (M, H, W)."""

    def step(self, cells: NDArray[np.int32], last_actions: NDArray[np.int8] | None = None) -> NDArray[np.float32]:
        """Log-probabilities (N, 5) for cells (N, 2) and the actions (N,) executed last, None at first."""


class PoliciesMissingError(RuntimeError):
    """No usable weights; the message says why."""


def load_policy(network: str, weights: Path | None, *, device: str = 'cpu', backend: str = 'auto') -> Policy:
    """Load one of the networks.

    Args:
        network: 'rmha', 'content_only' or 'no_comm'.
        weights: safetensors file or folder holding `<network>.safetensors`; None for the shipped ones.
        device: torch device.
        backend: see `SparcPolicy.load`.

    Raises:
        PoliciesMissingError: the policy or its weights can't be had.
    """
    try:
        from attn_robotics.systems.sparc.policy import SparcPolicy
    except ImportError as error:
        raise PoliciesMissingError(f'the policy can not be imported ({error})') from error
    path = weights
    if path is not None and path.is_dir():
        path = path / f'{network}.safetensors'
    elif network != 'rmha':
        raise PoliciesMissingError(
            f'no {network} of the size that ships; see --suite ablation, or pass --weights FOLDER with '
            f'{network}.safetensors'
        )
    try:
        policy: Policy = SparcPolicy.load(path, device=device, backend=backend)
    except (OSError, ValueError, RuntimeError) as error:
        raise PoliciesMissingError(str(error).splitlines()[0]) from error
    return policy


class LearnedMethod:
    """A policy and the rule that decides.

    Args:
        policy: the network.
        rule: 'one_winner' (by priority), 'value_winner' (by values of the outcomes, SCRIMP), 'all_stay', 'shield' (no
            swap rule, no path distances) or 'shipped'.
        config: the shield's, for 'shipped'.
    """

    def __init__(self, policy: Policy, rule: str, config: ShieldConfig | None = None) -> None:
        if rule not in RULES:
            raise ValueError(f'rule must be one of {", ".join(RULES)}, got {rule!r}')
        self.conflict_free = rule != 'all_stay'
        self._policy = policy
        self._rule = rule
        self._config = BARE_SHIELD if rule == 'shield' else config

    def reset(self, instance: Instance, seed: int) -> None:
        """Start an episode."""
        self._grid, self._goals = instance.grid, instance.goals.copy()
        self._distances = distance_fields(instance.grid, instance.goals)
        self._near, self._width = neighbours(instance.grid), instance.grid.shape[1]
        self._shield = Shield(instance.grid, self._config)
        self._priorities = Priorities(instance.robots, seed)
        self._rng = np.random.default_rng(seed)
        self._before: NDArray[np.int32] | None = None
        self._arrived = np.zeros(instance.robots, np.bool_)
        self._policy.reset(instance.grid, instance.goals, self._distances, seed=seed)

    def retarget(self, robots: NDArray[np.intp], goals: NDArray[np.int32]) -> None:
        """Give some robots (M,) new goals (M, 2) in mid-run."""
        fields = distance_fields(self._grid, goals)
        # Arrivals count before the new goals do.
        self._arrived[robots] = True
        self._goals[robots], self._distances[robots] = goals, fields
        self._policy.set_goals(goals, fields, robots)

    def act(self, cells: NDArray[np.int32]) -> NDArray[np.int8]:
        """Ask the policy, then the rule."""
        last_actions = None
        if self._before is not None:
            executed = (cells - self._before)[:, None] == MOVES  # (N, 5, 2)
            last_actions = executed.all(axis=2).argmax(axis=1).astype(np.int8)
            self._priorities.update((cells == self._goals).all(axis=1) | self._arrived)
            self._arrived[:] = False
        log_probs = self._policy.step(cells, last_actions)
        self._before = cells
        if self._rule in ('one_winner', 'value_winner', 'all_stay'):
            flat = (cells[:, 0] * self._width + cells[:, 1]).astype(np.int32)
            if self._rule == 'value_winner':
                return self._by_value(cells, flat, log_probs)
            if self._rule == 'one_winner':
                return one_winner(self._near, flat, log_probs, rng=self._rng, scores=self._priorities.values)
            drawn = log_probs + self._rng.gumbel(size=log_probs.shape)
            wishes: NDArray[np.int8] = drawn.argmax(axis=1).astype(np.int8)
            return wishes
        actions = self._shield.decide(
            cells, log_probs, self._priorities.values, self._goals, self._distances, rng=self._rng
        )
        self._shield.prepare()
        return actions

    def _by_value(
        self, cells: NDArray[np.int32], flat: NDArray[np.int32], log_probs: NDArray[np.float32]
    ) -> NDArray[np.int8]:
        from attn_robotics.systems.sparc.policy import SparcPolicy
        from attn_robotics.systems.sparc.team_value import TeamValue

        if not isinstance(self._policy, SparcPolicy):
            raise TypeError(f'value_winner needs a SparcPolicy, got {type(self._policy).__name__}')
        away = np.abs(cells - self._goals).sum(axis=1) / self._width
        team_value = TeamValue(self._policy, self._grid, cells)
        return one_winner(self._near, flat, log_probs, rng=self._rng, team_value=team_value, goal_distance=away)
