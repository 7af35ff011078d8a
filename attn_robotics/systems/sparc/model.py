"""The SPARC network: local encoder, attentive communication, heads.

Sources: SPARC (arXiv 2603.02845) for the structure; SCRIMP (arXiv 2303.00605) for the second encoder and gate.
A fleet runs all robots as one batch (queries = keys = N). One robot alone runs the same three functions with one query
row and the messages it has heard as keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from attn_robotics.attention.relation import DistanceRelation, OffsetRelation, RelationAttention
from attn_robotics.systems.sparc.config import SparcConfig

# Log-probability of moves into obstacles: finite, so that exports and shields never meet an infinity.
FORBIDDEN = -1e4


@dataclass
class SparcOutput:
    """What one decision gives, for B fleets of Q robots.

    Attributes:
        log_probs: (B, Q, 5) up, down, left, right, stay.
        values: (B, Q, 2) expected extrinsic and intrinsic return.
        blocking: (B, Q) logit that the robot blocks another.
        message: (B, Q, width) what each robot sends; neighbours use it at their next step.
        state: LSTM state (hidden, cell), each (B, Q, width), or None.
        attention: per layer (B, H, Q, K) weights; empty unless asked for.
        features: (B, Q, 2 width) what the heads read, or None.
        logits: (B, Q, 5) before moves into obstacles are forbidden, or None.
    """

    log_probs: Tensor
    values: Tensor
    blocking: Tensor
    message: Tensor
    state: tuple[Tensor, Tensor] | None = None
    attention: list[Tensor] = field(default_factory=list)
    features: Tensor | None = None
    logits: Tensor | None = None


class FlatEncoder(nn.Module):
    """Two dense layers over the flattened image; on a CPU far cheaper than convolutions over 9 x 9 cells."""

    def __init__(self, config: SparcConfig) -> None:
        super().__init__()
        pixels = config.image_channels * config.field_of_view**2
        self.image = nn.Linear(pixels, 2 * config.width)
        self.vector = nn.Linear(config.vector_features, config.width // 2)
        self.mix = nn.Linear(2 * config.width + config.width // 2, config.width)
        self.deep = nn.Linear(config.width, config.width)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        """Encode (..., C, F, F) and (..., V) into (..., width)."""
        rows = torch.cat([self.image(image.flatten(-3)).relu(), self.vector(vector).relu()], -1)
        mixed = self.mix(rows).relu()
        encoded: Tensor = (mixed + self.deep(mixed)).relu()
        return encoded


class ConvEncoder(nn.Module):
    """Four small convolutions and three dense layers, as in the published code."""

    def __init__(self, config: SparcConfig) -> None:
        super().__init__()
        channels = (config.image_channels, 8, 16, 32, 64)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(channels)
        )
        self.vector = nn.Linear(config.vector_features, 128)
        widths = (64 + 128, config.width, config.width, config.width)
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        """Encode (..., C, F, F) and (..., V) into (..., width)."""
        pixels = image.flatten(0, -4)
        for convolution in self.convolutions:
            pixels = convolution(pixels).relu()
        pooled = pixels.mean((-1, -2)).view(*image.shape[:-3], -1)
        rows = torch.cat([pooled, self.vector(vector).relu()], -1)
        for dense in self.dense:
            rows = dense(rows).relu()
        return rows


class ScrimpEncoder(nn.Module):
    """SCRIMP's encoder: seven convolutions, two poolings, a residual dense pair."""

    def __init__(self, config: SparcConfig) -> None:
        super().__init__()
        channels = (config.image_channels, 128, 128, 128, 256, 256, 256)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 2, padding=1) for before, after in pairwise(channels)
        )
        # Six padded 2 x 2 convolutions grow the side by one each; the two poolings follow the third and the sixth.
        side = ((config.field_of_view + 3) // 2 + 3) // 2
        self.last = nn.Conv2d(256, 500, side)
        self.vector = nn.Linear(config.vector_features, 12)
        self.first_dense = nn.Linear(512, 512)
        self.second_dense = nn.Linear(512, 512)
        self.out = nn.Linear(512, config.width)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        """Encode (..., C, F, F) and (..., V) into (..., width)."""
        pixels = image.flatten(0, -4)
        for index, convolution in enumerate(self.convolutions):
            pixels = convolution(pixels).relu()
            if index in (2, 5):
                pixels = functional.max_pool2d(pixels, 2)
        pooled = self.last(pixels).relu().view(*image.shape[:-3], -1)
        rows = torch.cat([pooled, self.vector(vector).relu()], -1)
        rows = (rows + self.second_dense(self.first_dense(rows).relu())).relu()
        encoded: Tensor = self.out(rows).relu()
        return encoded


ENCODERS = {'flat': FlatEncoder, 'conv': ConvEncoder, 'scrimp': ScrimpEncoder}


class CodeGate(nn.Module):
    """A GRU cell: the attention output is its input, the row its state (published code)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input = nn.Linear(width, 3 * width)
        self.state = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Blend new evidence y into row x, (..., width) each."""
        reset_y, update_y, new_y = self.input(y).chunk(3, -1)
        reset_x, update_x, new_x = self.state(x).chunk(3, -1)
        update = (update_y + update_x).sigmoid()
        new = (new_y + (reset_y + reset_x).sigmoid() * new_x).tanh()
        blended: Tensor = new + update * (x - new)
        return blended


class TransformerGate(nn.Module):
    """GTrXL's gate; its bias favours the old row at first (Parisotto et al., ICML 2020, as used by SCRIMP)."""

    def __init__(self, width: int, bias: float = 2.0) -> None:
        super().__init__()
        self.input = nn.Linear(width, 3 * width, bias=False)
        self.state = nn.Linear(width, 2 * width, bias=False)
        self.candidate = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.full((width,), bias))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Blend new evidence y into row x, (..., width) each."""
        reset_y, update_y, new_y = self.input(y).chunk(3, -1)
        reset_x, update_x = self.state(x).chunk(2, -1)
        update = (update_y + update_x - self.bias).sigmoid()
        new = (new_y + self.candidate((reset_y + reset_x).sigmoid() * x)).tanh()
        blended: Tensor = x + update * (new - x)
        return blended


class CommunicationLayer(nn.Module):
    """Attention over neighbours and a feed-forward block, each fused by a gate."""

    def __init__(self, config: SparcConfig, relation: DistanceRelation | OffsetRelation) -> None:
        super().__init__()
        self.pre_norm = config.gating == 'gtrxl'
        self.attention = RelationAttention(
            config.width,
            config.heads,
            relation,
            embedding=config.relation_embedding,
            content_only=config.content_only,
        )
        self.gate: nn.Module = (TransformerGate if self.pre_norm else CodeGate)(config.width)
        self.norm = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, config.feed_forward)
        self.shrink = nn.Linear(config.feed_forward, config.width)
        if self.pre_norm:
            self.attention_norm = nn.LayerNorm(config.width)
            self.feed_gate = TransformerGate(config.width)

    def forward(
        self, x: Tensor, memory: Tensor | None, relation: Tensor, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Update (B, Q, width) rows from (B, K, width) memory, or from each other when memory is None."""
        queries = self.attention_norm(x) if self.pre_norm else x
        heard, weights = self.attention(
            queries, queries if memory is None else memory, relation, need_weights=need_weights
        )
        x = self.gate(x, heard)
        if self.pre_norm:
            return self.feed_gate(x, self.shrink(self.expand(self.norm(x)).relu())), weights
        return self.norm(x + self.shrink(self.expand(x).relu())), weights


class SparcNetwork(nn.Module):
    """Policy of one robot among neighbours; see `SparcConfig` for its forms."""

    def __init__(self, config: SparcConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.encoder = ENCODERS[config.encoder](config)
        self.lstm = nn.LSTMCell(width, width) if config.recurrent else None
        self.relation = (
            DistanceRelation(config.distance_clip)
            if config.relation == 'distance'
            else OffsetRelation(config.offset_window, config.distance_clip)
        )
        layers = 0 if config.communication == 'none' else config.layers
        self.layers = nn.ModuleList(CommunicationLayer(config, self.relation) for _ in range(layers))
        self.join = nn.Linear(2 * width, width) if config.communication == 'broadcast' else None
        self.join_norm = nn.LayerNorm(width) if config.communication == 'broadcast' else None
        self.policy = _head(2 * width, (width, width // 2), 5)
        self.value = nn.ModuleList(_head(2 * width, (width, width // 2), 1) for _ in range(2))
        self.block = _head(2 * width, (width // 2, width // 4), 1)
        self.next_message = nn.Linear(width, width)
        self.message_norm = nn.LayerNorm(width)  # keeps messages bounded over hundreds of steps

    def empty_message(self, batch: int, robots: int) -> Tensor:
        """What robots are taken to have sent before the first step: (B, N, width) zeros."""
        return self.message_norm.weight.new_zeros(batch, robots, self.config.width)

    def neighbour_relation(self, cells: Tensor, key_cells: Tensor) -> Tensor:
        """Number the relation of each pair.

        Args:
            cells: (B, Q, 2) integer cells of the robots that decide.
            key_cells: (B, K, 2) integer cells of the robots heard, the deciding ones among them.

        Returns:
            (B, Q, K) int64, -1 beyond the mask radius.
        """
        offset = key_cells[:, None] - cells[:, :, None]  # (B, Q, K, 2)
        if self.config.mask_metric == 'manhattan':
            heard = offset.abs().sum(-1) <= self.config.mask_radius
        else:
            heard = offset.square().sum(-1) <= self.config.mask_radius**2
        rows: Tensor = self.relation(offset)
        return rows.masked_fill(~heard, -1)

    def encode(
        self, image: Tensor, vector: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Encode own observations: (B, Q, C, F, F) and (B, Q, V) into (B, Q, width), and the new LSTM state."""
        rows = self.encoder(image, vector)
        if self.lstm is None:
            return rows, None
        flat = rows.flatten(0, 1)
        before = None if state is None else (state[0].flatten(0, 1), state[1].flatten(0, 1))
        hidden, cell = self.lstm(flat, before)
        return hidden.view_as(rows), (hidden.view_as(rows), cell.view_as(rows))

    def communicate(
        self,
        rows: Tensor,
        own_message: Tensor,
        messages: Tensor,
        relation: Tensor,
        ids: Tensor | None = None,
        need_attention: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the communication block.

        Args:
            rows: (B, Q, width) encoded observations of the robots that decide.
            own_message: (B, Q, width) what they sent last.
            messages: (B, K, width) what the robots heard sent last, their own included.
            relation: (B, Q, K) from `neighbour_relation`.
            ids: (B, K) robot numbers; only for the sinusoidal encoding, counted from 0 when None.
            need_attention: return weights.

        Returns:
            (B, Q, width) and per layer (B, H, Q, K) weights, empty unless asked for.
        """
        if self.config.id_encoding == 'sinusoidal':
            messages = messages + _sinusoids(ids, messages)
        memory: Tensor | None = None
        if self.join is not None and self.join_norm is not None:
            x = self.join_norm(self.join(torch.cat([rows, own_message], -1)))
            memory = messages
        elif self.config.communication == 'none':
            x = own_message
        else:
            x = messages if self.config.message_source == 'previous' else rows
        attention = []
        for layer in self.layers:
            x, weights = layer(x, memory, relation, need_attention)
            if weights is not None:
                attention.append(weights)
        return x, attention

    def heads(self, rows: Tensor, x: Tensor, legal: Tensor) -> SparcOutput:
        """Decide from (B, Q, width) own rows and communicated rows; `legal` (B, Q, 5) are moves off obstacles."""
        both = torch.cat([rows, x], -1)
        logits = self.policy(both).float()
        return SparcOutput(
            log_probs=logits.masked_fill(~legal, FORBIDDEN).log_softmax(-1),
            values=self.judge(both),
            blocking=self.block(both).squeeze(-1),
            message=self.message_norm(self.next_message(x)),
            features=both,
            logits=logits,
        )

    def judge(self, features: Tensor) -> Tensor:
        """Expected returns (B, Q, 2) from what the heads read (`SparcOutput.features`)."""
        return torch.cat([head(features) for head in self.value], -1)

    def forward(
        self,
        image: Tensor,
        vector: Tensor,
        relation: Tensor,
        own_message: Tensor,
        messages: Tensor | None = None,
        state: tuple[Tensor, Tensor] | None = None,
        need_attention: bool = False,
    ) -> SparcOutput:
        """One decision.

        Args:
            image: (B, Q, C, F, F) local images of `processor`.
            vector: (B, Q, V) local vectors of `processor`.
            relation: (B, Q, K) relation rows, -1 where not heard.
            own_message: (B, Q, width) messages the deciding robots sent last step.
            messages: (B, K, width) messages heard, own ones included; `own_message` when None (a fleet batch).
            state: LSTM state.
            need_attention: fill `SparcOutput.attention`.
        """
        rows, state = self.encode(image, vector, state)
        messages = own_message if messages is None else messages
        x, attention = self.communicate(rows, own_message, messages, relation, need_attention=need_attention)
        output = self.heads(rows, x, legal_moves(image))
        output.state = state
        output.attention = attention
        return output


def legal_moves(image: Tensor) -> Tensor:
    """Moves that leave obstacles alone, read off the local image: (..., C, F, F) -> (..., 5) bool."""
    centre = image.shape[-1] // 2
    walls = image[..., 4, :, :]
    blocked = [
        walls[..., centre - 1, centre],
        walls[..., centre + 1, centre],
        walls[..., centre, centre - 1],
        walls[..., centre, centre + 1],
        torch.zeros_like(walls[..., centre, centre]),
    ]
    return torch.stack(blocked, -1) < 0.5


def _head(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(inputs, size), nn.ReLU()]
        inputs = size
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def _sinusoids(ids: Tensor | None, like: Tensor) -> Tensor:
    """Sinusoidal robot-number encoding (K, width), or (B, K, width) for given ids."""
    if ids is None:
        ids = torch.arange(like.shape[1], device=like.device)
    half = like.shape[-1] // 2
    rates = torch.exp(torch.arange(half, device=like.device) * (-math.log(10000.0) / half))
    angles = ids[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1).to(like.dtype)
