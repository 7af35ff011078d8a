"""Random-feature attention without features in memory: both feature maps are made where they are used.

Keys: splits of the sequence each sum features times values around the maximum of every feature, which stays inside a
warp; a second small kernel joins them. Queries: features, normalisation and the product with the sum in one pass, by
programs that keep projections and sums on the chip. The query norm cancels and is never computed. Where the GPU can do
that, the second and third kernel start while the one before ends.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from attn_robotics.kernels.launch import LOG2_E, interpreter_product, on_device_of, starts_early

PROGRAMS = 132  # processors of the GPU that the work is spread over


@triton.jit
def _keys(
    k, v, directions, geometry, keep, sums, masses, tops,
    k_b, k_h, k_n, v_b, v_h, v_n, f_h, g_h, keep_b, heads, keys, splits, slope, norm_scale,
    HAS_GEOMETRY: tl.constexpr, HAS_KEEP: tl.constexpr, EVEN: tl.constexpr, SPAN: tl.constexpr, KEYS: tl.constexpr,
    FEATURES: tl.constexpr, PART: tl.constexpr, WIDTH: tl.constexpr, INNER: tl.constexpr, VALUE: tl.constexpr,
    PRODUCT: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Sum of features times values over one span of keys, (PART, VALUE), with each feature's maximum taken out."""
    if EARLY:
        gdc_launch_dependents()
    split = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    b, h = row // heads, row % heads
    f = tl.program_id(2) * PART + tl.arange(0, PART)
    d = tl.arange(0, WIDTH)
    y = tl.arange(0, VALUE)
    weights = tl.load(directions + h * f_h + f[:, None] * WIDTH + d[None, :]).to(PRODUCT)
    if HAS_GEOMETRY:
        r = tl.arange(0, INNER)
        turn = tl.load(geometry + h * g_h + r[:, None] * WIDTH + d[None, :])
    k += b * k_b + h * k_h
    v += b * v_b + h * v_h
    acc = tl.zeros((PART, VALUE), tl.float32)
    mass = tl.zeros((PART,), tl.float32)
    top = tl.full((PART,), -1.0e30, tl.float32)
    for start in tl.range(split * SPAN, tl.minimum((split + 1) * SPAN, keys), KEYS, num_stages=STAGES):
        n = start + tl.arange(0, KEYS)
        at = n.to(tl.int64)
        if EVEN:
            k_tile = tl.load(k + at[:, None] * k_n + d[None, :])
            v_tile = tl.load(v + at[:, None] * v_n + y[None, :])
        else:
            real = n < keys
            if HAS_KEEP:
                real = real & (tl.load(keep + b * keep_b + n, mask=real, other=0) != 0)
            k_tile = tl.load(k + at[:, None] * k_n + d[None, :], mask=real[:, None], other=0.0)
            v_tile = tl.load(v + at[:, None] * v_n + y[None, :], mask=real[:, None], other=0.0)
        k_turned = tl.trans(k_tile.to(PRODUCT))
        if HAS_GEOMETRY:
            inner = tl.dot(turn, k_turned, input_precision='ieee')
            norm = tl.sum(inner * inner, 0) * norm_scale
        else:
            wide = k_tile.to(tl.float32)
            norm = tl.sum(wide * wide, 1) * norm_scale
        exponent = tl.dot(weights, k_turned, input_precision='ieee') * slope - norm[None, :]
        if not EVEN:
            exponent = tl.where(real[None, :], exponent, -1.0e30)
        higher = tl.maximum(top, tl.max(exponent, 1))
        kept = tl.exp2(top - higher)
        feature = tl.exp2(exponent - higher[:, None])
        if not EVEN:
            feature = tl.where(real[None, :], feature, 0.0)
        mass = mass * kept + tl.sum(feature, 1)
        acc = tl.dot(feature.to(PRODUCT), v_tile.to(PRODUCT), acc * kept[:, None], input_precision='ieee')
        top = higher
    at = (row * splits + split) * FEATURES
    tl.store(sums + at * VALUE + f[:, None] * VALUE + y[None, :], acc)
    tl.store(masses + at + f, mass)
    tl.store(tops + at + f, top)


@triton.jit
def _join(
    sums, masses, tops, state, mass_out, splits,
    FEATURES: tl.constexpr, VALUE: tl.constexpr, PART: tl.constexpr, SPLITS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Bring splits and features of one head to a common maximum and add the splits."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()  # for the sums over keys
    f = tl.program_id(0) * PART + tl.arange(0, PART)
    row = tl.program_id(1).to(tl.int64)
    y = tl.arange(0, VALUE)
    every = tl.arange(0, SPLITS)
    wide = tl.arange(0, FEATURES)
    head = row * splits * FEATURES
    at = every[:, None] * FEATURES + wide[None, :]
    top = tl.max(tl.max(tl.load(tops + head + at, mask=every[:, None] < splits, other=-1.0e30), 1), 0)
    own = every[:, None] * FEATURES + f[None, :]
    factor = tl.exp2(tl.load(tops + head + own, mask=every[:, None] < splits, other=-1.0e30) - top)  # (SPLITS, PART)
    mass = tl.sum(factor * tl.load(masses + head + own, mask=every[:, None] < splits, other=0.0), 0)
    acc = tl.zeros((PART, VALUE), tl.float32)
    for split in tl.range(0, splits):
        share = tl.exp2(tl.load(tops + head + split * FEATURES + f) - top)
        acc += share[:, None] * tl.load(sums + (head + split * FEATURES) * VALUE + f[:, None] * VALUE + y[None, :])
    tl.store(state + row * FEATURES * VALUE + f[:, None] * VALUE + y[None, :], acc.to(state.dtype.element_ty))
    tl.store(mass_out + row * FEATURES + f, mass)


@triton.jit
def _queries(
    q, directions, state, mass, o, q_b, q_h, q_n, f_h, o_b, o_h, o_n, heads, queries, slope,
    EVEN: tl.constexpr, ROWS: tl.constexpr, FEATURES: tl.constexpr, WIDTH: tl.constexpr, VALUE: tl.constexpr,
    PRODUCT: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Features of every num_programs(0)-th tile of queries, times the sum over keys."""
    row = tl.program_id(1).to(tl.int64)
    b, h = row // heads, row % heads
    f = tl.arange(0, FEATURES)
    d = tl.arange(0, WIDTH)
    y = tl.arange(0, VALUE)
    weights = tl.load(directions + h * f_h + f[:, None] * WIDTH + d[None, :]).to(PRODUCT)
    if EARLY:
        gdc_wait()  # for the joined sums; nothing above was written by the kernel before
    sums = tl.load(state + row * FEATURES * VALUE + f[:, None] * VALUE + y[None, :]).to(PRODUCT)
    masses = tl.load(mass + row * FEATURES + f)
    q += b * q_b + h * q_h
    o += b * o_b + h * o_h
    for start in tl.range(tl.program_id(0) * ROWS, queries, tl.num_programs(0) * ROWS, num_stages=STAGES):
        m = start + tl.arange(0, ROWS)
        at = m.to(tl.int64)
        if EVEN:
            q_tile = tl.load(q + at[:, None] * q_n + d[None, :])
        else:
            q_tile = tl.load(q + at[:, None] * q_n + d[None, :], mask=(m < queries)[:, None], other=0.0)
        exponent = tl.dot(q_tile.to(PRODUCT), tl.trans(weights), input_precision='ieee')
        feature = tl.exp2(exponent * slope - tl.max(exponent, 1)[:, None] * slope)
        total = tl.sum(feature * masses[None, :], 1)
        out = tl.dot(feature.to(PRODUCT), sums, input_precision='ieee')
        empty = total < 1.17549435e-38
        out = tl.where(empty[:, None], 0.0, out * (1.0 / tl.where(empty, 1.0, total))[:, None])
        o_at = o + at[:, None] * o_n + y[None, :]
        if EVEN:
            tl.store(o_at, out.to(o.dtype.element_ty))
        else:
            tl.store(o_at, out.to(o.dtype.element_ty), mask=(m < queries)[:, None])


def random_feature_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    projections: Tensor,
    geometry: Tensor | None,
    keep: Tensor | None,
    *,
    scale: float,
    config: tuple[tuple[int, int, int, int], tuple[int, int, int, int]] = ((128, 64, 4, 3), (64, 4, 1, 2)),
) -> Tensor:
    """See `attn_robotics.kernels.random_feature`.

    `config`: features, keys, warps, stages of a program of the first pass; rows, warps, stages of the last one and how
    many of its programs share a processor.
    """
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    sets, heads, queries, width = q.shape
    keys, value, features = k.shape[2], v.shape[3], projections.shape[1]
    product = interpreter_product(q.dtype)
    low = q.dtype if product != tl.float32 else torch.float32
    directions = projections if geometry is None else projections.float() @ geometry.float()
    directions = directions.to(low).contiguous()  # (H or 1, m, D)
    turn = None if geometry is None else geometry.to(low).contiguous()
    (part, key_tile, key_warps, key_stages), (rows, row_warps, row_stages, resident) = config
    part = min(part, features)
    span = triton.cdiv(triton.cdiv(keys * sets * heads * (features // part), PROGRAMS * 2), key_tile) * key_tile
    splits = triton.cdiv(keys, span)
    out = torch.empty((sets, heads, queries, value), dtype=v.dtype, device=q.device)
    sums = torch.empty((sets * heads, splits, features, value), dtype=torch.float32, device=q.device)
    masses = torch.empty((sets * heads, splits, features), dtype=torch.float32, device=q.device)
    tops = torch.empty((sets * heads, splits, features), dtype=torch.float32, device=q.device)
    state = torch.empty((sets * heads, features, value), dtype=low, device=q.device)
    mass = torch.empty((sets * heads, features), dtype=torch.float32, device=q.device)
    by_head = directions.stride(0) if directions.shape[0] > 1 else 0
    turn_by_head = 0 if turn is None or turn.shape[0] == 1 else turn.stride(0)
    kept = None if keep is None else keep.to(torch.int8).contiguous()
    slope = scale**0.5 * LOG2_E
    tiles = triton.cdiv(queries, rows)
    programs = min(tiles, max(1, resident * PROGRAMS // (sets * heads)))
    early = starts_early(q)
    sizes = {'FEATURES': features, 'VALUE': value, 'EARLY': early}
    with on_device_of(q):
        _keys[(splits, sets * heads, features // part)](
            k, v, directions, turn, kept, sums, masses, tops,
            *k.stride()[:3], *v.stride()[:3], by_head, turn_by_head, keys, heads, keys, splits,
            slope, scale * LOG2_E / 2,
            HAS_GEOMETRY=turn is not None, HAS_KEEP=kept is not None, EVEN=kept is None and keys % key_tile == 0,
            SPAN=span, KEYS=key_tile, PART=part, WIDTH=width, INNER=projections.shape[2], PRODUCT=product,
            STAGES=key_stages, num_warps=key_warps, **sizes,
        )  # fmt: skip
        _join[(features // 8, sets * heads)](
            sums, masses, tops, state, mass, splits,
            PART=8, SPLITS=triton.next_power_of_2(splits), num_warps=4, launch_pdl=early, **sizes,
        )  # fmt: skip
        _queries[(programs, sets * heads)](
            q, directions, state, mass, out, *q.stride()[:3], by_head, *out.stride()[:3], heads, queries, slope,
            EVEN=queries % rows == 0, ROWS=rows, WIDTH=width, PRODUCT=product, STAGES=row_stages, num_warps=row_warps,
            launch_pdl=early, **sizes,
        )  # fmt: skip
    return out
