"""From answers of the model to words, and what is measured of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

if TYPE_CHECKING:
    from attn_robotics.systems.aga.model import AgaNetwork

WEIGHTS = Path(__file__).parent / 'weights' / 'aga.safetensors'


@dataclass(frozen=True)
class Anticipation:
    """What one stream expects next.

    Attributes:
        classes: the five most probable action numbers, most probable first.
        labels: their words.
        probabilities: theirs.
        gate: share of history in the answer, 0 the current frame alone, 1 the past alone.
        attention: (heads, P) weights on the P remembered steps, oldest first; each row sums to 1, or P is 0.
        past: what was expected at each of these steps, in words.
        past_s: how long before this frame each was [s].
    """

    classes: tuple[int, ...]
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    gate: float
    attention: NDArray[np.float32]
    past: tuple[str, ...]
    past_s: tuple[float, ...]

    def because(self) -> str:
        """One line: what is expected, and the past step that mattered most."""
        expected = f'{self.labels[0]} ({self.probabilities[0]:.2f})'
        if not self.past:
            return expected
        most = int(self.attention.mean(0).argmax())
        return f'{expected}, because of: {self.past[most]} {self.past_s[most]:.1f} s ago'


def read_card(path: Path | None = None) -> dict[str, Any]:
    """The card beside weights, of what ships when None.

    Raises:
        ValueError: no such file, or no mapping in it.
    """
    card = WEIGHTS.with_suffix('.yaml') if path is None else path
    try:
        content = yaml.safe_load(card.read_text('utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f'can not read {card}: {" ".join(str(error).split())[:200]}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{card} must be a mapping')
    return content


def read_labels(path: Path | None = None) -> tuple[str, ...]:
    """The words of a model's actions, from the list `labels` of a card or another YAML file; of what ships when None.

    Raises:
        ValueError: no such file, or no such list in it.
    """
    labels = read_card(path).get('labels')
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{path or WEIGHTS.with_suffix('.yaml')} must have a list of texts 'labels', one an action")
    return tuple(labels)


def read_network() -> AgaNetwork:
    """The network with the weights that ship, checked against their card.

    Raises:
        EngineError: the file is missing or damaged.
    """
    from attn_robotics.runtime.weights import load_into, read_verified
    from attn_robotics.systems.aga.config import AgaConfig
    from attn_robotics.systems.aga.model import AgaNetwork, AgaStream

    card = read_card()
    stream = AgaStream(AgaNetwork(AgaConfig.from_dict(card['config'])))
    load_into(stream, read_verified(WEIGHTS, card['sha256']), WEIGHTS)
    return stream.network.eval()


def read_answer(outputs: dict[str, NDArray[np.generic]], labels: tuple[str, ...]) -> Anticipation:
    """Turn the answer for one stream into words.

    Args:
        outputs: of the model, one row each.
        labels: one an action.
    """
    best = [int(number) for number in outputs['best'][0]]
    past = outputs['past'][0].astype(np.int64)
    known = past >= 0
    return Anticipation(
        classes=tuple(best),
        labels=tuple(labels[number] for number in best),
        probabilities=tuple(float(value) for value in outputs['best_probabilities'][0]),
        gate=float(outputs['gate'][0]),
        attention=outputs['attention'][0][:, known].astype(np.float32),
        past=tuple(labels[number] for number in past[known]),
        past_s=tuple(float(value) for value in outputs['past_s'][0][known]),
    )


def sum_groups(probabilities: NDArray[np.floating], groups: NDArray[np.int64]) -> NDArray[np.floating]:
    """(N, K) probabilities of actions to (N, G) of their verbs or nouns: the sum over the actions that have it."""
    summed: NDArray[np.floating] = np.stack(
        [probabilities[:, groups == group].sum(1) for group in range(groups.max() + 1)], 1
    )
    return summed


def mean_top5_recall(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Mean over the classes present of the share of their samples whose class is among the five best (MT5R).

    Args:
        scores: (N, K).
        labels: (N,).
    """
    best = np.argpartition(-scores, 5, axis=1)[:, :5]
    hits = (best == labels[:, None]).any(1)
    return float(np.mean([hits[labels == label].mean() for label in np.unique(labels)]))


@dataclass(frozen=True)
class Turn:
    """How one frame continues its stream.

    Attributes:
        dt_s: since the stream's last frame [s].
        reset: forget the stream's past first.
        tick: number of the frame since then.
    """

    dt_s: float
    reset: bool
    tick: int


class StreamClock:
    """Time between the frames of each of several streams.

    Args:
        step_s: assumed before a first frame [s].
        gap_s: a longer silence begins the stream anew [s].
        limit: of streams; the one unused for longest is forgotten.
    """

    def __init__(self, step_s: float, gap_s: float, limit: int = 256) -> None:
        self.step_s = step_s
        self.gap_s = gap_s
        self._limit = limit
        self._last: dict[str, tuple[float, int]] = {}

    def turn(self, stream: str, stamp_s: float) -> Turn | None:
        """How a frame continues its stream; None for one that is not later than the frame before it.

        A stamp more than `gap_s` back is a clock that was set, or a log that begins again: the stream begins anew.
        """
        last = self._last.pop(stream, None)
        if last is not None and -self.gap_s <= stamp_s - last[0] <= 0.0:
            self._last[stream] = last
            return None
        is_new = last is None or not 0.0 < stamp_s - last[0] <= self.gap_s
        tick = 0 if is_new or last is None else last[1] + 1
        self._last[stream] = (stamp_s, tick)
        if len(self._last) > self._limit:
            del self._last[next(iter(self._last))]
        return Turn(self.step_s if is_new or last is None else stamp_s - last[0], is_new, tick)

    def forget(self, stream: str) -> None:
        """Let the next frame of a stream begin it anew."""
        self._last.pop(stream, None)

    def clear(self) -> None:
        """Forget every stream."""
        self._last.clear()
