"""Self-attention within small sets in which nearer members weigh more."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from attn_robotics.attention.heads import check_heads, join, split
from attn_robotics.kernels.masking import keep_from_lengths, zero_padding
from attn_robotics.kernels.neighbour_set import neighbour_set_attention


class NeighbourSetAttention(nn.Module):
    """Multi-head attention of set members with a power law of their distance.

    Args:
        width: features of a member.
        heads: number of heads; divides width.
        beta: initial inverse unit of the positions [1/unit].
    """

    def __init__(self, width: int, heads: int, *, beta: float = 1.0) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.raw_alpha = nn.Parameter(torch.logspace(-2, 2, heads, base=2.0).expm1().log())
        self.raw_beta = nn.Parameter(torch.full((heads,), beta).expm1().log())

    def forward(self, x: Tensor, positions: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """Mix members.

        Args:
            x: (B, N, width) members of B sets.
            positions: (B, N, P) [unit of 1 / beta], or None for content only.
            lengths: (B,) int32 real members, or None.

        Returns:
            (B, N, width); padded members are zero.
        """
        if lengths is not None:  # NaN in the padding must not reach the weights' gradients either
            x = zero_padding(x, keep_from_lengths(lengths, x.shape[1]))
        q, k, v = (split(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        alpha, beta = softplus(self.raw_alpha), softplus(self.raw_beta)
        out: Tensor = self.out(join(neighbour_set_attention(q, k, v, positions, alpha, beta, lengths)))
        return out
