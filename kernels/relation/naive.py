"""Relation-aware attention in plain torch: the definition, and the same sums through tables.

Source: SPARC / RMHA (arXiv 2603.02845), score equation. With e_m the embedding of relation m, the query side sees
`W_q (o_i + W_1 e_m)` and the key side `W_k (o_j + W_2 e_m')`, where m is the relation from i to j and m' the one back.
`query_table[m]` holds `W_q W_1 e_m` and `key_table[m]` holds `W_k W_2 e_m'`, both split into heads.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_relation_attention(
    q: Tensor, k: Tensor, v: Tensor, query_table: Tensor, key_table: Tensor, relation: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Spell the score out for every pair; memory grows with Q x K x D. See `relation_attention` for the arguments.

    Returns:
        (B, H, Q, D) output and (B, H, Q, K) weights.
    """
    index = relation.clamp(min=0).long()  # (B, Q, K)
    query = q[:, :, :, None, :] + query_table[index].permute(0, 3, 1, 2, 4)  # (B, H, Q, K, D)
    key = k[:, :, None, :, :] + key_table[index].permute(0, 3, 1, 2, 4)  # (B, H, Q, K, D)
    scores = (query * key).sum(-1) * scale  # (B, H, Q, K)
    weights = _masked_softmax(scores, relation)
    return weights @ v, weights


def table_relation_attention(
    q: Tensor, k: Tensor, v: Tensor, query_table: Tensor, key_table: Tensor, relation: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The same scores from gathered scalars.

    `(q_i + a_m) . (k_j + b_m) = q_i . k_j + (q_i + a_m) . b_m + k_j . a_m`: products with whole tables, then two
    scalars gathered per pair and head, so that memory grows with Q x K + (Q + K) x M only.

    Returns:
        (B, H, Q, D) output and (B, H, Q, K) weights.
    """
    rows = query_table.shape[0]
    # A masked pair reads any row. Spreading those reads keeps the backward scatter off one address.
    spread = torch.arange(relation.shape[-1], device=relation.device) % rows
    index = torch.where(relation < 0, spread, relation.long())  # (B, Q, K)
    heads = q.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)  # sums and scatters in at least float32
    a = query_table.permute(1, 2, 0)  # (H, D, M)
    b = key_table.permute(1, 2, 0)  # (H, D, M)
    constant = (a.to(wide) * b.to(wide)).sum(1)  # (H, M)
    by_query = (q @ b).to(wide) + constant[None, :, None, :]  # (B, H, Q, M)
    by_key = (k @ a).to(wide)  # (B, H, K, M)
    forward_index = index[:, None].expand(-1, heads, -1, -1)  # (B, H, Q, K)
    scores = (q @ k.transpose(-1, -2)).to(wide) + by_query.gather(-1, forward_index)
    scores = scores + by_key.gather(-1, forward_index.transpose(-1, -2)).transpose(-1, -2)
    weights = _masked_softmax(scores * scale, relation)
    return weights.to(v.dtype) @ v, weights


def _masked_softmax(scores: Tensor, relation: Tensor) -> Tensor:
    """Softmax over keys with relation >= 0; rows without any are zero, with zero gradient."""
    absent = (relation < 0)[:, None]  # (B, 1, Q, K)
    # A finite low value instead of -inf: an empty row then has a defined gradient, which the second mask removes.
    weights = scores.masked_fill(absent, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(absent, 0.0)
