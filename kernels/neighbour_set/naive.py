"""Attention inside small padded sets, with a bias from the members' distance: the definition."""

from __future__ import annotations

from torch import Tensor

from attn_robotics.kernels.distance import distance_bias, pairwise_distance
from attn_robotics.kernels.masking import keep_from_lengths, masked_softmax, zero_padding


def neighbour_set_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor | None,
    alpha: Tensor | None,
    beta: Tensor | None,
    lengths: Tensor | None,
    *,
    law: str,
    scale: float,
) -> Tensor:
    """See `attn_robotics.kernels.neighbour_set` for the arguments."""
    keep = None if lengths is None else keep_from_lengths(lengths, q.shape[2])[:, None]  # (B, 1, N)
    q, k, v = (zero_padding(x, keep) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) * scale  # (B, H, N, N)
    if positions is not None and alpha is not None and beta is not None:
        positions = zero_padding(positions, None if keep is None else keep[:, 0])
        bias = distance_bias(pairwise_distance(positions, positions), alpha, beta, law)
        scores = scores + bias.to(scores.dtype)
    pairs = None if keep is None else keep[:, :, None, :] & keep[:, :, :, None]
    return masked_softmax(scores, pairs) @ v
