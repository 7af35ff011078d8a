"""Attention inside many small neighbour sets at once."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.distance import LAWS
from attn_robotics.kernels.neighbour_set import naive
from attn_robotics.kernels.recompute import with_definition_gradient

__all__ = ['neighbour_set_attention']
LARGEST_SET = 128


def neighbour_set_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor | None = None,
    alpha: Tensor | None = None,
    beta: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    law: str = 'power',
    scale: float | None = None,
) -> Tensor:
    """Attend within each robot's neighbour set; nearer members weigh more.

    Args:
        q: (B, H, N, D) queries; B sets of N slots, the first `lengths[b]` of them real.
        k: (B, H, N, D) keys.
        v: (B, H, N, D) values.
        positions: (B, N, P) float positions [any unit], P = 1, 2 or 3, or None for no bias.
        alpha: (H,) strength of the distance bias; needed with positions.
        beta: (H,) inverse unit of the positions; needed with positions.
        lengths: (B,) int32 on the same device, or None when every slot is real.
        law: 'power' adds -alpha log(1 + beta d), 'linear' adds -alpha beta d.
        scale: score factor, 1 / sqrt(D) when None.

    Returns:
        (B, H, N, D) in q's dtype; padded rows are exactly zero, never NaN, whatever the padding holds.

    Raises:
        ValueError: shapes, law or missing arguments; the message names the culprit.
    """
    if q.ndim != 4 or k.shape != q.shape or v.shape != q.shape:
        raise ValueError(f'q, k, v must share one shape (B, H, N, D), got {[tuple(x.shape) for x in (q, k, v)]}')
    sets, heads, slots, width = q.shape
    if law not in LAWS:
        raise ValueError(f'law must be one of {LAWS}, got {law!r}')
    if positions is not None:
        if alpha is None or beta is None or alpha.shape != (heads,) or beta.shape != (heads,):
            raise ValueError(f'positions need alpha and beta of shape ({heads},)')
        if positions.shape[:2] != (sets, slots) or positions.ndim != 3 or not 1 <= positions.shape[2] <= 3:
            raise ValueError(f'positions must be ({sets}, {slots}, 1 to 3), got {tuple(positions.shape)}')
    if lengths is not None and lengths.shape != (sets,):
        raise ValueError(f'lengths must be ({sets},), got {tuple(lengths.shape)}')
    scale = width**-0.5 if scale is None else scale
    definition = partial(naive.neighbour_set_attention, law=law, scale=scale)
    obstacle = None
    if slots > LARGEST_SET or width > 128:
        obstacle = f'sets of {slots} x {width} exceed {LARGEST_SET} x 128'
    elif q.dtype == torch.float32 and slots * width > 64 * 64:
        obstacle = 'float32 sets above 64 x 64 do not fit in registers'
    elif q.numel() == 0:
        obstacle = 'nothing to compute'
    if dispatch.choose('neighbour_set', q, obstacle=obstacle) == 'naive':
        return definition(q, k, v, positions, alpha, beta, lengths)
    from attn_robotics.kernels.neighbour_set.fused import neighbour_set_forward

    fast = partial(neighbour_set_forward, law=law, scale=scale)
    return with_definition_gradient(fast, definition, q, k, v, positions, alpha, beta, lengths)
