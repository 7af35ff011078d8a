"""Distances between positions, and the decay that attention puts on them."""

from __future__ import annotations

import torch
from torch import Tensor

METRICS = ('euclidean', 'manhattan')
LAWS = ('power', 'linear')


def pairwise_distance(positions_q: Tensor, positions_k: Tensor, metric: str = 'euclidean') -> Tensor:
    """(B, Q, P) and (B, K, P) to (B, Q, K), in the unit of the positions; the gradient at zero distance is zero."""
    offset = positions_q[:, :, None, :] - positions_k[:, None, :, :]  # (B, Q, K, P)
    if metric == 'manhattan':
        return offset.abs().sum(-1)
    if metric != 'euclidean':
        raise ValueError(f'metric must be one of {METRICS}, got {metric!r}')
    square = offset.square().sum(-1)
    touching = square == 0
    return square.masked_fill(touching, 1.0).sqrt().masked_fill(touching, 0.0)


def distance_bias(distance: Tensor, alpha: Tensor, beta: Tensor, law: str = 'power') -> Tensor:
    """What a head adds to its scores at a distance.

    `power`: -alpha log(1 + beta d), the logarithm of the softened power law (1 + beta d)^-alpha (AGF, KERPLE-log).
    `linear`: -alpha beta d (ALiBi over a metric distance).

    Args:
        distance: (B, Q, K), or (Q, K).
        alpha: (H,) strength, no unit.
        beta: (H,) inverse unit of the distance.
        law: one of `LAWS`.

    Returns:
        (B, H, Q, K), or (H, Q, K).
    """
    scaled = beta[:, None, None] * distance[..., None, :, :]
    if law == 'power':
        return -alpha[:, None, None] * torch.log1p(scaled)
    if law == 'linear':
        return -alpha[:, None, None] * scaled
    raise ValueError(f'law must be one of {LAWS}, got {law!r}')
