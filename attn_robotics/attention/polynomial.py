"""Polynomial mixer (PoM): speech form (arXiv 2603.00683) and general form (arXiv 2604.06129)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_robotics.kernels.polynomial import FORMS, gate_of, polynomial_mix, polynomial_step


class PolynomialMixer(nn.Module):
    """Token mixer with one global state; order-blind by itself.

    Args:
        width: features.
        degree: of the polynomial.
        expansion: features of one degree over width.
        form: 'speech' (products of projections, layer norm at the end) or 'general' (powers of one projection).
        causal: token i reads the mean of tokens up to i.
    """

    def __init__(
        self, width: int, *, degree: int = 2, expansion: int = 2, form: str = 'speech', causal: bool = False
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f'form must be one of {FORMS}, got {form!r}')
        self.degree, self.causal = degree, causal
        part = expansion * width
        self.features = part * degree if form == 'speech' else part
        self.project = nn.Linear(width, self.features)
        self.select = nn.Linear(width, self.features)
        self.aggregate = nn.Linear(self.features, width)
        self.norm = nn.LayerNorm(width) if form == 'speech' else nn.Identity()
        self.coefficients = None
        if form == 'general':
            self.coefficients = nn.Parameter((torch.randn(part, degree) * 1e-3).clamp(-2e-3, 2e-3))

    def forward(
        self,
        x: Tensor,
        keep: Tensor | None = None,
        state: tuple[Tensor, Tensor] | None = None,
        block: int | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Mix a block of tokens.

        Args:
            x: (B, N, width).
            keep: (B, N) bool, True for real tokens, or None.
            state: what the previous call returned for these streams, or None.
            block: be block-causal with blocks of so many tokens, whatever `causal` says; None leaves it at that.

        Returns:
            (B, N, width) and the new state (mean (B, features), count (B,)).
        """
        x = x if keep is None else x.masked_fill(~keep[..., None], 0.0)
        mean, count = state if state is not None else (None, None)
        mixed, mean, count = polynomial_mix(
            self.project(x),
            self.select(x),
            keep,
            mean,
            count,
            degree=self.degree,
            coefficients=self.coefficients,
            causal=self.causal or block is not None,
            block=block or 1,
        )
        return self.norm(self.aggregate(mixed)), (mean, count)

    def gates(self, x: Tensor) -> Tensor:
        """How far each token of (..., width) opens to each feature of the state: (..., features) from 0 to 1."""
        return gate_of(self.select(x), self.coefficients)

    def open_state(self, streams: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """Begin streams."""
        return torch.zeros(streams, self.features, device=device), torch.zeros(streams, device=device)

    @torch.no_grad()
    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        """Push one token (B, width) into every stream, updating the state in place; returns (B, width)."""
        mixed = polynomial_step(
            self.project(x), self.select(x), *state, degree=self.degree, coefficients=self.coefficients
        )
        out: Tensor = self.norm(self.aggregate(mixed))
        return out
