"""Attention with a power law of distance (AGF): the definition.

Source: AGF (arXiv 2603.04805); the exact law there could not be read, so the softened power law
g(d) = (1 + beta d)^-alpha is a reconstruction (it coincides with KERPLE-log in the `logit` placement).
"""

from __future__ import annotations

import torch
from torch import Tensor

from attn_robotics.kernels.distance import distance_bias, pairwise_distance
from attn_robotics.kernels.masking import keep_from_lengths, masked_softmax, zero_padding


def index_distance(queries: int, keys: int, device: torch.device) -> Tensor:
    """(Q, K) signed distance in tokens, positive into the past; the last query sits on the last key."""
    return torch.arange(queries, device=device)[:, None] + (keys - queries) - torch.arange(keys, device=device)


def gravity_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    beta: Tensor,
    positions_q: Tensor | None,
    positions_k: Tensor | None,
    lengths: Tensor | None,
    *,
    metric: str,
    causal: bool,
    placement: str,
    scale: float,
) -> Tensor:
    """See `attn_robotics.kernels.gravity` for the arguments."""
    padding = None if lengths is None else keep_from_lengths(lengths, k.shape[2])[:, None]  # (B, 1, K)
    k, v = zero_padding(k, padding), zero_padding(v, padding)
    signed = index_distance(q.shape[2], k.shape[2], q.device)
    if metric == 'index':
        distance = signed.abs().to(torch.promote_types(q.dtype, torch.float32))
    else:
        assert positions_q is not None and positions_k is not None
        positions_k = zero_padding(positions_k, None if padding is None else padding[:, 0])
        distance = pairwise_distance(positions_q, positions_k, metric)
    if alpha.ndim == 2:  # separate strengths for past and future
        past, future = (distance_bias(distance, side, beta) for side in alpha)
        field = torch.where(signed >= 0, past, future)
    else:
        field = distance_bias(distance, alpha, beta)
    keep = None if padding is None else padding[:, :, None, :]  # (B, 1, 1, K)
    if causal:
        keep = signed >= 0 if keep is None else keep & (signed >= 0)
    scores = q @ k.transpose(-1, -2) * scale
    if placement == 'logit':
        return masked_softmax(scores + field.to(scores.dtype), keep) @ v
    weights = masked_softmax(scores, keep) * field.exp().to(scores.dtype)
    if placement == 'gate_norm':
        mass = weights.sum(-1, keepdim=True)
        weights = weights / torch.where(mass > 0, mass, 1.0)
    return weights @ v
