"""Masks and softmax that stay finite where nothing may be attended."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_from_lengths(lengths: Tensor, size: int) -> Tensor:
    """(B,) lengths to (B, size) bool, True for real slots."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def masked_softmax(scores: Tensor, keep: Tensor | None) -> Tensor:
    """Softmax over the last axis of `scores` where `keep` (broadcast) is True.

    Rows without any kept entry are exactly zero, with zero gradient; masked scores may be NaN or infinite.
    """
    if keep is None:
        return scores.softmax(-1)
    # A finite low value instead of -inf gives an empty row a defined gradient, which the second mask removes.
    weights = scores.masked_fill(~keep, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~keep, 0.0)


def zero_padding(values: Tensor, keep: Tensor | None) -> Tensor:
    """Set the rows of `values` (..., K, D) that `keep` (..., K) excludes to zero, so that padding may hold NaN."""
    return values if keep is None else values.masked_fill(~keep[..., None], 0.0)
