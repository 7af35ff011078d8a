"""One step of polynomial mixing: features, running mean, gate and output in one pass over the state."""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import on_device_of, reciprocal


@triton.jit
def _gelu(x):
    """x times the normal distribution function; erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7."""
    a = tl.abs(x) * 0.7071067811865476
    t = reciprocal(1.0 + 0.3275911 * a)
    tail = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    tail = 0.5 * tail * tl.exp2(-1.4426950408889634 * a * a)
    return x * tl.where(x < 0.0, tail, 1.0 - tail)


@triton.jit
def _step(
    projected, gate, state, count, out, p_b, g_b, features,
    DEGREE: tl.constexpr, DEGREES: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One stream, BLOCK features of every degree at a time; one program a stream, so that `count` has one writer.

    All loads of a block come before its first store: a store might alias a later load, which would have to wait.
    """
    b = tl.program_id(0).to(tl.int64)
    power = tl.arange(0, DEGREES)[:, None]
    projected += b * p_b
    gate += b * g_b
    state += b * features
    out += b * features
    seen = tl.load(count + b)
    keep = seen / (seen + 1.0)
    for start in tl.range(0, PART, BLOCK):
        e = start + tl.arange(0, BLOCK)[None, :]
        at = power * PART + e
        if DEGREES == DEGREE and PART % BLOCK == 0:
            x = tl.load(projected + at).to(tl.float32)
            mean = tl.load(state + at)
            y = tl.load(gate + at).to(tl.float32)
        else:
            real = (power < DEGREE) & (e < PART)
            x = tl.load(projected + at, mask=real, other=0.0).to(tl.float32)
            mean = tl.load(state + at, mask=real, other=0.0)
            y = tl.load(gate + at, mask=real, other=0.0).to(tl.float32)
        product = tl.cumprod(_gelu(x), 0)
        mean = mean * keep + product * (1.0 - keep)
        share = (mean * reciprocal(1.0 + tl.exp2(-1.4426950408889634 * y))).to(out.dtype.element_ty)
        if DEGREES == DEGREE and PART % BLOCK == 0:
            tl.store(state + at, mean)
            tl.store(out + at, share)
        else:
            tl.store(state + at, mean, mask=real)
            tl.store(out + at, share, mask=real)
    tl.store(count + b, seen + 1.0)


def polynomial_step_fused(
    projected: Tensor, gate: Tensor, state: Tensor, count: Tensor, *, degree: int, warps: int = 16
) -> Tensor:
    """See `attn_robotics.kernels.polynomial.polynomial_step`."""
    projected, gate = (x if x.stride(-1) == 1 else x.contiguous() for x in (projected, gate))
    streams, features = projected.shape
    out = torch.empty((streams, features), dtype=projected.dtype, device=projected.device)
    part = features // degree
    with on_device_of(projected):
        _step[(streams,)](
            projected, gate, state, count, out, projected.stride(0), gate.stride(0), features,
            DEGREE=degree, DEGREES=triton.next_power_of_2(degree), PART=part,
            BLOCK=min(1024, triton.next_power_of_2(part)), num_warps=warps,
        )  # fmt: skip
    return out
