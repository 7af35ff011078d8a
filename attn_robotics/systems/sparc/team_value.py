"""What a fleet is worth after joint actions that it might take: the judge of the published conflict rule.

Source: Algorithm 1 of SPARC, taken over from SCRIMP (arXiv 2303.00605): for every robot of a conflict the others are
imagined to draw something else, and the candidates are weighed by the values that the network gives to all robots then.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.policy import SparcPolicy
from attn_robotics.systems.sparc.processor_torch import observe_batch
from attn_robotics.systems.sparc.torch_decider import network_of

CANDIDATES = 16  # judged at once, so that memory stays bounded


class TeamValue:
    """Sums the extrinsic values of all robots over imagined next states.

    Args:
        policy: after its `step` in the state from which the actions lead on; by torch.
        grid: (H, W) True where an obstacle stands.
        cells: (N, 2) where the robots stand.
    """

    def __init__(self, policy: SparcPolicy, grid: NDArray[np.bool_], cells: NDArray[np.integer]) -> None:
        self._network = network_of(policy)
        device = next(self._network.parameters()).device
        self._device = device
        self._cells = np.asarray(cells, np.int64)
        self._goals = policy.goals.astype(np.int64)
        self._waited = policy.priorities
        self._history = policy.history
        self._grid = torch.from_numpy(np.ascontiguousarray(grid)).to(device)
        self._distances = torch.from_numpy(policy.distances).to(device)
        self._messages = torch.from_numpy(policy.messages).to(device)

    @torch.no_grad()
    def __call__(self, actions: NDArray[np.int8]) -> NDArray[np.float32]:
        """Values (M,) of the states that joint actions (M, N) lead to."""
        return np.concatenate(
            [self._judge(actions[low : low + CANDIDATES]) for low in range(0, len(actions), CANDIDATES)]
        )

    def _judge(self, actions: NDArray[np.int8]) -> NDArray[np.float32]:
        count, robots = actions.shape
        cells = self._cells + MOVES[actions]  # (M, N, 2)
        home = (cells == self._goals).all(-1)
        waited = np.where(home, self._waited % 1, self._waited + 1)
        before = np.broadcast_to(self._history[:, :-1], (count, robots, self._history.shape[1] - 1))
        history = np.concatenate([actions[..., None].astype(np.int64), before], -1)

        def move(array: NDArray[np.generic]) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

        places = move(cells)
        image, vector = observe_batch(
            self._grid.expand(count, -1, -1),
            torch.arange(count, device=self._device)[:, None].expand(-1, robots),
            places,
            move(np.broadcast_to(self._goals, cells.shape)),
            self._distances.expand(count, -1, -1, -1),
            move(waited.astype(np.float32)),
            move(history),
            self._network.config.field_of_view,
        )
        relation = self._network.neighbour_relation(places, places)
        output = self._network(image, vector, relation, self._messages.expand(count, -1, -1))
        summed: NDArray[np.float32] = output.values[..., 0].sum(1).float().cpu().numpy()
        return summed
