"""Norm, projections, attention and residual of several small sets in one program.

A program keeps the normalised members of its sets on the chip and walks over the heads: the weights stream from the
L2 cache, nothing between input and output goes to memory. Sets share a tile; pairs of different sets are masked.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import LOG2_E, interpreter_product, log2_positive, on_device_of, power_of_two, root


@triton.jit
def _block(
    x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias, positions, alpha, beta, lengths, o,
    sets, members, scale, eps,
    GROUP: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr,
    AXES: tl.constexpr, HAS_LENGTHS: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """GROUP sets."""
    r = tl.arange(0, ROWS)
    c = tl.arange(0, WIDTH)
    d = tl.arange(0, HEAD)
    own = (tl.program_id(0) * GROUP + r // members).to(tl.int64)
    slot = r % members
    exists = (r < GROUP * members) & (own < sets)
    real = exists
    if HAS_LENGTHS:
        real = real & (slot < tl.load(lengths + own, mask=exists, other=0))
    at = (own * members + slot)[:, None] * WIDTH + c[None, :]
    tile = tl.load(x + at, mask=real[:, None], other=0.0).to(tl.float32)
    centred = tile - tl.sum(tile, 1)[:, None] / WIDTH
    spread = tl.rsqrt(tl.sum(centred * centred, 1) / WIDTH + eps)
    gain = tl.load(norm_weight + c).to(tl.float32)
    normal = (centred * spread[:, None] * gain[None, :] + tl.load(norm_bias + c).to(tl.float32)[None, :]).to(PRODUCT)
    column = tl.arange(0, ROWS)
    column_set = tl.program_id(0) * GROUP + column // members
    column_real = (column < GROUP * members) & (column_set < sets)
    if HAS_LENGTHS:
        column_real = column_real & (column % members < tl.load(lengths + column_set, mask=column_real, other=0))
    pair = (own[:, None] == column_set[None, :]) & column_real[None, :] & real[:, None]
    distance = tl.zeros((ROWS, ROWS), tl.float32)
    if AXES > 0:
        for axis in tl.static_range(AXES):
            mine = tl.load(positions + (own * members + slot) * AXES + axis, mask=real, other=0.0).to(tl.float32)
            other_at = (column_set.to(tl.int64) * members + column % members) * AXES + axis
            other = tl.load(positions + other_at, mask=column_real, other=0.0).to(tl.float32)
            offset = mine[:, None] - other[None, :]
            distance += offset * offset
        distance = root(distance)
    acc = tile + tl.load(out_bias + c).to(tl.float32)[None, :]
    for h in tl.range(0, HEADS, num_stages=1):
        w = qkv_weight + (h * HEAD + d)[None, :] * WIDTH + c[:, None]
        q = tl.dot(normal, tl.load(w).to(PRODUCT), input_precision='ieee')
        k = tl.dot(normal, tl.load(w + WIDTH * WIDTH).to(PRODUCT), input_precision='ieee')
        v = tl.dot(normal, tl.load(w + 2 * WIDTH * WIDTH).to(PRODUCT), input_precision='ieee')
        scores = tl.dot((q * scale).to(PRODUCT), tl.trans(k.to(PRODUCT)), input_precision='ieee')
        if AXES > 0:
            strength = tl.load(alpha + h).to(tl.float32)
            scores -= strength * log2_positive(1.0 + tl.load(beta + h).to(tl.float32) * distance)
        scores = tl.where(pair, scores, -1.0e30)
        weights = tl.where(pair, tl.exp2(scores - tl.max(scores, 1)[:, None]), 0.0)
        total = tl.sum(weights, 1)
        mixed = tl.dot(weights.to(PRODUCT), v.to(PRODUCT), input_precision='ieee')
        mixed = mixed / tl.where(total > 0.0, total, 1.0)[:, None]
        w_out = tl.load(out_weight + c[None, :] * WIDTH + (h * HEAD + d)[:, None]).to(PRODUCT)
        acc = tl.dot(mixed.to(PRODUCT), w_out, acc, input_precision='ieee')
    tl.store(o + at, tl.where(real[:, None], acc, 0.0).to(o.dtype.element_ty), mask=exists[:, None])


def neighbour_block_forward(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    positions: Tensor | None,
    alpha: Tensor | None,
    beta: Tensor | None,
    lengths: Tensor | None,
    *,
    heads: int,
    eps: float,
    config: tuple[int, int] | None = None,
) -> Tensor:
    """See `attn_robotics.kernels.neighbour_block`; `config` (rows, warps) replaces the default when tuning."""
    x, qkv_weight, out_weight = x.contiguous(), qkv_weight.contiguous(), out_weight.contiguous()
    positions = None if positions is None else positions.contiguous()
    sets, members, width = x.shape
    rows, warps = config or (32, 2)  # 64 rows give wrong results on Hopper with Triton 3.6 (benchmarks/results)
    rows = max(rows, power_of_two(members))
    group = rows // members
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    with on_device_of(x):
        _block[(triton.cdiv(sets, group),)](
            x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias, positions, alpha, beta, lengths, out,
            sets, members, (width // heads) ** -0.5 * LOG2_E, eps,
            GROUP=group, ROWS=rows, WIDTH=width, HEADS=heads, HEAD=width // heads,
            AXES=0 if positions is None else positions.shape[2], HAS_LENGTHS=lengths is not None,
            PRODUCT=interpreter_product(x.dtype), num_warps=warps,
        )  # fmt: skip
    return out
