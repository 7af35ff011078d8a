"""Neighbour sets in one pass: a program holds all keys of some heads of one set, so nothing is read twice.

The distance is computed once per pair and shared by the program's heads. The softmax works in base 2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import LOG2_E, interpreter_product, log2_positive, on_device_of, power_of_two, root


@triton.jit
def _neighbour_set(
    q, k, v, o, positions, alpha, beta, lengths,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, o_b, o_h, o_n, p_b, p_n,
    heads, slots, width, scale,
    AXES: tl.constexpr, LAW: tl.constexpr, HAS_LENGTHS: tl.constexpr, EVEN: tl.constexpr,
    HEADS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """One set, HEADS heads, ROWS queries. EVEN: tile sizes equal the problem's, so only lengths need masks."""
    b = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    m = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    n = tl.arange(0, KEYS)
    d = tl.arange(0, WIDTH)
    length = slots
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + b), slots)
    h3 = h[:, None, None].to(tl.int64)
    q_at = q + b * q_b + h3 * q_h + m[None, :, None] * q_n + d[None, None, :]
    k_at = k + b * k_b + h3 * k_h + n[None, None, :] * k_n + d[None, :, None]
    v_at = v + b * v_b + h3 * v_h + n[None, :, None] * v_n + d[None, None, :]
    if EVEN and not HAS_LENGTHS:
        q_tile = tl.load(q_at)
        k_tile = tl.load(k_at)
        v_tile = tl.load(v_at)
    else:
        inside = (h[:, None, None] < heads) & (d[None, None, :] < width)
        q_tile = tl.load(q_at, mask=inside & (m[None, :, None] < length), other=0.0)
        k_mask = (h[:, None, None] < heads) & (d[None, :, None] < width) & (n[None, None, :] < length)
        k_tile = tl.load(k_at, mask=k_mask, other=0.0)
        v_tile = tl.load(v_at, mask=inside & (n[None, :, None] < length), other=0.0)
    scores = tl.dot(q_tile.to(PRODUCT), k_tile.to(PRODUCT), input_precision='ieee') * scale  # base 2: scale holds log2 e
    if AXES > 0:
        square = tl.zeros((ROWS, KEYS), tl.float32)
        p_at = positions + b * p_b
        for axis in tl.static_range(AXES):
            mine = tl.load(p_at + m * p_n + axis, mask=m < length, other=0.0).to(tl.float32)
            other = tl.load(p_at + n * p_n + axis, mask=n < length, other=0.0).to(tl.float32)
            offset = mine[:, None] - other[None, :]
            square += offset * offset
        distance = root(square)[None, :, :]
        strength = tl.load(alpha + h, mask=h < heads, other=0.0).to(tl.float32)[:, None, None]
        inverse = tl.load(beta + h, mask=h < heads, other=0.0).to(tl.float32)[:, None, None]
        if LAW == 'power':
            scores -= strength * log2_positive(1.0 + inverse * distance)
        else:
            scores -= (strength * inverse * 1.4426950408889634) * distance
    scores = tl.where(n[None, None, :] < length, scores, float('-inf'))
    top = tl.max(scores, 2)
    top = tl.where(top == float('-inf'), 0.0, top)  # a set without members: all weights below become exactly zero
    weights = tl.exp2(scores - top[:, :, None])
    total = tl.sum(weights, 2)
    out = tl.dot(weights.to(PRODUCT), v_tile.to(PRODUCT), input_precision='ieee')
    out = out / tl.where(total > 0.0, total, 1.0)[:, :, None]
    o_at = o + b * o_b + h3 * o_h + m[None, :, None] * o_n + d[None, None, :]
    if HAS_LENGTHS:
        out = tl.where(m[None, :, None] < length, out, 0.0)
    if EVEN:
        tl.store(o_at, out.to(o.dtype.element_ty))
    else:
        kept = (h[:, None, None] < heads) & (m[None, :, None] < slots) & (d[None, None, :] < width)
        tl.store(o_at, out.to(o.dtype.element_ty), mask=kept)


def settings(sets: int, heads: int, slots: int, width: int) -> tuple[int, int, int]:
    """Heads a program, rows a program, warps: a tile of some 4096 numbers per tensor, unless the GPU would idle."""
    keys, wide = power_of_two(slots), power_of_two(width)
    rows = keys
    group = max(1, min(triton.next_power_of_2(heads), 4096 // (keys * wide), 8))
    if sets * heads < 512:  # latency: spread heads and rows over the GPU's processors
        group, rows = 1, 16
    while group * rows * keys > 64 * 1024:
        rows //= 2
    warps = max(1, min(8, group * rows * max(keys, wide) // 1024))
    return group, rows, max(warps, 4 if rows * keys >= 4096 else 1)


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
    config: tuple[int, int, int] | None = None,
) -> Tensor:
    """See `attn_robotics.kernels.neighbour_set`; `config` replaces `settings` when tuning."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    positions = positions if positions is None or positions.stride(-1) == 1 else positions.contiguous()
    sets, heads, slots, width = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    group, rows, warps = config or settings(sets, heads, slots, width)
    keys, wide = power_of_two(slots), power_of_two(width)
    axes = 0 if positions is None else positions.shape[2]
    even = heads % group == 0 and slots == keys and width == wide
    grid = (sets, triton.cdiv(heads, group), triton.cdiv(keys, rows))
    with on_device_of(q):
        _neighbour_set[grid](
            q, k, v, out, positions, alpha, beta, lengths,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            *((0, 0) if positions is None else positions.stride()[:2]),
            heads, slots, width, scale * LOG2_E,
            AXES=axes, LAW=law, HAS_LENGTHS=lengths is not None, EVEN=even,
            HEADS=group, ROWS=rows, KEYS=keys, WIDTH=wide, PRODUCT=interpreter_product(q.dtype), num_warps=warps,
        )  # fmt: skip
    return out
