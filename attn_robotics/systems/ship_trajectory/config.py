"""Configuration of the ship trajectory network."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from attn_robotics.runtime.registry import register_system

if TYPE_CHECKING:
    from torch import nn

# How a vessel's neighbours enter its prediction; V1 to V6 of README.md.
FUSIONS = {
    'none': 'V1: not at all',
    'mean': 'V2: mean of their hidden states',
    'table': 'V3: ship domain by bearing and relative heading',
    'table_normalised': 'V3 with weights that sum to one',
    'ellipse': 'V4: four radii for every class of relative heading',
    'softmax': 'V5: attention on hidden states and geometry, accuracy reference',
    'softmax_or_none': 'V5 with a hidden layer and a key for nobody',
    'interpolated': 'V6: V3, interpolated between bins, kept smooth by total variation',
}


@register_system('ship_trajectory')
@dataclass(frozen=True)
class ShipConfig:
    """Shape and units of the network; the defaults are for inland vessels."""

    fusion: str = 'interpolated'
    history: int = 10  # displacements seen
    horizon: int = 10  # displacements predicted
    step_s: float = 30.0  # time between positions [s]
    unit_m: float = 120.0  # typical displacement in a step [m]
    domain_unit_m: float = 1000.0  # unit of the ship domain [m]
    domain_start: float = 0.8  # its first radius, in its unit; too small a start never gets a gradient
    bins: int = 8  # of bearing and of relative heading
    embedding: int = 32
    hidden: int = 64

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise ValueError(f'fusion must be one of {", ".join(FUSIONS)}, got {self.fusion!r}')
        for name in ('history', 'horizon', 'embedding', 'hidden'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)}')
        if self.bins < 4:
            raise ValueError(f'bins must be at least 4, got {self.bins}')
        for name in ('step_s', 'unit_m', 'domain_unit_m', 'domain_start'):
            if not getattr(self, name) > 0.0:
                raise ValueError(f'{name} must be above 0, got {getattr(self, name):g}')

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ShipConfig:
        """Rebuild from `to_dict`.

        Raises:
            ValueError: unknown names, or values that do not fit.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f'unknown ship setting {", ".join(sorted(unknown))}; weights of another version?')
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for model cards and checkpoints."""
        return asdict(self)

    def build(self) -> nn.Module:
        """The form that the engine runs."""
        from attn_robotics.systems.ship_trajectory.model import ShipNetwork, ShipService

        return ShipService(ShipNetwork(self))
