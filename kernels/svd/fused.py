"""Gram matrix and its eigen-decomposition on the chip, for many small problems at once.

Cyclic Jacobi with the tournament ordering: a sweep is d - 1 rounds, a round rotates d / 2 disjoint pairs of rows and
columns at once. Library solvers run one small problem at a time, so a batch costs them far more than its arithmetic.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import interpreter_product, on_device_of
from attn_robotics.kernels.svd.naive import NOISE, Factorisation

SWEEPS = 6  # random symmetric matrices of width 64 reach float32 accuracy after five to six


@triton.jit
def _gram(
    history, keep, partial, h_b, h_n, keep_b, items, splits, span,
    HAS_KEEP: tl.constexpr, ITEMS: tl.constexpr, WIDTH: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """Sum of outer products over one span of one history."""
    split = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    d = tl.arange(0, WIDTH)
    acc = tl.zeros((WIDTH, WIDTH), tl.float32)
    for start in tl.range(split * span, tl.minimum((split + 1) * span, items), ITEMS, num_stages=2):
        n = start + tl.arange(0, ITEMS)
        real = n < items
        if HAS_KEEP:
            real = real & (tl.load(keep + b * keep_b + n, mask=real, other=0) != 0)
        at = history + b * h_b + n.to(tl.int64)[:, None] * h_n + d[None, :]
        tile = tl.load(at, mask=real[:, None], other=0.0).to(PRODUCT)
        acc = tl.dot(tl.trans(tile), tile, acc, input_precision='ieee')
    at = partial + (b * splits + split) * WIDTH * WIDTH
    tl.store(at + d[:, None] * WIDTH + d[None, :], acc)


@triton.jit
def _jacobi(
    partial, tokens, spectrum, energy, counts, splits, rank, sweeps,
    WIDTH: tl.constexpr, NOISE: tl.constexpr,
):  # fmt: skip
    """Eigen-decomposition of one Gram matrix; writes the leading `rank` components, scaled."""
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    square = i[:, None] * WIDTH + i[None, :]
    a = tl.zeros((WIDTH, WIDTH), tl.float32)
    for split in range(splits):
        a += tl.load(partial + (b * splits + split) * WIDTH * WIDTH + square)
    count = tl.maximum(tl.load(counts + b), 1.0)
    a = a / count
    diagonal = i[:, None] == i[None, :]
    vectors = tl.where(diagonal, 1.0, 0.0)  # rows become eigenvectors
    for turn in range(sweeps * (WIDTH - 1)):
        r = turn % (WIDTH - 1)
        # Tournament: i meets 2r - i, and r meets the player who keeps the seat.
        meets = (2 * r - i + (WIDTH - 1)) % (WIDTH - 1)
        partner = tl.where(i == WIDTH - 1, r, tl.where(i == r, WIDTH - 1, meets))
        is_partner = i[None, :] == partner[:, None]
        own_row = tl.sum(tl.where(diagonal, a, 0.0), 0)  # by column
        own = tl.sum(tl.where(diagonal, a, 0.0), 1)  # by row
        other = tl.sum(tl.where(is_partner, own_row[None, :], 0.0), 1)
        cross = tl.sum(tl.where(is_partner, a, 0.0), 1)
        flat = tl.abs(cross) <= 1.0e-12 * (tl.abs(own) + tl.abs(other)) + 1.0e-37
        tau = (other - own) / tl.where(flat, 1.0, 2.0 * cross)
        # Both partners must turn the same way when tau is zero.
        sign = tl.where((tau > 0.0) | ((tau == 0.0) & (i < partner)), 1.0, -1.0)
        tangent = tl.where(flat, 0.0, sign / (tl.abs(tau) + tl.sqrt(1.0 + tau * tau)))
        cosine = tl.rsqrt(1.0 + tangent * tangent)
        weight = -tangent * cosine
        pick = tl.zeros((WIDTH, WIDTH), tl.int32)
        by_row = partner[:, None] + pick
        vectors = cosine[:, None] * vectors + weight[:, None] * tl.gather(vectors, by_row, 0)
        a = cosine[:, None] * a + weight[:, None] * tl.gather(a, by_row, 0)
        turned = tl.trans(a)
        a = cosine[:, None] * turned + weight[:, None] * tl.gather(turned, by_row, 0)
    value = tl.maximum(tl.sum(tl.where(diagonal, a, 0.0), 1), 0.0)
    value_row = tl.maximum(tl.sum(tl.where(diagonal, a, 0.0), 0), 0.0)
    noise = NOISE * 1.1920929e-07 * tl.max(value, 0)
    value = tl.where(value > noise, value, 0.0)
    value_row = tl.where(value_row > noise, value_row, 0.0)
    ahead = (value_row[None, :] > value[:, None]) | ((value_row[None, :] == value[:, None]) & (i[None, :] < i[:, None]))
    place = tl.sum(ahead.to(tl.int32), 1)
    length = tl.sqrt(value)
    chosen = place < rank
    at = tokens + (b * rank + place)[:, None] * WIDTH + i[None, :]
    tl.store(at, length[:, None] * vectors, mask=chosen[:, None])
    tl.store(spectrum + b * rank + place, length, mask=chosen)
    total = tl.sum(value, 0)
    held = tl.sum(tl.where(chosen, value, 0.0), 0)
    tl.store(energy + b, tl.where(total > 0.0, held / tl.where(total > 0.0, total, 1.0), 1.0))


def factorise_fused(
    history: Tensor, rank: int, keep: Tensor | None, *, warps: int = 8, sweeps: int = SWEEPS
) -> Factorisation:
    """See `attn_robotics.kernels.svd.factorise`."""
    history = history if history.stride(-1) == 1 else history.contiguous()
    sets, items, width = history.shape
    device = history.device
    span = max(64, triton.cdiv(triton.cdiv(items * sets, 264), 64) * 64)
    splits = triton.cdiv(items, span)
    partial = torch.empty((sets, splits, width, width), dtype=torch.float32, device=device)
    tokens = torch.empty((sets, rank, width), dtype=torch.float32, device=device)
    spectrum = torch.empty((sets, rank), dtype=torch.float32, device=device)
    energy = torch.empty((sets,), dtype=torch.float32, device=device)
    kept = None if keep is None else keep.to(torch.int8).contiguous()
    if keep is None:
        counts = torch.full((sets,), float(items), dtype=torch.float32, device=device)
    else:
        counts = keep.sum(1).to(torch.float32)
    with on_device_of(history):
        _gram[(splits, sets)](
            history, kept, partial, *history.stride()[:2], items, items, splits, span,
            HAS_KEEP=kept is not None, ITEMS=64, WIDTH=width, PRODUCT=interpreter_product(history.dtype), num_warps=4,
        )  # fmt: skip
        _jacobi[(sets,)](
            partial, tokens, spectrum, energy, counts, splits, rank, sweeps, WIDTH=width, NOISE=NOISE, num_warps=warps
        )
    return Factorisation(tokens, spectrum, energy)
