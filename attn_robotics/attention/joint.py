"""Joint attention of two streams with separate projections and one softmax (UniTalking, arXiv 2603.01418)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_robotics.attention.heads import check_heads, join, split
from attn_robotics.kernels.masking import masked_softmax, zero_padding


def rotate_by_time(x: Tensor, seconds: Tensor, *, base: float = 10000.0) -> Tensor:
    """Rotary position in seconds, so that streams of different rates share one clock.

    Args:
        x: (B, H, N, D), D even.
        seconds: (N,) or (B, N) times, in units of about one step [s x steps a second].
        base: of the frequencies.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = seconds.to(torch.float32)[..., None] * frequency  # (.., N, half)
    angle = angle if angle.ndim == 2 else angle[:, None]
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


class JointAttention(nn.Module):
    """Tokens of two streams compete in the same softmax.

    Args:
        width: features of both streams.
        heads: number of heads; divides width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.norm = nn.ModuleList(nn.RMSNorm(width // heads, eps=1e-6) for _ in range(4))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def forward(
        self,
        first: Tensor,
        second: Tensor,
        *,
        times: tuple[Tensor, Tensor] | None = None,
        keep: tuple[Tensor, Tensor] | None = None,
        first_is_given: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Mix both streams.

        Args:
            first: (B, N, width), for instance video.
            second: (B, M, width), for instance audio.
            times: (N,) and (M,) times of the tokens on one clock, or None for no rotation.
            keep: (B, N) and (B, M) bool, True for real tokens, or None.
            first_is_given: the first stream must not see the second, so that noise in the second cannot change it.
                Costs no mask: its queries simply end at the first stream's keys.

        Returns:
            (B, N, width) and (B, M, width).
        """
        streams = (first, second)
        q, k, v = [], [], []
        for index, x in enumerate(streams):
            parts = [split(part, self.heads) for part in self.qkv[index](x).chunk(3, -1)]
            parts[0], parts[1] = self.norm[2 * index](parts[0]), self.norm[2 * index + 1](parts[1])
            if times is not None:
                parts[0], parts[1] = (rotate_by_time(part, times[index]) for part in parts[:2])
            if keep is not None:
                parts[1], parts[2] = (zero_padding(part, keep[index][:, None]) for part in parts[1:])
            q.append(parts[0])
            k.append(parts[1])
            v.append(parts[2])
        all_k, all_v = torch.cat(k, 2), torch.cat(v, 2)
        all_keep = None if keep is None else torch.cat(keep, 1)
        found = []
        for index in range(2):
            keys, values, real = all_k, all_v, all_keep
            if index == 0 and first_is_given:
                keys, values, real = k[0], v[0], None if keep is None else keep[0]
            scores = q[index] @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5
            mixed = masked_softmax(scores, None if real is None else real[:, None, None, :]) @ values
            found.append(self.out[index](join(mixed)))
        return found[0], found[1]
