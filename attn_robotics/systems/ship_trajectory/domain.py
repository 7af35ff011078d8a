"""Ship domains: how far around a vessel another one matters, by its bearing and its relative heading."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LEAST = 1e-3  # radius of an ellipse's half axis at least, in domain units


def bin_centres(bins: int) -> list[float]:
    """Centres of the bins [rad], counted to the left from dead ahead (or from the same heading)."""
    return [2.0 * math.pi * number / bins for number in range(bins)]


def bin_edges_deg(bins: int) -> list[float]:
    """The bins + 1 edges of the bins [deg], the first one half a bin to the right of dead ahead."""
    return [360.0 * (number - 0.5) / bins for number in range(bins + 1)]


def bin_shares(angle: Tensor, bins: int, smooth: bool) -> Tensor:
    """(...,) angles [rad] to (..., bins) shares that sum to one: of one bin, or of the two nearest when smooth."""
    place = torch.remainder(angle * (bins / (2.0 * math.pi)), bins)
    number = torch.arange(bins, device=angle.device, dtype=angle.dtype)
    if not smooth:
        nearest = torch.remainder((place + 0.5).floor(), bins)
        return (nearest[..., None] == number).to(angle.dtype)
    apart = (place[..., None] - number).abs()
    return (1.0 - torch.minimum(apart, bins - apart)).clamp(min=0.0)


class TableDomain(nn.Module):
    """Radii in a table D[bearing, relative heading] (V3), interpolated between bins when smooth (V6).

    Args:
        bins: M of bearing and of relative heading.
        start: every radius at first.
        smooth: interpolate.
    """

    def __init__(self, bins: int, start: float, smooth: bool) -> None:
        super().__init__()
        self.radii = nn.Parameter(torch.full((bins, bins), start))
        self.smooth = smooth

    def forward(self, bearing: Tensor, heading: Tensor) -> Tensor:
        """(...,) bearings of the other and relative headings [rad] to (...,) radii in domain units."""
        bins = self.radii.shape[0]
        shares = bin_shares(bearing, bins, self.smooth) @ self.radii
        return (shares * bin_shares(heading, bins, self.smooth)).sum(-1)

    def roughness(self) -> Tensor:
        """Total variation over neighbouring bins, mean of both directions."""
        rolls = (self.radii - self.radii.roll(1, axis) for axis in (0, 1))
        total: Tensor = sum((roll.abs().mean() for roll in rolls), self.radii.new_zeros(()))
        return total

    def table(self) -> Tensor:
        """(M, M) radii by bearing and relative heading."""
        return self.radii


class EllipseDomain(nn.Module):
    """Four radii, bow, stern, port and starboard, for every class of relative heading, joined by quarter ellipses (V4).

    Args:
        bins: classes of relative heading, and bearings of `table`.
        start: every radius at first.
    """

    def __init__(self, bins: int, start: float) -> None:
        super().__init__()
        self.radii = nn.Parameter(torch.full((bins, 4), start))

    def forward(self, bearing: Tensor, heading: Tensor) -> Tensor:
        """(...,) bearings of the other and relative headings [rad] to (...,) radii in domain units."""
        four = (bin_shares(heading, self.radii.shape[0], False) @ self.radii).clamp(min=LEAST)
        bow, stern, port, starboard = four.unbind(-1)
        ahead, left = bearing.cos(), bearing.sin()
        along = torch.where(ahead >= 0, bow, stern)
        across = torch.where(left >= 0, port, starboard)
        return ((ahead / along) ** 2 + (left / across) ** 2).clamp(min=1e-9) ** -0.5

    def roughness(self) -> Tensor:
        """Not regularised."""
        return self.radii.new_zeros(())

    def table(self) -> Tensor:
        """(M, M) radii by bearing and relative heading."""
        centres = torch.tensor(bin_centres(self.radii.shape[0]), device=self.radii.device, dtype=self.radii.dtype)
        bearing, heading = torch.meshgrid(centres, centres, indexing='ij')
        found: Tensor = self(bearing, heading)
        return found
