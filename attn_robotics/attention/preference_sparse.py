"""Preference-guided sparse attention (PGSA of HPGR, arXiv 2603.00980, reconstructed)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from attn_robotics.attention.heads import check_heads, join, split
from attn_robotics.kernels.preference_sparse import (
    ACTIVATIONS,
    attend_items,
    preference_block_attention,
    select_items,
)

FORMS = ('items', 'blocks')


class PreferenceSparseAttention(nn.Module):
    """Causal multi-head attention to preferred and recent items only.

    Args:
        width: features.
        heads: number of heads; divides width.
        count: preferred items a query ('items') or blocks a query block ('blocks').
        recent: items just before the query that are always kept ('items').
        activation: 'softmax', or 'silu' for HSTU's point-wise weight ('items').
        form: 'items' or 'blocks'.
        soft_guidance: add a learned multiple (from zero) of the preference to the scores of kept items ('items').
        block: queries and keys of a block ('blocks').
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        count: int = 128,
        recent: int = 16,
        activation: str = 'softmax',
        form: str = 'items',
        soft_guidance: bool = False,
        block: int = 64,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS or form not in FORMS:
            raise ValueError(f'activation must be in {ACTIVATIONS}, form in {FORMS}; got {activation!r}, {form!r}')
        if form == 'blocks' and (activation != 'softmax' or soft_guidance):
            raise ValueError('blocks support softmax without soft guidance')
        self.scale = check_heads(width, heads) ** -0.5
        self.heads, self.count, self.recent, self.activation, self.form = heads, count, recent, activation, form
        self.block = block
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.guidance = nn.Parameter(torch.zeros(())) if soft_guidance else None

    def forward(
        self, x: Tensor, guide: Tensor, keep: Tensor | None = None, bonus: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            x: (B, N, width) history, oldest first.
            guide: (B, N, G) frozen preference vectors; normalised here.
            keep: (B, N) bool, True for real items, or None ('items').
            bonus: (B, N, N) added to preferences (same session, age), or None ('items').

        Returns:
            (B, N, width), and the selected indices (B, N, count + recent + 1), -1 unused, in the 'items' form.

        Raises:
            ValueError: an option of the other form was given.
        """
        if keep is not None:
            x = x.masked_fill(~keep[..., None], 0.0)
        q, k, v = (split(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        guide = normalize(guide, dim=-1)
        if self.form == 'blocks':
            if keep is not None or bonus is not None:
                raise ValueError('keep and bonus belong to the items form')
            mixed = preference_block_attention(
                q, k, v, guide, guide, count=self.count, query_block=self.block, key_block=self.block
            )
            return self.out(join(mixed)), None
        preference = guide @ guide.transpose(-1, -2)
        if bonus is not None:
            preference = preference + bonus
        index = select_items(preference.detach(), keep, self.count, self.recent)
        logit = None if self.guidance is None else self.guidance * preference
        mixed = attend_items(q, k, v, index, logit, activation=self.activation, scale=self.scale)
        return self.out(join(mixed)), index
