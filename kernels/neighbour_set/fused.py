"""Neighbour sets in one pass: a program holds all keys of some heads of one set, so nothing is read twice.

The distance is computed once per pair and shared by the program's heads. The softmax works in base 2.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import (
    LOG2_E,
    interpreter_product,
    log2_positive,
    on_device_of,
    power_of_two,
    root,
)


@triton.jit
def _neighbour_set(
    q, k, v, o, positions, alpha, beta, lengths,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, o_b, o_h, o_n, p_b, p_n,
    heads, slots, width, scale,
    AXES: tl.constexpr, LAW: tl.constexpr, HAS_LENGTHS: tl.constexpr, EVEN: tl.constexpr, PACK: tl.constexpr,
    HEADS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, PRODUCT: tl.constexpr,
    FLAT: tl.constexpr, SLOTS: tl.constexpr, LATE: tl.constexpr,
):  # fmt: skip
    """One set, HEADS tiles of PACK heads, ROWS queries.

    EVEN: the tile is the problem, so loads need no mask. Lengths mask no load, which would wait for them, unless LATE:
    then padding is not even read.
    """
    b = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    m = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    n = tl.arange(0, KEYS)
    d = tl.arange(0, WIDTH)
    # A division by a number that is known when this is compiled costs next to nothing, by another one more than a load.
    if FLAT:
        size_of_set: tl.constexpr = SLOTS
    else:
        size_of_set = slots
    # Sets smaller than a tile: PACK heads side by side, pairs of different heads are masked.
    if PACK > 1:
        m_part, n_part = m // size_of_set, n // size_of_set
        m_slot, n_slot = m % size_of_set, n % size_of_set
        m_head = first[:, None] * PACK + m_part[None, :]
        n_head = first[:, None] * PACK + n_part[None, :]
    else:
        m_slot, n_slot = m, n
        m_head = first[:, None] + tl.zeros_like(m)[None, :]
        n_head = first[:, None] + tl.zeros_like(n)[None, :]
    if FLAT:  # contiguous and EVEN: one block of memory, its shape known at compile time
        size: tl.constexpr = HEADS * PACK * SLOTS * WIDTH
        start = (b * tl.num_programs(1) + tl.program_id(1)) * size
        tile = tl.arange(0, HEADS)[:, None, None] * (KEYS * WIDTH)
        m_at = tile + m[None, :, None] * WIDTH + d[None, None, :]
        q_at = q + start + m_at
        k_at = k + start + tile + n[None, None, :] * WIDTH + d[None, :, None]
        v_at = v + start + tile + n[None, :, None] * WIDTH + d[None, None, :]
        o_at = o + start + m_at
    else:
        m_far = m_head.to(tl.int64)
        n_far = n_head.to(tl.int64)
        q_at = q + b * q_b + (m_far * q_h + m_slot[None, :] * q_n)[:, :, None] + d[None, None, :]
        k_at = k + b * k_b + (n_far * k_h + n_slot[None, :] * k_n)[:, None, :] + d[None, :, None]
        v_at = v + b * v_b + (n_far * v_h + n_slot[None, :] * v_n)[:, :, None] + d[None, None, :]
        o_at = o + b * o_b + (m_far * o_h + m_slot[None, :] * o_n)[:, :, None] + d[None, None, :]
    # Every load is issued before anything waits for one: a launch is hardly longer than a trip to memory.
    length = slots
    if HAS_LENGTHS:
        length = tl.load(lengths + b)
    if LATE:
        row_real, key_real = m_slot < length, n_slot < length
        q_tile = tl.load(q_at, mask=row_real[None, :, None], other=0.0)
        k_tile = tl.load(k_at, mask=key_real[None, None, :], other=0.0)
        v_tile = tl.load(v_at, mask=key_real[None, :, None], other=0.0)
    elif EVEN:
        q_tile = tl.load(q_at)
        k_tile = tl.load(k_at)
        v_tile = tl.load(v_at)
    else:
        row_in = (m_head < heads) & (m < slots * PACK)[None, :]
        key_in = (n_head < heads) & (n < slots * PACK)[None, :]
        wide_in = d < width
        q_tile = tl.load(q_at, mask=row_in[:, :, None] & wide_in[None, None, :], other=0.0)
        k_tile = tl.load(k_at, mask=key_in[:, None, :] & wide_in[None, :, None], other=0.0)
        v_tile = tl.load(v_at, mask=key_in[:, :, None] & wide_in[None, None, :], other=0.0)
    if AXES > 0:
        p_m = positions + b * p_b + m_slot * p_n
        p_n_at = positions + b * p_b + n_slot * p_n
        m_there, n_there = m_slot < size_of_set, n_slot < size_of_set
        if EVEN and (PACK == 1 or FLAT):
            mine_0 = tl.load(p_m)
            other_0 = tl.load(p_n_at)
            if AXES > 1:
                mine_1 = tl.load(p_m + 1)
                other_1 = tl.load(p_n_at + 1)
            if AXES > 2:
                mine_2 = tl.load(p_m + 2)
                other_2 = tl.load(p_n_at + 2)
        else:
            mine_0 = tl.load(p_m, mask=m_there, other=0.0)
            other_0 = tl.load(p_n_at, mask=n_there, other=0.0)
            if AXES > 1:
                mine_1 = tl.load(p_m + 1, mask=m_there, other=0.0)
                other_1 = tl.load(p_n_at + 1, mask=n_there, other=0.0)
            if AXES > 2:
                mine_2 = tl.load(p_m + 2, mask=m_there, other=0.0)
                other_2 = tl.load(p_n_at + 2, mask=n_there, other=0.0)
        if PACK == 1:  # one head a tile: a strength for the tile, not for each row
            known = first < heads
            strength = tl.load(alpha + first, mask=known, other=0.0).to(tl.float32)[:, None, None]
            inverse = tl.load(beta + first, mask=known, other=0.0).to(tl.float32)[:, None, None]
        else:
            strength = tl.load(alpha + m_head, mask=m_head < heads, other=0.0).to(tl.float32)[:, :, None]
            inverse = tl.load(beta + m_head, mask=m_head < heads, other=0.0).to(tl.float32)[:, :, None]
    # Padding may hold NaN, which a weight of zero would not silence.
    if HAS_LENGTHS:
        length = tl.minimum(length, size_of_set)
        if not LATE:
            v_tile = tl.where((n_slot < length)[None, :, None], v_tile, 0.0)
    scores = tl.dot(q_tile.to(PRODUCT), k_tile.to(PRODUCT), input_precision='ieee') * scale  # base 2: scale has log2 e
    if AXES > 0:
        offset = mine_0.to(tl.float32)[:, None] - other_0.to(tl.float32)[None, :]
        square = offset * offset
        if AXES > 1:
            offset = mine_1.to(tl.float32)[:, None] - other_1.to(tl.float32)[None, :]
            square += offset * offset
        if AXES > 2:
            offset = mine_2.to(tl.float32)[:, None] - other_2.to(tl.float32)[None, :]
            square += offset * offset
        distance = root(square)[None, :, :]
        if LAW == 'power':
            scores -= strength * log2_positive(1.0 + inverse * distance)
        else:
            scores -= (strength * inverse * 1.4426950408889634) * distance
    if PACK > 1:
        pair = (m_part[:, None] == n_part[None, :]) & (n < size_of_set * PACK)[None, :]
        scores = tl.where((pair & (n_slot < length)[None, :])[None, :, :], scores, float('-inf'))
    elif HAS_LENGTHS or not EVEN:
        scores = tl.where((n_slot < length)[None, None, :], scores, float('-inf'))
    top = tl.max(scores, 2)
    if HAS_LENGTHS or not EVEN:
        top = tl.where(top == float('-inf'), 0.0, top)  # a set without members: all weights below become exactly zero
    weights = tl.exp2(scores - top[:, :, None])
    total = tl.sum(weights, 2)
    out = tl.dot(weights.to(PRODUCT), v_tile.to(PRODUCT), input_precision='ieee')
    out = out * (1.0 / tl.where(total > 0.0, total, 1.0))[:, :, None]
    if HAS_LENGTHS:
        out = tl.where((m_slot < length)[None, :, None], out, 0.0)
    if EVEN:
        tl.store(o_at, out.to(o.dtype.element_ty))
    else:
        tl.store(o_at, out.to(o.dtype.element_ty), mask=row_in[:, :, None] & (d < width)[None, None, :])


def settings(sets: int, heads: int, slots: int, width: int) -> tuple[int, int, int, int]:
    """Tiles a program, rows a tile, warps, whether padding stays unread: two tiles are fastest where there are many.

    Less traffic where it stays unread, but loads wait for the lengths.
    """
    keys = power_of_two(slots)
    if sets * heads < 64:  # latency: spread rows over the GPU's processors
        return 1, 16, 4, 0
    rows = keys
    while rows * keys > 8192:
        rows //= 2
    if keys == 16:
        return (2 if heads > 1 and sets * heads > 4096 else 1), 16, 1, 1
    return (2 if keys <= 32 and heads > 1 else 1), rows, 2 if keys <= 32 else 4, 1


def neighbour_set_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor | None,
    alpha: Tensor | None,
    beta: Tensor | None,
    lengths: Tensor | None,
    *,
    law: str,
    scale: float,
    config: tuple[int, ...] | None = None,
) -> Tensor:
    """See `attn_robotics.kernels.neighbour_set`; `config` replaces `settings` when tuning."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    positions = positions if positions is None or positions.stride(-1) == 1 else positions.contiguous()
    sets, heads, slots, width = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    group, rows, warps, *late = config or settings(sets, heads, slots, width)
    keys, wide = power_of_two(slots), power_of_two(width)
    axes = 0 if positions is None else positions.shape[2]
    pack = keys // slots if rows == keys and slots < keys and heads % (keys // slots) == 0 else 1
    even = heads % (group * pack) == 0 and slots * pack == keys and width == wide
    flat = even and rows == keys and all(x.is_contiguous() for x in (q, k, v))
    grid = (sets, triton.cdiv(heads, group * pack), triton.cdiv(keys, rows))
    with on_device_of(q):
        _neighbour_set[grid](
            q, k, v, out, positions, alpha, beta, lengths,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            *((0, 0) if positions is None else positions.stride()[:2]),
            heads, slots, width, scale * LOG2_E,
            AXES=axes, LAW=law, HAS_LENGTHS=lengths is not None, EVEN=even, PACK=pack,
            HEADS=group, ROWS=rows, KEYS=keys, WIDTH=wide, PRODUCT=interpreter_product(q.dtype),
            FLAT=flat, SLOTS=slots if flat else 0, LATE=any(late) and even and lengths is not None, num_warps=warps,
        )  # fmt: skip
    return out
