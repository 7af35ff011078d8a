"""Log-linear attention layer: streams whose memory grows with the logarithm of their length.

Source: Log-Linear Attention (arXiv 2506.04761), Mamba-2 gating ('scalar') and Gated DeltaNet gating ('delta').
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from attn_robotics.attention.heads import check_heads, split
from attn_robotics.kernels.log_linear import (
    LogLinearState,
    empty_state,
    levels_for,
    log_linear_attention,
    log_linear_step,
)

GATINGS = ('scalar', 'delta')
LEVEL_MODES = ('positive', 'bounded', 'linear')


class LogLinearAttention(nn.Module):
    """Causal token mixer with forward over sequences and step over streams.

    Args:
        width: features.
        heads: number of heads; divides width.
        max_length: longest sequence; fixes the number of levels.
        gating: 'scalar' or 'delta'.
        level_mode: 'positive' softplus(L dl), 'bounded' exp(-exp(L) softplus(dl)), 'linear' L dl.
    """

    def __init__(
        self, width: int, heads: int, *, max_length: int = 16384, gating: str = 'scalar', level_mode: str = 'positive'
    ) -> None:
        super().__init__()
        if gating not in GATINGS or level_mode not in LEVEL_MODES:
            raise ValueError(
                f'gating must be in {GATINGS}, level_mode in {LEVEL_MODES}; got {gating!r}, {level_mode!r}'
            )
        self.head_width = check_heads(width, heads)
        self.heads, self.gating, self.level_mode = heads, gating, level_mode
        self.levels = levels_for(max_length)
        self.max_length = max_length
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.gate = nn.Linear(width, heads * (1 if gating == 'scalar' else 2))
        self.level = nn.Linear(width, heads * self.levels)
        self.level_scale = nn.Parameter(torch.ones(heads, self.levels))  # no weight decay
        self.decay_log = nn.Parameter(torch.arange(1.0, heads + 1).log())
        self.out = nn.Linear(width, width, bias=False)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """(B, N, width) to q, k, v (B, H, N, D), g (B, H, N), lam (B, H, N, L), beta (B, H, N) or None."""
        q, k, v = (split(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        q, k = q * self.head_width**-0.5, normalize(k, dim=-1)
        raw = self.gate(x).transpose(1, 2)  # (B, H or 2H, N)
        step = softplus(raw[:, : self.heads])
        g = -self.decay_log.exp()[:, None] * step
        beta = None
        if self.gating == 'delta':
            beta = raw[:, self.heads :].sigmoid()
        else:
            v = v * step[..., None]
        token = split(self.level(x), self.heads)  # (B, H, N, L)
        scale = self.level_scale[:, None, :]
        if self.level_mode == 'positive':
            lam = softplus(scale * token)
        elif self.level_mode == 'bounded':
            lam = (-scale.exp() * softplus(token)).exp()
        else:
            lam = scale * token
        return q, k, v, g, lam, beta

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Mix a whole sequence.

        Args:
            x: (B, N, width), N <= max_length.
            keep: (B, N) bool; padded tokens write nothing and read zero.

        Returns:
            (B, N, width).

        Raises:
            ValueError: the sequence is too long.
        """
        if x.shape[1] > self.max_length:
            raise ValueError(f'sequence of {x.shape[1]} exceeds max_length {self.max_length}')
        if keep is not None:
            x = x.masked_fill(~keep[..., None], 0.0)
        q, k, v, g, lam, beta = self._project(x)
        if keep is not None:
            hidden = ~keep[:, None, :]
            k, v, lam = (part.masked_fill(hidden[..., None], 0.0) for part in (k, v, lam))
            g = g.masked_fill(hidden, 0.0)
        mixed = log_linear_attention(q, k, v, g, lam, beta)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def open_state(self, streams: int, device: torch.device | str | None = None) -> LogLinearState:
        """Begin streams; pass the state to `step`, clone it to take a snapshot."""
        return empty_state(streams, self.heads, self.levels, self.head_width, self.head_width, device)

    @torch.no_grad()
    def step(self, x: Tensor, state: LogLinearState) -> Tensor:
        """Push one token (B, width) into every stream, updating the state in place; returns (B, width)."""
        q, k, v, g, lam, beta = self._project(x[:, None])
        mixed = log_linear_step(
            q[:, :, 0], k[:, :, 0], v[:, :, 0], g[:, :, 0], lam[:, :, 0], state, None if beta is None else beta[:, :, 0]
        )
        out: Tensor = self.out(mixed.flatten(1).to(x.dtype))
        return out
