"""Polynomial mixing (PoM): tokens become polynomial features, are averaged, and read the average through a gate.

Sources: speech form, arXiv 2603.00683 (products of GELU projections); general form, arXiv 2604.06129 (powers of one
activation with learned coefficients). The mean divides by the number of REAL tokens: published code divides by the
padded length, which lets batch mates change each other.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu, hardsigmoid, leaky_relu

FORMS = ('speech', 'general')


def speech_features(projected: Tensor, degree: int) -> Tensor:
    """(..., degree x E) projections to (..., degree x E): running products of GELUs, degree 1 first."""
    factors = gelu(projected).unflatten(-1, (degree, -1)).unbind(-2)
    # Not torch.cumprod: its backward is slow, and ONNX has no such operator.
    products = [factors[0]]
    for factor in factors[1:]:
        products.append(products[-1] * factor)
    return torch.cat(products, -1)


def general_features(projected: Tensor, coefficients: Tensor) -> Tensor:
    """(..., E) projections and (E, degree) coefficients to (..., E): a polynomial of one clamped activation."""
    base = leaky_relu(projected, 0.01).clamp(-0.1, 6.0)
    total = torch.zeros_like(base)
    for power in reversed(range(coefficients.shape[-1])):  # Horner
        total = base * (coefficients[:, power] + total)
    return total


def features_of(projected: Tensor, degree: int, coefficients: Tensor | None) -> Tensor:
    """Speech form when there are no coefficients, general form otherwise."""
    return speech_features(projected, degree) if coefficients is None else general_features(projected, coefficients)


def gate_of(gate: Tensor, coefficients: Tensor | None) -> Tensor:
    """The speech form's gate is a sigmoid, the general form's a hard sigmoid."""
    return gate.sigmoid() if coefficients is None else hardsigmoid(gate)


def polynomial_mix(
    projected: Tensor,
    gate: Tensor,
    keep: Tensor | None,
    state: Tensor | None,
    count: Tensor | None,
    *,
    degree: int,
    coefficients: Tensor | None,
    causal: bool,
    block: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `attn_robotics.kernels.polynomial` for the arguments; sums run in float32 at least."""
    wide = torch.promote_types(projected.dtype, torch.float32)
    if keep is not None:
        projected = projected.masked_fill(~keep[..., None], 0.0)
        gate = gate.masked_fill(~keep[..., None], 0.0)
    features = features_of(projected.to(wide), degree, None if coefficients is None else coefficients.to(wide))
    real = torch.ones(projected.shape[:2], dtype=wide, device=projected.device) if keep is None else keep.to(wide)
    features = features * real[..., None]
    past = projected.new_zeros(projected.shape[0], dtype=wide) if count is None else count.to(wide)
    empty = features.new_zeros(features.shape[0], features.shape[2])
    before = empty if state is None else state.to(wide) * past[:, None]
    if causal:
        seen = past[:, None] + real.cumsum(1)  # (B, N)
        total = features.cumsum(1) + before[:, None]
        if block > 1 and total.shape[1]:
            ends = torch.arange(total.shape[1], device=total.device) // block * block + block - 1
            ends = ends.clamp(max=total.shape[1] - 1)
            seen, total = seen.index_select(1, ends), total.index_select(1, ends)
    else:
        seen = (past + real.sum(1))[:, None]
        total = features.sum(1, keepdim=True) + before[:, None]
    mean = total / seen.clamp(min=1.0)[..., None]
    out = gate_of(gate.to(wide), coefficients) * mean
    if keep is not None:
        out = out.masked_fill(~keep[..., None], 0.0)
    last = mean[:, -1] if mean.shape[1] else empty if state is None else state.to(wide)
    return out.to(projected.dtype), last, past + real.sum(1)
