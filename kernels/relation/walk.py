"""Relation attention over many members in one launch: products with the tables stay on the chip.

A program takes a tile of queries of one head, multiplies them with one table once and each tile of keys with the other,
the table on the left: matrix units then read it from shared memory. What pairs pick is gathered from those products.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import LOG2_E, interpreter_product, on_device_of, power_of_two
from attn_robotics.kernels.relation.flash import _take_in
from attn_robotics.kernels.relation.sets import _pack_rows, _table_rows, _tables, _unpack, packs


@triton.jit
def _walk(
    q, k, v, o, query_table, key_table, relation,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, o_b, o_h, o_n, a_m, a_h, b_m, b_h, r_b, r_q,
    heads, queries, keys, table, width, scale,
    ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, TABLE: tl.constexpr, EVEN: tl.constexpr,
    ONCE: tl.constexpr, PRODUCT: tl.constexpr, STAGES: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head over all keys; ONCE: they are one tile."""
    head = tl.program_id(1).to(tl.int64)
    set_, h = head // heads, head % heads
    d = tl.arange(0, WIDTH)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row_in = row < queries
    relation += set_ * r_b
    k += set_ * k_b + h * k_h
    v += set_ * v_b + h * v_h
    n = tl.arange(0, KEYS)
    r_at = relation + row.to(tl.int64)[:, None] * r_q
    # Relations of a tile are loaded one tile ahead: everything else waits for them.
    ahead = tl.load(r_at + n[None, :], mask=row_in[:, None] & (n < keys)[None, :], other=-1)
    q_at = q + set_ * q_b + h * q_h + row.to(tl.int64)[:, None] * q_n + d[None, :]
    q_tile = tl.load(q_at, mask=row_in[:, None] & (d < width)[None, :], other=0.0).to(PRODUCT)
    m = _table_rows(TABLE, PACKED)
    a, b, constant = _tables(query_table + h * a_h, key_table + h * b_h, m, d, a_m, b_m, table, width, PRODUCT)
    by_query = tl.dot(b, tl.trans(q_tile), input_precision='ieee') + constant[:, None]
    if PACKED:
        by_query = _pack_rows(by_query)
    acc = tl.zeros((ROWS, WIDTH), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    top = tl.full((ROWS,), -1.0e30, tl.float32)
    for start in tl.range(0, KEYS if ONCE else keys, KEYS, num_stages=STAGES):
        n = start + tl.arange(0, KEYS)
        k_at = k + n.to(tl.int64)[:, None] * k_n + d[None, :]
        v_at = v + n.to(tl.int64)[:, None] * v_n + d[None, :]
        if EVEN:
            k_tile = tl.load(k_at).to(PRODUCT)
            v_tile = tl.load(v_at).to(PRODUCT)
        else:
            key_in = (n < keys)[:, None] & (d < width)[None, :]
            k_tile = tl.load(k_at, mask=key_in, other=0.0).to(PRODUCT)
            v_tile = tl.load(v_at, mask=key_in, other=0.0).to(PRODUCT)
        index = ahead.to(tl.int32)
        if not ONCE:
            n += KEYS
            ahead = tl.load(r_at + n[None, :], mask=row_in[:, None] & (n < keys)[None, :], other=-1)
        turned = tl.trans(index)
        by_key = tl.dot(a, tl.trans(k_tile), input_precision='ieee')
        if PACKED:
            mine = _unpack(tl.gather(by_query, turned & 31, 0), turned)
            theirs = _unpack(tl.gather(_pack_rows(by_key), index & 31, 0), index)
        else:
            mine = tl.gather(by_query, tl.maximum(turned, 0), 0)
            theirs = tl.gather(by_key, tl.maximum(index, 0), 0)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision='ieee') + tl.trans(mine) + theirs
        scores = tl.where(index >= 0, scores * scale, float('-inf'))
        acc, total, top = _take_in(scores, v_tile, acc, total, top, PRODUCT)
    acc = acc * (1.0 / tl.where(total > 0.0, total, 1.0))[:, None]
    o_at = o + set_ * o_b + h * o_h + row.to(tl.int64)[:, None] * o_n + d[None, :]
    tl.store(o_at, acc.to(o.dtype.element_ty), mask=row_in[:, None] & (d < width)[None, :])


def walk_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    relation: Tensor,
    *,
    scale: float,
    config: tuple[int, int, int, int] = (16, 128, 4, 1),
    packed: bool | None = None,
) -> Tensor:
    """See `attn_robotics.kernels.relation`; last axes are contiguous. `config`: rows, keys, warps, stages."""
    sets, heads, queries, width = q.shape
    keys, table = k.shape[2], query_table.shape[0]
    rows, columns, warps, stages = config
    packed = packs(q, table) if packed is None else packed
    out = torch.empty(q.shape, dtype=v.dtype, device=q.device)
    wide = power_of_two(width)
    with on_device_of(q):
        _walk[(triton.cdiv(queries, rows), sets * heads)](
            q, k, v, out, query_table, key_table, relation,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            *query_table.stride()[:2], *key_table.stride()[:2], *relation.stride()[:2],
            heads, queries, keys, table, width, scale * LOG2_E,
            ROWS=rows, KEYS=columns, WIDTH=wide, TABLE=power_of_two(table, 64 if packed else 16),
            EVEN=keys % columns == 0 and width == wide, ONCE=keys <= columns, PRODUCT=interpreter_product(q.dtype),
            STAGES=stages, PACKED=packed, num_warps=warps,
        )  # fmt: skip
    return out
