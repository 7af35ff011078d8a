"""Attention of candidates to the principal components of a long history (SOLAR, arXiv 2603.02561, reconstructed)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_robotics.attention.heads import check_heads, join, split
from attn_robotics.kernels.svd import Factorisation, factorise, factorise_gram, gram, svd_attention


class HistoryGram:
    """A history as its decayed Gram matrix: items are added as they arrive, components are taken when needed.

    Args:
        streams: number of histories.
        width: features of an item.
        decay: factor on the past at every item, 1 keeps all.
    """

    def __init__(
        self, streams: int, width: int, *, decay: float = 1.0, device: torch.device | str | None = None
    ) -> None:
        self.decay = decay
        self.product = torch.zeros(streams, width, width, device=device)
        self.count = torch.zeros(streams, device=device)

    def append(self, items: Tensor, keep: Tensor | None = None) -> None:
        """Add (B, T, width) items in order; keep (B, T) bool marks real ones."""
        real = torch.ones(items.shape[:2], device=items.device) if keep is None else keep.to(torch.float32)
        later = real.flip(1).cumsum(1).flip(1) - real  # real items that follow
        weight = real * self.decay**later
        total = self.decay ** real.sum(1)
        scaled = items.float().masked_fill(real[..., None] == 0, 0.0) * weight.sqrt()[..., None]
        product, _ = gram(scaled, None)
        self.product = total[:, None, None] * self.product + product
        self.count = total * self.count + weight.sum(1)

    def factorise(self, rank: int) -> Factorisation:
        """Leading components of everything appended so far."""
        return factorise_gram(self.product, self.count, rank)


class SvdAttention(nn.Module):
    """Multi-head attention of candidates over a history's components and their mirror images.

    Args:
        width: features of candidates and items.
        heads: number of heads; divides width.
        rank: number of components.
    """

    def __init__(self, width: int, heads: int, *, rank: int = 16) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads, self.rank = heads, rank
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, candidates: Tensor, history: Tensor | Factorisation, keep: Tensor | None = None
    ) -> tuple[Tensor, Factorisation]:
        """Attend.

        Args:
            candidates: (B, C, width).
            history: (B, N, width) items, or components from an earlier call (they serve all heads and layers).
            keep: (B, N) bool, True for real items, or None.

        Returns:
            (B, C, width), zero for an empty history, and the components: spectrum and energy say how lossy they are.
        """
        parts = history if isinstance(history, Factorisation) else factorise(history, self.rank, keep)
        tokens = parts.tokens.to(candidates.dtype)
        q, k, v = (
            split(layer(x), self.heads)
            for layer, x in ((self.query, candidates), (self.key, tokens), (self.value, tokens))
        )
        out: Tensor = self.out(join(svd_attention(q, k, v)))
        return out, parts
