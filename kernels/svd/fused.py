"""Gram matrix and its eigen-decomposition on the chip, for many small problems at once.

One-sided cyclic Jacobi with the tournament ordering: a sweep is d - 1 rounds, a round turns d / 2 disjoint pairs of
rows of the Gram matrix until all rows are orthogonal. They are then its eigenvectors, as long as their eigenvalues:
neither columns nor a separate basis have to be turned. Pairs sit opposite each other and rows move between rounds, in
the same way each time, so that no round has to look for partners. Library solvers run one small problem at a time, so a
batch costs them far more than its arithmetic.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from attn_robotics.kernels.launch import LOG2_E, interpreter_product, on_device_of, power_of_two, starts_early
from attn_robotics.kernels.svd.naive import NOISE, Factorisation

SWEEPS = 8  # a bound; equal eigenvalues take six, spectra that fall by a factor of ten three
# Squared cosine of the worst pair met in a sweep below which the sweep was the last: it leaves about its square.
CONVERGED = 3.0e-5


@triton.jit
def _gram(
    history, keep, partial, h_b, h_n, keep_b, items, splits, span,
    HAS_KEEP: tl.constexpr, ITEMS: tl.constexpr, WIDTH: tl.constexpr, PRODUCT: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Sum of outer products over one span of one history."""
    if EARLY:
        gdc_launch_dependents()
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
    partial, tokens, spectrum, energy, counts, items, splits, rank, sweeps,
    HAS_COUNTS: tl.constexpr, WIDTH: tl.constexpr, NOISE: tl.constexpr, CONVERGED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Eigen-decomposition of one Gram matrix; writes the leading `rank` components, scaled."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()  # for the partial sums
    b = tl.program_id(0).to(tl.int64)
    PAIRS: tl.constexpr = WIDTH // 2
    i = tl.arange(0, WIDTH)
    p = tl.arange(0, PAIRS)[None, :]
    # By symmetry a row may be read as a column: members of a warp hold rows, so that rows move by shuffles, and every
    # thread a share of their elements.
    upper = i[:, None] * WIDTH + p
    first = tl.zeros((WIDTH, PAIRS), tl.float32)
    second = tl.zeros((WIDTH, PAIRS), tl.float32)
    for split in range(splits):
        at = partial + (b * splits + split) * WIDTH * WIDTH + upper
        first += tl.load(at)
        second += tl.load(at + PAIRS)
    count = items * 1.0
    if HAS_COUNTS:
        count = tl.maximum(tl.load(counts + b).to(tl.float32), 1.0)
    # In units of the trace, so that squares of eigenvalues stay in range.
    diagonal = tl.where(i[:, None] == p, first, 0.0) + tl.where(i[:, None] == p + PAIRS, second, 0.0)
    trace = tl.sum(tl.sum(diagonal, 1), 0) / count
    unit = 1.0 / (count * tl.where(trace > 0.0, trace, 1.0))
    first = first * unit
    second = second * unit
    before = tl.maximum(p - 1, 0) + tl.zeros((WIDTH, PAIRS), tl.int32)
    after = tl.minimum(p + 1, PAIRS - 1) + tl.zeros((WIDTH, PAIRS), tl.int32)
    one_before = tl.maximum(tl.arange(0, PAIRS) - 1, 0)
    one_after = tl.minimum(tl.arange(0, PAIRS) + 1, PAIRS - 1)
    q = tl.arange(0, PAIRS)
    sweep = 0
    worst = trace * 0.0 + 1.0
    while (sweep < sweeps) & (worst > CONVERGED):
        mine = tl.sum(first * first, 0)
        theirs = tl.sum(second * second, 0)
        # Rows below it are rounding noise, never square.
        least = 16.0 * NOISE * NOISE * 1.4210855e-14 * tl.maximum(tl.max(mine, 0), tl.max(theirs, 0))
        largest = tl.zeros((PAIRS,), tl.float32)
        for _ in range(WIDTH - 1):
            cross = tl.sum(first * second, 0)
            both = mine * theirs
            flat = cross * cross <= 1.0e-14 * both + 1.0e-37
            counts_in = (mine > least) & (theirs > least)
            largest = tl.maximum(largest, tl.where(counts_in, cross * cross / tl.where(counts_in, both, 1.0), 0.0))
            tau = (theirs - mine) / tl.where(flat, 1.0, 2.0 * cross)
            tangent = tl.where(tau >= 0.0, 1.0, -1.0) / (tl.abs(tau) + tl.sqrt(1.0 + tau * tau))
            tangent = tl.where(flat, 0.0, tangent)
            cosine = tl.rsqrt(1.0 + tangent * tangent)
            c = cosine[None, :]
            s = (tangent * cosine)[None, :]
            turned = c * first - s * second
            second = c * second + s * first
            mine = mine - tangent * cross
            theirs = theirs + tangent * cross
            # Tournament: the first row keeps its seat, all others move on by one, around both sides of the table.
            moving = tl.where(p == 0, second, turned)
            first = tl.where(p == 0, turned, tl.gather(moving, before, 1))
            second = tl.where(p == PAIRS - 1, turned, tl.gather(second, after, 1))
            moving_norm = tl.where(q == 0, theirs, mine)
            last_norm = mine
            mine = tl.where(q == 0, mine, tl.gather(moving_norm, one_before, 0))
            theirs = tl.where(q == PAIRS - 1, last_norm, tl.gather(theirs, one_after, 0))
        worst = tl.max(largest, 0)
        sweep += 1
    # (WIDTH, WIDTH) elements of a row along the first axis; the order of rows does not matter any more.
    rows = tl.trans(tl.reshape(tl.join(first, second), (WIDTH, WIDTH)))
    diagonal = i[:, None] == i[None, :]
    value = tl.sqrt(tl.sum(rows * rows, 1))
    noise = NOISE * 1.1920929e-07 * tl.max(value, 0)
    value = tl.where(value > noise, value, 0.0)
    value_row = tl.sum(tl.where(diagonal, value[:, None], 0.0), 0)
    ahead = (value_row[None, :] > value[:, None]) | ((value_row[None, :] == value[:, None]) & (i[None, :] < i[:, None]))
    place = tl.sum(ahead.to(tl.int32), 1)
    scale = tl.sqrt(trace)
    length = tl.sqrt(value)
    chosen = place < rank
    at = tokens + (b * rank + place)[:, None] * WIDTH + i[None, :]
    tl.store(
        at,
        (scale / tl.where(value > 0.0, length, 1.0))[:, None] * tl.where(value[:, None] > 0.0, rows, 0.0),
        mask=chosen[:, None],
    )
    tl.store(spectrum + b * rank + place, scale * length, mask=chosen)
    total = tl.sum(value, 0)
    held = tl.sum(tl.where(chosen, value, 0.0), 0)
    tl.store(energy + b, tl.where(total > 0.0, held / tl.where(total > 0.0, total, 1.0), 1.0))


@triton.jit
def _attend(
    q, keys, values, out, q_b, q_c, o_b, o_c, candidates, rank, scale,
    ROWS: tl.constexpr, RANK: tl.constexpr, WIDTH: tl.constexpr, VALUE: tl.constexpr, PRODUCT: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Softmax over plus and minus every token for one tile of queries."""
    if EARLY:
        gdc_wait()  # for whoever made tokens or queries
    b = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    r = tl.arange(0, RANK)
    d = tl.arange(0, WIDTH)
    y = tl.arange(0, VALUE)
    there = row < candidates
    q_at = q + b * q_b + row.to(tl.int64)[:, None] * q_c + d[None, :]
    q_tile = tl.load(q_at, mask=there[:, None], other=0.0).to(PRODUCT)
    z = tl.load(keys + (b * rank + r)[:, None] * WIDTH + d[None, :], mask=(r < rank)[:, None], other=0.0)
    x = tl.load(values + (b * rank + r)[:, None] * VALUE + y[None, :], mask=(r < rank)[:, None], other=0.0)
    real = tl.max(tl.abs(z), 1) > 0.0  # a component of length zero is no token
    scores = tl.dot(q_tile, tl.trans(z.to(PRODUCT)), input_precision='ieee') * scale
    top = tl.max(tl.abs(scores), 1)[:, None]
    plus = tl.where(real[None, :], tl.exp2(scores - top), 0.0)
    minus = tl.where(real[None, :], tl.exp2(-scores - top), 0.0)
    mass = tl.sum(plus + minus, 1)
    mixed = tl.dot((plus - minus).to(PRODUCT), x.to(PRODUCT), input_precision='ieee')
    mixed = mixed * (1.0 / tl.where(mass > 0.0, mass, 1.0))[:, None]
    o_at = out + b * o_b + row.to(tl.int64)[:, None] * o_c + y[None, :]
    tl.store(o_at, mixed.to(out.dtype.element_ty), mask=there[:, None])


def attend_fused(q: Tensor, keys: Tensor, values: Tensor, *, scale: float, rows: int = 128) -> Tensor:
    """See `attn_robotics.kernels.svd.svd_attention`, q (B, C, d)."""
    q = q if q.stride(-1) == 1 else q.contiguous()
    keys, values = keys.contiguous(), values.contiguous()
    sets, candidates, width = q.shape
    rank, value = values.shape[1:]
    out = torch.empty((sets, candidates, value), dtype=q.dtype, device=q.device)
    early = starts_early(q)
    with on_device_of(q):
        _attend[(triton.cdiv(candidates, rows), sets)](
            q, keys, values, out, *q.stride()[:2], *out.stride()[:2], candidates, rank, scale * LOG2_E,
            ROWS=rows, RANK=power_of_two(rank), WIDTH=width, VALUE=value, PRODUCT=interpreter_product(q.dtype),
            EARLY=early, num_warps=4, launch_pdl=early,
        )  # fmt: skip
    return out


def factorise_fused(
    history: Tensor, rank: int, keep: Tensor | None, *, warps: int = 4, sweeps: int = SWEEPS
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
    counts = None if keep is None else keep.sum(1)
    early = starts_early(history)
    with on_device_of(history):
        _gram[(splits, sets)](
            history, kept, partial, *history.stride()[:2], items, items, splits, span,
            HAS_KEEP=kept is not None, ITEMS=64, WIDTH=width, PRODUCT=interpreter_product(history.dtype), EARLY=early,
            num_warps=4,
        )  # fmt: skip
        _jacobi[(sets,)](
            partial, tokens, spectrum, energy, counts, items, splits, rank, sweeps,
            HAS_COUNTS=counts is not None, WIDTH=width, NOISE=NOISE, CONVERGED=CONVERGED, EARLY=early,
            num_warps=warps, launch_pdl=early,
        )  # fmt: skip
    return Factorisation(tokens, spectrum, energy)
