"""Mixers to compare with, each in the place of the polynomial one: whole utterances only, no state."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from attn_robotics.systems.pom_speech.config import PomSpeechConfig

MixerState = tuple[Tensor, Tensor]


def make_baseline(config: PomSpeechConfig) -> nn.Module:
    """The baseline that a configuration names."""
    if config.mixer == 'none':
        return NoMixer()
    if config.mixer == 'summary':
        return SummaryMixer(config.width)
    return AttentionMixer(config.width, config.heads, rotary=config.mixer == 'rope_mha')


class Baseline(nn.Module):
    """Takes what the polynomial mixer takes, and hands the state back as it came."""

    def forward(
        self, x: Tensor, keep: Tensor | None = None, state: MixerState | None = None, block: int | None = None
    ) -> tuple[Tensor, MixerState | None]:
        """Mix (B, N, width); see `attention.polynomial`."""
        if block is not None:
            raise ValueError('baselines mix whole utterances; train them with block=None')
        return self.mix(x, keep), state

    def mix(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """(B, N, width) to the same."""
        raise NotImplementedError


class NoMixer(Baseline):
    """Nothing: order and context come from the convolutions alone."""

    def mix(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """Zero."""
        return torch.zeros_like(x)


class SummaryMixer(Baseline):
    """SummaryMixing (arXiv 2307.07421): merge([f(x_t); mean_t s(x_t)]), f and s of two layers, merge of one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.local = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.summary = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.merge = nn.Linear(2 * width, width)

    def mix(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """Every token beside the mean of all real ones."""
        real = torch.ones_like(x[..., :1]) if keep is None else keep[..., None].to(x.dtype)
        mean = (self.summary(x) * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1.0)
        return gelu(self.merge(torch.cat([self.local(x), mean.expand_as(x)], -1)))


class AttentionMixer(Baseline):
    """Multi-head softmax attention, with rotary positions (arXiv 2104.09864) or none."""

    def __init__(self, width: int, heads: int, *, rotary: bool) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def mix(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """Softmax over real tokens."""
        q, k, v = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, N, D) each
        if self.rotary:
            q, k = rotate(q), rotate(k)
        mask = None if keep is None else keep[:, None, None]
        out: Tensor = self.out(scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        return out


def rotate(x: Tensor) -> Tensor:
    """Turn the pairs of features (d, d + D / 2) of (..., N, D) by angles that grow with the position."""
    half = x.shape[-1] // 2
    rate = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)[:, None] * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
