"""Attention by positive random features of a learned geometry (DARKFormer): definitions.

Source: DARKFormer (arXiv 2603.04127) Eq. 3, on top of Performer (arXiv 2009.14794). With Sigma = M^T M the kernel is
exp(q^T Sigma k), estimated without bias by phi(x; w) = m^-1/2 exp(w . Mx - |Mx|^2 / 2), w ~ N(0, I). M = I: Performer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attn_robotics.kernels.masking import masked_softmax


def log_features(x: Tensor, projections: Tensor, geometry: Tensor | None, log_weight: Tensor | None = None) -> Tensor:
    """(B, H, N, m) logarithm of the feature map.

    Args:
        x: (B, H, N, D), scaled by D^(-1/4) for the usual temperature.
        projections: (H or 1, m, r) rows w.
        geometry: (H or 1, r, D) M, or None for the identity (r = D).
        log_weight: (H or 1, m) log of an importance ratio, half of which each side carries, or None.
    """
    y = x if geometry is None else x @ geometry.transpose(-1, -2)
    features = y @ projections.transpose(-1, -2) - y.square().sum(-1, keepdim=True) / 2
    features = features - torch.tensor(float(projections.shape[-2]), dtype=x.dtype, device=x.device).log() / 2
    return features if log_weight is None else features + log_weight[:, None, :] / 2


def random_feature_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    projections: Tensor,
    geometry: Tensor | None,
    keep: Tensor | None,
    *,
    causal: bool,
    scale: float,
    chunk: int = 256,
) -> Tensor:
    """See `attn_robotics.kernels.random_feature` for the arguments."""
    if keep is not None:
        k, v = (x.masked_fill(~keep[:, None, :, None], 0.0) for x in (k, v))
    query = log_features(q * scale**0.5, projections, geometry)
    key = log_features(k * scale**0.5, projections, geometry)
    if keep is not None:
        key = key.masked_fill(~keep[:, None, :, None], -torch.inf)
    query = (query - query.amax(-1, keepdim=True).detach()).exp()  # a factor a row, which the normalisation cancels
    if not causal:
        top = key.amax((-1, -2), keepdim=True).detach()
        key = (key - top.masked_fill(top == -torch.inf, 0.0)).exp()
        return _divide(query @ (key.transpose(-1, -2) @ v), (query * key.sum(-2, keepdim=True)).sum(-1, keepdim=True))
    shape = (*q.shape[:2], projections.shape[-2], v.shape[-1])
    state, mass = v.new_zeros(shape), v.new_zeros(*shape[:3], 1)
    top = torch.full((*q.shape[:2], 1, 1), -torch.inf, dtype=key.dtype, device=key.device)
    out = []
    for start in range(0, q.shape[2], chunk):
        at = slice(start, start + chunk)
        higher = torch.maximum(top, key[:, :, at].amax((-1, -2), keepdim=True).detach())
        finite = higher.masked_fill(higher == -torch.inf, 0.0)
        state, mass = state * (top - finite).exp(), mass * (top - finite).exp()
        top = higher
        k_c, q_c, v_c = (key[:, :, at] - finite).exp(), query[:, :, at], v[:, :, at]
        inside = (q_c @ k_c.transpose(-1, -2)).tril()
        out.append(_divide(inside @ v_c + q_c @ state, inside.sum(-1, keepdim=True) + q_c @ mass))
        state = state + k_c.transpose(-1, -2) @ v_c
        mass = mass + k_c.sum(-2)[..., None]
    return torch.cat(out, 2) if out else v.clone()


def _divide(number: Tensor, mass: Tensor) -> Tensor:
    """Zero, with zero gradient, where the mass is below the smallest normal number."""
    empty = mass < torch.finfo(mass.dtype).tiny
    return (number / mass.masked_fill(empty, 1.0)).masked_fill(empty, 0.0)


def exact_attention(
    q: Tensor, k: Tensor, v: Tensor, geometry: Tensor | None, keep: Tensor | None, *, causal: bool, scale: float
) -> Tensor:
    """Softmax attention with the same geometry: what the features estimate."""
    if geometry is not None:
        q, k = q @ geometry.transpose(-1, -2), k @ geometry.transpose(-1, -2)
    allowed = None if keep is None else keep[:, None, None, :]
    if keep is not None:
        k, v = (x.masked_fill(~keep[:, None, :, None], 0.0) for x in (k, v))
    if causal:
        lower = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
        allowed = lower if allowed is None else allowed & lower
    return masked_softmax(q @ k.transpose(-1, -2) * scale, allowed) @ v


def draw_projections(
    features: int,
    width: int,
    generator: torch.Generator,
    *,
    orthogonal: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(features, width) standard normal directions, orthogonal within blocks of `width` rows when asked.

    Signs of the QR factor are fixed by the diagonal of R: without that the directions are biased.
    """
    if not orthogonal:
        return torch.randn(features, width, generator=generator, dtype=dtype)
    blocks = []
    for _ in range(-(-features // width)):
        factor, upper = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
        norms = torch.randn(width, width, generator=generator, dtype=torch.float64).norm(dim=1, keepdim=True)
        blocks.append((factor * upper.diagonal().sign()).T * norms)
    return torch.cat(blocks)[:features].to(dtype)


def optimal_covariance(covariance: Tensor) -> Tensor:
    """Sampling covariance of least variance for q, k ~ N(0, covariance): (I + 2C)(I - 2C)^-1 (their Thm. 3.2).

    Raises:
        ValueError: an eigenvalue of the covariance is 1/2 or more, where no proposal has finite variance.
    """
    values, vectors = torch.linalg.eigh(covariance)
    if float(values.max()) >= 0.5:
        raise ValueError(f'the largest eigenvalue must be below 0.5, got {float(values.max()):.3f}; scale the inputs')
    best: Tensor = vectors @ torch.diag((1 + 2 * values) / (1 - 2 * values)) @ vectors.T
    return best


def importance_log_ratio(projections: Tensor, covariance: Tensor) -> Tensor:
    """(m,) log p_I(w) / p_covariance(w) of rows w drawn from N(0, covariance)."""
    inverse = torch.linalg.inv(covariance)
    square = (projections @ inverse * projections).sum(-1) - projections.square().sum(-1)
    ratio: Tensor = (square + torch.logdet(covariance)) / 2
    return ratio


def effective_samples(log_feature: Tensor) -> Tensor:
    """How many of the m features carry a row: (sum f)^2 / sum f^2, between 1 and m."""
    log_count: Tensor = 2 * log_feature.logsumexp(-1) - (2 * log_feature).logsumexp(-1)
    return log_count.exp()
