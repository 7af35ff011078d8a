"""Linear-time attention by positive random features, isotropic or of a learned geometry."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.random_feature import naive
from attn_robotics.kernels.random_feature.naive import (
    draw_projections,
    effective_samples,
    exact_attention,
    importance_log_ratio,
    log_features,
    optimal_covariance,
)
from attn_robotics.kernels.recompute import with_definition_gradient

__all__ = [
    'draw_projections',
    'effective_samples',
    'exact_attention',
    'importance_log_ratio',
    'log_features',
    'optimal_covariance',
    'random_feature_attention',
]


def random_feature_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    projections: Tensor,
    geometry: Tensor | None = None,
    keep: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Estimate softmax(q^T Sigma k scale) v in time linear in the length.

    Args:
        q: (B, H, Q, D) queries.
        k: (B, H, K, D) keys.
        v: (B, H, K, Dv) values.
        projections: (H or 1, m, r) random directions, see `draw_projections`.
        geometry: (H or 1, r, D) the M of Sigma = M^T M, or None for the identity.
        keep: (B, K) bool, True for real keys, or None.
        causal: a query sees keys up to its own index (Q = K).
        scale: temperature, 1 / sqrt(D) when None; split evenly between q and k.

    Returns:
        (B, H, Q, Dv) in v's dtype; rows without a key are exactly zero.

    Raises:
        ValueError: shapes do not fit.
    """
    if q.ndim != 4 or k.shape[:3] != v.shape[:3] or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(f'q (B, H, Q, D), k (B, H, K, D), v (B, H, K, Dv); got {[tuple(x.shape) for x in (q, k, v)]}')
    inner = q.shape[3] if geometry is None else geometry.shape[-2]
    if projections.ndim != 3 or projections.shape[-1] != inner:
        raise ValueError(f'projections must be (H or 1, m, {inner}), got {tuple(projections.shape)}')
    if causal and q.shape[2] != k.shape[2]:
        raise ValueError(f'causal needs as many queries as keys, got {q.shape[2]} and {k.shape[2]}')
    scale = q.shape[3] ** -0.5 if scale is None else scale
    definition = partial(naive.random_feature_attention, causal=causal, scale=scale)
    features = projections.shape[1]
    obstacle = None
    if causal:
        obstacle = 'the causal form has no kernel'
    elif features not in (32, 64, 128, 256) or any(x not in (16, 32, 64) for x in (q.shape[3], v.shape[3], inner)):
        obstacle = f'{features} features of width {q.shape[3]}, {inner}, {v.shape[3]} are no tile of the kernel'
    elif q.numel() == 0 or k.numel() == 0:
        obstacle = 'nothing to compute'
    if dispatch.choose('random_feature', q, obstacle=obstacle) == 'naive':
        return definition(q, k, v, projections, geometry, keep)
    from attn_robotics.kernels.random_feature.fused import random_feature_forward

    fast = partial(random_feature_forward, scale=scale)
    return with_definition_gradient(fast, definition, q, k, v, projections, geometry, keep)
