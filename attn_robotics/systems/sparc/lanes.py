"""Worlds on the CPU with their tensors on the training device, and one decision of all their robots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from attn_robotics.kernels import dispatch
from attn_robotics.systems.sparc.data import FleetWorlds
from attn_robotics.systems.sparc.fleet_rules import pack_fleets
from attn_robotics.systems.sparc.model import SparcNetwork, SparcOutput
from attn_robotics.systems.sparc.processor_torch import observe_batch
from attn_robotics.training.graphs import Replayed

STEP_REWARD = -0.3  # of a step off the goal, as in the paper
DISCOUNT = 0.97


@dataclass
class Lane:
    """One set of worlds with its tensors on the training device."""

    worlds: FleetWorlds
    device: torch.device

    def __post_init__(self) -> None:
        worlds, rows = self.worlds, self.worlds.rows
        side = worlds.canvas
        self.fleet = torch.from_numpy(worlds.fleet.reshape(rows, -1)).to(self.device)
        self.grids = torch.from_numpy(worlds.walls(np.arange(len(worlds.state.size)))).to(self.device)
        self.fields = torch.from_numpy(worlds.state.fields).to(self.device).view(rows, -1, side, side)
        self.temperature = torch.ones(worlds.robots, 1, device=self.device)
        self.message: Tensor | None = None

    def pack(self) -> tuple[Tensor, Tensor]:
        """The current state on the device: cells, goals and history (rows, slots, 4 + h), priorities (rows, slots)."""
        worlds = self.worlds
        packed = np.empty((worlds.robots, 4 + worlds.state.history.shape[1]), np.int16)
        pack_fleets(worlds.state, worlds.canvas, packed)
        state = torch.from_numpy(packed).to(self.device).long().view(worlds.rows, worlds.row_slots, -1)
        waited = torch.from_numpy(worlds.state.waited.astype(np.float32).reshape(worlds.rows, -1)).to(self.device)
        return state, waited

    def refresh(self, fleets: NDArray[np.int64]) -> None:
        """Take over the maps of renewed fleets and forget their messages."""
        slots = np.flatnonzero(np.isin(self.worlds.fleet, fleets))
        index = torch.from_numpy(slots).to(self.device)
        self.grids[torch.from_numpy(fleets).to(self.device)] = torch.from_numpy(self.worlds.walls(fleets)).to(
            self.device
        )
        self.fields.flatten(0, 1)[index] = (
            torch.from_numpy(self.worlds.state.fields[slots]).to(self.device).view(-1, *self.fields.shape[2:])
        )
        if self.message is not None:
            self.message.flatten(0, 1)[index] = 0.0


class Window:
    """A few steps of one lane, played by the network and kept for training.

    Whatever a decision saw is kept, the messages at the window's start included, so that a replay decides the same and
    sends gradients back through the messages. Tensors stay where they are from window to window.

    Args:
        network: decides.
        lane: worlds.
        steps: W, decisions a window.
        seed: of the drawn orders.

    Attributes:
        states: (W, rows, slots, 4 + h) packed states.
        waited: (W, rows, slots) priorities.
        labels: (W, A) the expert's actions.
        away: (W, A) 1 where a robot was off its goal after the step.
        start: (rows, slots, width) messages before the first decision.
        solved: (F,) fleets that stood on all their goals at some step of the window.
    """

    def __init__(self, network: SparcNetwork, lane: Lane, steps: int, seed: int) -> None:
        self.network, self.lane, self.steps = network, lane, steps
        state, waited = lane.pack()
        device, robots = lane.device, lane.worlds.robots
        self._state, self._waited = state, waited
        self.states = torch.zeros(steps, *state.shape, dtype=state.dtype, device=device)
        self.waited = torch.zeros(steps, *waited.shape, device=device)
        self.labels = torch.zeros(steps, robots, dtype=torch.int64, device=device)
        self.away = torch.zeros(steps, robots, device=device)
        self.start = network.empty_message(*lane.fleet.shape).clone()
        lane.message = self.start.clone()
        self.message = lane.message
        self.solved = np.zeros(len(lane.worlds.state.size), np.bool_)
        self.generator = torch.Generator(device).manual_seed(seed)
        self._uniform = torch.empty(robots, 5, device=device)
        self._preferences = torch.empty(robots, 5, device=device)
        self._decide = Replayed(self._decide_once, device)

    @property
    def is_settled(self) -> bool:
        """Whether the decision has been captured, or never will be."""
        return self._decide.is_settled

    def _decide_once(self) -> None:
        output = decide(self.network, self.lane, self._state, self._waited, self.message)
        noise = -torch.log(-torch.log(self._uniform.clamp(1e-10, 1 - 1e-7)))
        self._preferences.copy_(output.log_probs.flatten(0, 1) + self.lane.temperature * noise)
        self.message.copy_(output.message)

    @torch.no_grad()
    def play(self) -> None:
        """Play the next `steps` steps under each fleet's rule."""
        worlds = self.lane.worlds
        state = worlds.state
        labels = np.empty((self.steps, worlds.robots), np.int64)
        away = np.empty((self.steps, worlds.robots), np.float32)
        self.start.copy_(self.message)
        self.solved[:] = False
        for step in range(self.steps):
            packed, waited = self.lane.pack()
            self._state.copy_(packed)
            self._waited.copy_(waited)
            self.states[step].copy_(packed)
            self.waited[step].copy_(waited)
            self._uniform.uniform_(generator=self.generator)
            self._decide()
            labels[step] = worlds.label()  # while the device decides
            worlds.step(self._preferences.cpu().numpy())
            away[step] = state.cells != state.goals
            self.solved |= state.arrived == state.size
        self.labels.copy_(torch.from_numpy(labels))
        self.away.copy_(torch.from_numpy(away))

    def keep(self) -> dict[str, Tensor]:
        """Worlds, messages and random state, to go on exactly from here."""
        kept = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in self.lane.worlds.keep().items()}
        kept |= {'message': self.message, 'temperature': self.lane.temperature}
        return kept | {'generator': self.generator.get_state()}

    def restore(self, kept: dict[str, Tensor]) -> None:
        """Go on from what `keep` gave; raises ValueError when that were other fleets."""
        self.lane.worlds.restore({name: tensor.cpu().numpy() for name, tensor in kept.items()})
        self.lane.refresh(np.arange(len(self.lane.worlds.state.size)))
        self.message.copy_(kept['message'])
        self.lane.temperature.copy_(kept['temperature'])
        self.generator.set_state(kept['generator'])

    def replay(self) -> tuple[Tensor, Tensor, Tensor]:
        """Decide again, with gradients.

        Returns:
            Mean cross-entropy with the expert, share of equal first choices, and the loss of the extrinsic value, which
            is learnt from the same features by differences in time without changing them.
        """
        message, losses, hits, values = self.start, [], [], []
        for step in range(self.steps):
            output = decide(self.network, self.lane, self.states[step], self.waited[step], message)
            message = output.message
            log_probs, target = output.log_probs.flatten(0, 1), self.labels[step]
            losses.append(-log_probs.gather(1, target[:, None]).mean())
            hits.append((log_probs.detach().argmax(1) == target).float().mean())
            assert output.features is not None
            values.append(self.network.judge(output.features.detach())[..., 0].flatten().float())
        surprise = values[-1].new_zeros(())
        later = values[-1].detach()
        for step in range(self.steps - 2, -1, -1):
            later = STEP_REWARD * self.away[step] + DISCOUNT * later
            surprise = surprise + functional.smooth_l1_loss(values[step], later)
        return torch.stack(losses).mean(), torch.stack(hits).mean(), surprise / max(self.steps - 1, 1)


def decide(network: SparcNetwork, lane: Lane, state: Tensor, waited: Tensor, message: Tensor) -> SparcOutput:
    """One decision of all fleets of a lane in a packed state (`Lane.pack`), from the messages sent last."""
    cells, goals, history = state[..., :2], state[..., 2:4], state[..., 4:]
    image, vector = observe_batch(
        lane.grids, lane.fleet, cells, goals, lane.fields, waited, history, network.config.field_of_view
    )
    relation = network.neighbour_relation(cells, cells)
    relation = relation.masked_fill(lane.fleet[:, None] != lane.fleet[:, :, None], -1)
    # Training needs gradients of the table form anyway; one form for both keeps rollout and replay alike.
    with (
        dispatch.forcing('naive'),
        torch.autocast(lane.device.type, torch.bfloat16, enabled=lane.device.type == 'cuda'),
    ):
        output: SparcOutput = network(image, vector, relation, message)
    return output
