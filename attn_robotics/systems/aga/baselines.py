"""What AGA is compared with: the current frame alone, visual attention, a recurrent network, a transformer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from attn_robotics.systems.aga.config import AgaConfig
from attn_robotics.systems.aga.model import AgaNetwork, FrameEncoder

# Everything that `train` knows; the settings are what differs from the configuration that ships.
VARIANTS: dict[str, dict[str, object]] = {
    'frame': {},
    'visual': {'guide': 'visual'},
    'gru': {},
    'transformer': {},
    'aga': {},
    'aga_code': {'compat_resoftmax': True},
    'aga_no_average': {'alpha': 1.0},
}


class FrameOnly(nn.Module):
    """B0: the current frame and nothing else."""

    def __init__(self, config: AgaConfig) -> None:
        super().__init__()
        width = config.width
        self.encode = FrameEncoder(config.features, width, config.dropout)
        self.hidden = nn.Sequential(
            nn.RMSNorm(width, eps=1e-6), nn.Linear(width, width), nn.GELU(), nn.Dropout(config.dropout)
        )
        self.classify = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.classes))

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, features) to (B, T, K) logits."""
        x = self.encode(frames)
        logits: Tensor = self.classify(x + self.hidden(x))
        return logits


class Recurrent(nn.Module):
    """B2: a GRU over frames, as RULSTM's rolling memory; written out, since replicas need plain operations."""

    def __init__(self, config: AgaConfig, width: int = 256) -> None:
        super().__init__()
        self.encode = FrameEncoder(config.features, config.width, config.dropout)
        self.width = width
        self.into = nn.Linear(config.width, 3 * width)
        self.back = nn.Linear(width, 3 * width)
        self.classify = nn.Sequential(
            nn.LayerNorm(width), nn.Dropout(config.dropout), nn.Linear(width, config.classes)
        )  # fmt: skip

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, features) to (B, T, K) logits."""
        inputs = self.into(self.encode(frames))
        hidden = torch.zeros_like(inputs[:, 0, : self.width])
        found = []
        for x in inputs.unbind(1):
            xr, xz, xn = x.chunk(3, -1)
            hr, hz, hn = self.back(hidden).chunk(3, -1)
            keep = (xz + hz).sigmoid()
            hidden = keep * hidden + (1.0 - keep) * (xn + (xr + hr).sigmoid() * hn).tanh()
            found.append(hidden)
        logits: Tensor = self.classify(torch.stack(found, 1))
        return logits


class Block(nn.Module):
    """One causal transformer block, norms first."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to the same."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.before(x)).chunk(3, -1)
        )
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(later, float('-inf'))
        x = x + self.drop(self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))
        mixed: Tensor = x + self.drop(self.feed_forward(self.between(x)))
        return mixed


class CausalTransformer(nn.Module):
    """B3: two causal blocks over frames, as AVT's head."""

    def __init__(self, config: AgaConfig, layers: int = 2) -> None:
        super().__init__()
        width = config.width
        self.encode = FrameEncoder(config.features, width, config.dropout)
        self.place = nn.Parameter(torch.zeros(config.queue + 1, width))
        self.blocks = nn.Sequential(*(Block(width, config.heads, config.dropout) for _ in range(layers)))
        self.classify = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.classes))

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, features) to (B, T, K) logits; T at most queue + 1."""
        if frames.shape[1] > len(self.place):
            raise ValueError(f'at most {len(self.place)} frames, got {frames.shape[1]}')
        logits: Tensor = self.classify(self.blocks(self.encode(frames) + self.place[: frames.shape[1]]))
        return logits


def build_variant(name: str, config: AgaConfig) -> nn.Module:
    """Build one of `VARIANTS` with fresh weights.

    Raises:
        ValueError: an unknown name; the message lists the others.
    """
    if name not in VARIANTS:
        raise ValueError(f'variant must be one of {", ".join(VARIANTS)}, got {name!r}')
    if name == 'frame':
        return FrameOnly(config)
    if name == 'gru':
        return Recurrent(config)
    if name == 'transformer':
        return CausalTransformer(config)
    return AgaNetwork(replace(config, **VARIANTS[name]))  # type: ignore[arg-type]
