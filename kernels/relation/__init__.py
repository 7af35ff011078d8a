"""Attention whose scores depend on content and on a discrete relation between query and key."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.recompute import with_definition_gradient, with_gradient
from attn_robotics.kernels.relation.naive import pairwise_relation_attention, table_relation_attention

PATHS = ('table', 'pairwise')
LARGEST_TABLE = 256
LARGEST_BACKWARD = {'set': 32, 'table': 64, 'width': 64}  # above, gradients are those of the table form, recomputed
__all__ = ['PATHS', 'relation_attention']


def relation_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    relation: Tensor,
    *,
    scale: float | None = None,
    path: str = 'auto',
    need_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attend with score `(q_i + query_table[m_ij]) . (k_j + key_table[m_ij])`.

    Args:
        q: (B, H, Q, D) queries.
        k: (B, H, K, D) keys.
        v: (B, H, K, D) values; the relation does not touch them.
        query_table: (M, H, D) what relation m adds on the query side.
        key_table: (M, H, D) what relation m adds on the key side.
        relation: (B, Q, K) integers below M; negative where the key is no neighbour of the query.
        scale: score factor, 1 / sqrt(D) when None.
        path: one of `PATHS`, or 'auto': the fused kernel where it fits, else the table form.
        need_weights: return the attention weights as well.

    Returns:
        (B, H, Q, D) in v's dtype, rows without a neighbour exactly zero; and (B, H, Q, K) weights or None.

    Raises:
        ValueError: shapes or the path do not fit.
    """
    if q.ndim != 4 or k.shape != v.shape or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(f'q, k, v must be (B, H, Q, D) and (B, H, K, D) twice, got {_shapes(q, k, v)}')
    table_shape = (query_table.shape[0], q.shape[1], q.shape[3])
    if query_table.shape != table_shape or key_table.shape != table_shape:
        raise ValueError(f'tables must both be (M, H, D) = {table_shape}, got {_shapes(query_table, key_table)}')
    if relation.shape != (q.shape[0], q.shape[2], k.shape[2]):
        raise ValueError(f'relation must be (B, Q, K) for q, k of {_shapes(q, k)}, got {tuple(relation.shape)}')
    if relation.dtype not in (torch.int16, torch.int32, torch.int64):
        raise ValueError(f'relation must be a signed integer tensor, got {relation.dtype}')
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if path == 'auto':
        obstacle = 'weights were asked for' if need_weights else None
        if dispatch.choose('relation', q, obstacle=obstacle or _obstacle(q, k, query_table)) == 'fused':
            from attn_robotics.kernels.relation.fused import relation_forward

            def definition(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, relation: Tensor) -> Tensor:
                return table_relation_attention(q, k, v, a, b, relation, scale)[0]

            fast = partial(relation_forward, scale=scale)
            too_large = None if _has_backward(q, k, query_table) else 'sets, tables or heads are too large'
            needed = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, query_table, key_table))
            if needed and dispatch.choose('relation_backward', q, obstacle=too_large, optional=True) == 'fused':
                from attn_robotics.kernels.relation.backward import sets_backward

                gradient = partial(sets_backward, scale=scale)
                return with_gradient(fast, gradient, q, k, v, query_table, key_table, relation), None
            return with_definition_gradient(fast, definition, q, k, v, query_table, key_table, relation), None
        path = 'table'
    if path == 'table':
        out, weights = table_relation_attention(q, k, v, query_table, key_table, relation, scale)
    elif path == 'pairwise':
        out, weights = pairwise_relation_attention(q, k, v, query_table, key_table, relation, scale)
    else:
        raise ValueError(f"path must be 'auto' or one of {PATHS}, got {path!r}")
    return out, weights if need_weights else None


def _has_backward(q: Tensor, k: Tensor, table: Tensor) -> bool:
    largest = LARGEST_BACKWARD
    small = max(q.shape[2], k.shape[2]) <= largest['set'] and q.shape[3] <= largest['width']
    return small and table.shape[0] <= largest['table']


def _obstacle(q: Tensor, k: Tensor, table: Tensor) -> str | None:
    if table.shape[0] > LARGEST_TABLE:
        return f'tables of {table.shape[0]} rows exceed {LARGEST_TABLE}'
    if q.shape[3] > 128:
        return f'head width {q.shape[3]} exceeds 128'
    return 'nothing to compute' if q.numel() == 0 or k.numel() == 0 else None


def _shapes(*tensors: Tensor) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]
