"""Splitting features into heads and back."""

from __future__ import annotations

from torch import Tensor


def check_heads(width: int, heads: int) -> int:
    """Features of one head.

    Raises:
        ValueError: heads do not divide the width.
    """
    if heads < 1 or width % heads:
        raise ValueError(f'width must be a multiple of heads, got {width} and {heads}')
    return width // heads


def split(x: Tensor, heads: int) -> Tensor:
    """(B, N, H x D) to (B, H, N, D)."""
    by_head: Tensor = x.unflatten(-1, (heads, -1))
    return by_head.transpose(1, 2)


def join(x: Tensor) -> Tensor:
    """(B, H, N, D) to (B, N, H x D)."""
    return x.transpose(1, 2).flatten(2)
