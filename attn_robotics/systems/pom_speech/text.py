"""Characters, and what a stream of CTC outputs says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CHARACTERS = " 'abcdefghijklmnopqrstuvwxyz"
BLANK = 0  # CTC's blank; character i of CHARACTERS is class i + 1
SPACE = CHARACTERS.index(' ') + 1
CLASSES = len(CHARACTERS) + 1


def encode(text: str) -> list[int]:
    """Classes of a lower-case text.

    Raises:
        ValueError: a character that the model does not know.
    """
    if unknown := set(text) - set(CHARACTERS):
        raise ValueError(f'{sorted(unknown)[0]!r} in {text!r}: only {CHARACTERS!r} can be recognised')
    return [CHARACTERS.index(letter) + 1 for letter in text]


def collapse(classes: NDArray[np.integer[Any]], last: int = BLANK) -> str:
    """Best path to text: repeats merge, blanks go. `last` is the class before the first one."""
    before = np.concatenate([[last], classes[:-1]])
    kept = classes[(classes != before) & (classes != BLANK)]
    return ''.join(CHARACTERS[index - 1] for index in kept)


def decode(log_probs: NDArray[np.floating[Any]]) -> str:
    """Greedy text of (T, 29) log-probabilities."""
    return ' '.join(collapse(log_probs.argmax(-1)).split())


class CtcStream:
    """Greedy decoding block by block, cut into utterances by silence.

    Args:
        end_tokens: so many blanks and spaces in a row end an utterance.
    """

    def __init__(self, end_tokens: int) -> None:
        self.end_tokens = end_tokens
        self.reset()

    def reset(self) -> None:
        """Forget what was heard."""
        self._text = ''
        self._last = BLANK
        self._silent = 0
        self._score, self._scored = 0.0, 0

    @property
    def text(self) -> str:
        """What was heard of the utterance so far."""
        return ' '.join(self._text.split())

    @property
    def confidence(self) -> float:
        """Geometric mean of the probabilities of the utterance's letters, 0 to 1; 0 without any."""
        return float(np.exp(self._score / self._scored)) if self._scored else 0.0

    def push(self, log_probs: NDArray[np.floating[Any]]) -> list[tuple[str, float]]:
        """Take (T, 29) log-probabilities.

        Returns:
            Text and confidence of every utterance that ended: there was text, and `end_tokens` of silence after it.
            What follows in the same block begins the next one.
        """
        ended = []
        for index, scores in zip(log_probs.argmax(-1), log_probs, strict=True):
            # A space is silence, too: a network that learnt pairs of sentences writes one a second after the first.
            if index in (BLANK, SPACE):
                self._silent += 1
                if self._silent == self.end_tokens and self.text:
                    ended.append((self.text, self.confidence))
                    self.reset()
            else:
                self._silent = 0
            if index != BLANK and (index != SPACE or self._text):
                if index != self._last:
                    self._text += CHARACTERS[index - 1]
                self._score += float(scores[index])
                self._scored += 1
            self._last = int(index)
        return ended
