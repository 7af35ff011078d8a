"""Relation attention in one pass: the relation terms are gathered from tables that live on the chip.

With tables a, b of M rows, `(q_i + a_m) . (k_j + b_m) = q_i . k_j + (q_i + a_m) . b_m + a_m . k_j`. A program computes
its queries' products with all rows of b once and its keys' products with all rows of a per key tile, two small matrix
products, and then gathers two scalars per pair. Small sets share a tile: pairs of different sets are masked.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import LOG2_E, interpreter_product, on_device_of, power_of_two
from attn_robotics.kernels.relation.flash import _take_in, flash_forward
from attn_robotics.kernels.relation.sets import LARGEST, sets_forward
from attn_robotics.kernels.relation.walk import walk_forward

WALK_UP_TO = 128  # keys up to which `walk_forward` is chosen for at most WALK_ROWS queries of all heads
WALK_ROWS = 16 * 132
FLASH_FROM = 128  # keys from which `flash_forward` is chosen: faster in its rows of the benchmark


@triton.jit
def _relation(
    q, k, v, o, query_table, key_table, relation,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, o_b, o_h, o_n, a_m, a_h, b_m, b_h, r_b, r_q,
    sets, heads, queries, keys, table, width, scale,
    GROUP: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, TABLE: tl.constexpr,
    PRODUCT: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """GROUP sets of one head when GROUP > 0 (all their keys in one tile), else one query tile of one set."""
    h = (tl.program_id(1) % heads).to(tl.int64)
    d = tl.arange(0, WIDTH)
    inside = d < width
    row = tl.arange(0, ROWS)
    if GROUP > 0:
        row_set = (tl.program_id(0) * GROUP + row // queries).to(tl.int64)
        slot = row % queries
        row_real = (row < GROUP * queries) & (row_set < sets)
        last = KEYS
    else:
        row_set = (tl.program_id(1) // heads).to(tl.int64) + tl.zeros((ROWS,), tl.int64)
        slot = tl.program_id(0) * ROWS + row
        row_real = slot < queries
        last = keys
    q_at = q + row_set[:, None] * q_b + h * q_h + slot[:, None].to(tl.int64) * q_n + d[None, :]
    q_tile = tl.load(q_at, mask=row_real[:, None] & inside[None, :], other=0.0).to(PRODUCT)
    m = tl.arange(0, TABLE)
    m_real = m < table
    both = m_real[None, :] & inside[:, None]
    b_t = tl.load(key_table + m[None, :] * b_m + h * b_h + d[:, None], mask=both, other=0.0)  # (WIDTH, TABLE)
    a_t = tl.load(query_table + m[None, :] * a_m + h * a_h + d[:, None], mask=both, other=0.0)
    constant = tl.sum(a_t.to(tl.float32) * b_t.to(tl.float32), 0)
    by_query = tl.dot(q_tile, b_t.to(PRODUCT), input_precision='ieee') + constant[None, :]  # (ROWS, TABLE)
    a_at = query_table + m[:, None] * a_m + h * a_h + d[None, :]
    a_tile = tl.load(a_at, mask=m_real[:, None] & inside[None, :], other=0.0).to(PRODUCT)
    acc = tl.zeros((ROWS, WIDTH), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    top = tl.full((ROWS,), -1.0e30, tl.float32)
    for start in tl.range(0, last, KEYS, num_stages=STAGES):
        n = start + tl.arange(0, KEYS)
        if GROUP > 0:
            key_set = (tl.program_id(0) * GROUP + n // keys).to(tl.int64)
            key_slot = n % keys
            key_real = (n < GROUP * keys) & (key_set < sets)
        else:
            key_set = (tl.program_id(1) // heads).to(tl.int64) + tl.zeros((KEYS,), tl.int64)
            key_slot = n
            key_real = n < keys
        k_at = k + key_set[None, :] * k_b + h * k_h + key_slot[None, :].to(tl.int64) * k_n + d[:, None]
        k_tile = tl.load(k_at, mask=key_real[None, :] & inside[:, None], other=0.0).to(PRODUCT)
        v_at = v + key_set[:, None] * v_b + h * v_h + key_slot[:, None].to(tl.int64) * v_n + d[None, :]
        v_tile = tl.load(v_at, mask=key_real[:, None] & inside[None, :], other=0.0).to(PRODUCT)
        pair = row_real[:, None] & key_real[None, :]
        if GROUP > 0:
            pair = pair & (row_set[:, None] == key_set[None, :])
        r_at = relation + row_set[:, None] * r_b + slot[:, None].to(tl.int64) * r_q + key_slot[None, :]
        index = tl.load(r_at, mask=pair, other=-1).to(tl.int32)
        pair = index >= 0
        index = tl.where(pair, index, 0)
        by_key = tl.dot(a_tile, k_tile, input_precision='ieee')  # (TABLE, KEYS)
        scores = tl.dot(q_tile, k_tile, input_precision='ieee')
        scores += tl.gather(by_query, index, 1) + tl.gather(by_key, index, 0)
        scores = tl.where(pair, scores * scale, float('-inf'))
        acc, total, top = _take_in(scores, v_tile, acc, total, top, PRODUCT)
    acc = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    o_at = o + row_set[:, None] * o_b + h * o_h + slot[:, None].to(tl.int64) * o_n + d[None, :]
    tl.store(o_at, acc.to(o.dtype.element_ty), mask=row_real[:, None] & inside[None, :])


def settings(sets: int, heads: int, queries: int, keys: int, table: int) -> tuple[int, int, int, int, int]:
    """Sets a program (0: tile one set), rows, keys, warps, stages."""
    if max(queries, keys) <= 64:
        group = max(1, min(64 // keys, 64 // queries, triton.cdiv(sets * heads, 264)))
        return group, power_of_two(group * queries), power_of_two(group * keys), 4, 1
    if sets * heads * queries <= 16 * 264:  # few rows: one wave of programs, each over many keys at once
        if table > 64:
            return 0, 16, 64, 4, 2
        return 0, 16 if sets * heads * queries <= 16 * 132 else 32, 128, 8, 1
    return 0, 64 if table <= 64 else 32, 64, 4, 2


def relation_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    relation: Tensor,
    *,
    scale: float,
    config: tuple[int, int, int, int, int] | None = None,
) -> Tensor:
    """See `attn_robotics.kernels.relation`; `config` takes the kernel of this file when tuning."""
    q, k, v, query_table, key_table, relation = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v, query_table, key_table, relation)
    )
    sets, heads, queries, width = q.shape
    keys, table = k.shape[2], query_table.shape[0]
    if config is None and max(queries, keys) <= LARGEST and width <= 64 and table <= 64:
        return sets_forward(q, k, v, query_table, key_table, relation, scale=scale)
    if config is None and keys <= WALK_UP_TO and sets * heads * queries <= WALK_ROWS and table <= 64 and width <= 64:
        return walk_forward(q, k, v, query_table, key_table, relation, scale=scale)
    if config is None and keys >= FLASH_FROM:
        return flash_forward(q, k, v, query_table, key_table, relation, scale=scale)
    out = torch.empty(q.shape, dtype=v.dtype, device=q.device)
    group, rows, columns, warps, stages = config or settings(sets, heads, queries, keys, table)
    grid = (triton.cdiv(sets, group), heads) if group else (triton.cdiv(queries, rows), sets * heads)
    with on_device_of(q):
        _relation[grid](
            q, k, v, out, query_table, key_table, relation,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            *query_table.stride()[:2], *key_table.stride()[:2], *relation.stride()[:2],
            sets, heads, queries, keys, table, width, scale * LOG2_E,
            GROUP=group, ROWS=rows, KEYS=columns, WIDTH=power_of_two(width), TABLE=power_of_two(table),
            PRODUCT=interpreter_product(q.dtype), STAGES=stages, num_warps=warps,
        )  # fmt: skip
    return out
