"""Flash attention with a power law of distance.

A logarithm per pair costs more than the rest of the row, so causal token distances far from the diagonal expand it
around the centre of the query tile: with x = beta (i - c) / (1 + beta (c - j)),
log(1 + beta (i - j)) = log(1 + beta (c - j)) + x - x^2/2 + ..., one logarithm per key and one multiply-add per pair.
Beyond `VERY_FAR` the slope is that of the tile's centre and moves into the row, which leaves one addition per pair.
With tiles of 128 the error stays below 3e-4 alpha in the score, under the rounding of bfloat16 weights.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import LOG2_E, interpreter_product, log2_positive, on_device_of, root

FAR_TILES, VERY_FAR_TILES = 8, 36  # distance of a key tile from the query tile, in query tiles


@triton.jit
def _scan(
    acc, total, top, q_tile, k, v, k_n, v_n, p_k, p_kn, row, row_0, row_1, row_2,
    strength, inverse, scale, first, last, limit,
    ZONE: tl.constexpr, METRIC: tl.constexpr, AXES: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
    GATE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, PRODUCT: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Fold keys [first, last) into the running softmax. `row` is the query's index on the key axis."""
    d = tl.arange(0, WIDTH)
    for start in tl.range(first, last, KEYS, num_stages=STAGES):
        n = start + tl.arange(0, KEYS)
        k_at = k + n[None, :].to(tl.int64) * k_n + d[:, None]
        v_at = v + n[:, None].to(tl.int64) * v_n + d[None, :]
        if MASKED:
            k_tile = tl.load(k_at, mask=n[None, :] < limit, other=0.0)
            v_tile = tl.load(v_at, mask=n[:, None] < limit, other=0.0)
        else:
            k_tile = tl.load(k_at)
            v_tile = tl.load(v_at)
        product = tl.dot(q_tile, k_tile.to(PRODUCT), input_precision='ieee')
        gate = product
        shift = tl.zeros((ROWS,), tl.float32)
        if ZONE == 'exact':
            if METRIC == 'index':
                distance = tl.abs((row[:, None] - n[None, :]).to(tl.float32))
            else:
                n_mask = n < limit
                x = row_0[:, None] - tl.load(p_k + n * p_kn, mask=n_mask, other=0.0).to(tl.float32)[None, :]
                distance = tl.abs(x) if METRIC == 'manhattan' else x * x
                if AXES > 1:
                    y = row_1[:, None] - tl.load(p_k + n * p_kn + 1, mask=n_mask, other=0.0).to(tl.float32)[None, :]
                    if METRIC == 'manhattan':
                        distance += tl.abs(y)
                    else:
                        distance += y * y
                if AXES > 2:
                    z = row_2[:, None] - tl.load(p_k + n * p_kn + 2, mask=n_mask, other=0.0).to(tl.float32)[None, :]
                    if METRIC == 'manhattan':
                        distance += tl.abs(z)
                    else:
                        distance += z * z
                if METRIC == 'euclidean':
                    distance = root(distance)
            field = -strength * log2_positive(1.0 + inverse * distance)
            if GATE:
                scores = product * scale
                gate = tl.exp2(field)
            else:
                scores = product * scale + field
        else:
            centre = tl.min(row, 0) + ROWS // 2
            offset = (row - centre).to(tl.float32)
            at_centre = 1.0 + inverse * (centre - n).to(tl.float32)
            level = -strength * log2_positive(at_centre)
            tile_slope = inverse / (1.0 + inverse * (centre - start - KEYS // 2).to(tl.float32))
            curve = offset * tile_slope
            shift = strength * (0.5 * 1.4426950408889634) * curve * curve
            if ZONE == 'far':
                slope = (-strength * 1.4426950408889634) * (inverse / at_centre)
                scores = product * scale + (offset[:, None] * slope[None, :] + level[None, :])
            else:
                shift -= strength * 1.4426950408889634 * curve
                scores = product * scale + level[None, :]
        if MASKED:
            allowed = n[None, :] < limit
            if CAUSAL:
                allowed = allowed & (n[None, :] <= row[:, None])
            scores = tl.where(allowed, scores, float('-inf'))
        higher = tl.maximum(top, tl.max(scores, 1) + shift)
        if MASKED:
            higher = tl.where(higher == float('-inf'), -1.0e30, higher)  # no key yet: keep differences finite
        keep = tl.exp2(top - higher)
        weights = tl.exp2(scores - (higher - shift)[:, None])
        total = total * keep + tl.sum(weights, 1)
        if GATE:
            weights = weights * gate
        acc = tl.dot(weights.to(PRODUCT), v_tile.to(PRODUCT), acc * keep[:, None], input_precision='ieee')
        top = higher
    return acc, total, top


@triton.jit
def _gravity(
    q, k, v, o, alpha, beta, positions_q, positions_k, lengths,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, o_b, o_h, o_n, pq_b, pq_n, pk_b, pk_n,
    heads, queries, keys, scale,
    METRIC: tl.constexpr, AXES: tl.constexpr, CAUSAL: tl.constexpr, GATE: tl.constexpr, HAS_LENGTHS: tl.constexpr,
    FAR: tl.constexpr, VERY_FAR: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, PRODUCT: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One query tile of one head."""
    tile = tl.program_id(0)
    if CAUSAL:
        tile = tl.num_programs(0) - 1 - tile  # the longest rows first: no long tail at the end
    b = (tl.program_id(1) // heads).to(tl.int64)
    h = (tl.program_id(1) % heads).to(tl.int64)
    m = tile * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, WIDTH)
    limit = keys
    if HAS_LENGTHS:
        limit = tl.minimum(tl.load(lengths + b), keys)
    row = m + (keys - queries)
    q_at = q + b * q_b + h * q_h + m[:, None].to(tl.int64) * q_n + d[None, :]
    q_tile = tl.load(q_at, mask=m[:, None] < queries, other=0.0).to(PRODUCT)
    k += b * k_b + h * k_h
    v += b * v_b + h * v_h
    strength = tl.load(alpha + h).to(tl.float32)
    inverse = tl.load(beta + h).to(tl.float32)
    row_0 = tl.zeros((ROWS,), tl.float32)
    row_1 = row_0
    row_2 = row_0
    p_k = positions_k
    if AXES > 0:
        p_q = positions_q + b * pq_b + m * pq_n
        p_k = positions_k + b * pk_b
        row_0 = tl.load(p_q, mask=m < queries, other=0.0).to(tl.float32)
        if AXES > 1:
            row_1 = tl.load(p_q + 1, mask=m < queries, other=0.0).to(tl.float32)
        if AXES > 2:
            row_2 = tl.load(p_q + 2, mask=m < queries, other=0.0).to(tl.float32)
    acc = tl.zeros((ROWS, WIDTH), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    top = tl.full((ROWS,), float('-inf'), tl.float32)
    first_row = tile * ROWS + (keys - queries)
    end = limit
    whole = limit // KEYS * KEYS
    if CAUSAL:
        end = tl.minimum(limit, first_row + ROWS)
        whole = tl.minimum(whole, tl.maximum(first_row + 1, 0) // KEYS * KEYS)
    near = 0
    if FAR > 0:
        very = tl.minimum(tl.maximum(first_row - VERY_FAR, 0), whole) // KEYS * KEYS
        near = tl.minimum(tl.maximum(first_row - FAR, 0), whole) // KEYS * KEYS
        acc, total, top = _scan(
            acc, total, top, q_tile, k, v, k_n, v_n, p_k, pk_n, row, row_0, row_1, row_2, strength, inverse, scale,
            0, very, limit, 'very far', METRIC, AXES, CAUSAL, False, GATE, ROWS, KEYS, WIDTH, PRODUCT, STAGES,
        )  # fmt: skip
        acc, total, top = _scan(
            acc, total, top, q_tile, k, v, k_n, v_n, p_k, pk_n, row, row_0, row_1, row_2, strength, inverse, scale,
            very, near, limit, 'far', METRIC, AXES, CAUSAL, False, GATE, ROWS, KEYS, WIDTH, PRODUCT, STAGES,
        )  # fmt: skip
    acc, total, top = _scan(
        acc, total, top, q_tile, k, v, k_n, v_n, p_k, pk_n, row, row_0, row_1, row_2, strength, inverse, scale,
        near, whole, limit, 'exact', METRIC, AXES, CAUSAL, False, GATE, ROWS, KEYS, WIDTH, PRODUCT, STAGES,
    )  # fmt: skip
    acc, total, top = _scan(
        acc, total, top, q_tile, k, v, k_n, v_n, p_k, pk_n, row, row_0, row_1, row_2, strength, inverse, scale,
        whole, end, limit, 'exact', METRIC, AXES, CAUSAL, True, GATE, ROWS, KEYS, WIDTH, PRODUCT, STAGES,
    )  # fmt: skip
    acc = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    o_at = o + b * o_b + h * o_h + m[:, None].to(tl.int64) * o_n + d[None, :]
    tl.store(o_at, acc.to(o.dtype.element_ty), mask=m[:, None] < queries)


def settings(queries: int, width: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    """Rows, keys, warps, stages of a program."""
    if dtype == torch.float32:
        return 32, 32, 4, 2
    if queries <= 64:
        return 64, 64, 4, 3
    return (128, 64, 4, 3) if width >= 64 else (64, 128, 4, 2)


def gravity_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    alpha: Tensor,
    beta: Tensor,
    positions_q: Tensor | None,
    positions_k: Tensor | None,
    lengths: Tensor | None,
    *,
    metric: str,
    causal: bool,
    placement: str,
    scale: float,
    config: tuple[int, int, int, int] | None = None,
    zones: bool = True,
) -> Tensor:
    """See `attn_robotics.kernels.gravity`; `config` and `zones` are for tuning and tests."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    sets, heads, queries, width = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    rows, keys, warps, stages = config or settings(queries, width, q.dtype)
    axes = 0
    if metric != 'index' and positions_q is not None and positions_k is not None:
        positions_q, positions_k = positions_q.contiguous(), positions_k.contiguous()
        axes = positions_q.shape[2]
    far = FAR_TILES * rows if zones and causal and metric == 'index' and placement == 'logit' else 0
    very_far = VERY_FAR_TILES * max(rows, keys)
    strides = (0, 0, 0, 0) if axes == 0 else (*positions_q.stride()[:2], *positions_k.stride()[:2])
    with on_device_of(q):
        _gravity[(triton.cdiv(queries, rows), sets * heads)](
            q, k, v, out, alpha, beta, positions_q, positions_k, lengths,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3], *strides,
            heads, queries, k.shape[2], scale * LOG2_E,
            METRIC=metric, AXES=axes, CAUSAL=causal, GATE=placement == 'gate', HAS_LENGTHS=lengths is not None,
            FAR=far, VERY_FAR=very_far, ROWS=rows, KEYS=keys, WIDTH=width,
            PRODUCT=interpreter_product(q.dtype), STAGES=stages, num_warps=warps,
        )  # fmt: skip
    return out
