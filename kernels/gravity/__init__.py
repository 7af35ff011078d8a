"""Attention whose pull falls with distance by a power law: over tokens, over maps, over metres."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.gravity import naive
from attn_robotics.kernels.recompute import with_definition_gradient

METRICS = ('index', 'euclidean', 'manhattan')
PLACEMENTS = ('logit', 'gate', 'gate_norm')
__all__ = ['METRICS', 'PLACEMENTS', 'gravity_attention']


def gravity_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    beta: Tensor,
    *,
    positions_q: Tensor | None = None,
    positions_k: Tensor | None = None,
    metric: str = 'index',
    lengths: Tensor | None = None,
    causal: bool = False,
    placement: str = 'logit',
    scale: float | None = None,
) -> Tensor:
    """Attend with content times (1 + beta d)^-alpha.

    Args:
        q: (B, H, Q, D) queries.
        k: (B, H, K, D) keys.
        v: (B, H, K, D) values.
        alpha: (H,) exponents, or (2, H) for past and future keys apart.
        beta: (H,) inverse unit of the distance.
        positions_q: (B, Q, P) positions of queries [cells or metres]; needed unless metric is 'index'.
        positions_k: (B, K, P) positions of keys.
        metric: 'index' counts tokens (the last query sits on the last key), else 'euclidean' or 'manhattan'.
        lengths: (B,) int32 real keys, or None.
        causal: a query sees only keys up to its own index.
        placement: 'logit' adds log g before the softmax; 'gate_norm' multiplies after it and renormalises (equal to
            'logit'); 'gate' multiplies without renormalising, so that far context fades.
        scale: score factor, 1 / sqrt(D) when None.

    Returns:
        (B, H, Q, D) in q's dtype; rows without a key are exactly zero.

    Raises:
        ValueError: shapes or options do not fit.
    """
    if q.ndim != 4 or k.shape != v.shape or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(f'q must be (B, H, Q, D), k and v (B, H, K, D); got {[tuple(x.shape) for x in (q, k, v)]}')
    if metric not in METRICS or placement not in PLACEMENTS:
        raise ValueError(
            f'metric must be one of {METRICS} and placement of {PLACEMENTS}, got {metric!r}, {placement!r}'
        )
    if beta.shape != q.shape[1:2] or alpha.shape not in (q.shape[1:2], (2, q.shape[1])):
        raise ValueError(f'alpha and beta must have one entry per head ({q.shape[1]}), got {tuple(alpha.shape)}')
    if metric != 'index':
        for name, positions, size in (('q', positions_q, q.shape[2]), ('k', positions_k, k.shape[2])):
            if positions is None or positions.ndim != 3 or positions.shape[:2] != (q.shape[0], size):
                raise ValueError(f'metric {metric!r} needs positions_{name} of shape ({q.shape[0]}, {size}, P)')
    scale = q.shape[3] ** -0.5 if scale is None else scale
    definition: Callable[..., Tensor] = partial(
        naive.gravity_attention, metric=metric, causal=causal, placement=placement, scale=scale
    )
    obstacle = None
    if q.shape[3] not in (16, 32, 64, 128):
        obstacle = f'head width {q.shape[3]} is none of 16, 32, 64, 128'
    elif alpha.ndim == 2:
        obstacle = 'separate strengths for past and future'
    elif positions_q is not None and metric != 'index' and positions_q.shape[2] > 3:
        obstacle = 'positions of more than 3 axes'
    elif q.numel() == 0 or k.numel() == 0:
        obstacle = 'nothing to compute'
    arguments = (q, k, v, alpha, beta, positions_q, positions_k, lengths)
    if dispatch.choose('gravity', q, obstacle=obstacle) == 'naive':
        return definition(*arguments)
    from attn_robotics.kernels.gravity.fused import gravity_forward

    # 'gate_norm' is defined to equal 'logit', which needs one pass less over the row.
    kept = 'gate' if placement == 'gate' else 'logit'
    fast = partial(gravity_forward, metric=metric, causal=causal, placement=kept, scale=scale)
    return with_definition_gradient(fast, definition, *arguments)
