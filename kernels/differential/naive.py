"""Differential attention: the difference of two softmax maps (Differential Transformer, arXiv 2410.05258; SaFeR)."""

from __future__ import annotations

from torch import Tensor

from attn_robotics.kernels.masking import masked_softmax


def differential_weights(
    q: tuple[Tensor, Tensor],
    k: tuple[Tensor, Tensor],
    lam: Tensor,
    keep: Tensor | None,
    edges: tuple[Tensor, Tensor] | None,
    *,
    scale: float,
) -> Tensor:
    """(B, H, Q, K) signed weights; rows sum to 1 - lam, or to zero without a key. See `differential_attention`."""
    maps = []
    for side in range(2):
        scores = q[side] @ k[side].transpose(-1, -2)
        if edges is not None:
            scores = scores + (q[side][:, :, :, None] * edges[side]).sum(-1)
        maps.append(masked_softmax(scores * scale, keep))
    return maps[0] - lam * maps[1]
