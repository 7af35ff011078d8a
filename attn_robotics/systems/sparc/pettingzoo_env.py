"""The grid world as a PettingZoo parallel environment, for training with other people's tools.

Needs `pip install pettingzoo`; nothing else in the suite does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from attn_robotics.simulation.instances import Instance, random_instance
from attn_robotics.systems.sparc.actions import NAMES
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.gridworld import GridWorld, Rewards
from attn_robotics.systems.sparc.processor import observe
from attn_robotics.systems.sparc.shield import Priorities

Observations = dict[str, dict[str, NDArray[np.float32]]]


class SparcParallelEnv(ParallelEnv):
    """One fleet; robots are called `robot_0`, `robot_1` and so on.

    An observation holds `image` (8, F, F) and `vector` (V,) as in `processor`; an action is one of the five of
    `actions.NAMES`. Everybody terminates when the whole fleet has arrived and is truncated at the step limit.

    Args:
        draw: seed -> instance; None for random maps of the following three.
        robots: number of robots.
        size: side of the map.
        density: obstacle probability.
        max_steps: step limit.
        field_of_view: cells seen across, odd.
        history: executed actions that a robot remembers.
        rewards: what a step is worth.
    """

    metadata: dict[str, Any] = {'name': 'sparc_v0', 'render_modes': ['ansi'], 'is_parallelizable': True}  # noqa: RUF012
    _history: NDArray[np.int8]

    def __init__(
        self,
        draw: Callable[[int], Instance] | None = None,
        *,
        robots: int = 8,
        size: int = 20,
        density: float = 0.15,
        max_steps: int = 256,
        field_of_view: int = 3,
        history: int = 4,
        rewards: Rewards | None = None,
    ) -> None:
        self._draw = draw or (lambda seed: random_instance(size, density, robots, seed))
        self._max_steps, self._rewards = max_steps, rewards or Rewards()
        self._field_of_view, self._history_length = field_of_view, history
        self.render_mode = 'ansi'
        self._seeds = np.random.default_rng()
        self._start(0)  # shows how many robots there are and how wide an observation is
        self.possible_agents = [f'robot_{index}' for index in range(self._world.instance.robots)]
        self.agents: list[str] = []
        width = self._observe()[self.possible_agents[0]]['vector'].shape[0]
        side = (8, field_of_view, field_of_view)
        self._observation_space = spaces.Dict(
            {
                'image': spaces.Box(0.0, 1.0, side, np.float32),
                'vector': spaces.Box(-np.inf, np.inf, (width,), np.float32),
            }
        )
        self._action_space = spaces.Discrete(len(NAMES))

    def observation_space(self, agent: str) -> spaces.Dict:
        """The same for every robot."""
        return self._observation_space

    def action_space(self, agent: str) -> spaces.Discrete:
        """Five actions, the same for every robot."""
        return self._action_space

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, dict[str, Any]]]:
        """Draw a new instance; the same seed draws the same one."""
        if seed is not None:
            self._seeds = np.random.default_rng(seed)
        self._start(int(self._seeds.integers(1 << 31)) if seed is None else seed)
        self.agents = list(self.possible_agents)
        return self._observe(), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, int]
    ) -> tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Move everybody; actions: one per robot."""
        step = self._world.step(np.array([actions[agent] for agent in self.possible_agents]))
        self._priorities.update(step.on_goal)
        self._history = np.concatenate((step.moved[:, None], self._history[:, :-1]), axis=1)
        agents = self.possible_agents
        observations = self._observe()
        rewards = dict(zip(agents, step.rewards.tolist(), strict=True))
        ends = dict.fromkeys(agents, step.solved)
        stops = dict.fromkeys(agents, step.done and not step.solved)
        infos: dict[str, dict[str, Any]] = {
            agent: {
                'refused': bool(step.refused[index]),
                'on_goal': bool(step.on_goal[index]),
                'blocking': bool(step.blocking[index]),
            }
            for index, agent in enumerate(agents)
        }
        if step.done:
            self.agents = []
        return observations, rewards, ends, stops, infos

    def state(self) -> NDArray[np.int32]:
        """Cells and goals of the whole fleet: (N, 4) int32."""
        return np.concatenate([self._world.cells, self._world.goals], axis=1)

    def render(self) -> str:
        """The map as text: `#` obstacles, `o` robots, `*` robots on their goals."""
        picture = np.where(self._world.instance.grid, '#', '.')
        arrived = (self._world.cells == self._world.goals).all(axis=1)
        picture[tuple(self._world.cells.T)] = np.where(arrived, '*', 'o')
        return '\n'.join(map(''.join, picture))

    def close(self) -> None:
        """Nothing to give back."""

    def _start(self, seed: int) -> None:
        instance = self._draw(seed)
        self._world = GridWorld(instance, max_steps=self._max_steps, rewards=self._rewards)
        self._distances = distance_fields(instance.grid, instance.goals)
        self._priorities = Priorities(instance.robots, seed)
        self._history = np.full((instance.robots, self._history_length), -1, np.int8)

    def _observe(self) -> Observations:
        seen = observe(
            self._world.instance.grid,
            self._world.cells,
            self._world.goals,
            self._distances,
            self._priorities.values,
            self._history,
            self._field_of_view,
        )
        return {
            agent: {'image': seen.image[index], 'vector': seen.vector[index]}
            for index, agent in enumerate(self.possible_agents)
        }
