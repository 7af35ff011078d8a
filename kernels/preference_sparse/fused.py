"""Flash attention over a list of key blocks a query block."""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.launch import LOG2_E, interpreter_product, on_device_of


@triton.jit
def _fold(acc, total, top, q_tile, k, v, k_n, v_n, n, row, tokens, scale, WIDTH: tl.constexpr, PRODUCT: tl.constexpr):
    d = tl.arange(0, WIDTH)
    real = n < tokens
    at = n.to(tl.int64)
    k_tile = tl.load(k + at[None, :] * k_n + d[:, None], mask=real[None, :], other=0.0)
    v_tile = tl.load(v + at[:, None] * v_n + d[None, :], mask=real[:, None], other=0.0)
    scores = tl.dot(q_tile, k_tile.to(PRODUCT), input_precision='ieee') * scale
    scores = tl.where(n[None, :] <= row[:, None], scores, -1.0e30)
    higher = tl.maximum(top, tl.max(scores, 1))
    kept = tl.exp2(top - higher)
    weights = tl.exp2(scores - higher[:, None])
    total = total * kept + tl.sum(weights, 1)
    acc = tl.dot(weights.to(PRODUCT), v_tile.to(PRODUCT), acc * kept[:, None], input_precision='ieee')
    return acc, total, higher


@triton.jit
def _blocks(
    q, k, v, o, blocks, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, o_b, o_h, o_n,
    heads, tokens, count, query_blocks, scale,
    ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """One query block of one head: its own keys first (every row then has a maximum), then the listed blocks."""
    tile = tl.program_id(0)
    b = (tl.program_id(1) // heads).to(tl.int64)
    h = (tl.program_id(1) % heads).to(tl.int64)
    row = tile * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, WIDTH)
    at = row.to(tl.int64)[:, None]
    q_tile = tl.load(q + b * q_b + h * q_h + at * q_n + d[None, :], mask=row[:, None] < tokens, other=0.0).to(PRODUCT)
    k += b * k_b + h * k_h
    v += b * v_b + h * v_h
    acc = tl.zeros((ROWS, WIDTH), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    top = tl.full((ROWS,), -1.0e30, tl.float32)
    first = tile * ROWS
    for start in tl.range(first, first + ROWS, KEYS):
        n = start + tl.arange(0, KEYS)
        acc, total, top = _fold(acc, total, top, q_tile, k, v, k_n, v_n, n, row, tokens, scale, WIDTH, PRODUCT)
    if first > 0:
        n = first - KEYS + tl.arange(0, KEYS)
        acc, total, top = _fold(acc, total, top, q_tile, k, v, k_n, v_n, n, row, tokens, scale, WIDTH, PRODUCT)
    listed = blocks + (b * query_blocks + tile) * count
    for at_list in tl.range(0, count):
        block = tl.load(listed + at_list)
        if block >= 0:
            n = block * KEYS + tl.arange(0, KEYS)
            acc, total, top = _fold(acc, total, top, q_tile, k, v, k_n, v_n, n, row, tokens, scale, WIDTH, PRODUCT)
    o_at = o + b * o_b + h * o_h + at * o_n + d[None, :]
    tl.store(o_at, (acc / total[:, None]).to(o.dtype.element_ty), mask=row[:, None] < tokens)


def preference_block_forward(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, *, query_block: int, key_block: int, scale: float, warps: int = 4
) -> Tensor:
    """See `attn_robotics.kernels.preference_sparse.preference_block_attention`."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    sets, heads, tokens, width = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    tiles = triton.cdiv(tokens, query_block)
    with on_device_of(q):
        _blocks[(tiles, sets * heads)](
            q, k, v, out, blocks.contiguous(),
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            heads, tokens, blocks.shape[2], tiles, scale * LOG2_E,
            ROWS=query_block, KEYS=key_block, WIDTH=width, PRODUCT=interpreter_product(q.dtype), num_warps=warps,
        )  # fmt: skip
    return out
