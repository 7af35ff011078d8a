"""Gradients of relation attention inside small sets, without atomics.

With S_ij the gradient at a score, a query owes sum_j S_ij [m_ij = m] to row m of the key table, a key sum_i S_ij
[m_ij = m] to row m of the query table. One pass recomputes the weights and writes S, which is small for small sets, and
the gradient of the values. A second kernel runs once for each side: a tile of what its rows owe, times the table,
completes the gradients of its rows; its transpose times its rows those of the table, which a program sums over all sets
it walks through. A last one adds the programs' shares.

Debts are made column by column of S: each adds to the one entry of each row that it meets.
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

Config = tuple[int, int, int, int]


@triton.jit
def _scores_backward(
    q, k, v, g, dv, query_table, key_table, relation, score,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_h, g_n, dv_b, dv_h, dv_n, a_m, a_h, b_m, b_h, r_b, r_q,
    sets, heads, queries, keys, table, width, scale,
    SLOTS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, TABLE: tl.constexpr, PRODUCT: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Every num_programs(0)-th group of sets of one head: gradients of values and at the scores."""
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
    score_at = i_set * heads * (SLOTS * SLOTS) + i % SLOTS * SLOTS + j % SLOTS
    for group in tl.range(tl.program_id(0), tl.cdiv(sets, GROUP), tl.num_programs(0), num_stages=STAGES):
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
        k_3 = tl.permute(tl.reshape(k_tile, (BATCH, TILE, WIDTH)), (0, 2, 1))
        v_3 = tl.permute(tl.reshape(v_tile, (BATCH, TILE, WIDTH)), (0, 2, 1))
        g_3 = tl.reshape(g_tile, (BATCH, TILE, WIDTH))
        scores = tl.dot(tl.reshape(q_tile, (BATCH, TILE, WIDTH)), k_3, input_precision='ieee')
        scores += tl.gather(by_query, tl.maximum(index, 0), 2)
        scores += tl.permute(tl.gather(by_key, tl.maximum(turned, 0), 2), (0, 2, 1))
        scores = tl.where(index >= 0, scores * (scale * 1.4426950408889634), float('-inf'))
        top = tl.max(scores, 2)
        weights = tl.exp2(scores - tl.where(top == float('-inf'), 0.0, top)[:, :, None])
        total = tl.sum(weights, 2)
        weights = weights * (1.0 / tl.where(total > 0.0, total, 1.0))[:, :, None]
        d_v = tl.dot(tl.permute(weights.to(PRODUCT), (0, 2, 1)), g_3, input_precision='ieee')
        at = dv + first * dv_b + h * dv_h + (own * dv_b + slot * dv_n)[:, None] + d[None, :]
        tl.store(at, tl.reshape(d_v, (ROWS, WIDTH)).to(dv.dtype.element_ty), mask=key_in)
        d_weights = tl.dot(g_3, v_3, input_precision='ieee')
        mean = tl.sum(weights * d_weights, 2)
        d_score = weights * (d_weights - mean[:, :, None]) * scale
        at = score + (first * heads + h) * (SLOTS * SLOTS) + score_at
        tl.store(at, d_score.to(score.dtype.element_ty), mask=there)


@triton.jit
def _side_backward(
    x, y, dx, table_at, relation, score, shares, debts,
    x_b, x_h, x_n, y_b, y_h, y_n, dx_b, dx_h, dx_n, t_m, t_h, r_b, r_x, r_y, s_x, s_y,
    sets, heads, own_slots, other_slots, table, width,
    SLOTS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, TABLE: tl.constexpr, PRODUCT: tl.constexpr,
    STAGES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Gradients of one side's rows x (queries or keys), and this program's share of those of the other side's table.

    y are the other side's rows; (r_x, r_y) and (s_x, s_y) step through relation and score along x and y.
    """
    TILE: tl.constexpr = SLOTS if SLOTS > 16 else 16
    PACK: tl.constexpr = TILE // SLOTS
    BATCH: tl.constexpr = ROWS // TILE
    GROUP: tl.constexpr = ROWS // SLOTS
    h = tl.program_id(1).to(tl.int64)
    d = tl.arange(0, WIDTH)
    m = tl.arange(0, TABLE)
    wide = (d < width)[None, :]
    rows_at = table_at + h * t_h + m[:, None] * t_m + d[None, :]
    rows = tl.load(rows_at, mask=(m < table)[:, None] & wide, other=0.0).to(PRODUCT)
    r = tl.arange(0, ROWS)
    own, slot = r // SLOTS, r % SLOTS
    e = tl.arange(0, BATCH)[:, None, None]
    i = tl.arange(0, TILE)[None, :, None]
    j = tl.arange(0, TILE)[None, None, :]
    i_set = e * PACK + i // SLOTS
    same = (i // SLOTS == j // SLOTS) & (e >= 0)
    pair_at = i_set * heads * (SLOTS * SLOTS) + i % SLOTS * s_x + j % SLOTS * s_y
    column_at = own * heads * (SLOTS * SLOTS) + slot * s_x
    index_at = own * r_b + slot * r_x
    share = tl.zeros((TABLE, WIDTH), tl.float32)
    debt = tl.zeros((TABLE,), tl.float32)
    for group in tl.range(tl.program_id(0), tl.cdiv(sets, GROUP), tl.num_programs(0), num_stages=STAGES):
        first = tl.cast(group, tl.int64) * GROUP
        left = sets - group * GROUP
        here = (own < left) & (slot < own_slots)
        x_in = here[:, None] & wide
        y_in = ((own < left) & (slot < other_slots))[:, None] & wide
        at = x + first * x_b + h * x_h + (own * x_b + slot * x_n)[:, None] + d[None, :]
        x_tile = tl.load(at, mask=x_in, other=0.0).to(PRODUCT)
        at = y + first * y_b + h * y_h + (own * y_b + slot * y_n)[:, None] + d[None, :]
        y_tile = tl.load(at, mask=y_in, other=0.0).to(PRODUCT)
        base = score + (first * heads + h) * (SLOTS * SLOTS)
        pairs = tl.load(base + pair_at, mask=same & (i_set < left), other=0.0).to(PRODUCT)
        owed = tl.zeros((ROWS, TABLE), tl.float32)
        for s in tl.range(0, other_slots, loop_unroll_factor=UNROLL):
            value = tl.load(base + column_at + s * s_y, mask=here, other=0.0).to(tl.float32)
            which = tl.load(relation + first * r_b + index_at + s * r_y, mask=here, other=-1).to(tl.int32)
            owed += tl.where(m[None, :] == which[:, None], value[:, None], 0.0)
        debt += tl.sum(owed, 0)
        low = owed.to(PRODUCT)
        near = tl.dot(pairs, tl.reshape(y_tile, (BATCH, TILE, WIDTH)), input_precision='ieee')
        d_x = tl.dot(low, rows, tl.reshape(near, (ROWS, WIDTH)), input_precision='ieee')
        at = dx + first * dx_b + h * dx_h + (own * dx_b + slot * dx_n)[:, None] + d[None, :]
        tl.store(at, d_x.to(dx.dtype.element_ty), mask=x_in)
        share = tl.dot(tl.trans(low), x_tile, share, input_precision='ieee')
    to = (tl.program_id(0) * tl.num_programs(1) + h) * TABLE
    tl.store(shares + (to + m)[:, None] * WIDTH + d[None, :], share)
    tl.store(debts + to + m, debt)


@triton.jit
def _add_shares(
    at_keys, at_queries, debts, query_table, key_table, d_query, d_key, a_m, a_h, b_m, b_h, programs, table, width,
    TABLE: tl.constexpr, WIDTH: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """PART rows of both tables of one head; a pair's own a_m . b_m is among its scores, and `debts` counts it."""
    h = tl.program_id(1).to(tl.int64)
    heads = tl.num_programs(1)
    m = tl.program_id(0) * PART + tl.arange(0, PART)
    d = tl.arange(0, WIDTH)
    of_query = tl.zeros((PART, WIDTH), tl.float32)
    of_key = tl.zeros((PART, WIDTH), tl.float32)
    both = tl.zeros((PART,), tl.float32)
    for program in tl.range(0, programs, loop_unroll_factor=4):
        to = (program * heads + h) * TABLE + m
        at = to[:, None] * WIDTH + d[None, :]
        of_query += tl.load(at_keys + at)
        of_key += tl.load(at_queries + at)
        both += tl.load(debts + to)
    inside = (m < table)[:, None] & (d < width)[None, :]
    a_at = m[:, None] * a_m + h * a_h + d[None, :]
    b_at = m[:, None] * b_m + h * b_h + d[None, :]
    a = tl.load(query_table + a_at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(key_table + b_at, mask=inside, other=0.0).to(tl.float32)
    to = (m[:, None] * heads + h) * width + d[None, :]
    tl.store(d_query + to, (of_query + both[:, None] * b).to(d_query.dtype.element_ty), mask=inside)
    tl.store(d_key + to, (of_key + both[:, None] * a).to(d_key.dtype.element_ty), mask=inside)


def settings(slots: int) -> tuple[Config, Config]:
    """Rows of a tile, warps, stages, programs a processor: of the pass over pairs, of those over either side."""
    return ((32, 4, 2, 2), (32, 4, 2, 2)) if slots <= 16 else ((64, 8, 1, 1), (32, 4, 1, 2))


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
    config: tuple[Config, Config] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and both tables; `config` replaces `settings` when tuning."""
    q, k, v, query_table, key_table, relation, gradient = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v, query_table, key_table, relation, gradient)
    )
    sets, heads, queries, width = q.shape
    keys, table = k.shape[2], query_table.shape[0]
    first, second = config or settings(power_of_two(max(queries, keys), 8))
    wide, padded, product = power_of_two(width), power_of_two(table), interpreter_product(q.dtype)

    def programs(rows: int, slots: int, resident: int) -> int:
        return min(triton.cdiv(sets, rows // slots), triton.cdiv(PROCESSORS * resident, heads))

    d_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    d_k, d_v = (torch.empty(k.shape, dtype=k.dtype, device=k.device) for _ in range(2))
    whole = (table, heads, width)
    d_query, d_key = (torch.empty(whole, dtype=x.dtype, device=q.device) for x in (query_table, key_table))
    slots, rows = geometry(queries, keys, first[0])
    score = torch.empty((sets, heads, slots, slots), dtype=q.dtype, device=q.device)
    side_rows = geometry(queries, keys, second[0])[1]
    count = programs(side_rows, slots, second[3])
    shape = (count, heads, padded, wide)
    at_queries, at_keys = (torch.empty(shape, dtype=torch.float32, device=q.device) for _ in range(2))
    debts, unused = (torch.empty(shape[:3], dtype=torch.float32, device=q.device) for _ in range(2))
    sizes = {'SLOTS': slots, 'WIDTH': wide, 'TABLE': padded, 'PRODUCT': product}
    with on_device_of(q):
        _scores_backward[(programs(rows, slots, first[3]), heads)](
            q, k, v, gradient, d_v, query_table, key_table, relation, score,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *gradient.stride()[:3], *d_v.stride()[:3],
            *query_table.stride()[:2], *key_table.stride()[:2], *relation.stride()[:2],
            sets, heads, queries, keys, table, width, scale,
            ROWS=rows, STAGES=first[2], num_warps=first[1], **sizes,
        )  # fmt: skip
        by_row, by_column = relation.stride(1), relation.stride(2)
        for x, y, dx, rows_of, shares, sums, r_steps, s_steps in (
            (q, k, d_q, key_table, at_queries, debts, (by_row, by_column), (slots, 1)),
            (k, q, d_k, query_table, at_keys, unused, (by_column, by_row), (1, slots)),
        ):
            _side_backward[(count, heads)](
                x, y, dx, rows_of, relation, score, shares, sums,
                *x.stride()[:3], *y.stride()[:3], *dx.stride()[:3], *rows_of.stride()[:2],
                relation.stride(0), *r_steps, *s_steps, sets, heads, x.shape[2], y.shape[2], table, width,
                ROWS=side_rows, STAGES=second[2], UNROLL=4 if slots <= 16 else 2,
                num_warps=second[1], **sizes,
            )  # fmt: skip
        _add_shares[(triton.cdiv(padded, 8), heads)](
            at_keys, at_queries, debts, query_table, key_table, d_query, d_key,
            *query_table.stride()[:2], *key_table.stride()[:2], count, table, width,
            TABLE=padded, WIDTH=wide, PART=8, num_warps=4,
        )  # fmt: skip
    return d_q, d_k, d_v, d_query, d_key
