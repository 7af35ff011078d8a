"""Omni-parallax attention (OPAM, arXiv 2603.03615): align a side view along rows, then columns, and rate the match."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_robotics.kernels.masking import masked_softmax


def align_rows(query: Tensor, key: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """Every main pixel attends to its row of the side map.

    Args:
        query: (B, C, H, W) projected main map; its row mean is removed here, no 1 / sqrt(C) factor.
        key: (B, C, H, W) projected side map.
        side: (B, Cv, H, W) what is warped, unprojected.

    Returns:
        (B, Cv, H, W) aligned map and (B, 1, H, W) tanh(10 x cycle consistency): near 1 where main to side to main
        leads back, near tanh(10 / W) elsewhere.
    """
    q = (query - query.mean(-1, keepdim=True)).permute(0, 2, 3, 1)  # (B, H, W, C)
    k = (key - key.mean(-1, keepdim=True)).permute(0, 2, 3, 1)
    scores = q @ k.transpose(-1, -2)  # (B, H, W main, W side)
    to_side, to_main = scores.softmax(-1), scores.transpose(-1, -2).softmax(-1)
    aligned = (to_side @ side.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    cycle = (to_side * to_main.transpose(-1, -2)).sum(-1)  # diagonal of the product, never the product
    return aligned, torch.tanh(10.0 * cycle)[:, None]


def align_columns(query: Tensor, key: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """`align_rows` along columns."""
    aligned, match = align_rows(*(x.transpose(-1, -2) for x in (query, key, side)))
    return aligned.transpose(-1, -2), match.transpose(-1, -2)


def source_weights(consistency: Tensor, present: Tensor | None = None, *, sharpness: float = 24.0) -> Tensor:
    """(B, K, H, W) consistencies of K side views to weights that sum to 1 over views.

    `present` (B, K) bool drops missing views from the softmax; a pixel without any view has zero weights.
    """
    keep = None if present is None else present[:, None, None, :]
    return masked_softmax(sharpness * consistency.movedim(1, -1), keep).movedim(-1, 1)


class ParallaxAttention(nn.Module):
    """Align K side views to a main view and fuse them by trust.

    Args:
        channels: of the feature maps.
        sharpness: of the softmax over views.
    """

    def __init__(self, channels: int, *, sharpness: float = 24.0) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.query, self.key = (
            nn.ModuleList(nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 1)) for _ in range(2))
            for _ in range(2)
        )

    def align(self, main: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
        """One side view (B, C, H, W) aligned to main (B, C, H, W), and its consistency (B, 1, H, W)."""
        across, match_row = align_rows(self.query[0](main), self.key[0](side), side)
        aligned, match_column = align_columns(self.query[1](main), self.key[1](across), across)
        return aligned, match_row * match_column

    def forward(self, main: Tensor, sides: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fuse.

        Args:
            main: (B, C, H, W).
            sides: (B, K, C, H, W) side views; the order does not matter.
            present: (B, K) bool, True for views that arrived, or None.

        Returns:
            (B, C, H, W) fused side information, zero without any view, and (B, K, H, W) weights of the views.
        """
        if present is not None:
            sides = sides.masked_fill(~present[:, :, None, None, None], 0.0)
        aligned, matches = zip(*(self.align(main, side) for side in sides.unbind(1)), strict=True)
        weights = source_weights(torch.cat(matches, 1), present, sharpness=self.sharpness)
        return (weights[:, :, None] * torch.stack(aligned, 1)).sum(1), weights
