"""Attention over spatial covariances of a microphone array, and the beamformer it feeds.

Source: attention-based beamforming (VI-NBFNet, arXiv 2603.05270, reconstructed; the attention view of covariances is
Ochiai et al., arXiv 2205.03568). Utterance, block and recursive estimates are attention with fixed weights; learned
weights track talkers that move and keep long averages for those that do not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attn_robotics.kernels.masking import masked_softmax

LOADING, EPS = 1e-3, 1e-6


def instant_covariance(spectrum: Tensor, mask: Tensor) -> Tensor:
    """(B, T, F, M) complex spectrum and (B, T, F) mask in [0, 1] to (B, T, F, M, M) mask * Y Y^H."""
    return mask[..., None, None] * spectrum[..., :, None] * spectrum[..., None, :].conj()


def attended_covariance(weights: Tensor, covariance: Tensor, mask: Tensor) -> Tensor:
    """Weighted mean of past covariances.

    Args:
        weights: (B, G, T, T) rows over past frames, one map a frequency band; bands split F evenly.
        covariance: (B, T, F, M, M) from `instant_covariance`.
        mask: (B, T, F) the mask in it.

    Returns:
        (B, T, F, M, M); zero where no weight meets the mask.
    """
    bands = weights.shape[1]
    size = -(-covariance.shape[2] // bands)
    parts = []
    for band, weight in enumerate(weights.unbind(1)):
        at = slice(band * size, (band + 1) * size)
        value, share = covariance[:, :, at], mask[:, :, at]
        total = (weight @ share).clamp(min=EPS)  # (B, T, f)
        mixed = torch.einsum('bts,bsfmn->btfmn', weight.to(value.dtype), value)
        parts.append(mixed / total[..., None, None])
    return torch.cat(parts, 2)


def fixed_weights(frames: int, kind: str, *, window: int = 1, forgetting: float = 0.95) -> Tensor:
    """(T, T) the classical estimators as attention: 'utterance', 'block' (last `window` frames) or 'recursive'.

    Raises:
        ValueError: unknown kind.
    """
    age = (torch.arange(frames)[:, None] - torch.arange(frames)).double()
    if kind == 'utterance':
        return torch.full((frames, frames), 1.0 / frames, dtype=torch.float64)
    if kind not in ('block', 'recursive'):
        raise ValueError(f"kind must be 'utterance', 'block' or 'recursive', got {kind!r}")
    raw = ((age >= 0) & (age < window)).double() if kind == 'block' else forgetting ** age.clamp(min=0) * (age >= 0)
    return raw / raw.sum(-1, keepdim=True)


def souden_weights(
    speech: Tensor, noise: Tensor, *, reference: int = 0, wiener: float = 0.0, loading: float = LOADING
) -> Tensor:
    """Beamformer weights from (..., M, M) covariances, (..., M): Souden's MVDR, multichannel Wiener at wiener = 1.

    Output is w^H Y. Solve in float32 or float64, never in half precision.
    """
    channels = speech.shape[-1]
    trace = noise.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    eye = torch.eye(channels, dtype=noise.dtype, device=noise.device)
    loaded = noise + ((loading * trace / channels).clamp(min=EPS * EPS))[..., None, None] * eye
    ratio = torch.linalg.solve(loaded, speech)
    scale = wiener + ratio.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    weights: Tensor = ratio[..., reference] / scale.clamp(min=EPS)[..., None]
    return weights


class SpatialCovarianceAttention(nn.Module):
    """Choose which past frames make up the speech and the noise covariance of each frame.

    Args:
        width: features of a frame.
        bands: frequency bands with weights of their own.
        key_width: features of queries and keys.
        window: frames that can be attended, the current one included.
        frame_rate: frames a second [Hz]; sets the start at 0.5 s (speech) and 1.5 s (noise) decay.
    """

    def __init__(
        self, width: int, *, bands: int = 4, key_width: int = 32, window: int = 200, frame_rate: float = 100.0
    ) -> None:
        super().__init__()
        self.bands, self.window, self.key_width = bands, window, key_width
        self.query = nn.Linear(width, 2 * bands * key_width)
        self.key = nn.Linear(width, 2 * bands * key_width)
        age = torch.arange(window) / frame_rate
        start = torch.stack([-age / 0.5, -age / 1.5])  # a sound recursive estimator before any training
        self.age_bias = nn.Parameter(start[:, None, :].repeat(1, bands, 1))
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.query.bias)

    def weights(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, T, width) frames to (B, 2, G, T, T) causal weights for speech and noise; keep (B, T) marks real ones."""
        frames = x.shape[1]
        q = self.query(x).unflatten(-1, (2, self.bands, -1)).permute(0, 2, 3, 1, 4)
        k = self.key(x).unflatten(-1, (2, self.bands, -1)).permute(0, 2, 3, 1, 4)
        age = torch.arange(frames, device=x.device)[:, None] - torch.arange(frames, device=x.device)
        allowed = (age >= 0) & (age < self.window)
        bias = self.age_bias[..., age.clamp(0, self.window - 1)]
        if keep is not None:
            allowed = allowed & keep[:, None, None, None, :]
        return masked_softmax(q @ k.transpose(-1, -2) / math.sqrt(self.key_width) + bias, allowed)

    def forward(
        self, x: Tensor, spectrum: Tensor, speech_mask: Tensor, noise_mask: Tensor, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Estimate covariances.

        Args:
            x: (B, T, width) frame features.
            spectrum: (B, T, F, M) complex.
            speech_mask: (B, T, F) in [0, 1].
            noise_mask: (B, T, F).
            keep: (B, T) bool, or None.

        Returns:
            Speech and noise covariance, (B, T, F, M, M) each, and the weights (B, 2, G, T, T).
        """
        weights = self.weights(x if keep is None else x.masked_fill(~keep[..., None], 0.0), keep)
        found = [
            attended_covariance(weights[:, side], instant_covariance(spectrum, mask), mask)
            for side, mask in enumerate((speech_mask, noise_mask))
        ]
        return found[0], found[1], weights
