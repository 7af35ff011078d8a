"""Two systems to try the engine with: one that does nothing, one of typical small shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attn_robotics.runtime.registry import register_system


class _Identity(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


class _SmallTransformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        encoded: Tensor = self.layers(tokens)
        return encoded


@register_system('identity')
@dataclass(frozen=True)
class IdentityConfig:
    """Answers with a copy of its input `x`: what the engine itself costs."""

    def build(self) -> nn.Module:
        """Build the network."""
        return _Identity()


@register_system('small_transformer')
@dataclass(frozen=True)
class SmallTransformerConfig:
    """A transformer encoder with fixed random weights: `tokens` (N, T, width) in, encoded tokens out."""

    width: int = 64
    heads: int = 4
    layers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f'width must be a multiple of heads, got {self.width} and {self.heads}')

    def build(self) -> nn.Module:
        """Build the network; the same seed gives the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return _SmallTransformer(self.width, self.heads, self.layers)
