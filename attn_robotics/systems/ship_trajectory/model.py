"""The ship trajectory network: encoder, domain attention, joint roll-out of all vessels of a scene.

Every vessel is seen in a frame of its own, x along its present heading, so that turning or moving a scene turns or
moves its predictions and changes nothing else. Positions are metres in any right-handed frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attn_robotics.kernels.masking import masked_softmax
from attn_robotics.systems.ship_trajectory.config import ShipConfig
from attn_robotics.systems.ship_trajectory.domain import EllipseDomain, TableDomain

FEATURES = 10
SLOW = 0.05  # units a step; below, a course is noise, and the last heading holds


@dataclass(frozen=True)
class Rollout:
    """What the network predicts for B scenes of V vessels.

    Attributes:
        paths: (B, V, horizon, 2) positions [m].
        influence: (B, horizon, V, V) weight of vessel j, last axis, in the prediction of vessel i at every step.
        radius: (B, V, V) domain radius of i towards j at present, in domain units; zero without a domain.
        distance: (B, V, V) at present [m].
    """

    paths: Tensor
    influence: Tensor
    radius: Tensor
    distance: Tensor


class LstmCell(nn.Module):
    """One LSTM step in plain operations, which replicas and exporters understand."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + hidden, 4 * hidden)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """(..., inputs), (..., hidden) twice; returns the new pair."""
        into, forget, new, out = self.gates(torch.cat([x, hidden], -1)).chunk(4, -1)
        cell = (forget + 1.0).sigmoid() * cell + into.sigmoid() * new.tanh()
        return out.sigmoid() * cell.tanh(), cell


class PairAttention(nn.Module):
    """Softmax attention on hidden states and on where the other is (V5).

    Args:
        hidden: width of the states.
        or_nobody: a learned key without a value stands beside the neighbours, so that all of them may count little; a
            hidden layer sees state and geometry together.
    """

    def __init__(self, hidden: int, or_nobody: bool = False) -> None:
        super().__init__()
        self.query = nn.Linear(hidden, hidden)
        seen = hidden if or_nobody else hidden + 5
        self.look = nn.Linear(hidden + 5, hidden) if or_nobody else None
        self.key = nn.Linear(seen, hidden)
        self.value = nn.Linear(seen, hidden)
        self.nobody = nn.Parameter(torch.zeros(hidden)) if or_nobody else None

    def forward(self, hidden: Tensor, geometry: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, V, hidden), (B, V, V, 5), (B, V, V) bool to context (B, V, hidden) and weights (B, V, V)."""
        others = hidden[:, None].expand(-1, hidden.shape[1], -1, -1)
        seen = torch.cat([others, geometry], -1)
        if self.look is not None:
            seen = torch.relu(self.look(seen))
        query = self.query(hidden) * hidden.shape[-1] ** -0.5
        scores = (query[:, :, None] * self.key(seen)).sum(-1)
        if self.nobody is not None:
            scores = torch.cat([scores, (query * self.nobody).sum(-1, keepdim=True)], -1)
            pairs = torch.cat([pairs, torch.ones_like(pairs[..., :1])], -1)
        weights = masked_softmax(scores, pairs)[..., : hidden.shape[1]]
        return (weights[..., None] * self.value(seen)).sum(2), weights


class ShipNetwork(nn.Module):
    """Encoder-decoder of all vessels of a scene.

    Args:
        config: shape, fusion and units.
    """

    def __init__(self, config: ShipConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(FEATURES, config.embedding)
        self.encoder = LstmCell(config.embedding, config.hidden)
        self.embed_step = nn.Linear(2, config.embedding)
        self.decoder = LstmCell(config.embedding + config.hidden, config.hidden)
        self.out = nn.Linear(config.hidden, 2)
        if config.fusion in ('table', 'table_normalised', 'interpolated'):
            self.domain: TableDomain | EllipseDomain | None = TableDomain(
                config.bins, config.domain_start, config.fusion == 'interpolated'
            )
        else:
            self.domain = EllipseDomain(config.bins, config.domain_start) if config.fusion == 'ellipse' else None
        self.attention = (
            PairAttention(config.hidden, config.fusion == 'softmax_or_none')
            if config.fusion.startswith('softmax')
            else None
        )

    def forward(self, positions: Tensor, headings: Tensor, sizes: Tensor, fairway: Tensor, present: Tensor) -> Rollout:
        """Predict.

        Args:
            positions: (B, V, history + 1, 2) oldest first [m].
            headings: (B, V) at present [rad], counter-clockwise from the x axis.
            sizes: (B, V, 2) length and beam [m], 0 where unknown.
            fairway: (B, V, history, 3) distance to the left and right edge as seen from the vessel [m], and 1; all 0
                where unknown.
            present: (B, V) bool; absent vessels may hold anything.
        """
        config = self.config
        # Absent vessels stand still at the origin and are paired with nobody.
        positions = positions.masked_fill(~present[:, :, None, None], 0.0)
        headings = headings.masked_fill(~present, 0.0)
        sizes, fairway = (
            sizes.masked_fill(~present[..., None], 0.0),
            fairway.masked_fill(~present[..., None, None], 0.0),
        )
        frame = torch.stack([headings.cos(), headings.sin()], -1)  # (B, V, 2) unit vector of the own x axis
        steps = _into((positions[:, :, 1:] - positions[:, :, :-1]) / config.unit_m, frame[:, :, None])  # (B, V, T, 2)
        hidden = cell = steps.new_zeros(*steps.shape[:2], config.hidden)
        for x in self._features(steps, sizes, fairway).unbind(2):
            hidden, cell = self.encoder(torch.relu(self.embed(x)), hidden, cell)
        step, place = steps[:, :, -1], positions[:, :, -1]
        number = torch.arange(present.shape[1], device=present.device)
        others = number[:, None] != number  # what exporters know, unlike eye
        pairs = present[:, None, :] & present[:, :, None] & others
        paths, influence = [], []
        radius = distance = None
        for _ in range(config.horizon):
            context, weights, at, apart = self._fuse(hidden, place, headings, pairs)
            if radius is None:
                radius, distance = at, apart
            x = torch.relu(self.embed_step(step))
            hidden, cell = self.decoder(torch.cat([x, context], -1), hidden, cell)
            step = step + self.out(hidden)
            moved = _out_of(step, frame)
            place = place + config.unit_m * moved
            course = torch.atan2(moved[..., 1], moved[..., 0]).detach()
            headings = torch.where(step.detach().norm(dim=-1) > SLOW, course, headings)
            paths.append(place)
            influence.append(weights)
        assert radius is not None and distance is not None
        return Rollout(torch.stack(paths, 2), torch.stack(influence, 1), radius, distance)

    def _features(self, steps: Tensor, sizes: Tensor, fairway: Tensor) -> Tensor:
        """(B, V, T, FEATURES) of the past."""
        speed = steps.norm(dim=-1, keepdim=True)
        course = steps / speed.clamp(min=1e-6)
        scaled = sizes / self.config.unit_m
        edges = torch.cat([fairway[..., :2] / self.config.unit_m, fairway[..., 2:]], -1)
        still = scaled[:, :, None].expand(-1, -1, steps.shape[2], -1)
        return torch.cat([steps, speed, course, still, edges], -1)

    def _fuse(
        self, hidden: Tensor, place: Tensor, headings: Tensor, pairs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Context (B, V, hidden), weights, radii and distances [m] (B, V, V)."""
        unit = self.config.domain_unit_m
        apart = place[:, None] - place[:, :, None]  # (B, i, j, 2) from i to j
        distance = (apart.square().sum(-1) + 1e-6).sqrt()
        zeros = torch.zeros_like(distance)
        if self.config.fusion == 'none':
            return torch.zeros_like(hidden), zeros, zeros, distance
        if self.config.fusion == 'mean':
            weights = pairs.to(hidden.dtype) / pairs.sum(-1, keepdim=True).clamp(min=1)
            return weights @ hidden, weights, zeros, distance
        looked = apart.detach()
        bearing = torch.atan2(looked[..., 1], looked[..., 0]) - headings[:, :, None]
        turned = headings[:, None] - headings[:, :, None]
        if self.attention is not None:
            ahead = (distance / unit)[..., None] * torch.stack([bearing.cos(), bearing.sin()], -1)
            angles = torch.stack([turned.cos(), turned.sin()], -1)
            near = (-distance / unit).exp()[..., None]
            context, weights = self.attention(hidden, torch.cat([ahead, angles, near], -1), pairs)
            return context, weights, zeros, distance
        assert self.domain is not None
        radius = self.domain(bearing, turned).masked_fill(~pairs, 0.0)
        weights = torch.relu(radius - distance / unit).masked_fill(~pairs, 0.0)
        if self.config.fusion == 'table_normalised':
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-6)
        return weights @ hidden, weights, radius, distance


def _into(vectors: Tensor, frame: Tensor) -> Tensor:
    """Vectors of the scene's frame in vessels' own frames; frame: unit vectors of their x axes."""
    x, y = vectors.unbind(-1)
    c, s = frame.unbind(-1)
    return torch.stack([c * x + s * y, c * y - s * x], -1)


def _out_of(vectors: Tensor, frame: Tensor) -> Tensor:
    """The inverse of `_into`."""
    x, y = vectors.unbind(-1)
    c, s = frame.unbind(-1)
    return torch.stack([c * x - s * y, s * x + c * y], -1)


class ShipService(nn.Module):
    """What the engine runs: predictions and why, in metres.

    Args:
        network: trained.
    """

    def __init__(self, network: ShipNetwork) -> None:
        super().__init__()
        self.network = network
        # Standard deviation of held-out errors along and across the present heading at every step [unit_m].
        self.spread = nn.Parameter(torch.zeros(network.config.horizon, 2), requires_grad=False)

    def forward(
        self, positions: Tensor, headings: Tensor, sizes: Tensor, fairway: Tensor, present: Tensor
    ) -> dict[str, Tensor]:
        """Predict; the arguments are those of `ShipNetwork`.

        Returns:
            `paths` (B, V, horizon, 2) [m]; `deviation` (B, V, horizon, 2) of errors on held-out data, along and across
            the present heading [m]; `influence` (B, V, V) of vessel j on i, mean over the horizon; `radius` (B, V, V)
            domain radius of i towards j now [m]; `distance` (B, V, V) now [m]; `neighbour` (B, V) int64 that
            mattered most to each vessel, -1 where nobody did; `domain` (B, M, M) radii by bearing and relative heading
            [m], bins centred on dead ahead and the same heading, 0 without a domain.
        """
        config = self.network.config
        found: Rollout = self.network(positions, headings, sizes, fairway, present)
        influence = found.influence.mean(1)
        best, neighbour = influence.max(-1)
        deviation = (config.unit_m * self.spread).expand(*headings.shape, -1, -1)
        bins = config.bins
        if self.network.domain is None:
            domain = headings.new_zeros(bins, bins)
        else:
            domain = config.domain_unit_m * self.network.domain.table()
        return {
            'paths': found.paths,
            'deviation': deviation + torch.zeros_like(found.paths),
            'influence': influence,
            'radius': config.domain_unit_m * found.radius,
            'distance': found.distance,
            'neighbour': torch.where(best > 0, neighbour, -1),
            'domain': domain + torch.zeros_like(headings[:, :1, None]),
        }
