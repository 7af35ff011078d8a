"""Multi-head differential attention (SaFeR, arXiv 2603.04071; Differential Transformer, arXiv 2410.05258)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attn_robotics.attention.heads import split
from attn_robotics.kernels.differential import differential_attention
from attn_robotics.kernels.masking import zero_padding


class DifferentialAttention(nn.Module):
    """Two attention maps per head, subtracted; each head's output has its own RMS norm.

    Args:
        width: features; heads = width / (2 head_width), half of plain attention's, for equal parameters.
        heads: number of heads.
        layer: 1-based index of the layer, sets lambda's start: 0.8 - 0.6 exp(-0.3 (layer - 1)).
        edge_width: features of relative pair terms, 0 for none.
    """

    def __init__(self, width: int, heads: int, *, layer: int = 1, edge_width: int = 0) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f'width must be a multiple of 2 x heads, got {width} and {heads}')
        self.heads, self.head_width = heads, width // (2 * heads)
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.lambdas = nn.Parameter(torch.randn(4, self.head_width) * 0.1)  # q1, k1, q2, k2, shared by the heads
        self.norm = nn.RMSNorm(2 * self.head_width, eps=1e-5)
        self.key_edge = nn.Linear(edge_width, width, bias=False) if edge_width else None
        self.value_edge = nn.Linear(edge_width, width, bias=False) if edge_width else None

    def weight(self) -> Tensor:
        """Lambda, a scalar."""
        q1, k1, q2, k2 = self.lambdas
        weight: Tensor = (q1 @ k1).exp() - (q2 @ k2).exp() + self.lambda_init
        return weight

    def forward(
        self, x: Tensor, memory: Tensor | None = None, keep: Tensor | None = None, edges: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            x: (B, Q, width).
            memory: (B, K, width), x when None.
            keep: bool, broadcastable to (B, 1, Q, K), or None.
            edges: (B, Q, K, edge_width) relative features, only when built with them.

        Returns:
            (B, Q, width).
        """
        is_self = memory is None
        memory = x if memory is None else memory
        if keep is not None and keep.ndim == 4 and keep.shape[1] == keep.shape[2] == 1:  # a mask of keys alone
            memory = zero_padding(memory, keep[:, 0, 0])
            x = memory if is_self else x
        q = split(self.query(x), 2 * self.heads).chunk(2, 1)
        k = split(self.key(memory), 2 * self.heads).chunk(2, 1)
        v = split(self.value(memory), self.heads)
        key_edges = value_edges = None
        if edges is not None and self.key_edge is not None and self.value_edge is not None:
            by_head = self.key_edge(edges).unflatten(-1, (2 * self.heads, -1)).permute(0, 3, 1, 2, 4)
            first, second = by_head.chunk(2, 1)
            key_edges = (first, second)
            value_edges = self.value_edge(edges).unflatten(-1, (self.heads, -1)).permute(0, 3, 1, 2, 4)
        lam = self.weight().to(x.dtype)
        mixed = differential_attention((q[0], q[1]), (k[0], k[1]), v, lam, keep, key_edges, value_edges)
        mixed = self.norm(mixed) * (1.0 - self.lambda_init)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out
