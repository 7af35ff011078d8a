"""Configuration of the speech encoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from attn_robotics.runtime.registry import register_system

if TYPE_CHECKING:
    from torch import nn

MIXERS = ('pom', 'none', 'summary', 'mha', 'rope_mha')


@register_system('pom_speech')
@dataclass(frozen=True)
class PomSpeechConfig:
    """Shape of the encoder; defaults are what ships.

    The published one has 12 layers of width 488 and a feed-forward width of 2048.
    """

    width: int = 128
    layers: int = 4
    feed_forward: int = 256
    channels: int = 16  # of the front end's two convolutions; paper 128 and 32
    kernel: int = 15  # tokens that the depthwise convolution reaches back, itself included
    dropout: float = 0.1
    # Mixer; all but 'pom' are baselines, which see a whole utterance and keep no state.
    mixer: str = 'pom'
    degree: int = 2
    expansion: int = 2
    heads: int = 4  # of the baselines with heads
    # The state's mean forgets exponentially once it holds so many tokens (40 ms each); 0: never, as published.
    memory_tokens: int = 250
    gate_groups: int = 8  # shown per layer: means of the gates over so many groups of features

    def __post_init__(self) -> None:
        for name in ('width', 'layers', 'feed_forward', 'channels', 'kernel', 'degree', 'expansion', 'gate_groups'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} must be at least 1, got {getattr(self, name)}')
        if self.mixer not in MIXERS:
            raise ValueError(f'mixer must be one of {", ".join(MIXERS)}, got {self.mixer!r}')
        if self.mixer.endswith('mha') and self.width % (2 * self.heads):
            raise ValueError(f'width must be a multiple of 2 x heads, got {self.width} and {self.heads}')
        if self.features % self.gate_groups:
            raise ValueError(f'gate_groups must divide the {self.features} features, got {self.gate_groups}')
        if not 0.0 <= self.dropout < 1.0 or self.memory_tokens < 0:
            raise ValueError('dropout must be from 0 to below 1, and memory_tokens at least 0')

    @property
    def features(self) -> int:
        """Floats of one layer's state: degree x expansion x width."""
        return self.degree * self.expansion * self.width

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PomSpeechConfig:
        """Rebuild from `to_dict`; unknown names are an error."""
        if unknown := set(values) - {field.name for field in fields(cls)}:
            raise ValueError(f'unknown setting {", ".join(sorted(unknown))}; weights of another version?')
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for cards and checkpoints."""
        return asdict(self)

    def build(self) -> nn.Module:
        """Build the network with fresh weights."""
        from attn_robotics.systems.pom_speech.model import SpeechEncoder

        return SpeechEncoder(self)
