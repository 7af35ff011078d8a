"""Gradients of relation attention inside small sets, in one pass that recomputes the weights.

With S_ij the gradient at a score, a query owes sum_j S_ij [m_ij = m] to row m of the key table, a key sum_i S_ij
[m_ij = m] to row m of the query table. A tile of these debts times the tables completes the gradients of queries and
keys, its transpose times queries and keys those of the tables, which programs sum over the sets they walk through.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import interpreter_product, on_device_of, power_of_two
from attn_robotics.kernels.relation.sets import PROCESSORS, _tables, geometry


@triton.jit
def _sets_backward(
    q, k, v, g, dq, dk, dv, query_table, key_table, relation, d_query, d_key, d_both,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_h, g_n, dq_b, dq_h, dq_n, dk_b, dk_h, dk_n,
    a_m, a_h, b_m, b_h, r_b, r_q, sets, queries, keys, table, width, scale,
    SLOTS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, TABLE: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """Every num_programs(0)-th group of sets of one head; sums for the tables are this program's share."""
    TILE: tl.constexpr = SLOTS if SLOTS > 16 else 16
    PACK: tl.constexpr = TILE // SLOTS
    BATCH: tl.constexpr = ROWS // TILE
    GROUP: tl.constexpr = ROWS // SLOTS
    h = tl.program_id(1).to(tl.int64)
    d = tl.arange(0, WIDTH)
    m = tl.arange(0, TABLE)
    a, b, constant = _tables(query_table + h * a_h, key_table + h * b_h, m, d, a_m, b_m, table, width, PRODUCT)
    r = tl.arange(0, ROWS)
    own, slot = r // SLOTS, r % SLOTS
    wide = (d < width)[None, :]
    e = tl.arange(0, BATCH)[:, None, None]
    i = tl.arange(0, TILE)[None, :, None]
    j = tl.arange(0, TILE)[None, None, :]
    i_set = e * PACK + i // SLOTS
    same = (i // SLOTS == j // SLOTS) & (e >= 0)
    forth = i_set * r_b + i % SLOTS * r_q + j % SLOTS
    sum_query = tl.zeros((TABLE, WIDTH), tl.float32)
    sum_key = tl.zeros((TABLE, WIDTH), tl.float32)
    sum_both = tl.zeros((TABLE,), tl.float32)
    for group in tl.range(tl.program_id(0), tl.cdiv(sets, GROUP), tl.num_programs(0)):
        first = tl.cast(group, tl.int64) * GROUP
        left = sets - group * GROUP
        row_in = ((own < left) & (slot < queries))[:, None] & wide
        key_in = ((own < left) & (slot < keys))[:, None] & wide
        at = q + first * q_b + h * q_h + (own * q_b + slot * q_n)[:, None] + d[None, :]
        q_tile = tl.load(at, mask=row_in, other=0.0).to(PRODUCT)
        at = k + first * k_b + h * k_h + (own * k_b + slot * k_n)[:, None] + d[None, :]
        k_tile = tl.load(at, mask=key_in, other=0.0).to(PRODUCT)
        at = v + first * v_b + h * v_h + (own * v_b + slot * v_n)[:, None] + d[None, :]
        v_tile = tl.load(at, mask=key_in, other=0.0).to(PRODUCT)
        at = g + first * g_b + h * g_h + (own * g_b + slot * g_n)[:, None] + d[None, :]
        g_tile = tl.load(at, mask=row_in, other=0.0).to(PRODUCT)
        there = same & (i_set < left)
        pair = there & (i % SLOTS < queries) & (j % SLOTS < keys)
        index = tl.load(relation + first * r_b + forth, mask=pair, other=-1).to(tl.int32)
        turned = tl.permute(index, (0, 2, 1))
        by_query = tl.dot(q_tile, tl.trans(b), input_precision='ieee') + constant[None, :]
        by_key = tl.dot(k_tile, tl.trans(a), input_precision='ieee')
        by_query = tl.reshape(by_query, (BATCH, TILE, TABLE))
        by_key = tl.reshape(by_key, (BATCH, TILE, TABLE))
        q_3 = tl.reshape(q_tile, (BATCH, TILE, WIDTH))
        k_3 = tl.reshape(k_tile, (BATCH, TILE, WIDTH))
        v_3 = tl.reshape(v_tile, (BATCH, TILE, WIDTH))
        g_3 = tl.reshape(g_tile, (BATCH, TILE, WIDTH))
        scores = tl.dot(q_3, tl.permute(k_3, (0, 2, 1)), input_precision='ieee')
        scores += tl.gather(by_query, tl.maximum(index, 0), 2)
        scores += tl.permute(tl.gather(by_key, tl.maximum(turned, 0), 2), (0, 2, 1))
        scores = tl.where(index >= 0, scores * (scale * 1.4426950408889634), float('-inf'))
        top = tl.max(scores, 2)
        weights = tl.exp2(scores - tl.where(top == float('-inf'), 0.0, top)[:, :, None])
        total = tl.sum(weights, 2)
        weights = weights * (1.0 / tl.where(total > 0.0, total, 1.0))[:, :, None]
        d_v = tl.dot(tl.permute(weights.to(PRODUCT), (0, 2, 1)), g_3, input_precision='ieee')
        at = dv + first * dk_b + h * dk_h + (own * dk_b + slot * dk_n)[:, None] + d[None, :]
        tl.store(at, tl.reshape(d_v, (ROWS, WIDTH)).to(dv.dtype.element_ty), mask=key_in)
        d_weights = tl.dot(g_3, tl.permute(v_3, (0, 2, 1)), input_precision='ieee')
        mean = tl.sum(weights * d_weights, 2)
        d_score = weights * (d_weights - mean[:, :, None]) * scale
        d_turned = tl.permute(d_score, (0, 2, 1))
        # What each query owes to every row of the key table, and each key to every row of the query table.
        owed_query = tl.zeros((BATCH, TILE, TABLE), tl.float32)
        owed_key = tl.zeros((BATCH, TILE, TABLE), tl.float32)
        m_3 = m[None, None, :]
        if SLOTS <= 16:
            for s in tl.range(0, SLOTS):
                mine = same & (j % SLOTS == s)
                value = tl.sum(tl.where(mine, d_score, 0.0), 2)
                where = tl.sum(tl.where(mine, index, 0), 2)
                owed_query += tl.where(m_3 == where[:, :, None], value[:, :, None], 0.0)
                value = tl.sum(tl.where(mine, d_turned, 0.0), 2)
                where = tl.sum(tl.where(mine, turned, 0), 2)
                owed_key += tl.where(m_3 == where[:, :, None], value[:, :, None], 0.0)
        else:  # fewer relations than members: collect each relation's pairs
            for s in tl.range(0, table):
                value = tl.sum(tl.where(index == s, d_score, 0.0), 2)
                owed_query = tl.where(m_3 == s, value[:, :, None], owed_query)
                value = tl.sum(tl.where(index == s, d_score, 0.0), 1)
                owed_key = tl.where(m_3 == s, value[:, :, None], owed_key)
        owed_query = tl.reshape(owed_query, (ROWS, TABLE))
        owed_key = tl.reshape(owed_key, (ROWS, TABLE))
        sum_both += tl.sum(owed_query, 0)
        low_query, low_key = owed_query.to(PRODUCT), owed_key.to(PRODUCT)
        d_q = tl.reshape(tl.dot(d_score.to(PRODUCT), k_3, input_precision='ieee'), (ROWS, WIDTH))
        d_q = tl.dot(low_query, b, d_q, input_precision='ieee')
        at = dq + first * dq_b + h * dq_h + (own * dq_b + slot * dq_n)[:, None] + d[None, :]
        tl.store(at, d_q.to(dq.dtype.element_ty), mask=row_in)
        d_k = tl.reshape(tl.dot(d_turned.to(PRODUCT), q_3, input_precision='ieee'), (ROWS, WIDTH))
        d_k = tl.dot(low_key, a, d_k, input_precision='ieee')
        at = dk + first * dk_b + h * dk_h + (own * dk_b + slot * dk_n)[:, None] + d[None, :]
        tl.store(at, d_k.to(dk.dtype.element_ty), mask=key_in)
        sum_query = tl.dot(tl.trans(low_key), k_tile, sum_query, input_precision='ieee')
        sum_key = tl.dot(tl.trans(low_query), q_tile, sum_key, input_precision='ieee')
    to = (tl.program_id(0) * tl.num_programs(1) + h) * TABLE
    tl.store(d_query + (to + m)[:, None] * WIDTH + d[None, :], sum_query)
    tl.store(d_key + (to + m)[:, None] * WIDTH + d[None, :], sum_key)
    tl.store(d_both + to + m, sum_both)


def sets_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    relation: Tensor,
    gradient: Tensor,
    *,
    scale: float,
    config: tuple[int, int, int] = (32, 4, 2),
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and both tables; `config` (rows of a tile, warps, programs a processor) is for tuning."""
    q, k, v, query_table, key_table, relation, gradient = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v, query_table, key_table, relation, gradient)
    )
    sets, heads, queries, width = q.shape
    keys, table = k.shape[2], query_table.shape[0]
    rows, warps, resident = config
    slots, rows = geometry(queries, keys, rows)
    wide, padded = power_of_two(width), power_of_two(table)
    programs = min(triton.cdiv(sets, rows // slots), triton.cdiv(PROCESSORS * resident, heads))
    d_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    d_k, d_v = (torch.empty(k.shape, dtype=k.dtype, device=k.device) for _ in range(2))
    shape = (programs, heads, padded, wide)
    d_query, d_key = (torch.empty(shape, dtype=torch.float32, device=q.device) for _ in range(2))
    d_both = torch.empty(shape[:3], dtype=torch.float32, device=q.device)
    with on_device_of(q):
        _sets_backward[(programs, heads)](
            q, k, v, gradient, d_q, d_k, d_v, query_table, key_table, relation, d_query, d_key, d_both,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *gradient.stride()[:3],
            *d_q.stride()[:3], *d_k.stride()[:3],
            *query_table.stride()[:2], *key_table.stride()[:2], *relation.stride()[:2],
            sets, queries, keys, table, width, scale,
            SLOTS=slots, ROWS=rows, WIDTH=wide, TABLE=padded, PRODUCT=interpreter_product(q.dtype), num_warps=warps,
        )  # fmt: skip
    both = d_both.sum(0)[:, :table].T[:, :, None]  # (M, H, 1): what a_m . b_m gets
    at_query = d_query.sum(0)[:, :table, :width].transpose(0, 1) + both * key_table
    at_key = d_key.sum(0)[:, :table, :width].transpose(0, 1) + both * query_table
    return d_q, d_k, d_v, at_query.to(query_table.dtype), at_key.to(key_table.dtype)
