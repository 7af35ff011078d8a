"""A whole pre-norm attention block over neighbour sets: the definition."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from attn_robotics.kernels.masking import keep_from_lengths, zero_padding
from attn_robotics.kernels.neighbour_set.naive import neighbour_set_attention


def neighbour_block(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    positions: Tensor | None,
    alpha: Tensor | None,
    beta: Tensor | None,
    lengths: Tensor | None,
    *,
    heads: int,
    eps: float = 1e-5,
) -> Tensor:
    """See `attn_robotics.kernels.neighbour_block` for the arguments."""
    keep = None if lengths is None else keep_from_lengths(lengths, x.shape[1])
    x = zero_padding(x, keep)
    normal = layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    q, k, v = linear(normal, qkv_weight).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, N, D) each
    mixed = neighbour_set_attention(q, k, v, positions, alpha, beta, lengths, law='power', scale=q.shape[-1] ** -0.5)
    out = x + linear(mixed.transpose(1, 2).flatten(2), out_weight, out_bias)
    return zero_padding(out, keep) if isinstance(keep, torch.Tensor) else out
