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
def _take_in(scores, v_tile, acc, total, top, PRODUCT: tl.constexpr):
    """One tile of keys: weighted values, sums of weights and maxima with it (online softmax, base 2)."""
    higher = tl.maximum(top, tl.max(scores, 1))
    kept = tl.exp2(top - higher)
    weights = tl.exp2(scores - higher[:, None])
    total = total * kept + tl.sum(weights, 1)
    acc = tl.dot(weights.to(PRODUCT), v_tile, acc * kept[:, None], input_precision='ieee')
    return acc, total, higher


@triton.jit
def _flash(
    q, k, v, o, by_query, by_key, relation,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, o_b, o_h, o_n, r_b, r_q, heads, queries, keys, width, scale,
    ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, TABLE: tl.constexpr, EVEN: tl.constexpr,
    PRODUCT: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One query tile of one head over all keys."""
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
    acc = tl.zeros((ROWS, WIDTH), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    top = tl.full((ROWS,), -1.0e30, tl.float32)
    for start in tl.range(0, keys, KEYS, num_stages=STAGES):
        n = start + tl.arange(0, KEYS)
        k_at = k + n.to(tl.int64)[:, None] * k_n + d[None, :]
        v_at = v + n.to(tl.int64)[:, None] * v_n + d[None, :]
        r_at = relation + row.to(tl.int64)[:, None] * r_q + n[None, :]
        if EVEN:
            index = tl.load(r_at)
            k_tile = tl.load(k_at).to(PRODUCT)
            v_tile = tl.load(v_at).to(PRODUCT)
        else:
            key_in = (n < keys)[:, None] & (d < width)[None, :]
            index = tl.load(r_at, mask=row_in[:, None] & (n < keys)[None, :], other=-1)
            k_tile = tl.load(k_at, mask=key_in, other=0.0).to(PRODUCT)
            v_tile = tl.load(v_at, mask=key_in, other=0.0).to(PRODUCT)
        mine, theirs = _picked(by_query, by_key, index, row, n, TABLE)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision='ieee')
        scores = (scores + (mine.to(tl.float32) + tl.trans(theirs).to(tl.float32))) * scale
        acc, total, top = _take_in(scores, v_tile, acc, total, top, PRODUCT)
    acc = acc * (1.0 / tl.where(total > 0.0, total, 1.0))[:, None]
    o_at = o + set_ * o_b + h * o_h + row.to(tl.int64)[:, None] * o_n + d[None, :]
    if EVEN:
        tl.store(o_at, acc.to(o.dtype.element_ty))
    else:
        tl.store(o_at, acc.to(o.dtype.element_ty), mask=row_in[:, None] & (d < width)[None, :])


def settings(queries: int, item_bytes: int) -> tuple[int, int, int, int]:
    """Rows and keys of a tile, warps, stages."""
    if queries < 512:
        return 16, 128, 4, 1
    return 32, 256 if item_bytes <= 2 else 128, 8, 1


def flash_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    relation: Tensor,
    *,
    scale: float,
    config: tuple[int, int, int, int] | None = None,
) -> Tensor:
    """See `attn_robotics.kernels.relation`; last axes are contiguous. `config` replaces `settings` when tuning."""
    sets, heads, queries, width = q.shape
    keys, table = k.shape[2], query_table.shape[0]
    rows, columns, warps, stages = config or settings(queries, q.element_size())
    padded, wide, product, early = (
        power_of_two(table),
        power_of_two(width),
        interpreter_product(q.dtype),
        starts_early(q),
    )
    out = torch.empty(q.shape, dtype=v.dtype, device=q.device)
    by_query = torch.empty((sets * heads, queries, padded), dtype=q.dtype, device=q.device)
    by_key = torch.empty((sets * heads, keys, padded), dtype=q.dtype, device=q.device)
    with on_device_of(q):
        _products[(triton.cdiv(max(queries, keys), 32), sets * heads, 2)](
            q, k, query_table, key_table, by_query, by_key,
            *q.stride()[:3], *k.stride()[:3], *query_table.stride()[:2], *key_table.stride()[:2],
            heads, queries, keys, table, width,
            ROWS=32, WIDTH=wide, TABLE=padded, PRODUCT=product, EARLY=early, num_warps=4,
        )  # fmt: skip
        _flash[(triton.cdiv(queries, rows), sets * heads)](
            q, k, v, out, by_query, by_key, relation,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3], *relation.stride()[:2],
            heads, queries, keys, width, scale * LOG2_E,
            ROWS=rows, KEYS=columns, WIDTH=wide, TABLE=padded, PRODUCT=product, STAGES=stages,
            EVEN=queries % rows == 0 and keys % columns == 0 and width == wide,
            EARLY=early, num_warps=warps, launch_pdl=early,
        )  # fmt: skip
    return out
