"""Preference-guided sparse attention (PGSA): which history matters is decided in a frozen preference space.

Source: HPGR (arXiv 2603.00980); its equations could not be read, so everything here is a reconstruction. Two forms:
`items` keeps the k most preferred keys of every query, `blocks` the most preferred key blocks of every query block
(a GPU reads whole blocks at the price of single rows). Both always keep the most recent keys and the query itself.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from attn_robotics.kernels.masking import masked_softmax


def select_items(preference: Tensor, keep: Tensor | None, count: int, recent: int) -> Tensor:
    """Indices of the `count` most preferred admissible keys, the last `recent` and the query itself.

    Args:
        preference: (B, N, N) preference of query i for key j; NaN counts as never, ties go to the larger index.
        keep: (B, N) bool, True for real items, or None.
        count: number of preferred keys.
        recent: number of keys just before the query that are always kept.

    Returns:
        (B, N, count + recent + 1) int64, ascending, -1 where a slot is unused; no duplicates.
    """
    batch, queries, keys = preference.shape
    i = torch.arange(queries, device=preference.device)[:, None]
    j = torch.arange(keys, device=preference.device)[None, :]
    allowed = (j <= i).expand(batch, -1, -1)
    if keep is not None:
        allowed = allowed & keep[:, None, :] & keep[:, :, None]
    always = allowed & (i - j <= recent)
    ranked = preference.masked_fill(preference.isnan() | ~allowed, -torch.inf)
    # A stable sort of the reversed row puts the larger index first among equals.
    order = keys - 1 - ranked.flip(-1).sort(dim=-1, descending=True, stable=True).indices
    best = order[..., : min(count, keys)]
    chosen = torch.zeros_like(allowed).scatter(-1, best, True) & allowed & ~ranked.eq(-torch.inf)
    chosen = chosen | always
    slots = min(count + recent + 1, keys)
    index = torch.where(chosen, j, keys).sort(-1).values[..., :slots]
    index = torch.where(index == keys, -1, index)
    # Unused slots go last; the contract asks for a fixed width.
    return torch.nn.functional.pad(index, (0, count + recent + 1 - slots), value=-1)


def attend_items(
    q: Tensor, k: Tensor, v: Tensor, index: Tensor, logit: Tensor | None, *, activation: str, scale: float
) -> Tensor:
    """Attend to listed keys only: q, k, v (B, H, N, D), index (B, N, S) with -1 unused, logit (B, N, N) added or None.

    `silu` is HSTU's point-wise weight, divided by the number of keys; rows without a key are zero.
    """
    valid = index >= 0
    at = index.clamp(min=0)
    batch = torch.arange(q.shape[0], device=q.device)[:, None, None]
    keys = k.transpose(1, 2)[batch, at].permute(0, 3, 1, 2, 4)  # (B, H, N, S, D)
    values = v.transpose(1, 2)[batch, at].permute(0, 3, 1, 2, 4)
    values = values.masked_fill(~valid[:, None, :, :, None], 0.0)
    scores = (q[:, :, :, None] * keys).sum(-1) * scale
    if logit is not None:
        scores = scores + logit.gather(-1, at)[:, None]
    if activation == 'silu':
        weights = silu(scores.masked_fill(~valid[:, None], 0.0)) / k.shape[2]
        weights = weights.masked_fill(~valid[:, None], 0.0)
    else:
        weights = masked_softmax(scores, valid[:, None])
    return (weights[..., None, :] @ values)[..., 0, :]


def select_blocks(guide_q: Tensor, guide_k: Tensor, count: int, query_block: int, key_block: int) -> Tensor:
    """(B, query blocks, count) int32 indices of the most preferred earlier key blocks, -1 where there are fewer.

    The preference of a query block for a key block is the product of their mean guides. Candidates end before the
    query block; its own blocks and the one before are always attended and never listed.
    """
    pooled_q = _pool(guide_q, query_block)
    pooled_k = _pool(guide_k, key_block)
    scores = pooled_q @ pooled_k.transpose(-1, -2)  # (B, NQ, NK)
    border = torch.arange(scores.shape[1], device=scores.device) * query_block // key_block - 1
    past = torch.arange(scores.shape[2], device=scores.device)[None, :] < border[:, None]
    scores = scores.nan_to_num(-torch.inf, posinf=torch.inf, neginf=-torch.inf).masked_fill(~past, -torch.inf)
    best, index = scores.topk(min(count, scores.shape[2]), -1)
    index = torch.where(best == -torch.inf, -1, index).to(torch.int32)
    return torch.nn.functional.pad(index, (0, count - index.shape[-1]), value=-1)


def _pool(guide: Tensor, block: int) -> Tensor:
    padding = -guide.shape[1] % block
    padded = torch.nn.functional.pad(guide, (0, 0, 0, padding))
    total = padded.unflatten(1, (-1, block)).sum(2)
    size = torch.full((total.shape[1], 1), float(block), dtype=total.dtype, device=total.device)
    if padding:
        size[-1] = block - padding
    mean: Tensor = total / size
    return mean


def attend_blocks(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, *, query_block: int, key_block: int, scale: float
) -> Tensor:
    """Causal attention to the listed key blocks, the query's own block and the one before it."""
    tokens = q.shape[2]
    i = torch.arange(tokens, device=q.device)
    key_of = i // key_block
    own = i // query_block * query_block // key_block - 1  # first block that is always attended
    listed = (key_of[None, None, None, :] == blocks[..., None]).any(2)  # (B, NQ, N)
    allowed = listed[:, i // query_block] | (key_of[None, :] >= own[:, None])
    allowed = allowed & (i[None, :] <= i[:, None])
    return masked_softmax(q @ k.transpose(-1, -2) * scale, allowed[:, None]) @ v
