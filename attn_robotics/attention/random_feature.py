"""Linear-time attention by data-aware random features (DARKFormer); the isotropic case is Performer.

Source: DARKFormer (arXiv 2603.04127), Performer (arXiv 2009.14794).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_robotics.attention.heads import check_heads, join, split
from attn_robotics.kernels.random_feature import (
    draw_projections,
    effective_samples,
    log_features,
    random_feature_attention,
)


class RandomFeatureAttention(nn.Module):
    """Multi-head self-attention in time linear in the length.

    Args:
        width: features.
        heads: number of heads; divides width.
        features: random features a head.
        data_aware: learn a geometry M per head, from the identity; False is Performer.
        causal: see only the past.
        seed: of the random directions, which are stored with the weights.
    """

    projections: Tensor

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        features: int = 256,
        data_aware: bool = True,
        causal: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        head = check_heads(width, heads)
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.geometry = nn.Parameter(torch.eye(head).repeat(heads, 1, 1)) if data_aware else None
        generator = torch.Generator().manual_seed(seed)
        draws = torch.stack([draw_projections(features, head, generator) for _ in range(heads)])
        self.register_buffer('projections', draws)

    def _project(self, x: Tensor) -> list[Tensor]:
        return [split(part, self.heads) for part in self.qkv(x).chunk(3, -1)]

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Mix tokens (B, N, width); keep (B, N) bool marks real ones. Returns (B, N, width)."""
        q, k, v = self._project(x if keep is None else x.masked_fill(~keep[..., None], 0.0))
        mixed = random_feature_attention(q, k, v, self.projections, self.geometry, keep, causal=self.causal)
        out: Tensor = self.out(join(mixed))
        return out

    @torch.no_grad()
    def diagnose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """How far to trust the estimate: largest |Mx|^2 (above 4 is unreliable) and least effective samples (16)."""
        q, k, _ = (part * part.shape[-1] ** -0.25 for part in self._project(x))
        both = torch.cat([q, k], 2)
        turned = both if self.geometry is None else both @ self.geometry.transpose(-1, -2)
        samples = effective_samples(log_features(both, self.projections, self.geometry))
        return turned.square().sum(-1).amax(), samples.amin()
