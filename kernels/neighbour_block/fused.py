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
    SLOTS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, HEAD: tl.constexpr,
    AXES: tl.constexpr, HAS_LENGTHS: tl.constexpr, PRODUCT: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """ROWS / SLOTS sets; pairs are formed in BATCH tiles of TILE members, PACK sets to a tile."""
    GROUP: tl.constexpr = ROWS // SLOTS
    TILE: tl.constexpr = SLOTS if SLOTS > 16 else 16
    PACK: tl.constexpr = TILE // SLOTS
    BATCH: tl.constexpr = ROWS // TILE
    c = tl.arange(0, WIDTH)
    d = tl.arange(0, HEAD)
    r = tl.arange(0, ROWS)
    first = tl.program_id(0).to(tl.int64) * GROUP
    left = sets - tl.program_id(0) * GROUP
    own, slot = r // SLOTS, r % SLOTS
    real = (own < left) & (slot < members)
    inner = own * members + slot  # row within this program's sets
    # Pairs (BATCH, TILE, TILE), the same sets seen as rows and as columns.
    e = tl.arange(0, BATCH)[:, None] * PACK
    t = tl.arange(0, TILE)[None, :]
    t_set, t_slot = e + t // SLOTS, t % SLOTS  # (BATCH, TILE)
    t_real = (t_set < left) & (t_slot < members)
    t_row = t_set * members + t_slot
    if HAS_LENGTHS:
        length = tl.load(lengths + first + own, mask=own < left, other=0)
        t_length = tl.load(lengths + first + t_set, mask=t_set < left, other=0)
    exists = real
    at = (inner * WIDTH)[:, None] + c[None, :]
    x += first * members * WIDTH
    o += first * members * WIDTH
    tile = tl.load(x + at, mask=exists[:, None], other=0.0).to(tl.float32)
    if AXES > 0:
        p_at = positions + (first * members + t_row) * AXES
        place_0 = tl.load(p_at, mask=t_real, other=0.0).to(tl.float32)
        offset = place_0[:, :, None] - place_0[:, None, :]
        square = offset * offset
        if AXES > 1:
            place_1 = tl.load(p_at + 1, mask=t_real, other=0.0).to(tl.float32)
            offset = place_1[:, :, None] - place_1[:, None, :]
            square += offset * offset
        if AXES > 2:
            place_2 = tl.load(p_at + 2, mask=t_real, other=0.0).to(tl.float32)
            offset = place_2[:, :, None] - place_2[:, None, :]
            square += offset * offset
        distance = root(square)
    if HAS_LENGTHS:
        real = real & (slot < length)
        t_real = t_real & (t_slot < t_length)
        tile = tl.where(real[:, None], tile, 0.0)
    centred = tile - tl.sum(tile, 1)[:, None] / WIDTH
    spread = tl.rsqrt(tl.sum(centred * centred, 1) / WIDTH + eps)
    gain = tl.load(norm_weight + c).to(tl.float32)
    normal = (centred * spread[:, None] * gain[None, :] + tl.load(norm_bias + c).to(tl.float32)[None, :]).to(PRODUCT)
    if PACK > 1:
        pair = t_real[:, None, :] & (t_set[:, :, None] == t_set[:, None, :])
    else:
        pair = t_real[:, None, :] & t_real[:, :, None]
    acc = tile + tl.load(out_bias + c).to(tl.float32)[None, :]
    for h in tl.range(0, HEADS, num_stages=STAGES):
        w = qkv_weight + (h * HEAD + d)[:, None] * WIDTH + c[None, :]
        w_q = tl.load(w).to(PRODUCT)  # (HEAD, WIDTH)
        w_k = tl.load(w + WIDTH * WIDTH).to(PRODUCT)
        w_v = tl.load(w + 2 * WIDTH * WIDTH).to(PRODUCT)
        w_out = tl.load(out_weight + c[:, None] * WIDTH + (h * HEAD + d)[None, :]).to(PRODUCT)  # (WIDTH, HEAD)
        q = (tl.dot(normal, tl.trans(w_q), input_precision='ieee') * scale).to(PRODUCT)
        k = tl.dot(normal, tl.trans(w_k), input_precision='ieee').to(PRODUCT)
        v = tl.dot(normal, tl.trans(w_v), input_precision='ieee').to(PRODUCT)
        k_t = tl.permute(tl.reshape(k, (BATCH, TILE, HEAD)), (0, 2, 1))
        scores = tl.dot(tl.reshape(q, (BATCH, TILE, HEAD)), k_t, input_precision='ieee')
        if AXES > 0:
            strength = tl.load(alpha + h).to(tl.float32)
            scores -= strength * log2_positive(1.0 + tl.load(beta + h).to(tl.float32) * distance)
        scores = tl.where(pair, scores, -1.0e30)
        weights = tl.where(pair, tl.exp2(scores - tl.max(scores, 2)[:, :, None]), 0.0)
        total = tl.sum(weights, 2)
        mixed = tl.dot(weights.to(PRODUCT), tl.reshape(v, (BATCH, TILE, HEAD)), input_precision='ieee')
        mixed = mixed * (1.0 / tl.where(total > 0.0, total, 1.0))[:, :, None]
        mixed = tl.reshape(mixed.to(PRODUCT), (ROWS, HEAD))
        acc = tl.dot(mixed, tl.trans(w_out), acc, input_precision='ieee')
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
    config: tuple[int, int, int] | None = None,
) -> Tensor:
    """See `attn_robotics.kernels.neighbour_block`; `config` (rows, warps, stages) replaces the default when tuning."""
    x, qkv_weight, out_weight = x.contiguous(), qkv_weight.contiguous(), out_weight.contiguous()
    positions = None if positions is None else positions.contiguous()
    sets, members, width = x.shape
    rows, warps, stages = config or (64, 4, 3)
    slots = power_of_two(members, 8)
    rows = max(rows, slots)
    group = rows // slots
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    with on_device_of(x):
        _block[(triton.cdiv(sets, group),)](
            x, norm_weight, norm_bias, qkv_weight, out_weight, out_bias, positions, alpha, beta, lengths, out,
            sets, members, (width // heads) ** -0.5 * LOG2_E, eps,
            SLOTS=slots, ROWS=rows, WIDTH=width, HEADS=heads, HEAD=width // heads,
            AXES=0 if positions is None else positions.shape[2], HAS_LENGTHS=lengths is not None,
            PRODUCT=interpreter_product(x.dtype), STAGES=stages, num_warps=warps,
        )  # fmt: skip
    return out
