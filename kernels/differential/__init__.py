"""Differential attention: what two attention maps agree on is noise and cancels."""

from __future__ import annotations

from torch import Tensor

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.differential.naive import differential_weights
from attn_robotics.kernels.masking import zero_padding

__all__ = ['differential_attention']


def differential_attention(
    q: tuple[Tensor, Tensor],
    k: tuple[Tensor, Tensor],
    v: Tensor,
    lam: Tensor,
    keep: Tensor | None = None,
    key_edges: tuple[Tensor, Tensor] | None = None,
    value_edges: Tensor | None = None,
    *,
    scale: float | None = None,
) -> Tensor:
    """Compute (softmax(Q1 K1) - lam softmax(Q2 K2)) V.

    Args:
        q: two (B, H, Q, D) query maps.
        k: two (B, H, K, D) key maps.
        v: (B, H, K, Dv) values, Dv usually 2 D.
        lam: scalar or (H, 1, 1), weight of the second map.
        keep: bool, broadcastable to (B, H, Q, K), True where attention is allowed; the same for both maps.
        key_edges: two (B, H, Q, K, D) terms added to the keys of each pair (relative geometry), or None.
        value_edges: (B, H, Q, K, Dv) terms added to the values of each pair, or None.
        scale: score factor, 1 / sqrt(D) when None.

    Returns:
        (B, H, Q, Dv); rows without a key are exactly zero. Weights may be negative, rows sum to 1 - lam.

    Raises:
        ValueError: shapes do not fit.
    """
    if q[0].shape != q[1].shape or k[0].shape != k[1].shape or k[0].shape[:3] != v.shape[:3]:
        raise ValueError(f'two q and two k of one shape and v of their length are needed, got v {tuple(v.shape)}')
    dispatch.choose('differential', v, obstacle='no kernel: two library calls cost the same traffic')
    scale = q[0].shape[-1] ** -0.5 if scale is None else scale
    if keep is not None and keep.shape[-2] == 1 and keep.ndim == 4:  # a key mask: padding may hold NaN
        k = (zero_padding(k[0], keep[:, :, 0]), zero_padding(k[1], keep[:, :, 0]))
        v = zero_padding(v, keep[:, :, 0])
    weights = differential_weights(q, k, lam, keep, key_edges, scale=scale)
    out = weights @ v
    return out if value_edges is None else out + (weights[..., None] * value_edges).sum(-2)
