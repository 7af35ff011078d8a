"""Attention to a long history through its principal components."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.recompute import with_definition_gradient
from attn_robotics.kernels.svd import naive
from attn_robotics.kernels.svd.naive import Factorisation, factorise_gram, gram

__all__ = ['Factorisation', 'factorise', 'factorise_gram', 'gram', 'svd_attention']


def factorise(history: Tensor, rank: int, keep: Tensor | None = None) -> Factorisation:
    """Reduce a history to `rank` virtual tokens by its Gram matrix; no gradient (an SVD's explodes at equal values).

    Args:
        history: (B, N, d) items, d <= 128 advisable.
        rank: number of components; above d the rest is zero.
        keep: (B, N) bool, True for real items, or None.

    Returns:
        Tokens, spectrum and captured energy, float32 at least; all zero for an empty history.

    Raises:
        ValueError: shapes do not fit.
    """
    if history.ndim != 3 or rank < 1 or (keep is not None and keep.shape != history.shape[:2]):
        raise ValueError(f'history (B, N, d), rank >= 1, keep (B, N); got {tuple(history.shape)}, {rank}')
    history = history.detach()
    obstacle = None
    if history.shape[2] not in (16, 32, 64) or rank > history.shape[2]:
        obstacle = f'width {history.shape[2]} with rank {rank} is no tile of the eigenvalue kernel'
    elif history.numel() == 0:
        obstacle = 'nothing to compute'
    if dispatch.choose('svd', history, obstacle=obstacle) == 'naive':
        return factorise_gram(*gram(history, keep), rank)
    from attn_robotics.kernels.svd.fused import factorise_fused

    return factorise_fused(history, rank, keep)


def svd_attention(
    q: Tensor, key_tokens: Tensor, value_tokens: Tensor | None = None, *, scale: float | None = None
) -> Tensor:
    """Attend to virtual tokens and their mirror images, so that the signs of components do not matter.

    Args:
        q: (..., C, d) queries.
        key_tokens: (..., r, d) tokens as keys; rows of exact zeros are no tokens.
        value_tokens: (..., r, dv), the key tokens when None.
        scale: score factor, 1 / sqrt(d) when None.

    Returns:
        (..., C, dv) in q's dtype; zero where there is no token.

    Raises:
        ValueError: widths do not fit.
    """
    if q.shape[-1] != key_tokens.shape[-1]:
        raise ValueError(f'q and key_tokens must share their width, got {q.shape[-1]} and {key_tokens.shape[-1]}')
    values = key_tokens if value_tokens is None else value_tokens
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    obstacle = None
    if q.ndim != 3 or key_tokens.shape[0] != q.shape[0] or values.shape[:2] != key_tokens.shape[:2]:
        obstacle = 'queries are not (B, C, d) with one set of tokens each'
    elif any(x not in (16, 32, 64, 128) for x in (q.shape[-1], values.shape[-1])) or key_tokens.shape[1] > 128:
        obstacle = (
            f'{key_tokens.shape[1]} tokens of width {q.shape[-1]} and {values.shape[-1]} are no tile of the kernel'
        )
    elif q.numel() == 0 or values.numel() == 0:
        obstacle = 'nothing to compute'
    definition = partial(_definition, scale=scale)
    if dispatch.choose('svd_attention', q, obstacle=obstacle) == 'naive':
        return definition(q, key_tokens, values)
    from attn_robotics.kernels.svd.fused import attend_fused

    return with_definition_gradient(partial(attend_fused, scale=scale), definition, q, key_tokens, values)


def _definition(q: Tensor, key_tokens: Tensor, values: Tensor, *, scale: float) -> Tensor:
    return naive.svd_attention(q, key_tokens.to(q.dtype), values.to(q.dtype), scale=scale)
