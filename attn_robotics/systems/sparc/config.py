"""Configuration of the SPARC network."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from attn_robotics.runtime.registry import register_system

if TYPE_CHECKING:
    from torch import nn

CHOICES = {
    'encoder': ('flat', 'conv', 'scrimp'),
    'relation': ('distance', 'offset'),
    'mask_metric': ('manhattan', 'euclidean'),
    'communication': ('broadcast', 'stacked', 'none'),
    'message_source': ('previous', 'current'),
    'gating': ('gru_code', 'gtrxl'),
    'id_encoding': ('none', 'sinusoidal'),
}


@register_system('sparc')
@dataclass(frozen=True)
class SparcConfig:
    """Shape of the network and of what it sees.

    Defaults are what ships; `SparcConfig.paper()` is the published network. The differences and their reasons are
    listed in README.md, "What differs from the paper".
    """

    # Inputs.
    field_of_view: int = 9  # cells, odd; paper 3
    history: int = 4  # executed actions fed back; paper 1
    # Who hears whom, and how pairs are numbered.
    mask_radius: int = 15  # cells; paper 40
    mask_metric: str = 'manhattan'
    relation: str = 'offset'  # paper 'distance'
    offset_window: int = 5  # cells; pairs nearer than this are told apart by direction too ('offset' only)
    distance_clip: int = 40  # cells; paper 200
    relation_embedding: int = 64
    # Network.
    width: int = 256
    heads: int = 4
    layers: int = 3
    feed_forward: int = 512  # paper 1024
    encoder: str = 'flat'  # paper 'conv'
    recurrent: bool = False  # LSTM after the encoder; paper True
    gating: str = 'gru_code'
    # 'stacked': layers attend over each other's rows; 'broadcast': every layer attends over what was sent.
    communication: str = 'broadcast'
    message_source: str = 'previous'
    id_encoding: str = 'none'
    content_only: bool = False  # ablation: no relation term

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f'{name} must be one of {", ".join(allowed)}, got {getattr(self, name)!r}')
        if self.field_of_view < 3 or self.field_of_view % 2 == 0:
            raise ValueError(f'field_of_view must be odd and at least 3, got {self.field_of_view}')
        if self.width % self.heads:
            raise ValueError(f'width must be a multiple of heads, got {self.width} and {self.heads}')
        if self.communication == 'broadcast' and self.message_source != 'previous':
            raise ValueError("communication 'broadcast' needs message_source 'previous'; use 'stacked' with 'current'")
        if self.mask_radius < 0:
            raise ValueError(f'mask_radius must be at least 0 (a robot hears itself alone), got {self.mask_radius}')
        for name in ('offset_window', 'distance_clip', 'layers', 'feed_forward', 'history'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)}')

    @property
    def image_channels(self) -> int:
        """Channels of the local image, see `processor`."""
        return 8

    @property
    def vector_features(self) -> int:
        """Length of the local vector, see `processor`."""
        return 7 + 5 * self.history

    @classmethod
    def paper(cls) -> SparcConfig:
        """The published network."""
        return cls(
            field_of_view=3,
            mask_radius=40,
            relation='distance',
            distance_clip=200,
            feed_forward=1024,
            encoder='conv',
            recurrent=True,
            communication='stacked',
            id_encoding='sinusoidal',
        )

    @classmethod
    def small(cls) -> SparcConfig:
        """A network that trains on two CPU cores."""
        return cls(width=64, heads=2, layers=2, feed_forward=128, relation_embedding=32)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SparcConfig:
        """Rebuild from `to_dict`; unknown names are an error."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f'unknown SPARC setting {", ".join(sorted(unknown))}; weights of another version?')
        return cls(**values)

    def build(self) -> nn.Module:
        """The network as the attention runtime runs it."""
        from attn_robotics.systems.sparc.served import ServedNetwork

        return ServedNetwork(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for model cards and checkpoints."""
        return asdict(self)
