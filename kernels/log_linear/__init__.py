"""Log-linear attention: a logarithmic number of states instead of one, or of a cache of all tokens."""

from __future__ import annotations

from torch import Tensor

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.log_linear import naive
from attn_robotics.kernels.log_linear.naive import LogLinearState, empty_state, levels_for
from attn_robotics.kernels.recompute import with_definition_gradient

FORMS = ('auto', 'dense', 'chunked', 'recurrent')
WIDTHS = (16, 32, 64, 128)
__all__ = ['FORMS', 'LogLinearState', 'empty_state', 'levels_for', 'log_linear_attention', 'log_linear_step']


def log_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, lam: Tensor, beta: Tensor | None = None, *, form: str = 'auto'
) -> Tensor:
    """Attend to the past through Fenwick buckets: recent tokens finely, distant ones in summaries.

    Args:
        q: (B, H, T, Dk) queries; scale them yourself.
        k: (B, H, T, Dk) keys.
        v: (B, H, T, Dv) values.
        g: (B, H, T) log decay, <= 0.
        lam: (B, H, T, L) level weights, L >= levels_for(T).
        beta: (B, H, T) write strength in (0, 1): the delta rule; None for the scalar gating.
        form: 'auto', or one of `FORMS`; all compute the same function.

    Returns:
        (B, H, T, Dv) in v's dtype. Empty sequences give empty outputs. To pad, set k, v, lam and g to zero.

    Raises:
        ValueError: shapes or the form do not fit.
    """
    if q.ndim != 4 or k.shape != q.shape or v.shape[:3] != q.shape[:3] or g.shape != q.shape[:3]:
        raise ValueError(
            f'q, k (B, H, T, Dk), v (B, H, T, Dv), g (B, H, T); got {[tuple(x.shape) for x in (q, k, v, g)]}'
        )
    if lam.shape[:3] != q.shape[:3] or lam.ndim != 4 or lam.shape[3] < levels_for(q.shape[2]):
        raise ValueError(f'lam must be (B, H, T, L >= {levels_for(q.shape[2])}), got {tuple(lam.shape)}')
    if beta is not None and beta.shape != g.shape:
        raise ValueError(f'beta must be {tuple(g.shape)}, got {tuple(beta.shape)}')
    if form not in FORMS:
        raise ValueError(f'form must be one of {FORMS}, got {form!r}')
    if form in ('dense', 'recurrent'):
        return (naive.dense if form == 'dense' else naive.recurrent)(q, k, v, g, lam, beta)
    obstacle = None
    if beta is not None:
        obstacle = 'the delta rule has no kernel'
    elif q.shape[3] not in WIDTHS or v.shape[3] not in WIDTHS:
        obstacle = f'widths {q.shape[3]} and {v.shape[3]} must be in {WIDTHS}'
    elif q.numel() == 0 or form == 'chunked':
        obstacle = 'nothing to compute' if q.numel() == 0 else 'the chunked definition was asked for'
    if q.numel() == 0:
        return v.clone()
    if dispatch.choose('log_linear', q, obstacle=obstacle) == 'naive':
        return naive.chunked(q, k, v, g, lam, beta)
    from attn_robotics.kernels.log_linear.fused import log_linear_forward

    return with_definition_gradient(log_linear_forward, naive.chunked, q, k, v, g, lam)


def log_linear_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, lam: Tensor, state: LogLinearState, beta: Tensor | None = None
) -> Tensor:
    """Push one token into every stream, updating `state` in place; inference only.

    Args:
        q: (B, H, Dk) queries of B streams.
        k: (B, H, Dk) keys.
        v: (B, H, Dv) values.
        g: (B, H) log decay.
        lam: (B, H, L) level weights, L as in the state.
        state: see `empty_state`; streams may be at different steps.
        beta: (B, H) write strength for the delta rule, or None.

    Returns:
        (B, H, Dv) in v's dtype.

    Raises:
        ValueError: the state does not fit.
    """
    if state.levels.shape != (*q.shape[:2], lam.shape[-1] - 1, q.shape[-1], v.shape[-1]):
        raise ValueError(
            f'state {tuple(state.levels.shape)} does not fit q {tuple(q.shape)} and lam {tuple(lam.shape)}'
        )
    obstacle = None
    if beta is not None:
        obstacle = 'the delta rule has no kernel'
    elif q.shape[-1] not in WIDTHS or v.shape[-1] not in WIDTHS:
        obstacle = f'widths {q.shape[-1]} and {v.shape[-1]} must be in {WIDTHS}'
    elif not state.levels.is_contiguous():
        obstacle = 'the state is not contiguous'
    if dispatch.choose('log_linear_step', q, obstacle=obstacle) == 'naive':
        return naive.step(q, k, v, g, lam, state, beta).to(v.dtype)
    from attn_robotics.kernels.log_linear.fused import log_linear_step_fused

    return log_linear_step_fused(q, k, v, g, lam, state)
