"""Polynomial mixing: a linear-time token mixer with one global state."""

from __future__ import annotations

import torch
from torch import Tensor

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.polynomial import naive
from attn_robotics.kernels.polynomial.naive import FORMS, features_of, gate_of

__all__ = ['FORMS', 'features_of', 'gate_of', 'polynomial_mix', 'polynomial_step']


def polynomial_mix(
    projected: Tensor,
    gate: Tensor,
    keep: Tensor | None = None,
    state: Tensor | None = None,
    count: Tensor | None = None,
    *,
    degree: int = 2,
    coefficients: Tensor | None = None,
    causal: bool = False,
    block: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Average polynomial features over tokens and let every token read the average through its gate.

    Args:
        projected: (B, N, degree x E) projections of the tokens in the speech form, (B, N, E) in the general form.
        gate: like projected, before its sigmoid.
        keep: (B, N) bool, True for real tokens, or None.
        state: mean of the features of earlier tokens, (B, features), or None for a new stream.
        count: (B,) number of tokens behind `state`.
        degree: number of factors, speech form.
        coefficients: (E, degree) switches to the general form.
        causal: token i reads the mean up to itself; else all tokens of the call and of `state` (block-causal streams).
        block: with `causal`, tokens read the mean up to the end of their block of so many tokens: what a stream of such
            blocks sees, in one call.

    Returns:
        (B, N, features) gated means in projected's dtype (padded rows zero), the new state in float32 at least, and
        the new count. The product of features stays in float32: powers overflow in half precision.

    Raises:
        ValueError: shapes do not fit.
    """
    if projected.ndim != 3 or gate.shape != projected.shape:
        raise ValueError(f'projected and gate must share (B, N, F), got {tuple(projected.shape)}, {tuple(gate.shape)}')
    if coefficients is None and projected.shape[2] % degree:
        raise ValueError(f'{projected.shape[2]} features are no multiple of degree {degree}')
    if coefficients is not None and coefficients.shape[0] != projected.shape[2]:
        raise ValueError(f'coefficients must be ({projected.shape[2]}, degree), got {tuple(coefficients.shape)}')
    if block < 1:
        raise ValueError(f'block must be at least 1 token, got {block}')
    if (state is None) != (count is None):
        raise ValueError('state and count belong together: give both or none')
    dispatch.choose('polynomial', projected, obstacle='two reductions: torch is at the memory limit already')
    return naive.polynomial_mix(
        projected, gate, keep, state, count, degree=degree, coefficients=coefficients, causal=causal, block=block
    )


def polynomial_step(
    projected: Tensor,
    gate: Tensor,
    state: Tensor,
    count: Tensor,
    *,
    degree: int = 2,
    coefficients: Tensor | None = None,
) -> Tensor:
    """Push one token into every stream; updates `state` and `count` in place, inference only.

    Args:
        projected: (B, F), see `polynomial_mix`.
        gate: (B, F).
        state: (B, F) float32 mean so far, contiguous.
        count: (B,) float32 tokens so far.
        degree: number of factors, speech form.
        coefficients: (F, degree) for the general form.

    Returns:
        (B, F) gated mean in projected's dtype.
    """
    obstacle = None
    if coefficients is not None:
        obstacle = 'the general form has no kernel'
    elif not state.is_contiguous() or state.dtype != torch.float32 or projected.shape[1] % (16 * degree):
        obstacle = 'the state must be contiguous float32 and its parts a multiple of 16'
    if dispatch.choose('polynomial_step', projected, obstacle=obstacle) == 'naive':
        out, last, seen = naive.polynomial_mix(
            projected[:, None], gate[:, None], None, state, count, degree=degree, coefficients=coefficients, causal=True
        )
        state.copy_(last)
        count.copy_(seen)
        return out[:, 0]
    from attn_robotics.kernels.polynomial.fused import polynomial_step_fused

    return polynomial_step_fused(projected, gate, state, count, degree=degree)
