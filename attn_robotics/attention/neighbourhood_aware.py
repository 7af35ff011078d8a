"""Neighbourhood-aware attention of MANDATE (arXiv 2603.03106, reconstructed): average kin, contrast others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_robotics.attention.heads import check_heads
from attn_robotics.kernels.masking import masked_softmax


class NeighbourhoodAwareAttention(nn.Module):
    """Attention over neighbour lists with a low-pass path for similar and a high-pass path for dissimilar neighbours.

    Memory grows with the number of edges, never with the square of the number of nodes.

    Args:
        width: features of a node.
        heads: number of heads; divides width.
        hops: largest hop distance of a listed neighbour.
    """

    def __init__(self, width: int, heads: int, *, hops: int = 3) -> None:
        super().__init__()
        self.head_width = check_heads(width, heads)
        self.heads, self.hops = heads, hops
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.same = nn.Linear(width, width, bias=False)
        self.other = nn.Linear(width, width, bias=False)
        self.edge = nn.Linear(3 * width, 1)
        self.hop_bias = nn.Parameter(torch.zeros(heads, hops + 1))

    def similarity(self, x: Tensor, neighbours: Tensor) -> Tensor:
        """(N, S) logits that a neighbour is of the node's own class; train them on labelled edges."""
        theirs = x[neighbours.clamp(min=0)]  # (N, S, width)
        mine = x[:, None].expand_as(theirs)
        logits: Tensor = self.edge(torch.cat([mine, theirs, (mine - theirs).abs()], -1))[..., 0]
        return logits

    def forward(self, x: Tensor, neighbours: Tensor, hops: Tensor, gate: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mix.

        Args:
            x: (N, width) nodes.
            neighbours: (N, S) int64 indices, -1 where a slot is unused.
            hops: (N, S) int64 hop distance in [0, hops].
            gate: (N, S) probability of equal class, predicted when None.

        Returns:
            (N, width), zero for a node without neighbours, and the gate (N, S).
        """
        real = neighbours >= 0
        at = neighbours.clamp(min=0)
        share = self.similarity(x, neighbours).sigmoid() if gate is None else gate
        q = self.query(x).unflatten(-1, (self.heads, -1))  # (N, H, D)
        k = self.key(x).unflatten(-1, (self.heads, -1))[at]  # (N, S, H, D)
        scores = (q[:, None] * k).sum(-1) * self.head_width**-0.5  # (N, S, H)
        scores = scores + self.hop_bias.T[hops.clamp(0, self.hops)]
        weights = masked_softmax(scores.transpose(1, 2), real[:, None])  # (N, H, S)
        same, other = self.same(x), self.other(x)
        low = same[at].unflatten(-1, (self.heads, -1))
        high = (other[:, None] - other[at]).unflatten(-1, (self.heads, -1))
        values = share[..., None, None] * low + (1.0 - share)[..., None, None] * high  # (N, S, H, D)
        return torch.einsum('nhs,nshd->nhd', weights, values).flatten(1), share
