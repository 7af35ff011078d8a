"""One microphone's way from samples to text: what a node, an evaluation and a Python shell share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attn_robotics.systems.pom_speech.model import SpeechEncoder
from attn_robotics.systems.pom_speech.processor import SAMPLE_RATE, TOKEN_S, LogMelStream
from attn_robotics.systems.pom_speech.text import CtcStream

Answers = Mapping[str, NDArray[Any]]
Ask = Callable[[NDArray[np.float32], bool], Answers]
"""Gives the model's outputs for features (1, K, 4, 80) of one stream; the flag says to forget its state first."""

LONGEST_GAP_S = 1.0  # lost sound up to this is replaced by silence, beyond it the stream begins anew


@dataclass(frozen=True)
class Heard:
    """What one block of tokens brought.

    Attributes:
        text: the utterance so far, or all of one that has ended.
        is_final: whether it has ended.
        confidence: geometric mean of its letters' probabilities, 0 to 1.
        tokens: (K, width) embeddings.
        gates: (K, layers, groups) from 0 to 1.
        features: (K, 4, 80) log-mel frames.
    """

    text: str
    is_final: bool
    confidence: float
    tokens: NDArray[np.float32]
    gates: NDArray[np.float32]
    features: NDArray[np.float32]


class SpeechStream:
    """Samples of any block size in, text out.

    Args:
        ask: runs the model, see `local_model`.
        block_tokens: tokens of 40 ms that go to the model at once: latency against calls a second.
        end_s: silence that ends an utterance [s].
    """

    def __init__(self, ask: Ask, *, block_tokens: int = 8, end_s: float = 0.6) -> None:
        self._ask = ask
        self._block = block_tokens
        self._mel = LogMelStream()
        self._text = CtcStream(max(1, round(end_s / TOKEN_S)))
        self.reset()

    def reset(self) -> None:
        """Begin anew: what was heard is forgotten, the model's state as well."""
        self._mel.reset()
        self._text.reset()
        self._waiting = self._mel.push(np.zeros(0, np.float32))
        self._is_new = True

    def push(self, samples: NDArray[np.floating[Any]]) -> Iterator[Heard]:
        """Take (n,) samples at 16 kHz; give what every block that they complete brought, at least once a block."""
        self._waiting = np.concatenate([self._waiting, self._mel.push(samples)])
        while len(self._waiting) >= self._block:
            block, self._waiting = self._waiting[: self._block], self._waiting[self._block :]
            # An utterance begins with an empty state, as all did in training; after silence that loses nothing.
            answers = self._ask(block[None], self._is_new)
            ended = self._text.push(answers['log_probs'][0])
            self._is_new = bool(ended) and not self._text.text
            shown = answers['tokens'][0], answers['gates'][0], block
            yield from (Heard(text, True, confidence, *shown) for text, confidence in ended)
            if not self._is_new:
                yield Heard(self._text.text, False, self._text.confidence, *shown)


class Continuity:
    """Numbered blocks of samples in, gapless samples out.

    Attributes:
        lost: blocks that were replaced by silence so far.
    """

    def __init__(self) -> None:
        self._next: int | None = None
        self.lost = 0

    def take(self, sequence: int, samples: NDArray[np.floating[Any]]) -> tuple[NDArray[np.floating[Any]], bool]:
        """Take one block.

        Args:
            sequence: its number.
            samples: (n,).

        Returns:
            The samples, with silence of the same size before them for each lost block; and whether the sound begins
            anew: the gap is longer than `LONGEST_GAP_S`, or the numbers go back.
        """
        missing = 0 if self._next is None else sequence - self._next
        self._next = sequence + 1
        if missing < 0 or missing * len(samples) > LONGEST_GAP_S * SAMPLE_RATE:
            return samples, True
        self.lost += missing
        return np.concatenate([np.zeros(missing * len(samples), samples.dtype), samples]), False


def local_model(network: SpeechEncoder) -> Ask:
    """A network in this process as what `SpeechStream` asks; keeps the state of one stream."""
    state = network.open_state(1)

    def ask(features: NDArray[np.float32], reset: bool) -> Answers:
        nonlocal state
        if reset:
            state = network.open_state(1)
        with torch.inference_mode():
            answers = network(torch.from_numpy(features), **state)
        state = {name: answers[name] for name in state}
        return {name: value.numpy() for name, value in answers.items()}

    return ask
