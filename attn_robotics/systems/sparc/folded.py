"""The network's decision for one fleet on a GPU, with constant products folded and small operations fused.

Launching is what a decision of a hundred robots costs: observation and network are 350 small operations, in this form
70, with the same result up to rounding. Folded are the relation tables into the projections (their products with
queries and keys come out of the same matrix product) and attention's output projection into the gate's; left out are
the heads that only training reads.
"""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from attn_robotics.kernels.launch import LOG2_E, on_device_of, power_of_two
from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.model import FORBIDDEN, CommunicationLayer, SparcNetwork, legal_moves


def obstacle(config: SparcConfig) -> str | None:
    """Why a network can not be folded, or None."""
    if config.communication != 'broadcast' or config.gating != 'gru_code':
        return f'communication {config.communication!r} with gating {config.gating!r}'
    return 'robot numbers in messages' if config.id_encoding != 'none' else None


@triton.jit
def _attend(
    left, right, relation, out, left_n, right_n, robots, table, scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """One tile of rows of one head over all keys: scores are q . k and two picked products with the tables."""
    head = tl.program_id(1)
    d = tl.arange(0, PADDED)
    inside = d < WIDTH
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row_in = row < robots
    at = left + row[:, None] * left_n
    q = tl.load(at + head * WIDTH + d[None, :], mask=row_in[:, None] & inside[None, :], other=0.0)
    mine_at = at + HEADS * WIDTH + head * table
    acc = tl.zeros((ROWS, PADDED), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    top = tl.full((ROWS,), -1.0e30, tl.float32)
    for start in range(0, robots, KEYS):
        n = start + tl.arange(0, KEYS)
        key_in = n < robots
        key_at = right + n * right_n
        both = key_in[:, None] & inside[None, :]
        k = tl.load(key_at[:, None] + head * WIDTH + d[None, :], mask=both, other=0.0)
        v = tl.load(key_at[:, None] + (HEADS + head) * WIDTH + d[None, :], mask=both, other=0.0)
        pair = row_in[:, None] & key_in[None, :]
        index = tl.load(relation + row[:, None].to(tl.int64) * robots + n[None, :], mask=pair, other=-1)
        heard = index >= 0
        scores = tl.dot(q, tl.trans(k), input_precision='ieee')
        scores += tl.load(mine_at + index, mask=heard, other=0.0)
        scores += tl.load(key_at[None, :] + 2 * HEADS * WIDTH + head * table + index, mask=heard, other=0.0)
        scores = tl.where(heard, scores * scale, float('-inf'))
        higher = tl.maximum(top, tl.max(scores, 1))
        kept = tl.exp2(top - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * kept + tl.sum(weights, 1)
        acc = acc * kept[:, None] + tl.dot(weights, v, input_precision='ieee')
        top = higher
    acc = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    to = out + row[:, None] * (HEADS * WIDTH) + head * WIDTH + d[None, :]
    tl.store(to, acc, mask=row_in[:, None] & inside[None, :])


@triton.jit
def _blend(evidence, state, row, out, count, width, BLOCK: tl.constexpr):
    """`CodeGate` after its two products: GRU with the evidence as input and the row as state."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    base = at // width * (3 * width) + at % width
    reset = tl.load(evidence + base, mask=there) + tl.load(state + base, mask=there)
    update = tl.load(evidence + base + width, mask=there) + tl.load(state + base + width, mask=there)
    kept = tl.load(state + base + 2 * width, mask=there) * tl.sigmoid(reset)
    new = 2.0 * tl.sigmoid(2.0 * (tl.load(evidence + base + 2 * width, mask=there) + kept)) - 1.0  # tanh
    old = tl.load(row + at, mask=there)
    tl.store(out + at, new + tl.sigmoid(update) * (old - new), mask=there)


@dataclass(frozen=True)
class _Layer:
    """Weights (rows, columns) and biases of one communication layer; `module` holds what is not folded."""

    from_row: Tensor
    from_row_bias: Tensor
    from_message: Tensor
    gate: Tensor
    table: int
    module: CommunicationLayer


def _fold(module: CommunicationLayer) -> _Layer:
    attention = module.attention
    query_table, key_table = (table.double() for table in attention.tables())  # (M, H, D)
    heads = attention.heads
    query, key, value, out = (getattr(attention, name).weight.double() for name in ('query', 'key', 'value', 'out'))
    per_head = (heads, query.shape[0] // heads, query.shape[1])
    by_query = torch.einsum('mhd,hdw->hmw', key_table, query.view(per_head)).flatten(0, 1)  # (H M, width)
    by_key = torch.einsum('mhd,hdw->hmw', query_table, key.view(per_head)).flatten(0, 1)
    constant = (query_table * key_table).sum(-1).T.flatten()  # (H M,)
    return _Layer(
        from_row=torch.cat([query, by_query]).float(),
        from_row_bias=torch.cat([constant.new_zeros(len(query)), constant]).float(),
        from_message=torch.cat([key, value, by_key]).float(),
        gate=(module.gate.input.weight.double() @ out).float(),
        table=len(query_table),
        module=module,
    )


class FoldedNetwork:
    """Decisions of a network in evaluation mode; its weights are copied at construction.

    Args:
        network: `obstacle(network.config)` must be None.
    """

    @torch.inference_mode()
    def __init__(self, network: SparcNetwork) -> None:
        self._network = network
        self._layers = [_fold(layer) for layer in network.layers]

    def __call__(self, image: Tensor, vector: Tensor, relation: Tensor, messages: Tensor) -> tuple[Tensor, Tensor]:
        """Decide: image (N, 8, F, F), vector (N, V), relation (N, N) int32, messages (N, width).

        Returns:
            Log-probabilities (N, 5) and the next messages (N, width), as `SparcNetwork` gives them.
        """
        network = self._network
        rows = network.encoder(image, vector)
        x = network.join_norm(network.join(torch.cat([rows, messages], -1)))
        for layer in self._layers:
            x = self._communicate(layer, x, messages, relation)
        logits = network.policy(torch.cat([rows, x], -1))
        log_probs = logits.masked_fill(~legal_moves(image), FORBIDDEN).log_softmax(-1)
        return log_probs, network.message_norm(network.next_message(x))

    def _communicate(self, layer: _Layer, x: Tensor, messages: Tensor, relation: Tensor) -> Tensor:
        module, robots, width = layer.module, *x.shape
        left = functional.linear(x, layer.from_row, layer.from_row_bias)
        right = functional.linear(messages, layer.from_message)
        heads = module.attention.heads
        heard, blended = torch.empty_like(x), torch.empty_like(x)
        keys = 64
        with on_device_of(x):
            _attend[(triton.cdiv(robots, 16), heads)](
                left, right, relation, heard, left.stride(0), right.stride(0), robots, layer.table,
                LOG2_E * (width // heads) ** -0.5,
                HEADS=heads, WIDTH=width // heads, PADDED=power_of_two(width // heads), ROWS=16, KEYS=keys, num_warps=4,
            )  # fmt: skip
            evidence = functional.linear(heard, layer.gate, module.gate.input.bias)
            _blend[(triton.cdiv(x.numel(), 512),)](
                evidence, module.gate.state(x), x, blended, x.numel(), width, BLOCK=512, num_warps=4
            )
        return module.norm(blended + module.shrink(module.expand(blended).relu()))
