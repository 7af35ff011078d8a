"""Attention to the principal components of a history (SOLAR): definitions.

Source: SOLAR (arXiv 2603.02561); its method section could not be read, so this is a reconstruction. With H = U S V^T of
rank r the virtual tokens Z = S V^T satisfy (Q H^T) H = (Q Z^T) Z exactly: only this linear form is lossless, softmax
over r tokens is a different function from softmax over N items. z and -z are both valid components; using both, with
values z and -z, makes the result independent of the solver's signs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NOISE = 16.0  # rounding steps of the largest eigenvalue below which a component does not exist


@dataclass(frozen=True)
class Factorisation:
    """What a history was reduced to.

    Attributes:
        tokens: (B, r, d) components times singular values, over the root of the number of items.
        spectrum: (B, r) singular values, descending, in the same scale.
        energy: (B,) share of the squared norm that the r components hold, 1 for an empty history.
    """

    tokens: Tensor
    spectrum: Tensor
    energy: Tensor


def gram(history: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, N, d) items to (B, d, d) sum of outer products in float32 at least, and (B,) number of items."""
    wide = torch.promote_types(history.dtype, torch.float32)
    items = history.to(wide)
    if keep is None:
        count = torch.full(history.shape[:1], float(history.shape[1]), dtype=wide, device=history.device)
    else:
        items = items.masked_fill(~keep[..., None], 0.0)
        count = keep.sum(1).to(wide)
    return items.transpose(-1, -2) @ items, count


def factorise_gram(product: Tensor, count: Tensor, rank: int) -> Factorisation:
    """Leading components of a Gram matrix; singular values below 1.4e-3 of the first are lost in float32."""
    values, vectors = torch.linalg.eigh(product)
    return assemble(values.flip(-1), vectors.flip(-1).transpose(-1, -2), count, rank)


def assemble(values: Tensor, vectors: Tensor, count: Tensor, rank: int) -> Factorisation:
    """Eigenvalues (B, d) descending and eigenvectors as rows (B, d, d) to a factorisation."""
    # Eigenvalues of missing components are rounding noise of either sign; as tokens they would dilute real ones.
    noise = NOISE * torch.finfo(values.dtype).eps * values.amax(-1, keepdim=True)
    values = torch.where(values > noise, values, 0.0) / count.clamp(min=1.0)[:, None]
    total = values.sum(-1)
    kept = values[:, :rank]
    spectrum = kept.sqrt()
    tokens = spectrum[..., None] * vectors[:, :rank]
    energy = torch.where(total > 0, kept.sum(-1) / total.clamp(min=torch.finfo(total.dtype).tiny), 1.0)
    missing = rank - tokens.shape[1]
    if missing > 0:  # rank above the width: empty components change nothing
        tokens = torch.nn.functional.pad(tokens, (0, 0, 0, missing))
        spectrum = torch.nn.functional.pad(spectrum, (0, missing))
    return Factorisation(tokens, spectrum, energy)


def svd_attention(q: Tensor, key_tokens: Tensor, value_tokens: Tensor, *, scale: float) -> Tensor:
    """Softmax over plus and minus every token: sum sinh(s_i) z_i / sum cosh(s_i)."""
    scores = q @ key_tokens.transpose(-1, -2) * scale  # (..., C, r)
    top = scores.abs().amax(-1, keepdim=True).detach()
    plus, minus = (scores - top).exp(), (-scores - top).exp()
    # A component of length zero is no token: without this, an empty history would still dilute a real one.
    real = (key_tokens != 0).any(-1)[..., None, :]
    mass = torch.where(real, plus + minus, 0.0).sum(-1, keepdim=True)
    weights = torch.where(real, plus - minus, 0.0) / mass.masked_fill(mass == 0, 1.0)
    return weights @ value_tokens
