"""The encoder: strided convolutions to 40 ms tokens, a Conformer whose attention is a polynomial mixer, CTC.

Everything that looks sideways looks back only (convolutions) or is an average (mixer), so that a stream of blocks and
a whole utterance are the same computation: a call sees all tokens of its block and, through the state, the past.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attn_robotics.attention.polynomial import PolynomialMixer
from attn_robotics.systems.pom_speech.config import PomSpeechConfig
from attn_robotics.systems.pom_speech.processor import BANDS, FRAMES_PER_TOKEN
from attn_robotics.systems.pom_speech.text import CLASSES

State = dict[str, Tensor]


def state_shapes(config: PomSpeechConfig) -> dict[str, tuple[int, ...]]:
    """What a stream keeps, without its batch axis; all float32, all zero at first."""
    return {
        'mean': (config.layers, config.features),  # of the polynomial features of the past
        'count': (),  # tokens behind the mean
        'past': (config.layers, config.kernel - 1, config.width),  # of the depthwise convolutions
        'frame': (BANDS,),  # the front end's last frame, and
        'half': (config.channels, BANDS // 2),  # the last one at half its rate
    }


class FrontEnd(nn.Module):
    """Two 3 x 3 convolutions of stride 2 that look one frame back and none ahead: 4 frames to 1 token."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=(0, 1))
        self.second = nn.Conv2d(channels, channels, 3, stride=2, padding=(0, 1))
        self.norms = nn.ModuleList([nn.LayerNorm(BANDS // 2), nn.LayerNorm(BANDS // 4)])
        self.project = nn.Linear(channels * BANDS // 4, width)

    def forward(self, frames: Tensor, frame: Tensor, half: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make tokens.

        Args:
            frames: (B, 4 N, 80) normalised.
            frame: (B, 80) the frame before them.
            half: (B, channels, 40) what the first convolution gave last.

        Returns:
            (B, N, width) tokens, and the new frame and half.
        """
        x = torch.cat([frame[:, None], frames], 1)
        x = F.gelu(self.norms[0](self.first(x[:, None])))  # (B, C, 2 N, 40)
        y = torch.cat([half[:, :, None], x], 2)
        y = F.gelu(self.norms[1](self.second(y)))  # (B, C, N, 20)
        tokens: Tensor = self.project(y.permute(0, 2, 1, 3).flatten(2))  # (B, N, width)
        return tokens, frames[:, -1], x[:, :, -1]


class FeedForward(nn.Sequential):
    """Half a Conformer's feed-forward pair."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, width),
            nn.Dropout(dropout),
        )  # fmt: skip


class Convolution(nn.Module):
    """The Conformer's convolution module, looking back only."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width)
        self.after = nn.LayerNorm(width)
        self.project = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, width) and the (B, kernel - 1, width) inputs before it, to the same and the new past."""
        y = torch.cat([past.to(x.dtype), F.glu(self.expand(self.before(x)))], 1)
        out = self.depthwise(y.transpose(1, 2)).transpose(1, 2)
        out = self.dropout(self.project(F.gelu(self.after(out))))
        return out, y[:, x.shape[1] :]


class Layer(nn.Module):
    """A Conformer layer with a mixer in the place of attention."""

    def __init__(self, config: PomSpeechConfig) -> None:
        super().__init__()
        c = config
        self.first = FeedForward(c.width, c.feed_forward, c.dropout)
        self.mixer_norm = nn.LayerNorm(c.width)
        self.mixer: Any = make_mixer(c)
        self.convolution = Convolution(c.width, c.kernel, c.dropout)
        self.second = FeedForward(c.width, c.feed_forward, c.dropout)
        self.last_norm = nn.LayerNorm(c.width)
        self.dropout = nn.Dropout(c.dropout)


def make_mixer(config: PomSpeechConfig) -> nn.Module:
    """The mixer that a configuration names."""
    if config.mixer == 'pom':
        return PolynomialMixer(config.width, degree=config.degree, expansion=config.expansion, form='speech')
    from attn_robotics.systems.pom_speech.baselines import make_baseline

    return make_baseline(config)


class SpeechEncoder(nn.Module):
    """Features to tokens and characters, with a state of constant size for streams."""

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, config: PomSpeechConfig) -> None:
        super().__init__()
        self.config = config
        # Of the training set, frozen with the weights.
        self.register_buffer('feature_mean', torch.zeros(BANDS))
        self.register_buffer('feature_scale', torch.ones(BANDS))
        self.front = FrontEnd(config.width, config.channels)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.layers)])
        self.head = nn.Linear(config.width, CLASSES)

    def forward(
        self, features: Tensor, mean: Tensor, count: Tensor, past: Tensor, frame: Tensor, half: Tensor
    ) -> State:
        """One block of each of B streams; a whole utterance is one block of a new stream.

        Args:
            features: (B, N, 4, 80) log-mel frames, four a token, see `processor`.
            mean, count, past, frame, half: the state, see `state_shapes`; zeros for a new stream.

        Returns:
            tokens (B, N, width), log_probs (B, N, 29), gates (B, N, layers, groups): means of the mixers' gates over
            groups of features, lowest degree first; and the new state by the names above.
        """
        state = {'mean': mean, 'count': count, 'past': past, 'frame': frame, 'half': half}
        x, after, gates = self._run(features, None, state, None, self.config.mixer == 'pom')
        log_probs = self.head(x).float().log_softmax(-1)
        return {'tokens': x, 'log_probs': log_probs, 'gates': torch.stack(gates, 2), **after}

    def encode(self, features: Tensor, keep: Tensor | None = None, block: int | None = None) -> Tensor:
        """Whole utterances, for training.

        Args:
            features: (B, N, 4, 80).
            keep: (B, N) bool, True for real tokens (padding comes last), or None.
            block: mix as a stream of blocks of so many tokens does; None mixes the whole utterance.

        Returns:
            (B, N, width).
        """
        return self._run(features, keep, self.open_state(len(features), features.device), block, False)[0]

    def log_probs(self, features: Tensor, keep: Tensor | None = None, block: int | None = None) -> Tensor:
        """`encode`, then (B, N, 29) log-probabilities in float32."""
        out: Tensor = self.head(self.encode(features, keep, block)).float().log_softmax(-1)
        return out

    def open_state(self, streams: int, device: torch.device | str | None = None) -> State:
        """The state of new streams."""
        return {name: torch.zeros(streams, *shape, device=device) for name, shape in state_shapes(self.config).items()}

    def normalise(self, features: Tensor) -> Tensor:
        """(B, N, 4, 80) log-mel to zero mean and unit variance over the training set."""
        return (features - self.feature_mean) * self.feature_scale

    def _run(
        self, features: Tensor, keep: Tensor | None, state: State, block: int | None, with_gates: bool
    ) -> tuple[Tensor, State, list[Tensor]]:
        if features.shape[2:] != (FRAMES_PER_TOKEN, BANDS):
            raise ValueError(f'features must be (B, N, {FRAMES_PER_TOKEN}, {BANDS}), got {tuple(features.shape)}')
        x, frame, half = self.front(self.normalise(features).flatten(1, 2), state['frame'], state['half'])
        if self.config.memory_tokens:
            state = state | {'count': state['count'].clamp(max=float(self.config.memory_tokens))}
        means, pasts, gates, count = [], [], [], state['count']
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            x = x + 0.5 * layer.first(x)
            normed = layer.mixer_norm(x)
            mixed, (mean, count) = layer.mixer(normed, keep, (state['mean'][:, index], state['count']), block)
            if with_gates:
                gates.append(layer.mixer.gates(normed).unflatten(-1, (self.config.gate_groups, -1)).mean(-1))
            x = x + layer.dropout(mixed)
            y, past = layer.convolution(x, state['past'][:, index])
            x = x + y
            x = layer.last_norm(x + 0.5 * layer.second(x))
            means.append(mean)
            pasts.append(past)
        new: Any = {'mean': torch.stack(means, 1), 'count': count, 'past': torch.stack(pasts, 1)}
        return x, new | {'frame': frame, 'half': half}, gates
