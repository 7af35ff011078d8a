"""Flash attention with a power law of distance.

A logarithm per pair costs more than the rest of the row. For causal token distances far from the diagonal the field is
a polynomial in the query's offset from the centre c of its tile: with w = beta / (1 + beta (c - j)),
log(1 + beta (i - j)) = log(1 + beta (c - j)) + w (i - c) - (w (i - c))^2 / 2 + (w (i - c))^3 / 3 - ...
That is a product of a few numbers a query with a few numbers a key, so the matrix units add it: keys get extra
channels, read from a table over the distance c - j (every tile reads another slice of it), and queries get powers of
their offset. Numbers are split into a high and a low part so that half precision carries them. A far pair then costs
what plain attention costs. The error stays below 3e-4 alpha in the score, under the rounding of bfloat16 weights.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import LOG2_E, interpreter_product, log2_positive, on_device_of, root

FAR_TILES = 3  # distance from which key tiles take the expansion, in query tiles
CHANNELS = 8  # rows of the table; the matrix units read 16, the rest as zeros


@triton.jit
def _scan(
    acc, total, top, q_tile, k, v, k_n, v_n, p_k, p_kn, row, row_0, row_1, row_2,
    strength, inverse, scale, first, last, limit,
    METRIC: tl.constexpr, AXES: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
    GATE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, PRODUCT: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Fold keys [first, last) into the running softmax. `row` is the query's index on the key axis."""
    d = tl.arange(0, WIDTH)
    key = tl.arange(0, KEYS)
    k_tile_at = key[None, :] * k_n + d[:, None]
    v_tile_at = key[:, None] * v_n + d[None, :]
    for start in tl.range(first, last, KEYS, num_stages=STAGES):
        n = start + key
        past = tl.cast(start, tl.int64)
        k_at = k + past * k_n + k_tile_at
        v_at = v + past * v_n + v_tile_at
        if MASKED:
            k_tile = tl.load(k_at, mask=n[None, :] < limit, other=0.0)
            v_tile = tl.load(v_at, mask=n[:, None] < limit, other=0.0)
        else:
            k_tile = tl.load(k_at)
            v_tile = tl.load(v_at)
        product = tl.dot(q_tile, k_tile.to(PRODUCT), input_precision='ieee')
        gate = product
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
        if MASKED:
            allowed = n[None, :] < limit
            if CAUSAL:
                allowed = allowed & (n[None, :] <= row[:, None])
            scores = tl.where(allowed, scores, float('-inf'))
        higher = tl.maximum(top, tl.max(scores, 1))
        if MASKED:
            higher = tl.where(higher == float('-inf'), -1.0e30, higher)  # no key yet: keep differences finite
        keep = tl.exp2(top - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * keep + tl.sum(weights, 1)
        if GATE:
            weights = weights * gate
        acc = tl.dot(weights.to(PRODUCT), v_tile.to(PRODUCT), acc * keep[:, None], input_precision='ieee')
        top = higher
    return acc, total, top


@triton.jit
def _scan_far(
    acc, total, top, q_tile, offsets, k, v, k_n, v_n, table, stride, shift, scale, last,
    KEYS: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, PRODUCT: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Fold keys [0, last), all real and in the past; `table` (CHANNELS, stride) holds the field by key + shift."""
    d = tl.arange(0, WIDTH)
    channel = tl.arange(0, 16)
    key = tl.arange(0, KEYS)
    k_at = key[None, :] * k_n + d[:, None]
    v_at = key[:, None] * v_n + d[None, :]
    for start in tl.range(0, last, KEYS, num_stages=STAGES):
        n = start + key
        past = tl.cast(start, tl.int64)
        k_tile = tl.load(k + past * k_n + k_at)
        field_at = table + channel[:, None] * stride + (shift + n)[None, :]
        field = tl.load(field_at, mask=(channel < CHANNELS)[:, None], other=0.0)
        v_tile = tl.load(v + past * v_n + v_at)
        scores = tl.dot(q_tile, k_tile.to(PRODUCT), input_precision='ieee')
        scores = tl.dot(offsets, field, scores, input_precision='ieee')
        higher = tl.maximum(top, tl.max(scores, 1) * scale)
        keep = tl.exp2(top - higher)
        weights = tl.exp2(scores * scale - higher[:, None])
        total = total * keep + tl.sum(weights, 1)
        acc = tl.dot(weights.to(PRODUCT), v_tile.to(PRODUCT), acc * keep[:, None], input_precision='ieee')
        top = higher
    return acc, total, top


@triton.jit
def _fill_table(
    table, alpha, beta, origin, stride, scale, HALF: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr
):
    """Derivatives of one head's field by distance, in powers of HALF tokens, over the factor the scores get later."""
    h = tl.program_id(1)
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = x < stride
    inverse = tl.load(beta + h).to(tl.float32)
    strength = tl.load(alpha + h).to(tl.float32) / scale
    at_centre = 1.0 + inverse * tl.maximum(origin - x, 0).to(tl.float32)
    level = -strength * tl.log2(at_centre)
    step = HALF * inverse / at_centre
    first = -strength * 1.4426950408889634 * step
    second = -0.5 * first * step
    third = -0.6666666666666667 * second * step
    kind = table.dtype.element_ty
    table += (h * CHANNELS).to(tl.int64) * stride + x
    high = level.to(kind)
    tl.store(table, high, mask=inside)
    tl.store(table + stride, (level - high.to(tl.float32)).to(kind), mask=inside)
    high = first.to(kind)
    tl.store(table + 2 * stride, high, mask=inside)
    tl.store(table + 3 * stride, (first - high.to(tl.float32)).to(kind), mask=inside)
    tl.store(table + 4 * stride, second.to(kind), mask=inside)  # twice: the square of an offset is split instead
    tl.store(table + 5 * stride, second.to(kind), mask=inside)
    tl.store(table + 6 * stride, third.to(kind), mask=inside)
    tl.store(table + 7 * stride, (level * 0.0).to(kind), mask=inside)


@triton.jit
def _gravity(
    q, k, v, o, alpha, beta, positions_q, positions_k, lengths, table,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, o_b, o_h, o_n, pq_b, pq_n, pk_b, pk_n,
    heads, queries, keys, stride, shift, scale,
    METRIC: tl.constexpr, AXES: tl.constexpr, CAUSAL: tl.constexpr, GATE: tl.constexpr, HAS_LENGTHS: tl.constexpr,
    FAR: tl.constexpr, CHANNELS: tl.constexpr,
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
        near = tl.minimum(tl.maximum(first_row - FAR, 0), whole) // KEYS * KEYS
        # Powers of a query's offset from the tile's centre, in half tiles, beside what the table holds for them.
        offset = ((tl.arange(0, ROWS) - ROWS // 2).to(tl.float32) / (ROWS // 2))[:, None]
        channel = tl.arange(0, 16)[None, :]
        square = offset * offset
        high = square.to(PRODUCT).to(tl.float32)
        power = tl.where(channel < 2, 1.0, tl.where(channel < 4, offset, 0.0))
        power = tl.where(channel == 4, high, tl.where(channel == 5, square - high, power))
        power = tl.where(channel == 6, square * offset, power).to(PRODUCT)
        acc, total, top = _scan_far(
            acc, total, top, q_tile, power, k, v, k_n, v_n, table + h * CHANNELS * stride, stride,
            shift - tile * ROWS, scale, near, KEYS, WIDTH, CHANNELS, PRODUCT, STAGES,
        )  # fmt: skip
    acc, total, top = _scan(
        acc, total, top, q_tile, k, v, k_n, v_n, p_k, pk_n, row, row_0, row_1, row_2, strength, inverse, scale,
        near, whole, limit, METRIC, AXES, CAUSAL, False, GATE, ROWS, KEYS, WIDTH, PRODUCT, STAGES,
    )  # fmt: skip
    acc, total, top = _scan(
        acc, total, top, q_tile, k, v, k_n, v_n, p_k, pk_n, row, row_0, row_1, row_2, strength, inverse, scale,
        whole, end, limit, METRIC, AXES, CAUSAL, True, GATE, ROWS, KEYS, WIDTH, PRODUCT, STAGES,
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
    return (128, 64, 8, 3) if width >= 64 else (64, 128, 4, 3)


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
    tiles = triton.cdiv(queries, rows)
    product = interpreter_product(q.dtype)
    table, stride = None, 0
    # Entry x of the table is distance origin - x from the centre of a query tile: key n of a tile reads entry
    # n + shift - tile * rows, so that slices begin at multiples of 16 and can be copied in wide pieces.
    shift = (tiles - 1) * rows
    origin = shift + rows // 2 + k.shape[2] - queries
    if far and origin > far and scale != 0.0:
        stride = triton.cdiv(origin, 16) * 16
        kind = q.dtype if product != tl.float32 else torch.float32
        table = torch.empty((heads, CHANNELS, stride), dtype=kind, device=q.device)
    else:
        far = 0
    strides = (0, 0, 0, 0) if axes == 0 else (*positions_q.stride()[:2], *positions_k.stride()[:2])
    with on_device_of(q):
        if table is not None:
            _fill_table[(triton.cdiv(stride, 1024), heads)](
                table, alpha, beta, origin, stride, scale * LOG2_E, HALF=rows // 2, CHANNELS=CHANNELS, BLOCK=1024
            )
        _gravity[(tiles, sets * heads)](
            q, k, v, out, alpha, beta, positions_q, positions_k, lengths, table,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3], *strides,
            heads, queries, k.shape[2], stride, shift, scale * LOG2_E,
            METRIC=metric, AXES=axes, CAUSAL=causal, GATE=placement == 'gate', HAS_LENGTHS=lengths is not None,
            FAR=far, CHANNELS=CHANNELS, ROWS=rows, KEYS=keys, WIDTH=width,
            PRODUCT=product, STAGES=stages, num_warps=warps,
        )  # fmt: skip
    return out
