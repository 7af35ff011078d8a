"""Sparse attention whose keys are chosen by preference, not by the scores themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.preference_sparse.naive import attend_blocks, attend_items, select_blocks, select_items
from attn_robotics.kernels.recompute import with_definition_gradient

ACTIVATIONS = ('softmax', 'silu')
__all__ = ['ACTIVATIONS', 'attend_items', 'preference_block_attention', 'select_blocks', 'select_items']


def preference_block_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    guide_q: Tensor,
    guide_k: Tensor,
    *,
    count: int = 4,
    query_block: int = 64,
    key_block: int = 64,
    scale: float | None = None,
) -> Tensor:
    """Attend causally to the key blocks that a query block prefers, its own and the one before it.

    Args:
        q: (B, H, N, D) queries.
        k: (B, H, N, D) keys.
        v: (B, H, N, D) values.
        guide_q: (B, N, G) preference vectors of queries, L2-normalised; no gradient flows through the choice.
        guide_k: (B, N, G) preference vectors of keys.
        count: preferred blocks a query block reads beside the recent ones.
        query_block: queries that share one list, a multiple of key_block or a divisor.
        key_block: keys of a block.
        scale: score factor, 1 / sqrt(D) when None.

    Returns:
        (B, H, N, D) in q's dtype.

    Raises:
        ValueError: shapes or sizes do not fit.
    """
    if q.ndim != 4 or k.shape != q.shape or v.shape != q.shape or guide_q.shape[:2] != (q.shape[0], q.shape[2]):
        raise ValueError(f'q, k, v (B, H, N, D), guides (B, N, G); got {tuple(q.shape)}, {tuple(guide_q.shape)}')
    if count < 1 or query_block % key_block:
        raise ValueError(f'count must be positive and key_block divide query_block, got {count}, {key_block}')
    scale = q.shape[3] ** -0.5 if scale is None else scale
    blocks = select_blocks(guide_q.detach(), guide_k.detach(), count, query_block, key_block)
    obstacle = None
    if q.shape[3] not in (16, 32, 64, 128) or any(x not in (16, 32, 64, 128) for x in (query_block, key_block)):
        obstacle = f'head width {q.shape[3]} or blocks {query_block}, {key_block} are no tile of the kernel'
    elif q.numel() == 0:
        obstacle = 'nothing to compute'
    definition: Callable[..., Tensor] = partial(
        attend_blocks, query_block=query_block, key_block=key_block, scale=scale
    )
    if dispatch.choose('preference_sparse', q, obstacle=obstacle) == 'naive':
        return definition(q, k, v, blocks)
    from attn_robotics.kernels.preference_sparse.fused import preference_block_forward

    fast = partial(preference_block_forward, query_block=query_block, key_block=key_block, scale=scale)
    return with_definition_gradient(fast, definition, q, k, v, blocks)
