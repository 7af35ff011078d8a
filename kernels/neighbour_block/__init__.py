"""A whole attention block over neighbour sets (norm, projections, attention, residual) in one launch."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.neighbour_block import naive
from attn_robotics.kernels.recompute import with_definition_gradient

__all__ = ['neighbour_block']


def neighbour_block(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    positions: Tensor | None = None,
    alpha: Tensor | None = None,
    beta: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    heads: int,
    eps: float = 1e-5,
) -> Tensor:
    """Compute x + Wo attention(LayerNorm(x)) within each set.

    Args:
        x: (B, N, C) members of B sets.
        norm_weight: (C,) gain of the norm.
        norm_bias: (C,) its bias.
        qkv_weight: (3 C, C) rows of q, k, v, heads in order, as torch.nn.Linear stores them.
        out_weight: (C, C).
        out_bias: (C,).
        positions: (B, N, P) or None, see `neighbour_set_attention`.
        alpha: (H,) strength of the distance bias.
        beta: (H,) its inverse unit.
        lengths: (B,) int32 real members, or None.
        heads: divides C.
        eps: added to the variance.

    Returns:
        (B, N, C) in x's dtype; padded rows are zero.

    Raises:
        ValueError: shapes do not fit.
    """
    width = x.shape[-1]
    if x.ndim != 3 or qkv_weight.shape != (3 * width, width) or out_weight.shape != (width, width) or width % heads:
        raise ValueError(
            f'x (B, N, C), qkv_weight (3C, C), out_weight (C, C), heads | C; got {tuple(x.shape)}, '
            f'{tuple(qkv_weight.shape)}, {tuple(out_weight.shape)}, {heads}'
        )
    if positions is not None and (alpha is None or beta is None):
        raise ValueError('positions need alpha and beta')
    arguments = (x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias, positions, alpha, beta, lengths)
    definition = partial(naive.neighbour_block, heads=heads, eps=eps)
    obstacle = None
    if x.shape[1] > 64 or width not in (32, 64, 128) or width // heads not in (16, 32, 64):
        obstacle = f'sets of {x.shape[1]} members, width {width}, {heads} heads are no tile of the kernel'
    elif x.dtype == torch.float32 and x.is_cuda:
        obstacle = 'float32 weights do not fit beside the tile'
    elif x.numel() == 0:
        obstacle = 'nothing to compute'
    if dispatch.choose('neighbour_block', x, obstacle=obstacle) == 'naive':
        return definition(*arguments)
    from attn_robotics.kernels.neighbour_block.fused import neighbour_block_forward

    return with_definition_gradient(partial(neighbour_block_forward, heads=heads, eps=eps), definition, *arguments)
