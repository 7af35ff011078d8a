"""Quantum-inspired value features (QISA, arXiv 2603.03318): expectation values of Pauli strings, without a simulator.

A Pauli string maps a basis state to one other with a sign, so y^T Re(P) y = sum_b s_b y_b y_(b XOR x). Strings with an
odd number of Y vanish on real amplitudes: only even ones are drawn here, and no string twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attn_robotics.kernels.masking import masked_softmax


def draw_strings(count: int, qubits: int, generator: torch.Generator) -> Tensor:
    """(count, qubits) int64 in {0 I, 1 X, 2 Y, 3 Z}: distinct, not all I, an even number of Y; I with probability 0.9.

    Raises:
        ValueError: there are fewer such strings than asked for.
    """
    available = (4**qubits + 2**qubits) // 2 - 1  # strings with even Y, less the identity
    if count > available:
        raise ValueError(f'{qubits} qubits have {available} usable strings, {count} were asked for')
    found: dict[tuple[int, ...], None] = {}
    identity = 0.9
    while len(found) < count:
        kinds = torch.randint(1, 4, (256, qubits), generator=generator)
        idle = torch.rand(256, qubits, generator=generator) < identity
        for row in kinds.masked_fill(idle, 0).tolist():
            if any(row) and row.count(2) % 2 == 0 and len(found) < count:
                found.setdefault(tuple(row))
        identity *= 0.98  # few qubits have few sparse strings: widen the search until there are enough
    return torch.tensor(list(found), dtype=torch.long)


def permutation_form(strings: Tensor) -> tuple[Tensor, Tensor]:
    """(count, qubits) strings to (count, 2^qubits) int64 partners and float64 signs; qubit 0 is the highest bit."""
    qubits = strings.shape[1]
    place = 2 ** torch.arange(qubits - 1, -1, -1)
    flips = (((strings == 1) | (strings == 2)).long() * place).sum(1)  # X and Y flip
    phases = (((strings == 2) | (strings == 3)).long() * place).sum(1)  # Y and Z sign
    basis = torch.arange(2**qubits)
    parity = ((basis[None, :, None] & phases[:, None, None] & place) != 0).sum(-1) % 2
    ys = (strings == 2).sum(1)  # even: i^ys is real
    signs = (1.0 - 2.0 * parity.double()) * (1.0 - (ys % 4).double())[:, None]
    return basis[None, :] ^ flips[:, None], signs


def pauli_values(y: Tensor, partners: Tensor, signs: Tensor) -> Tensor:
    """(..., 2^n) real amplitudes to (..., count) expectation values."""
    return (y[..., None, :] * signs.to(y.dtype) * y[..., partners]).sum(-1)


def absorbed_observables(weight: Tensor, partners: Tensor, signs: Tensor) -> Tensor:
    """(count, d, d) matrices O with x^T O x = value of the string on `weight` x; weight is (2^n, d)."""
    return torch.einsum('ad,ma,mae->mde', weight, signs.to(weight.dtype), weight[partners])


def gaussian_attention(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
    """Softmax of the Gaussian similarity exp(-|q - k|^2) itself, causal: position i reads values up to i only.

    The released code multiplies by the transposed weights and so reads the future; this is the correct form.

    Args:
        q: (B, H, N, D).
        k: (B, H, N, D).
        v: (B, H, N, Dv).
        keep: (B, N) bool, True for real tokens, or None.

    Returns:
        (B, H, N, Dv); rows without a key are zero.
    """
    if keep is not None:
        k, v = (x.masked_fill(~keep[:, None, :, None], 0.0) for x in (k, v))
    square = q.square().sum(-1)[..., :, None] + k.square().sum(-1)[..., None, :] - 2 * q @ k.transpose(-1, -2)
    allowed = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    if keep is not None:
        allowed = allowed & keep[:, None, None, :]
    return masked_softmax((-square.clamp(min=0.0)).exp(), allowed) @ v
