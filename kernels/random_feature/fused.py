"""Random-feature attention without features in memory: both feature maps are made where they are used.

Keys: splits of the sequence each sum features times values around their own maximum, a second small kernel joins them.
Queries: features, normalisation and the product with the sum in one pass. The query norm cancels and is never computed.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import LOG2_E, interpreter_product, on_device_of


@triton.jit
def _keys(
    k, v, folded, geometry, keep, sums, masses, tops,
    k_b, k_h, k_n, v_b, v_h, v_n, f_h, g_h, keep_b, heads, keys, splits, norm_scale,
    HAS_GEOMETRY: tl.constexpr, HAS_KEEP: tl.constexpr, SPAN: tl.constexpr, KEYS: tl.constexpr,
    FEATURES: tl.constexpr, WIDTH: tl.constexpr, INNER: tl.constexpr, VALUE: tl.constexpr,
    PRODUCT: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Sum of features times values over one span of keys, (FEATURES, VALUE), with its maximum taken out."""
    split = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    b, h = row // heads, row % heads
    f = tl.arange(0, FEATURES)
    d = tl.arange(0, WIDTH)
    y = tl.arange(0, VALUE)
    weights = tl.load(folded + h * f_h + f[:, None] * WIDTH + d[None, :])
    if HAS_GEOMETRY:
        r = tl.arange(0, INNER)
        turn = tl.load(geometry + h * g_h + r[:, None] * WIDTH + d[None, :])
    k += b * k_b + h * k_h
    v += b * v_b + h * v_h
    acc = tl.zeros((FEATURES, VALUE), tl.float32)
    mass = tl.zeros((FEATURES,), tl.float32)
    top = -1.0e30
    for start in tl.range(split * SPAN, tl.minimum((split + 1) * SPAN, keys), KEYS, num_stages=STAGES):
        n = start + tl.arange(0, KEYS)
        real = n < keys
        at = n.to(tl.int64)
        if HAS_KEEP:
            real = real & (tl.load(keep + b * keep_b + n, mask=real, other=0) != 0)
        k_tile = tl.load(k + at[None, :] * k_n + d[:, None], mask=real[None, :], other=0.0)
        v_tile = tl.load(v + at[:, None] * v_n + y[None, :], mask=real[:, None], other=0.0)
        if HAS_GEOMETRY:
            turned = tl.dot(turn, k_tile.to(PRODUCT), input_precision='ieee')
            norm = tl.sum(turned * turned, 0) * norm_scale
        else:
            wide = k_tile.to(tl.float32)
            norm = tl.sum(wide * wide, 0) * norm_scale
        exponent = tl.dot(weights, k_tile.to(PRODUCT), input_precision='ieee') - norm[None, :]
        exponent = tl.where(real[None, :], exponent, -1.0e30)
        higher = tl.maximum(top, tl.max(tl.max(exponent, 0), 0))
        kept = tl.exp2(top - higher)
        feature = tl.where(real[None, :], tl.exp2(exponent - higher), 0.0)
        mass = mass * kept + tl.sum(feature, 1)
        acc = tl.dot(feature.to(PRODUCT), v_tile.to(PRODUCT), acc * kept, input_precision='ieee')
        top = higher
    at = row * splits + split
    tl.store(sums + at * FEATURES * VALUE + f[:, None] * VALUE + y[None, :], acc)
    tl.store(masses + at * FEATURES + f, mass)
    tl.store(tops + at, top)


@triton.jit
def _join(
    sums, masses, tops, state, mass_out, splits,
    FEATURES: tl.constexpr, VALUE: tl.constexpr, PART: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Bring the splits of one head to a common maximum and add them."""
    f = tl.program_id(0) * PART + tl.arange(0, PART)
    row = tl.program_id(1).to(tl.int64)
    y = tl.arange(0, VALUE)
    every = tl.arange(0, SPLITS)
    top = tl.max(tl.load(tops + row * splits + every, mask=every < splits, other=-1.0e30), 0)
    acc = tl.zeros((PART, VALUE), tl.float32)
    mass = tl.zeros((PART,), tl.float32)
    for split in range(splits):
        at = row * splits + split
        factor = tl.exp2(tl.load(tops + at) - top)
        acc += factor * tl.load(sums + at * FEATURES * VALUE + f[:, None] * VALUE + y[None, :])
        mass += factor * tl.load(masses + at * FEATURES + f)
    tl.store(state + row * FEATURES * VALUE + f[:, None] * VALUE + y[None, :], acc.to(state.dtype.element_ty))
    tl.store(mass_out + row * FEATURES + f, mass)


@triton.jit
def _queries(
    q, folded, state, mass, o, q_b, q_h, q_n, f_h, o_b, o_h, o_n, heads, queries,
    ROWS: tl.constexpr, FEATURES: tl.constexpr, WIDTH: tl.constexpr, VALUE: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """Features of one tile of queries, times the sum over keys."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = tl.program_id(1).to(tl.int64)
    b, h = row // heads, row % heads
    f = tl.arange(0, FEATURES)
    d = tl.arange(0, WIDTH)
    y = tl.arange(0, VALUE)
    real = m < queries
    at = m.to(tl.int64)
    q_tile = tl.load(q + b * q_b + h * q_h + at[:, None] * q_n + d[None, :], mask=real[:, None], other=0.0)
    weights = tl.load(folded + h * f_h + f[None, :] * WIDTH + d[:, None])
    exponent = tl.dot(q_tile.to(PRODUCT), weights, input_precision='ieee')
    feature = tl.exp2(exponent - tl.max(exponent, 1)[:, None])
    total = tl.sum(feature * tl.load(mass + row * FEATURES + f)[None, :], 1)
    sums = tl.load(state + row * FEATURES * VALUE + f[:, None] * VALUE + y[None, :])
    out = tl.dot(feature.to(PRODUCT), sums.to(PRODUCT), input_precision='ieee')
    empty = total < 1.17549435e-38
    out = tl.where(empty[:, None], 0.0, out / tl.where(empty, 1.0, total)[:, None])
    o_at = o + b * o_b + h * o_h + at[:, None] * o_n + y[None, :]
    tl.store(o_at, out.to(o.dtype.element_ty), mask=real[:, None])


def random_feature_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    projections: Tensor,
    geometry: Tensor | None,
    keep: Tensor | None,
    *,
    scale: float,
    config: tuple[int, int, int, int] = (32, 8, 64, 8),
) -> Tensor:
    """See `attn_robotics.kernels.random_feature`; `config` is keys and warps, rows and warps of the two passes."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    sets, heads, queries, width = q.shape
    keys, value, features = k.shape[2], v.shape[3], projections.shape[1]
    product = interpreter_product(q.dtype)
    low = q.dtype if product != tl.float32 else torch.float32
    folded = projections.float() if geometry is None else projections.float() @ geometry.float()
    folded = (folded * (scale**0.5 * LOG2_E)).to(low).contiguous()  # (H or 1, m, D)
    turn = None if geometry is None else geometry.to(low).contiguous()
    key_tile, key_warps, rows, row_warps = config
    span = max(key_tile, triton.cdiv(triton.cdiv(keys * sets * heads, 132), key_tile) * key_tile)
    splits = triton.cdiv(keys, span)
    out = torch.empty((sets, heads, queries, value), dtype=v.dtype, device=q.device)
    sums = torch.empty((sets * heads, splits, features, value), dtype=torch.float32, device=q.device)
    masses = torch.empty((sets * heads, splits, features), dtype=torch.float32, device=q.device)
    tops = torch.empty((sets * heads, splits), dtype=torch.float32, device=q.device)
    state = torch.empty((sets * heads, features, value), dtype=low, device=q.device)
    mass = torch.empty((sets * heads, features), dtype=torch.float32, device=q.device)
    by_head = folded.stride(0) if folded.shape[0] > 1 else 0
    turn_by_head = 0 if turn is None or turn.shape[0] == 1 else turn.stride(0)
    kept = None if keep is None else keep.to(torch.int8).contiguous()
    sizes = {'FEATURES': features, 'VALUE': value}
    with on_device_of(q):
        _keys[(splits, sets * heads)](
            k, v, folded, turn, kept, sums, masses, tops,
            *k.stride()[:3], *v.stride()[:3], by_head, turn_by_head, keys, heads, keys, splits, scale * LOG2_E / 2,
            HAS_GEOMETRY=turn is not None, HAS_KEEP=kept is not None, SPAN=span, KEYS=key_tile, WIDTH=width,
            INNER=projections.shape[2], PRODUCT=product, STAGES=2, num_warps=key_warps, **sizes,
        )  # fmt: skip
        _join[(features // 8, sets * heads)](
            sums, masses, tops, state, mass, splits, PART=8, SPLITS=triton.next_power_of_2(splits), num_warps=1, **sizes
        )
        _queries[(triton.cdiv(queries, rows), sets * heads)](
            q, folded, state, mass, out, *q.stride()[:3], by_head, *out.stride()[:3], heads, queries,
            ROWS=rows, WIDTH=width, PRODUCT=product, num_warps=row_warps, **sizes,
        )  # fmt: skip
    return out
