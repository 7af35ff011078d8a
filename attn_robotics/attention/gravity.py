"""Attention whose pull falls with distance by a learned power law (AGF).

Source: AGF (arXiv 2603.04805); the law is reconstructed, see `kernels.gravity`. No other position encoding is added.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from attn_robotics.attention.heads import check_heads, join, split
from attn_robotics.kernels.gravity import gravity_attention
from attn_robotics.kernels.masking import keep_from_lengths, zero_padding


def grid_positions(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """(1, rows x columns, 2) cell coordinates (row, column) of a map flattened row by row [cells]."""
    axes = (torch.arange(size, dtype=torch.float32, device=device) for size in (rows, columns))
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), -1).reshape(1, rows * columns, 2)


class GravityAttention(nn.Module):
    """Multi-head self-attention with (1 + beta d)^-alpha, alpha and beta learned per head.

    Args:
        width: features.
        heads: number of heads; divides width.
        metric: 'index', 'euclidean' or 'manhattan'.
        placement: 'logit', 'gate_norm' or 'gate', see `kernels.gravity.gravity_attention`.
        causal: see only the past.
        bidirectional_alpha: separate exponents for past and future (token distance without causality loses direction).
        beta: initial inverse unit of the distance [1/token, 1/cell, 1/m].
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        metric: str = 'index',
        placement: str = 'logit',
        causal: bool = False,
        bidirectional_alpha: bool = False,
        beta: float = 1.0,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads, self.metric, self.placement, self.causal = heads, metric, placement, causal
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        alpha = torch.logspace(-2, 2, heads, base=2.0)  # short- and long-range heads, 0.25 to 4
        self.raw_alpha = nn.Parameter((alpha.expand(2, -1) if bidirectional_alpha else alpha).expm1().log().clone())
        self.raw_beta = nn.Parameter(torch.full((heads,), beta).expm1().log())

    def exponents(self) -> tuple[Tensor, Tensor]:
        """Alpha (H,) or (2, H), and beta (H,), both positive; keep their raw values out of weight decay."""
        return softplus(self.raw_alpha), softplus(self.raw_beta)

    def forward(self, x: Tensor, positions: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """Mix tokens.

        Args:
            x: (B, N, width).
            positions: (B, N, P) or (1, N, P); needed unless the metric is 'index'.
            lengths: (B,) int32 real tokens, or None.

        Returns:
            (B, N, width).
        """
        if lengths is not None:
            x = zero_padding(x, keep_from_lengths(lengths, x.shape[1]))
        q, k, v = (split(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        alpha, beta = self.exponents()
        places = None if positions is None else positions.expand(x.shape[0], -1, -1)
        mixed = gravity_attention(
            q,
            k,
            v,
            alpha,
            beta,
            positions_q=places,
            positions_k=places,
            metric=self.metric,
            lengths=lengths,
            causal=self.causal,
            placement=self.placement,
        )
        out: Tensor = self.out(join(mixed))
        return out
