"""Log-linear attention without a sequential loop over chunks.

Three stages: states of chunks and of aligned groups of four; a tree that merges four groups at a time; one output pass
in which chunk c reads, for every set bit b of c, the one state that level holds for it. Only blocks with an even index
are ever read, so odd ones exist only on their way up the tree.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import interpreter_product, on_device_of
from attn_robotics.kernels.log_linear.naive import LogLinearState


@triton.jit
def _chunk_state(
    k, v, g, k_n, v_n, g_n, chunk, tokens,
    CHUNK: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """(KEY, VALUE) sum of decayed outer products of one chunk, and its total log decay."""
    s = chunk * CHUNK + tl.arange(0, CHUNK)
    real = s < tokens
    at = s.to(tl.int64)
    gate = tl.load(g + at * g_n, mask=real, other=0.0).to(tl.float32)
    total = tl.sum(gate, 0)
    rest = tl.exp(total - tl.cumsum(gate, 0))
    k_tile = tl.load(k + at[None, :] * k_n + tl.arange(0, KEY)[:, None], mask=real[None, :], other=0.0)
    v_tile = tl.load(v + at[:, None] * v_n + tl.arange(0, VALUE)[None, :], mask=real[:, None], other=0.0)
    keys = (k_tile.to(tl.float32) * rest[None, :]).to(PRODUCT)
    return tl.dot(keys, v_tile.to(PRODUCT), input_precision='ieee'), total


@triton.jit
def _states(
    k, v, g, states, totals, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_h, g_n,
    heads, tokens, blocks, base_1, base_2,
    CHUNK: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """Four chunks: writes what the output pass reads of levels 0 and 1, and the group's state at level 2."""
    group = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    b, h = row // heads, row % heads
    k += b * k_b + h * k_h
    v += b * v_b + h * v_h
    g += b * g_b + h * g_h
    size: tl.constexpr = KEY * VALUE
    at = tl.arange(0, KEY)[:, None] * VALUE + tl.arange(0, VALUE)[None, :]
    states += row * blocks * size
    totals += row * blocks
    first = group * 4
    s_0, t_0 = _chunk_state(k, v, g, k_n, v_n, g_n, first, tokens, CHUNK, KEY, VALUE, PRODUCT)
    tl.store(states + first.to(tl.int64) * size + at, s_0.to(states.dtype.element_ty))
    s_1, t_1 = _chunk_state(k, v, g, k_n, v_n, g_n, first + 1, tokens, CHUNK, KEY, VALUE, PRODUCT)
    low = s_0 * tl.exp(t_1) + s_1
    tl.store(states + (base_1 + group * 2).to(tl.int64) * size + at, low.to(states.dtype.element_ty))
    s_2, t_2 = _chunk_state(k, v, g, k_n, v_n, g_n, first + 2, tokens, CHUNK, KEY, VALUE, PRODUCT)
    tl.store(states + (first + 2).to(tl.int64) * size + at, s_2.to(states.dtype.element_ty))
    s_3, t_3 = _chunk_state(k, v, g, k_n, v_n, g_n, first + 3, tokens, CHUNK, KEY, VALUE, PRODUCT)
    high = s_2 * tl.exp(t_3) + s_3
    whole = low * tl.exp(t_2 + t_3) + high
    tl.store(states + (base_2 + group).to(tl.int64) * size + at, whole.to(states.dtype.element_ty))
    tl.store(totals + first, t_0)
    tl.store(totals + first + 2, t_2)
    tl.store(totals + base_1 + group * 2, t_0 + t_1)
    tl.store(totals + base_2 + group, t_0 + t_1 + t_2 + t_3)


@triton.jit
def _merge(
    states, totals, blocks, base_0, base_1, base_2, count, KEY: tl.constexpr, VALUE: tl.constexpr, PART: tl.constexpr
):
    """Four neighbouring blocks of one level, `count` of which exist, into the two levels above."""
    group = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    size: tl.constexpr = KEY * VALUE
    at = tl.program_id(2) * PART + tl.arange(0, PART)
    states += row * blocks * size + at
    totals += row * blocks
    first = base_0 + group * 4
    left = count - group * 4
    t_0 = tl.load(totals + first)
    t_1 = tl.load(totals + first + 1, mask=left > 1, other=0.0)
    t_2 = tl.load(totals + first + 2, mask=left > 2, other=0.0)
    t_3 = tl.load(totals + first + 3, mask=left > 3, other=0.0)
    source = states + first.to(tl.int64) * size
    s_0 = tl.load(source).to(tl.float32)
    s_1 = tl.load(source + size, mask=left > 1, other=0.0).to(tl.float32)
    s_2 = tl.load(source + 2 * size, mask=left > 2, other=0.0).to(tl.float32)
    s_3 = tl.load(source + 3 * size, mask=left > 3, other=0.0).to(tl.float32)
    low = s_0 * tl.exp(t_1) + s_1
    whole = low * tl.exp(t_2 + t_3) + s_2 * tl.exp(t_3) + s_3
    tl.store(states + (base_1 + group * 2).to(tl.int64) * size, low.to(states.dtype.element_ty))
    tl.store(states + (base_2 + group).to(tl.int64) * size, whole.to(states.dtype.element_ty))
    if tl.program_id(2) == 0:
        tl.store(totals + base_1 + group * 2, t_0 + t_1)
        tl.store(totals + base_2 + group, t_0 + t_1 + t_2 + t_3)


@triton.jit
def _output(
    q, k, v, g, lam, o, states, totals,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_h, g_n, l_b, l_h, l_n, o_b, o_h, o_n,
    heads, tokens, blocks, padded, levels,
    DEPTH: tl.constexpr, INSIDE: tl.constexpr,
    CHUNK: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """One chunk's outputs: dense inside, one state per set bit of its index outside."""
    chunk = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    b, h = row // heads, row % heads
    i = tl.arange(0, CHUNK)
    s = chunk * CHUNK + i
    real = s < tokens
    at = s.to(tl.int64)
    x = tl.arange(0, KEY)
    y = tl.arange(0, VALUE)
    q_tile = tl.load(q + b * q_b + h * q_h + at[:, None] * q_n + x[None, :], mask=real[:, None], other=0.0).to(PRODUCT)
    k_tile = tl.load(k + b * k_b + h * k_h + at[None, :] * k_n + x[:, None], mask=real[None, :], other=0.0).to(PRODUCT)
    v_tile = tl.load(v + b * v_b + h * v_h + at[:, None] * v_n + y[None, :], mask=real[:, None], other=0.0).to(PRODUCT)
    since = tl.cumsum(tl.load(g + b * g_b + h * g_h + at * g_n, mask=real, other=0.0).to(tl.float32), 0)
    lam_at = lam + b * l_b + h * l_h + at * l_n
    apart = i[:, None] ^ i[None, :]
    level_0 = tl.load(lam_at, mask=real, other=0.0).to(tl.float32)
    level = tl.where(apart == 0, level_0[:, None], 0.0)
    for bit in tl.static_range(INSIDE):
        weight = tl.load(lam_at + 1 + bit, mask=real & (1 + bit < levels), other=0.0).to(tl.float32)
        level = tl.where((apart >> bit) == 1, weight[:, None], level)
    causal = i[:, None] >= i[None, :]
    decay = tl.exp(tl.where(causal, since[:, None] - since[None, :], float('-inf')))
    scores = tl.dot(q_tile, k_tile, input_precision='ieee') * decay * level
    out = tl.dot(scores.to(PRODUCT), v_tile, input_precision='ieee')
    size: tl.constexpr = KEY * VALUE
    tile = x[:, None] * VALUE + y[None, :]
    states += row * blocks * size
    totals += row * blocks
    base = 0
    width = padded
    passed = 0.0  # log decay between the end of the block at hand and the start of this chunk
    for bit in range(DEPTH):
        if (chunk >> bit) & 1:
            block = base + (chunk >> bit) - 1
            state = tl.load(states + block.to(tl.int64) * size + tile)
            weight = tl.load(lam_at + 1 + INSIDE + bit, mask=real, other=0.0).to(tl.float32)
            reach = weight * tl.exp(since + passed)
            out += reach[:, None] * tl.dot(q_tile, state.to(PRODUCT), input_precision='ieee')
            passed += tl.load(totals + block)
        base += width
        width = width // 2
    o_at = o + b * o_b + h * o_h + at[:, None] * o_n + y[None, :]
    tl.store(o_at, out.to(o.dtype.element_ty), mask=real[:, None])


def log_linear_forward(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, lam: Tensor, *, chunk: int = 64, warps: tuple[int, int] = (4, 4)
) -> Tensor:
    """See `attn_robotics.kernels.log_linear`; `chunk` and `warps` (states, output) are for tuning and tests."""
    q, k, v, lam = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v, lam))
    sets, heads, tokens, key = q.shape
    value = v.shape[3]
    chunks = triton.cdiv(tokens, chunk)
    depth = max(chunks - 1, 0).bit_length()
    # A full binary tree over a padded number of chunks: level l starts at 2 padded (1 - 2^-l).
    padded = max(4, triton.next_power_of_2(chunks))
    blocks = 2 * padded
    bases = [blocks - (blocks >> level) for level in range(depth + 5)]
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    store = torch.float32 if q.dtype == torch.float32 else torch.bfloat16
    product = interpreter_product(q.dtype)
    shapes = {'KEY': key, 'VALUE': value}
    states = torch.empty((sets * heads, blocks, key, value), dtype=store, device=q.device)
    totals = torch.empty((sets * heads, blocks), dtype=torch.float32, device=q.device)
    with on_device_of(q):
        if chunks > 1:
            _states[(triton.cdiv(chunks, 4), sets * heads)](
                k, v, g, states, totals, *k.stride()[:3], *v.stride()[:3], *g.stride(),
                heads, tokens, blocks, bases[1], bases[2], CHUNK=chunk, PRODUCT=product, num_warps=warps[0], **shapes,
            )  # fmt: skip
            count = triton.cdiv(chunks, 4)
            level = 2
            part = min(4096, key * value)
            while count > 1:
                groups = triton.cdiv(count, 4)
                _merge[(groups, sets * heads, key * value // part)](
                    states, totals, blocks, *bases[level : level + 3], count, PART=part, **shapes
                )
                count, level = groups, level + 2
        _output[(chunks, sets * heads)](
            q, k, v, g, lam, out, states, totals,
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *g.stride(), *lam.stride()[:3], *out.stride()[:3],
            heads, tokens, blocks, padded, lam.shape[3], DEPTH=depth, INSIDE=(chunk - 1).bit_length(), CHUNK=chunk,
            PRODUCT=product, num_warps=warps[1], **shapes,
        )  # fmt: skip
    return out


@triton.jit
def _step(
    q, k, v, g, lam, o, levels, log_decay, last_key, last_value, step,
    q_b, q_h, k_b, k_h, v_b, v_h, g_b, g_h, l_b, l_h, heads,
    LEVELS: tl.constexpr, SLOTS: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr,
):  # fmt: skip
    """One token of one head of one stream: reads the levels in use, writes the one that the carry reaches.

    Every warp of the program reads step, decays and last token, some later than others: they are written last, behind a
    barrier. No other program touches a stream's level; before the last level, the only one that is read and written in
    one step, a barrier waits for threads that hold copies of it.
    """
    row = tl.program_id(0).to(tl.int64)
    b, h = row // heads, row % heads
    x = tl.arange(0, KEY)
    y = tl.arange(0, VALUE)
    q_row = tl.load(q + b * q_b + h * q_h + x).to(tl.float32)
    k_row = tl.load(k + b * k_b + h * k_h + x).to(tl.float32)
    v_row = tl.load(v + b * v_b + h * v_h + y).to(tl.float32)
    gate = tl.load(g + b * g_b + h * g_h).to(tl.float32)
    lam += b * l_b + h * l_h
    seen = tl.load(step + row)
    log_decay += row * LEVELS
    every = tl.arange(0, SLOTS)
    decays = tl.load(log_decay + every, mask=every < LEVELS, other=0.0)
    size: tl.constexpr = KEY * VALUE
    tile = x[:, None] * VALUE + y[None, :]
    levels += row * (LEVELS - 1) * size
    out = tl.load(lam).to(tl.float32) * tl.sum(q_row * k_row, 0) * v_row
    if seen > 0:
        merged = tl.load(last_key + row * KEY + x)[:, None] * tl.load(last_value + row * VALUE + y)[None, :]
        arrived = 0  # the level the carry stops at
        for level in range(1, LEVELS):
            present = (seen >> (level - 1)) & 1
            at = levels + (level - 1) * size + tile
            owed = tl.load(log_decay + level)
            if arrived == 0:
                # Below the lowest set bit every level is full and joins the carry; the last level takes what is left.
                if present == 1 or level == LEVELS - 1:
                    if level == LEVELS - 1:
                        merged += tl.load(at) * tl.exp(owed)
                        tl.debug_barrier()
                    arrived = level
                    tl.store(at, merged)
                    read = tl.sum(q_row[:, None] * merged, 0)
                    out += tl.load(lam + level).to(tl.float32) * tl.exp(gate) * read
                else:
                    merged += tl.load(at) * tl.exp(owed)
            else:
                if present == 1 or level == LEVELS - 1:
                    read = tl.sum(q_row[:, None] * tl.load(at), 0)
                    out += tl.load(lam + level).to(tl.float32) * tl.exp(owed + gate) * read
        in_use = ((seen >> tl.maximum(every - 1, 0)) & 1 == 1) | (every == LEVELS - 1)
        decays = tl.where((every > arrived) & in_use, decays + gate, decays)
        decays = tl.where(every == arrived, gate, tl.where((every > 0) & (every < arrived), -float('inf'), decays))
    tl.debug_barrier()
    tl.store(log_decay + every, decays, mask=every < LEVELS)
    tl.store(last_key + row * KEY + x, k_row)
    tl.store(last_value + row * VALUE + y, v_row)
    tl.store(step + row, seen + 1)
    tl.store(o + row * VALUE + y, out.to(o.dtype.element_ty))


def log_linear_step_fused(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, lam: Tensor, state: LogLinearState, *, warps: int = 1
) -> Tensor:
    """See `attn_robotics.kernels.log_linear.log_linear_step`."""
    q, k, v, lam = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v, lam))
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    with on_device_of(q):
        _step[(q.shape[0] * q.shape[1],)](
            q, k, v, g, lam, out, state.levels, state.log_decay, state.last_key, state.last_value, state.step,
            *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *g.stride(), *lam.stride()[:2], q.shape[1],
            LEVELS=lam.shape[-1], SLOTS=triton.next_power_of_2(lam.shape[-1]),
            KEY=q.shape[-1], VALUE=v.shape[-1], num_warps=warps,
        )  # fmt: skip
    return out
