"""Relation attention over many members: products with the tables first, then flash attention that picks from them.

Every member's product with every row of the other side's table goes to memory once (rows of one cache line in half
precision); the second kernel reads two of them per pair. It starts while the first one ends where the GPU can do that.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from attn_robotics.kernels.launch import LOG2_E, interpreter_product, on_device_of, power_of_two, starts_early
from attn_robotics.kernels.relation.sets import _tables


@triton.jit
def _products(
    q, k, query_table, key_table, by_query, by_key,
    q_b, q_h, q_n, k_b, k_h, k_n, a_m, a_h, b_m, b_h, heads, queries, keys, table, width,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, TABLE: tl.constexpr, PRODUCT: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One tile of queries (program_id(2) = 0) or keys of one head, times the table of the other side."""
    if EARLY:
        gdc_launch_dependents()
    row = tl.program_id(1).to(tl.int64)
    set_, h = row // heads, row % heads
    d = tl.arange(0, WIDTH)
    m = tl.arange(0, TABLE)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    a, b, constant = _tables(query_table + h * a_h, key_table + h * b_h, m, d, a_m, b_m, table, width, PRODUCT)
    if tl.program_id(2) == 0:
        inside = n < queries
        at = q + set_ * q_b + h * q_h + n.to(tl.int64)[:, None] * q_n + d[None, :]
        x = tl.load(at, mask=inside[:, None] & (d < width)[None, :], other=0.0).to(PRODUCT)
        y = tl.dot(x, tl.trans(b), input_precision='ieee') + constant[None, :]
        to = by_query + (row * queries + n)[:, None] * TABLE + m[None, :]
    else:
        inside = n < keys
        at = k + set_ * k_b + h * k_h + n.to(tl.int64)[:, None] * k_n + d[None, :]
        x = tl.load(at, mask=inside[:, None] & (d < width)[None, :], other=0.0).to(PRODUCT)
        y = tl.dot(x, tl.trans(a), input_precision='ieee')
        to = by_key + (row * keys + n)[:, None] * TABLE + m[None, :]
    tl.store(to, y.to(by_query.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _picked(by_query, by_key, index, row, n, TABLE: tl.constexpr):
    """Both picks of every pair, the second ones keys by queries; -inf where a pair is masked."""
    # A hint that is not true keeps a warp on few rows of the products: their numbers are not neighbours, but rows are
    # one cache line. Accesses stay single numbers, since their alignment is known to be that of one.
    index = index.to(tl.int32)
    turned = tl.trans(index)
    mine_at = tl.max_contiguous(row[:, None] * TABLE + index, (1, 16))
    theirs_at = tl.max_contiguous(n[:, None] * TABLE + turned, (1, 16))
    mine = tl.load(by_query + mine_at, mask=index >= 0, other=float('-inf'))
    return mine, tl.load(by_key + theirs_at, mask=turned >= 0, other=0.0)


@triton.jit
def _flash(
    q, k, v, o, by_query, by_key, relation, shares, totals, tops,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, o_b, o_h, o_n, r_b, r_q, heads, queries, keys, width, scale,
    ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, TABLE: tl.constexpr, EVEN: tl.constexpr,
    PRODUCT: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr, SPLITS: tl.constexpr,
    AHEAD: tl.constexpr,
):  # fmt: skip
    """One query tile of one head over all keys, or over one of SPLITS spans of them."""
    head = tl.program_id(1).to(tl.int64)
    set_, h = head // heads, head % heads
    d = tl.arange(0, WIDTH)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row_in = row < queries
    q_at = q + set_ * q_b + h * q_h + row.to(tl.int64)[:, None] * q_n + d[None, :]
    if EVEN:
        q_tile = tl.load(q_at).to(PRODUCT)
    else:
        q_tile = tl.load(q_at, mask=row_in[:, None] & (d < width)[None, :], other=0.0).to(PRODUCT)
    by_query += head * queries * TABLE
    by_key += head * keys * TABLE
    relation += set_ * r_b
    k += set_ * k_b + h * k_h
    v += set_ * v_b + h * v_h
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()  # for the products
    first, last = 0, keys
    if SPLITS > 1:
        span = tl.cdiv(tl.cdiv(keys, SPLITS), KEYS) * KEYS
        first = tl.program_id(2) * span
        last = tl.minimum(first + span, keys)
    acc = tl.zeros((ROWS, WIDTH), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    top = tl.full((ROWS,), -1.0e30, tl.float32)
    if AHEAD:  # picks are loaded one tile, relations two tiles before they are needed
        ahead_at = relation + row.to(tl.int64)[:, None] * r_q
        n = first + tl.arange(0, KEYS)
        ahead = tl.load(ahead_at + n[None, :], mask=row_in[:, None] & (n < keys)[None, :], other=-1)
        mine, theirs = _picked(by_query, by_key, ahead, row, n, TABLE)
        n += KEYS
        ahead = tl.load(ahead_at + n[None, :], mask=row_in[:, None] & (n < keys)[None, :], other=-1)
    for start in tl.range(first, last, KEYS, num_stages=STAGES):
        n = start + tl.arange(0, KEYS)
        k_at = k + n.to(tl.int64)[:, None] * k_n + d[None, :]
        v_at = v + n.to(tl.int64)[:, None] * v_n + d[None, :]
        r_at = relation + row.to(tl.int64)[:, None] * r_q + n[None, :]
        if EVEN:
            if not AHEAD:
                index = tl.load(r_at)
            k_tile = tl.load(k_at).to(PRODUCT)
            v_tile = tl.load(v_at).to(PRODUCT)
        else:
            key_in = (n < keys)[:, None] & (d < width)[None, :]
            if not AHEAD:
                index = tl.load(r_at, mask=row_in[:, None] & (n < keys)[None, :], other=-1)
            k_tile = tl.load(k_at, mask=key_in, other=0.0).to(PRODUCT)
            v_tile = tl.load(v_at, mask=key_in, other=0.0).to(PRODUCT)
        if AHEAD:
            next_mine, next_theirs = _picked(by_query, by_key, ahead, row, n + KEYS, TABLE)
            n += 2 * KEYS
            ahead = tl.load(ahead_at + n[None, :], mask=row_in[:, None] & (n < keys)[None, :], other=-1)
        else:
            mine, theirs = _picked(by_query, by_key, index, row, n, TABLE)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision='ieee')
        scores = (scores + (mine.to(tl.float32) + tl.trans(theirs).to(tl.float32))) * scale
        higher = tl.maximum(top, tl.max(scores, 1))
        kept = tl.exp2(top - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * kept + tl.sum(weights, 1)
        acc = tl.dot(weights.to(PRODUCT), v_tile, acc * kept[:, None], input_precision='ieee')
        top = higher
        if AHEAD:
            mine, theirs = next_mine, next_theirs
    if SPLITS > 1:
        to = (head * SPLITS + tl.program_id(2)) * queries + row
        tl.store(shares + to[:, None] * WIDTH + d[None, :], acc, mask=row_in[:, None])
        tl.store(totals + to, total, mask=row_in)
        tl.store(tops + to, top, mask=row_in)
    else:
        acc = acc * (1.0 / tl.where(total > 0.0, total, 1.0))[:, None]
        o_at = o + set_ * o_b + h * o_h + row.to(tl.int64)[:, None] * o_n + d[None, :]
        if EVEN:
            tl.store(o_at, acc.to(o.dtype.element_ty))
        else:
            tl.store(o_at, acc.to(o.dtype.element_ty), mask=row_in[:, None] & (d < width)[None, :])


@triton.jit
def _join_spans(
    shares, totals, tops, o, o_b, o_h, o_n, heads, queries, width,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Bring the spans' shares of one query tile to a common maximum and add them."""
    head = tl.program_id(1).to(tl.int64)
    set_, h = head // heads, head % heads
    d = tl.arange(0, WIDTH)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row_in = row < queries
    if EARLY:
        gdc_wait()  # for the shares
    top = tl.full((ROWS,), -1.0e30, tl.float32)
    for split in tl.static_range(SPLITS):
        top = tl.maximum(top, tl.load(tops + (head * SPLITS + split) * queries + row, mask=row_in, other=-1.0e30))
    acc = tl.zeros((ROWS, WIDTH), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for split in tl.static_range(SPLITS):
        at = (head * SPLITS + split) * queries + row
        kept = tl.exp2(tl.load(tops + at, mask=row_in, other=-1.0e30) - top)
        total += kept * tl.load(totals + at, mask=row_in, other=0.0)
        acc += kept[:, None] * tl.load(shares + at[:, None] * WIDTH + d[None, :], mask=row_in[:, None], other=0.0)
    acc = acc * (1.0 / tl.where(total > 0.0, total, 1.0))[:, None]
    o_at = o + set_ * o_b + h * o_h + row.to(tl.int64)[:, None] * o_n + d[None, :]
    tl.store(o_at, acc.to(o.dtype.element_ty), mask=row_in[:, None] & (d < width)[None, :])


def settings(queries: int, keys: int) -> tuple[int, int, int, int, int]:
    """Rows and keys of a tile, warps, stages, spans of keys."""
    return (32, 128, 8, 1, 1) if queries >= 512 else (16, 128, 4, 1, 1)


def flash_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    relation: Tensor,
    *,
    scale: float,
    config: tuple[int, int, int, int, int] | None = None,
    ahead: bool = False,
) -> Tensor:
    """See `attn_robotics.kernels.relation`; last axes are contiguous. `config` replaces `settings` when tuning.

    `ahead`: picks are loaded while the tile before is computed.
    """
    sets, heads, queries, width = q.shape
    keys, table = k.shape[2], query_table.shape[0]
    rows, columns, warps, stages, splits = config or settings(queries, keys)
    padded, wide, product, early = (
        power_of_two(table),
        power_of_two(width),
        interpreter_product(q.dtype),
        starts_early(q),
    )
    out = torch.empty(q.shape, dtype=v.dtype, device=q.device)
    by_query = torch.empty((sets * heads, queries, padded), dtype=q.dtype, device=q.device)
    by_key = torch.empty((sets * heads, keys, padded), dtype=q.dtype, device=q.device)
    shares = totals = tops = None
    if splits > 1:
        shares = torch.empty((sets * heads, splits, queries, wide), dtype=torch.float32, device=q.device)
        totals, tops = (torch.empty(shares.shape[:3], dtype=torch.float32, device=q.device) for _ in range(2))
    with on_device_of(q):
        _products[(triton.cdiv(max(queries, keys), 32), sets * heads, 2)](
            q, k, query_table, key_table, by_query, by_key,
            *q.stride()[:3], *k.stride()[:3], *query_table.stride()[:2], *key_table.stride()[:2],
            heads, queries, keys, table, width,
            ROWS=32, WIDTH=wide, TABLE=padded, PRODUCT=product, EARLY=early, num_warps=4,
        )  # fmt: skip
        _flash[(triton.cdiv(queries, rows), sets * heads, splits)](
            q, k, v, out, by_query, by_key, relation, shares, totals, tops,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3], *relation.stride()[:2],
            heads, queries, keys, width, scale * LOG2_E,
            ROWS=rows, KEYS=columns, WIDTH=wide, TABLE=padded, PRODUCT=product, STAGES=stages,
            EVEN=queries % rows == 0 and keys % columns == 0 and width == wide,
            EARLY=early, SPLITS=splits, AHEAD=ahead, num_warps=warps, launch_pdl=early,
        )  # fmt: skip
        if splits > 1:
            _join_spans[(triton.cdiv(queries, 8), sets * heads)](
                shares, totals, tops, out, *out.stride()[:3], heads, queries, width,
                ROWS=8, WIDTH=wide, SPLITS=splits, EARLY=early, num_warps=4, launch_pdl=early,
            )  # fmt: skip
    return out
