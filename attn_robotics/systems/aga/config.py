"""Configuration of the AGA network."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from attn_robotics.runtime.registry import register_system

if TYPE_CHECKING:
    from torch import nn

GUIDES = ('actions', 'visual')


@register_system('aga')
@dataclass(frozen=True)
class AgaConfig:
    """Shape of the network.

    Defaults are what ships, for the generated kitchens of `data.py`; `AgaConfig.paper()` has the published sizes.
    """

    features: int = 64  # of a frame
    classes: int = 40  # actions K
    width: int = 128
    heads: int = 4
    queue: int = 20  # steps remembered
    alpha: float = 0.8  # share of the newest prediction in the running query, at one step a frame
    step_s: float = 1.0  # time between frames for which alpha holds; also how far ahead the answer is [s]
    dropout: float = 0.25
    guide: str = 'actions'  # 'visual': the same network guided by frames instead (baseline)
    compat_resoftmax: bool = False  # as the public code has it, see `attention.action_guided`

    def __post_init__(self) -> None:
        for name in ('features', 'classes', 'width', 'heads', 'queue'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)}')
        if self.classes < 5:
            raise ValueError(f'classes must be at least 5, since the five best are told; got {self.classes}')
        if self.width % self.heads or self.width % 4:
            raise ValueError(f'width must be a multiple of heads and of 4, got {self.width} and {self.heads}')
        if not 0.0 < self.alpha <= 1.0:
            raise ValueError(f'alpha must be above 0 and at most 1, got {self.alpha:g}')
        if not self.step_s > 0.0:
            raise ValueError(f'step_s must be above 0, got {self.step_s:g}')
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f'dropout must be from 0 to below 1, got {self.dropout:g}')
        if self.guide not in GUIDES:
            raise ValueError(f'guide must be one of {", ".join(GUIDES)}, got {self.guide!r}')

    @classmethod
    def paper(cls) -> AgaConfig:
        """The sizes of the public code for EPIC-Kitchens-100."""
        return cls(features=1024, classes=3806, width=2048, heads=16, queue=30, dropout=0.6)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AgaConfig:
        """Rebuild from `to_dict`.

        Raises:
            ValueError: unknown names, or values that do not fit.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f'unknown AGA setting {", ".join(sorted(unknown))}; weights of another version?')
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for model cards and checkpoints."""
        return asdict(self)

    def build(self) -> nn.Module:
        """The streaming form that the engine runs."""
        from attn_robotics.systems.aga.model import AgaNetwork, AgaStream

        return AgaStream(AgaNetwork(self))
