"""Worlds on the CPU with their tensors on the training device, and one decision of all their robots."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attn_robotics.systems.sparc.data import FleetWorlds
from attn_robotics.systems.sparc.model import SparcNetwork, SparcOutput
from attn_robotics.systems.sparc.processor import observe_batch


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
        self.labels: Future[NDArray[np.int64]] | None = None
        self.preferences: Tensor | None = None
        self.losses: list[Tensor] = []
        self.hits: list[Tensor] = []

    def pack(self) -> tuple[Tensor, Tensor]:
        """The current state on the device: cells, goals and history (rows, slots, 4 + h), priorities (rows, slots)."""
        worlds = self.worlds
        packed = np.concatenate(
            [
                worlds.places(worlds.state.cells),
                worlds.places(worlds.state.goals),
                worlds.state.history.reshape(worlds.rows, worlds.row_slots, -1),
            ],
            -1,
        )
        state = torch.from_numpy(packed).to(self.device)
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
            keep = torch.ones(len(self.worlds.state.cells), 1, device=self.device)
            keep[index] = 0.0
            self.message = self.message * keep.view(*self.message.shape[:2], 1)


def decide(network: SparcNetwork, lane: Lane, state: Tensor, waited: Tensor, message: Tensor) -> SparcOutput:
    """One decision of all fleets of a lane in a packed state (`Lane.pack`), from the messages sent last."""
    cells, goals, history = state[..., :2], state[..., 2:4], state[..., 4:]
    image, vector = observe_batch(
        lane.grids, lane.fleet, cells, goals, lane.fields, waited, history, network.config.field_of_view
    )
    relation = network.neighbour_relation(cells, cells)
    relation = torch.where(lane.fleet[:, None] == lane.fleet[:, :, None], relation, -1)
    with torch.autocast(lane.device.type, torch.bfloat16, enabled=lane.device.type == 'cuda'):
        output: SparcOutput = network(image, vector, relation, message)
    return output


def forward(network: SparcNetwork, lane: Lane) -> Tensor:
    """Decide in the current state: (A, 5) log-probabilities; moves the lane's messages on."""
    if lane.message is None:
        lane.message = network.empty_message(*lane.fleet.shape)
    output = decide(network, lane, *lane.pack(), lane.message)
    lane.message = output.message
    log_probs: Tensor = output.log_probs.flatten(0, 1)
    return log_probs


def gumbel_like(x: Tensor) -> Tensor:
    """Gumbel noise: the order of `log p + noise` is a draw without replacement from p."""
    return -torch.log(-torch.log(torch.rand_like(x).clamp(1e-10, 1 - 1e-7)))
