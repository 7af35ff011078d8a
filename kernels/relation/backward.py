"""Gradients of relation attention inside small sets: what rows owe to the tables is collected by matrix products.

With S_ij the gradient at a score, a query owes sum_j S_ij [m_ij = m] to row m of the key table, a key sum_i S_ij
[m_ij = m] to row m of the query table. Written with m = 16 c + r these are products of small matrices, for each member
and all heads: S_ij [c_ij = c], of heads and c by neighbours, with [r_ij = r], of neighbours by r. Three passes, without
atomics: weights again, S and the gradient of the values; debts; gradients of rows, and of tables by programs, whose
shares a last one adds. Each may start while the one before it ends.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from attn_robotics.kernels.launch import interpreter_product, nearest, on_device_of, power_of_two, starts_early
from attn_robotics.kernels.relation.sets import (
    PROCESSORS,
    _by_set,
    _picks,
    _table_rows,
    _tables,
    geometry,
    packs,
)

# Rows of a tile, warps, stages, programs a processor (0: a program for every tile), registers a thread may use.
Tiles = tuple[int, int, int, int, int | None]
Config = tuple[Tiles, tuple[int, int], Tiles]  # of weights and scores, of debts (members, warps), of rows


@triton.jit
def _scores(
    q, k, v, g, dv, query_table, key_table, relation, score,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_h, g_n, dv_b, dv_h, dv_n, a_m, a_h, b_m, b_h, r_b, r_q,
    sets, heads, queries, keys, table, width, scale,
    SLOTS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, TABLE: tl.constexpr, EVEN: tl.constexpr,
    PRODUCT: tl.constexpr, PACKED: tl.constexpr, STAGES: tl.constexpr, ONCE: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Gradients of the values and at the scores, in groups of ROWS / SLOTS sets of one head."""
    if EARLY:
        gdc_launch_dependents()
    TILE: tl.constexpr = SLOTS if SLOTS > 16 else 16
    PACK: tl.constexpr = TILE // SLOTS
    BATCH: tl.constexpr = ROWS // TILE
    GROUP: tl.constexpr = ROWS // SLOTS
    h = tl.program_id(1).to(tl.int64)
    d = tl.arange(0, WIDTH)
    m = _table_rows(TABLE, PACKED)
    query_table += h * a_h
    key_table += h * b_h
    a, b, constant = _tables(query_table, key_table, m, d, a_m, b_m, table, width, PRODUCT)
    r = tl.arange(0, ROWS)
    own, slot = r // SLOTS, r % SLOTS
    e = tl.arange(0, BATCH)[:, None, None]
    i = tl.arange(0, TILE)[None, :, None]
    j = tl.arange(0, TILE)[None, None, :]
    i_set = e * PACK + i // SLOTS
    same = (i // SLOTS == j // SLOTS) & (e >= 0)
    forth = i_set * r_b + i % SLOTS * r_q + j % SLOTS
    score_at = e * heads * (TILE * TILE) + i * TILE + j
    # A loop over one group is unrolled: tables then need not be kept in registers.
    turns = 1 if ONCE else tl.cdiv(tl.cdiv(sets, GROUP) - tl.program_id(0), tl.num_programs(0))
    for turn in tl.range(0, turns, num_stages=STAGES):
        group = tl.program_id(0) + turn * tl.num_programs(0)
        first = tl.cast(group, tl.int64) * GROUP
        q_at = q + first * q_b + h * q_h + (own * q_b + slot * q_n)[:, None] + d[None, :]
        k_at = k + first * k_b + h * k_h + (own * k_b + slot * k_n)[:, None] + d[None, :]
        v_at = v + first * v_b + h * v_h + (own * v_b + slot * v_n)[:, None] + d[None, :]
        g_at = g + first * g_b + h * g_h + (own * g_b + slot * g_n)[:, None] + d[None, :]
        dv_at = dv + first * dv_b + h * dv_h + (own * dv_b + slot * dv_n)[:, None] + d[None, :]
        r_at = relation + first * r_b + forth
        if EVEN:
            q_tile = tl.load(q_at).to(PRODUCT)
            k_tile = tl.load(k_at).to(PRODUCT)
            index = tl.load(r_at, mask=same, other=-1).to(tl.int32)
            v_tile = tl.load(v_at).to(PRODUCT)
            g_tile = tl.load(g_at).to(PRODUCT)
        else:
            left = sets - group * GROUP
            wide = (d < width)[None, :]
            row_in = ((own < left) & (slot < queries))[:, None] & wide
            key_in = ((own < left) & (slot < keys))[:, None] & wide
            q_tile = tl.load(q_at, mask=row_in, other=0.0).to(PRODUCT)
            k_tile = tl.load(k_at, mask=key_in, other=0.0).to(PRODUCT)
            pair = same & (i_set < left) & (i % SLOTS < queries) & (j % SLOTS < keys)
            index = tl.load(r_at, mask=pair, other=-1).to(tl.int32)
            v_tile = tl.load(v_at, mask=key_in, other=0.0).to(PRODUCT)
            g_tile = tl.load(g_at, mask=row_in, other=0.0).to(PRODUCT)
        k_3 = tl.permute(tl.reshape(k_tile, (BATCH, TILE, WIDTH)), (0, 2, 1))
        scores = _by_set(tl.reshape(q_tile, (BATCH, TILE, WIDTH)), k_3)
        scores += _picks(q_tile, k_tile, index, a, b, constant, BATCH, TILE, PACKED)
        scores = tl.where(index >= 0, scores * (scale * 1.4426950408889634), float('-inf'))
        top = tl.max(scores, 2)
        weights = tl.exp2(scores - tl.where(top == float('-inf'), 0.0, top)[:, :, None])
        total = tl.sum(weights, 2)
        weights = weights * (1.0 / tl.where(total > 0.0, total, 1.0))[:, :, None]
        g_3 = tl.reshape(g_tile, (BATCH, TILE, WIDTH))
        d_v = _by_set(tl.permute(weights.to(PRODUCT), (0, 2, 1)), g_3)
        d_v = nearest(tl.reshape(d_v, (ROWS, WIDTH)), dv.dtype.element_ty)
        v_3 = tl.permute(tl.reshape(v_tile, (BATCH, TILE, WIDTH)), (0, 2, 1))
        d_weights = _by_set(g_3, v_3)
        mean = tl.sum(weights * d_weights, 2)
        d_score = weights * (d_weights - mean[:, :, None]) * scale  # zero between sets
        at = score + (first // PACK * heads + h) * (TILE * TILE) + score_at
        if EVEN:
            tl.store(dv_at, d_v)
            tl.store(at, nearest(d_score, score.dtype.element_ty))
        else:
            tl.store(dv_at, d_v, mask=key_in)
            there = (e * PACK < left) & (i >= 0) & (j >= 0)
            tl.store(at, nearest(d_score, score.dtype.element_ty), mask=there)


@triton.jit
def _owed(
    relation, score, member, tiles, sets, heads, queries, keys, r_b, r_q,
    SLOTS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr, QUERY: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """(members, COLUMNS, 16) debts to row 16 c + r of a table; column h * PARTS + c is of head h."""
    TILE: tl.constexpr = SLOTS if SLOTS > 16 else 16
    PACK: tl.constexpr = TILE // SLOTS
    tile, i = (member // TILE).to(tl.int64), member % TILE
    own, slot = tile * PACK + i // SLOTS, i % SLOTS
    j = tl.arange(0, TILE)
    pair = (own < sets)[:, None] & ((i // SLOTS)[:, None] == (j // SLOTS)[None, :])
    base = own * r_b
    if QUERY:
        pair = pair & (slot < queries)[:, None] & (j % SLOTS < keys)[None, :]
        at = relation + (base + slot * r_q)[:, None] + (j % SLOTS)[None, :]
    else:
        pair = pair & (slot < keys)[:, None] & (j % SLOTS < queries)[None, :]
        at = relation + (base + slot)[:, None] + (j % SLOTS * r_q)[None, :]
    which = tl.load(at, mask=pair, other=-1).to(tl.int32)
    column = tl.arange(0, COLUMNS)
    head = column // PARTS
    at = tile * heads * (TILE * TILE) + (i * TILE if QUERY else i)
    at = score + at[:, None, None] + (j if QUERY else j * TILE)[None, None, :]
    there = (tile < tiles)[:, None, None] & (head < heads)[None, :, None] & (j >= 0)[None, None, :]
    value = tl.load(at + (head * (TILE * TILE))[None, :, None], mask=there, other=0.0).to(PRODUCT)
    left = tl.where((which >> 4)[:, None, :] == (column % PARTS)[None, :, None], value, 0.0).to(PRODUCT)
    right = tl.where((which & 15)[:, :, None] == tl.arange(0, 16)[None, None, :], 1.0, 0.0).to(PRODUCT)
    return tl.dot(left, right, input_precision='ieee')


@triton.jit
def _debts(
    relation, score, owed_queries, owed_keys, r_b, r_q, tiles, sets, heads, queries, keys,
    SLOTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TABLE: tl.constexpr, PRODUCT: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """What ROWS queries (program_id(1) = 0) or keys owe to the other side's table, for all heads at once."""
    PARTS: tl.constexpr = TABLE // 16
    TILE: tl.constexpr = SLOTS if SLOTS > 16 else 16
    member = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    head = column // PARTS
    to = (head.to(tl.int64)[None, :, None] * tiles * TILE + member[:, None, None]) * TABLE
    to += (column % PARTS * 16)[None, :, None] + tl.arange(0, 16)[None, None, :]
    here = (
        (member < tiles * TILE)[:, None, None] & (head < heads)[None, :, None] & (tl.arange(0, 16) >= 0)[None, None, :]
    )
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()  # for the scores
    if tl.program_id(1) == 0:
        debts = _owed(
            relation, score, member, tiles, sets, heads, queries, keys, r_b, r_q, SLOTS, COLUMNS, PARTS, True, PRODUCT
        )
        tl.store(owed_queries + to, nearest(debts, owed_queries.dtype.element_ty), mask=here)
    else:
        debts = _owed(
            relation, score, member, tiles, sets, heads, queries, keys, r_b, r_q, SLOTS, COLUMNS, PARTS, False, PRODUCT
        )
        tl.store(owed_keys + to, nearest(debts, owed_keys.dtype.element_ty), mask=here)


@triton.jit
def _rows(
    q, k, dq, dk, query_table, key_table, score, owed_queries, owed_keys, shares, sums,
    q_b, q_h, q_n, k_b, k_h, k_n, dq_b, dq_h, dq_n, dk_b, dk_h, dk_n, a_m, a_h, b_m, b_h,
    tiles, sets, heads, queries, keys, table, width,
    SLOTS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, TABLE: tl.constexpr, EVEN: tl.constexpr,
    PRODUCT: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Gradients of queries and keys, and this program's share of those of both tables."""
    TILE: tl.constexpr = SLOTS if SLOTS > 16 else 16
    BATCH: tl.constexpr = ROWS // TILE
    GROUP: tl.constexpr = ROWS // SLOTS
    h = tl.program_id(1).to(tl.int64)
    d = tl.arange(0, WIDTH)
    m = tl.arange(0, TABLE)
    wide = (d < width)[None, :]
    there = (m < table)[:, None] & wide
    a = tl.load(query_table + h * a_h + m[:, None] * a_m + d[None, :], mask=there, other=0.0).to(PRODUCT)
    b = tl.load(key_table + h * b_h + m[:, None] * b_m + d[None, :], mask=there, other=0.0).to(PRODUCT)
    r = tl.arange(0, ROWS)
    own, slot = r // SLOTS, r % SLOTS
    e = tl.arange(0, BATCH)[:, None, None]
    i = tl.arange(0, TILE)[None, :, None]
    j = tl.arange(0, TILE)[None, None, :]
    pair_at = e * heads * (TILE * TILE) + i * TILE + j
    share_a = tl.zeros((TABLE, WIDTH), tl.float32)
    share_b = tl.zeros((TABLE, WIDTH), tl.float32)
    debt = tl.zeros((TABLE,), tl.float32)
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()  # for scores and debts
    for group in tl.range(tl.program_id(0), tl.cdiv(sets, GROUP), tl.num_programs(0), num_stages=STAGES):
        first = tl.cast(group, tl.int64) * GROUP
        q_at = q + first * q_b + h * q_h + (own * q_b + slot * q_n)[:, None] + d[None, :]
        k_at = k + first * k_b + h * k_h + (own * k_b + slot * k_n)[:, None] + d[None, :]
        dq_at = dq + first * dq_b + h * dq_h + (own * dq_b + slot * dq_n)[:, None] + d[None, :]
        dk_at = dk + first * dk_b + h * dk_h + (own * dk_b + slot * dk_n)[:, None] + d[None, :]
        tile = group * BATCH
        pairs_at = score + (tl.cast(tile, tl.int64) * heads + h) * (TILE * TILE) + pair_at
        owed_at = ((h * tiles + tile) * TILE + r)[:, None] * TABLE + m[None, :]
        if EVEN:
            q_tile = tl.load(q_at).to(PRODUCT)
            k_tile = tl.load(k_at).to(PRODUCT)
            pairs = tl.load(pairs_at).to(PRODUCT)
            owed_q = tl.load(owed_queries + owed_at).to(PRODUCT)
            owed_k = tl.load(owed_keys + owed_at).to(PRODUCT)
        else:
            left = sets - group * GROUP
            row_in = ((own < left) & (slot < queries))[:, None] & wide
            key_in = ((own < left) & (slot < keys))[:, None] & wide
            q_tile = tl.load(q_at, mask=row_in, other=0.0).to(PRODUCT)
            k_tile = tl.load(k_at, mask=key_in, other=0.0).to(PRODUCT)
            pairs = tl.load(pairs_at, mask=(tile + e < tiles) & (i >= 0) & (j >= 0), other=0.0).to(PRODUCT)
            owed_in = (tile * TILE + r < tiles * TILE)[:, None] & (m >= 0)[None, :]
            owed_q = tl.load(owed_queries + owed_at, mask=owed_in, other=0.0).to(PRODUCT)
            owed_k = tl.load(owed_keys + owed_at, mask=owed_in, other=0.0).to(PRODUCT)
        q_3 = tl.reshape(q_tile, (BATCH, TILE, WIDTH))
        k_3 = tl.reshape(k_tile, (BATCH, TILE, WIDTH))
        near = tl.reshape(_by_set(pairs, k_3), (ROWS, WIDTH))
        d_q = nearest(tl.dot(owed_q, b, near, input_precision='ieee'), dq.dtype.element_ty)
        near = tl.reshape(_by_set(tl.permute(pairs, (0, 2, 1)), q_3), (ROWS, WIDTH))
        d_k = nearest(tl.dot(owed_k, a, near, input_precision='ieee'), dk.dtype.element_ty)
        if EVEN:
            tl.store(dq_at, d_q)
            tl.store(dk_at, d_k)
        else:
            tl.store(dq_at, d_q, mask=row_in)
            tl.store(dk_at, d_k, mask=key_in)
        debt += tl.sum(owed_q.to(tl.float32), 0)
        share_b = tl.dot(tl.trans(owed_q), q_tile, share_b, input_precision='ieee')
        share_a = tl.dot(tl.trans(owed_k), k_tile, share_a, input_precision='ieee')
    to = (tl.program_id(0) * heads + h) * TABLE
    at = (to + m)[:, None] * WIDTH + d[None, :]
    tl.store(shares + at, share_a)
    tl.store(shares + tl.num_programs(0).to(tl.int64) * heads * (TABLE * WIDTH) + at, share_b)
    tl.store(sums + to + m, debt)


@triton.jit
def _add(
    shares, sums, query_table, key_table, d_query, d_key, a_m, a_h, b_m, b_h, programs, table, width,
    TABLE: tl.constexpr, WIDTH: tl.constexpr, PART: tl.constexpr, SPAN: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """PART rows of both tables of one head; a pair's own a_m . b_m is among its scores, and `sums` counts it."""
    h = tl.program_id(1).to(tl.int64)
    heads = tl.num_programs(1)
    m = tl.program_id(0) * PART + tl.arange(0, PART)
    d = tl.arange(0, WIDTH)
    inside = (m < table)[:, None] & (d < width)[None, :]
    a = tl.load(query_table + m[:, None] * a_m + h * a_h + d[None, :], mask=inside, other=0.0).to(tl.float32)
    b = tl.load(key_table + m[:, None] * b_m + h * b_h + d[None, :], mask=inside, other=0.0).to(tl.float32)
    share_a = tl.zeros((SPAN, PART, WIDTH), tl.float32)
    share_b = tl.zeros((SPAN, PART, WIDTH), tl.float32)
    both = tl.zeros((SPAN, PART), tl.float32)
    other = tl.cast(programs, tl.int64) * heads * (TABLE * WIDTH)
    if EARLY:
        gdc_wait()  # for the shares
    for start in tl.range(0, programs, SPAN):
        program = start + tl.arange(0, SPAN)
        here = (program < programs)[:, None] & (m >= 0)[None, :]
        to = (program * heads + h)[:, None] * TABLE + m[None, :]
        at = shares + to[:, :, None] * WIDTH + d[None, None, :]
        every = here[:, :, None] & (d >= 0)[None, None, :]
        share_a += tl.load(at, mask=every, other=0.0)
        share_b += tl.load(at + other, mask=every, other=0.0)
        both += tl.load(sums + to, mask=here, other=0.0)
    counted = tl.sum(both, 0)[:, None]
    to = (m[:, None] * heads + h) * width + d[None, :]
    tl.store(d_query + to, nearest(tl.sum(share_a, 0) + counted * b, d_query.dtype.element_ty), mask=inside)
    tl.store(d_key + to, nearest(tl.sum(share_b, 0) + counted * a, d_key.dtype.element_ty), mask=inside)


def settings(slots: int, item_bytes: int) -> Config:
    """See `Config`."""
    if item_bytes > 2:  # what is fastest in half precision does not fit the chip
        return (32, 4, 1, 0, None), (8, 4), (32, 4, 1, 2, None)
    if slots <= 16:
        return (64, 4, 2, 2, None), (8, 4), (128, 8, 3, 1, None)
    return (32, 4, 3, 3, 168), (8, 4), (32, 4, 3, 3, 168)


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
    config: Config | None = None,
    packed: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and both tables. `config` replaces `settings`; it and `packed` are for tuning and tests."""
    q, k, v, query_table, key_table, relation, gradient = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v, query_table, key_table, relation, gradient)
    )
    sets, heads, queries, width = q.shape
    keys, table = k.shape[2], query_table.shape[0]
    first, middle, last = config or settings(power_of_two(max(queries, keys), 8), q.element_size())
    packed = packs(q, table) if packed is None else packed
    wide, padded = power_of_two(width), power_of_two(table, 64 if packed else 16)
    product, early = interpreter_product(q.dtype), starts_early(q)
    slots, rows = geometry(queries, keys, first[0])
    side_rows = geometry(queries, keys, last[0])[1]
    tile = max(slots, 16)
    tiles = triton.cdiv(sets, tile // slots)
    groups = triton.cdiv(sets, rows // slots)
    side_groups = triton.cdiv(sets, side_rows // slots)
    programs = min(groups, triton.cdiv(PROCESSORS * first[3], heads)) if first[3] else groups
    count = min(side_groups, triton.cdiv(PROCESSORS * last[3], heads))

    def of(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=q.device)

    d_q, d_k, d_v = of(q.shape, q.dtype), of(k.shape, k.dtype), of(k.shape, v.dtype)
    d_query, d_key = (of((table, heads, width), x.dtype) for x in (query_table, key_table))
    score = of((tiles, heads, tile, tile), q.dtype)
    owed_queries, owed_keys = (of((heads, tiles * tile, padded), q.dtype) for _ in range(2))
    shares, sums = of((2, count, heads, padded, wide), torch.float32), of((count, heads, padded), torch.float32)
    whole = queries == keys == slots and width == wide
    sizes = {'SLOTS': slots, 'WIDTH': wide, 'TABLE': padded, 'PRODUCT': product, 'EARLY': early}
    with on_device_of(q):
        _scores[(programs, heads)](
            q, k, v, gradient, d_v, query_table, key_table, relation, score,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *gradient.stride()[:3], *d_v.stride()[:3],
            *query_table.stride()[:2], *key_table.stride()[:2], *relation.stride()[:2],
            sets, heads, queries, keys, table, width, scale,
            ROWS=rows, EVEN=whole and sets % (rows // slots) == 0, PACKED=packed, STAGES=first[2],
            ONCE=programs == groups, num_warps=first[1], maxnreg=first[4], **sizes,
        )  # fmt: skip
        _debts[(triton.cdiv(tiles * tile, middle[0]), 2)](
            relation, score, owed_queries, owed_keys, *relation.stride()[:2], tiles, sets, heads, queries, keys,
            SLOTS=slots, ROWS=middle[0], COLUMNS=power_of_two(heads * padded // 16), TABLE=padded,
            PRODUCT=product, EARLY=early, num_warps=middle[1], launch_pdl=early,
        )  # fmt: skip
        _rows[(count, heads)](
            q, k, d_q, d_k, query_table, key_table, score, owed_queries, owed_keys, shares, sums,
            *q.stride()[:3], *k.stride()[:3], *d_q.stride()[:3], *d_k.stride()[:3],
            *query_table.stride()[:2], *key_table.stride()[:2], tiles, sets, heads, queries, keys, table, width,
            ROWS=side_rows, EVEN=whole and sets % (side_rows // slots) == 0, STAGES=last[2],
            num_warps=last[1], maxnreg=last[4], launch_pdl=early, **sizes,
        )  # fmt: skip
        _add[(triton.cdiv(padded, 2), heads)](
            shares, sums, query_table, key_table, d_query, d_key,
            *query_table.stride()[:2], *key_table.stride()[:2], count, table, width,
            TABLE=padded, WIDTH=wide, PART=2, SPAN=16, EARLY=early, num_warps=4, launch_pdl=early,
        )  # fmt: skip
    return d_q, d_k, d_v, d_query, d_key
