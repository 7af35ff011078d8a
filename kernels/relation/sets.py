"""Relation attention inside many small sets: several sets share a tile, pairs are formed only within them.

With tables a, b of M rows, `(q_i + a_m) . (k_j + b_m) = q_i . k_j + (q_i + a_m) . b_m + a_m . k_j`. A program keeps the
tables on the chip and walks over groups of sets, whose loads run ahead: two matrix products give every member's value
for every relation, and each pair picks two of them. Picking costs a shuffle per 32 relations; in bfloat16 two values
travel in one word, rounded like any product of that type.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import APPROXIMATE, LOG2_E, interpreter_product, on_device_of, power_of_two

LARGEST = 32  # members of a set for which this kernel is chosen; sets of 8 and 32 are rows of the benchmark
PROCESSORS = 132  # of the GPU that the work is spread over


@triton.jit
def _pack(low, high):
    """Two float32 as bfloat16 in one int32, rounded to nearest."""
    if APPROXIMATE:
        return tl.inline_asm_elementwise(
            'cvt.rn.bf16x2.f32 $0, $1, $2;', '=r,f,f', [high, low], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        low = (low.to(tl.int32, bitcast=True) + 0x8000) >> 16
        high = (high.to(tl.int32, bitcast=True) + 0x8000) & -65536
        return (low & 0xFFFF) | high


@triton.jit
def _unpack(pair, index):
    """The second of two packed numbers where index >= 32, else the first."""
    return tl.where(index >= 32, pair & -65536, pair << 16).to(tl.float32, bitcast=True)


@triton.jit
def _tables(query_table, key_table, m, d, a_m, b_m, table, width, PRODUCT: tl.constexpr):
    """Rows m of both tables of one head and their products a_m . b_m."""
    there = (m < table)[:, None] & (d < width)[None, :]
    a = tl.load(query_table + m[:, None] * a_m + d[None, :], mask=there, other=0.0).to(PRODUCT)
    b = tl.load(key_table + m[:, None] * b_m + d[None, :], mask=there, other=0.0).to(PRODUCT)
    return a, b, tl.sum(a.to(tl.float32) * b.to(tl.float32), 1)


@triton.jit
def _by_set(x, y):
    """Matrix products of sets, (sets, M, K) with (sets, K, N). One set goes flat: only then warps share its rows."""
    if x.shape[0] == 1:
        flat = tl.dot(
            tl.reshape(x, (x.shape[1], x.shape[2])), tl.reshape(y, (y.shape[1], y.shape[2])), input_precision='ieee'
        )
        return tl.reshape(flat, (1, x.shape[1], y.shape[2]))
    else:
        return tl.dot(x, y, input_precision='ieee')


@triton.jit
def _table_rows(table: tl.constexpr, PACKED: tl.constexpr):
    """Table rows in the order of `_picks`: if PACKED, m and m + 32 eight apart: one thread has both."""
    p = tl.arange(0, table)
    if PACKED:
        return p // 16 * 8 + p % 8 + p // 8 % 2 * 32
    else:
        return p


@triton.jit
def _pack_rows(products):
    """(64, N) products with rows of `_table_rows` as 32 rows of packed words."""
    low, high = tl.split(tl.permute(tl.reshape(products, (4, 2, 8, products.shape[1])), (0, 2, 3, 1)))
    return tl.reshape(_pack(low, high), (32, products.shape[1]))


@triton.jit
def _picks(
    q_tile, k_tile, index, a, b, constant, BATCH: tl.constexpr, TILE: tl.constexpr, PACKED: tl.constexpr
):  # fmt: skip
    """(q_i + a_m) . b_m + a_m . k_j for the relation m of every pair.

    The tables are on the left of their products: matrix units then read them from shared memory.
    """
    turned = tl.permute(index, (0, 2, 1))
    by_query = tl.dot(b, tl.trans(q_tile), input_precision='ieee') + constant[:, None]
    by_key = tl.dot(a, tl.trans(k_tile), input_precision='ieee')
    mine_at = tl.reshape(tl.permute(turned, (1, 0, 2)), (TILE, BATCH * TILE))
    theirs_at = tl.reshape(tl.permute(index, (1, 0, 2)), (TILE, BATCH * TILE))
    if PACKED:
        mine = _unpack(tl.gather(_pack_rows(by_query), mine_at & 31, 0), mine_at)
        theirs = _unpack(tl.gather(_pack_rows(by_key), theirs_at & 31, 0), theirs_at)
    else:
        mine = tl.gather(by_query, tl.maximum(mine_at, 0), 0)
        theirs = tl.gather(by_key, tl.maximum(theirs_at, 0), 0)
    mine = tl.permute(tl.reshape(mine, (TILE, BATCH, TILE)), (1, 2, 0))
    return mine + tl.permute(tl.reshape(theirs, (TILE, BATCH, TILE)), (1, 0, 2))


@triton.jit
def _sets(
    q, k, v, o, query_table, key_table, relation,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, o_b, o_h, o_n, a_m, a_h, b_m, b_h, r_b, r_q,
    sets, queries, keys, table, width, scale,
    SLOTS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, TABLE: tl.constexpr, EVEN: tl.constexpr,
    PRODUCT: tl.constexpr, STAGES: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Every num_programs(0)-th group of ROWS / SLOTS sets of one head.

    Pairs are formed in BATCH tiles of TILE members, PACK sets to a tile; rows of a set are SLOTS apart.
    """
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
    own = r // SLOTS
    slot = r % SLOTS
    e = tl.arange(0, BATCH)[:, None, None]
    i = tl.arange(0, TILE)[None, :, None]
    j = tl.arange(0, TILE)[None, None, :]
    i_set = e * PACK + i // SLOTS
    same = (i // SLOTS == j // SLOTS) & (e >= 0)
    forth = i_set * r_b + i % SLOTS * r_q + j % SLOTS
    w = tl.arange(0, TILE)[None, :, None]
    v_tile_at = (e * PACK + w // SLOTS) * v_b + w % SLOTS * v_n + d[None, None, :]
    groups = tl.cdiv(sets, GROUP)
    for group in tl.range(tl.program_id(0), groups, tl.num_programs(0), num_stages=STAGES):
        first = tl.cast(group, tl.int64) * GROUP
        q_at = q + first * q_b + h * q_h + (own * q_b + slot * q_n)[:, None] + d[None, :]
        k_at = k + first * k_b + h * k_h + (own * k_b + slot * k_n)[:, None] + d[None, :]
        v_at = v + first * v_b + h * v_h + v_tile_at
        r_at = relation + first * r_b
        if EVEN:
            q_tile = tl.load(q_at).to(PRODUCT)
            k_tile = tl.load(k_at).to(PRODUCT)
            v_tile = tl.load(v_at).to(PRODUCT)
            index = tl.load(r_at + forth, mask=same, other=-1).to(tl.int32)
        else:
            left = sets - group * GROUP
            wide = (d < width)[None, :]
            row_in = ((own < left) & (slot < queries))[:, None] & wide
            key_in = ((own < left) & (slot < keys))[:, None] & wide
            q_tile = tl.load(q_at, mask=row_in, other=0.0).to(PRODUCT)
            k_tile = tl.load(k_at, mask=key_in, other=0.0).to(PRODUCT)
            v_in = (e * PACK + w // SLOTS < left) & (w % SLOTS < keys) & (d < width)[None, None, :]
            v_tile = tl.load(v_at, mask=v_in, other=0.0).to(PRODUCT)
            there = same & (i_set < left)
            pair = there & (i % SLOTS < queries) & (j % SLOTS < keys)
            index = tl.load(r_at + forth, mask=pair, other=-1).to(tl.int32)
        q_3 = tl.reshape(q_tile, (BATCH, TILE, WIDTH))
        k_3 = tl.permute(tl.reshape(k_tile, (BATCH, TILE, WIDTH)), (0, 2, 1))
        scores = _by_set(q_3, k_3)
        scores += _picks(q_tile, k_tile, index, a, b, constant, BATCH, TILE, PACKED)
        scores = tl.where(index >= 0, scores * scale, float('-inf'))
        top = tl.max(scores, 2)
        top = tl.where(top == float('-inf'), 0.0, top)
        weights = tl.exp2(scores - top[:, :, None])
        total = tl.sum(weights, 2)
        out = _by_set(weights.to(PRODUCT), v_tile)
        out = out * (1.0 / tl.where(total > 0.0, total, 1.0))[:, :, None]
        o_at = o + first * o_b + h * o_h + (own * o_b + slot * o_n)[:, None] + d[None, :]
        out = tl.reshape(out, (ROWS, WIDTH)).to(o.dtype.element_ty)
        if EVEN:
            tl.store(o_at, out)
        else:
            tl.store(o_at, out, mask=row_in)


def geometry(queries: int, keys: int, rows: int) -> tuple[int, int]:
    """Slots of a set, and rows of a tile that holds whole sets."""
    slots = power_of_two(max(queries, keys), 8)
    return slots, max(rows, slots, 16)


def packs(q: Tensor, table: int) -> bool:
    """Whether two products with a table of so many rows travel in one word."""
    return q.dtype == torch.bfloat16 and 32 < table <= 64


def settings(slots: int) -> tuple[int, int, int, int, int | None]:
    """Rows of a tile, warps, stages, programs a processor, registers a thread may use."""
    return (32, 2, 3, 4, None) if slots <= 16 else (32, 4, 3, 4, 128)


def sets_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    relation: Tensor,
    *,
    scale: float,
    config: tuple[int, int, int, int, int | None] | None = None,
    packed: bool | None = None,
) -> Tensor:
    """See `attn_robotics.kernels.relation`; last axes are contiguous. What follows `scale` is for tuning and tests."""
    sets, heads, queries, width = q.shape
    keys, table = k.shape[2], query_table.shape[0]
    rows, warps, stages, resident, registers = config or settings(power_of_two(max(queries, keys), 8))
    slots, rows = geometry(queries, keys, rows)
    groups = triton.cdiv(sets, rows // slots)
    packed = packs(q, table) if packed is None else packed
    out = torch.empty(q.shape, dtype=v.dtype, device=q.device)
    wide = power_of_two(width)
    with on_device_of(q):
        _sets[(min(groups, triton.cdiv(PROCESSORS * resident, heads)), heads)](
            q, k, v, out, query_table, key_table, relation,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            *query_table.stride()[:2], *key_table.stride()[:2], *relation.stride()[:2],
            sets, queries, keys, table, width, scale * LOG2_E,
            SLOTS=slots, ROWS=rows, WIDTH=wide, TABLE=power_of_two(table, 64 if packed else 16), PACKED=packed,
            EVEN=sets % (rows // slots) == 0 and queries == keys == slots and width == wide,
            PRODUCT=interpreter_product(q.dtype), STAGES=stages, num_warps=warps, maxnreg=registers,
        )  # fmt: skip
    return out
