"""Quantum-inspired self-attention (QISA, arXiv 2603.03318), in its causal form.

A cheap fixed-basis bilinear pooling layer. The published gains come from reading the future (see
`kernels.quantum.naive.gaussian_attention`); parity with classical attention is all that is claimed here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_robotics.attention.heads import check_heads, join, split
from attn_robotics.kernels.quantum import (
    absorbed_observables,
    draw_strings,
    gaussian_attention,
    pauli_values,
    permutation_form,
)


class QuantumAttention(nn.Module):
    """Causal self-attention whose values are expectation values of random Pauli strings.

    Args:
        width: features.
        heads: number of heads; divides width.
        seed: of the strings, which are stored with the weights.
    """

    partners: Tensor
    signs: Tensor

    def __init__(self, width: int, heads: int, *, seed: int = 0) -> None:
        super().__init__()
        head = check_heads(width, heads)
        self.heads = heads
        self.amplitudes = 2 ** max(1, (width - 1).bit_length())
        generator = torch.Generator().manual_seed(seed)
        strings = [draw_strings(head, self.amplitudes.bit_length() - 1, generator) for _ in range(heads)]
        forms = [permutation_form(string) for string in strings]
        self.register_buffer('partners', torch.stack([form[0] for form in forms]))  # (H, h, A)
        self.register_buffer('signs', torch.stack([form[1] for form in forms]).to(torch.get_default_dtype()))
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        # Quadratic values grow with |y|^2: start with E |y|^2 = 1 for inputs of unit variance.
        self.value = nn.Parameter(torch.randn(heads, width, width) / width)
        self.out = nn.Linear(width, width)

    def _amplitudes(self, weight: Tensor) -> Tensor:
        return torch.nn.functional.pad(weight, (0, 0, 0, self.amplitudes - weight.shape[-2]))

    def values(self, x: Tensor) -> Tensor:
        """(B, N, width) to (B, H, N, h) by the permutation form."""
        found = []
        for weight, partners, signs in zip(self.value, self.partners, self.signs, strict=True):
            found.append(pauli_values(x @ self._amplitudes(weight).T, partners, signs))
        return torch.stack(found, 1)

    def observables(self) -> Tensor:
        """(H, h, width, width) absorbed observables: values are x^T O x, for inference and export."""
        return torch.stack(
            [
                absorbed_observables(self._amplitudes(weight), partners, signs)
                for weight, partners, signs in zip(self.value, self.partners, self.signs, strict=True)
            ]
        )

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Mix tokens (B, N, width), each from itself and its past; keep (B, N) bool marks real ones."""
        x = x if keep is None else x.masked_fill(~keep[..., None], 0.0)
        q, k = split(self.query(x), self.heads), split(self.key(x), self.heads)
        out: Tensor = self.out(join(gaussian_attention(q, k, self.values(x), keep)))
        return out
