"""Motion networks as trained: conditional VQ-VAE with prior, and the two baselines of the same size.

Inference needs no torch: `learned.py` runs the saved weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from attn_robotics.systems.gaze.teacher import CHUNK, N_CONDITION, STEPS


@dataclass(frozen=True)
class MotionConfig:
    """Size and losses of a motion network."""

    kind: str = 'vqvae'  # vqvae, cvae or mlp
    chunk: int = CHUNK  # increments a step; 120 draws the whole movement at once
    width: int = 384
    layers: int = 4
    latent: int = 16
    codes: int = 256  # K, per level
    levels: int = 2  # residual quantisers one after the other
    cumulative: float = 0.25  # weight of the Huber loss on summed increments
    commitment: float = 0.25
    beta: float = 2e-3  # KL weight of the CVAE
    condition_noise: float = 0.01  # on the normalised condition: hardens the roll-out against its own errors

    def __post_init__(self) -> None:
        if self.chunk < 1 or STEPS % self.chunk:
            raise ValueError(f'chunk must divide {STEPS}, got {self.chunk}')
        if self.kind not in ('vqvae', 'cvae', 'mlp'):
            raise ValueError(f'kind must be vqvae, cvae or mlp, got {self.kind!r}')
        if min(self.width, self.layers, self.latent, self.levels) < 1 or self.codes < 2:
            raise ValueError('width, layers, latent and levels must be at least 1 and codes at least 2')


def mlp(n_in: int, n_out: int, width: int, layers: int) -> nn.Sequential:
    """`layers` linear maps with SiLU between."""
    sizes = [n_in, *[width] * (layers - 1), n_out]
    parts: list[nn.Module] = []
    for i in range(layers):
        parts.append(nn.Linear(sizes[i], sizes[i + 1]))
        if i < layers - 1:
            parts.append(nn.SiLU())
    return nn.Sequential(*parts)


class Codebook(nn.Module):
    """K vectors learned by exponential moving averages; vectors that die are re-seeded from the batch."""

    def __init__(self, codes: int, latent: int) -> None:
        super().__init__()
        self.register_buffer('vectors', torch.randn(codes, latent) * 0.5)
        self.register_buffer('count', torch.zeros(codes))  # none used yet: seeded from the first batch
        self.register_buffer('total', torch.zeros(codes, latent))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest vectors to z (B, D) and their indices (B,)."""
        vectors = self.get_buffer('vectors')
        index = torch.cdist(z, vectors).argmin(1)
        return vectors[index], index

    @torch.no_grad()
    def learn(self, z: Tensor, index: Tensor, decay: float = 0.99) -> None:
        """Move every vector towards the mean of what it stands for."""
        vectors, count, total = (self.get_buffer(name) for name in ('vectors', 'count', 'total'))
        share = torch.zeros_like(count).index_add_(0, index, torch.ones_like(index, dtype=count.dtype))
        sums = torch.zeros_like(total).index_add_(0, index, z)
        count.mul_(decay).add_(share, alpha=1.0 - decay)
        total.mul_(decay).add_(sums, alpha=1.0 - decay)
        dead = count < 0.1
        fresh = z[torch.randint(z.shape[0], (count.numel(),), device=z.device)]
        count.copy_(torch.where(dead, torch.ones_like(count), count))
        total.copy_(torch.where(dead[:, None], fresh, total))
        vectors.copy_(total / count[:, None])


class MotionNetwork(nn.Module):
    """One chunk of increments from its condition."""

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        n_out = c.chunk * 4
        if c.kind == 'mlp':
            self.decoder = mlp(N_CONDITION, n_out, c.width, c.layers)
            return
        moments = 2 if c.kind == 'cvae' else 1
        self.encoder = mlp(n_out + N_CONDITION, c.latent * moments, c.width, c.layers)
        self.decoder = mlp(c.latent + N_CONDITION, n_out, c.width, c.layers)
        if c.kind == 'vqvae':
            self.books = nn.ModuleList(Codebook(c.codes, c.latent) for _ in range(c.levels))
            self.priors = nn.ModuleList(
                mlp(N_CONDITION + (c.latent if level else 0), c.codes, c.width, c.layers) for level in range(c.levels)
            )

    def loss(self, condition: Tensor, wanted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of a batch: condition (B, 54), increments (B, 4 * chunk) in degrees."""
        c = self.config
        noisy = condition + c.condition_noise * torch.randn_like(condition)
        extra = condition.new_zeros(())
        facts: dict[str, Tensor] = {}
        if c.kind == 'mlp':
            given = noisy
        elif c.kind == 'cvae':
            mean, log_var = self.encoder(torch.cat([wanted, noisy], 1)).chunk(2, 1)
            log_var = log_var.clamp(-12.0, 6.0)
            extra = c.beta * 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).sum(1).mean()
            given = torch.cat([mean + (0.5 * log_var).exp() * torch.randn_like(mean), noisy], 1)
        else:
            z = self.encoder(torch.cat([wanted, noisy], 1))
            quantised, extra, facts = self._quantise(z, noisy)
            given = torch.cat([z + (quantised - z).detach(), noisy], 1)
        out = self.decoder(given)
        fit = functional.smooth_l1_loss(out, wanted, beta=0.1)
        shape = (-1, c.chunk, 4)
        summed = functional.smooth_l1_loss(out.view(shape).cumsum(1), wanted.view(shape).cumsum(1), beta=0.1)
        facts |= {'fit': fit.detach(), 'cumulative': summed.detach()}
        return fit + c.cumulative * summed + extra, facts

    def _quantise(self, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantise level by level; the prior learns to foretell each level's code from those before."""
        left, quantised = z, torch.zeros_like(z)
        loss = z.new_zeros(())
        for level, (book, prior) in enumerate(zip(self.books, self.priors, strict=True)):
            vector, index = book(left.detach())
            if self.training:
                cast(Codebook, book).learn(left.detach(), index)
            given = torch.cat([condition, quantised], 1) if level else condition
            loss = loss + functional.cross_entropy(prior(given), index)
            quantised, left = quantised + vector, left - vector
        entropy = loss.detach()
        loss = 0.1 * loss + self.config.commitment * (z - quantised.detach()).square().mean()
        return quantised, loss, {'prior_nats': entropy}
