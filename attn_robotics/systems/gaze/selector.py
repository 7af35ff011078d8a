"""The trained attention selector, by ONNX Runtime on one core; its network is `selector_network`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from attn_robotics.runtime.sessions import graph_session
from attn_robotics.systems.gaze.entities import N_FEATURES, Scene
from attn_robotics.systems.gaze.human import Array
from attn_robotics.systems.gaze.selection import IDLE, Choice

WEIGHTS: Final = Path(__file__).with_name('selector.safetensors')
FORMAT: Final = 1
N_STATE: Final = 3
INPUTS: Final = ('tokens', 'state', 'mask')
OUTPUTS: Final = ('log_chances', 'weights')


def scene_arrays(scene: Scene) -> tuple[Array, Array]:
    """Tokens (N, 15) with the is-current column, and robot state (3,)."""
    current = np.array([[float(e.id == scene.current)] for e in scene.entities]).reshape(-1, 1)
    return np.concatenate([scene.tokens, current], axis=1), scene.robot_state()


class AttentionSelector:
    """The trained selector behind the common contract.

    Args:
        path: weights with their card and their graph beside them.

    Raises:
        ValueError: weights missing or not those of the card.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = path or WEIGHTS
        card_path = path.with_suffix('.json')
        if not path.is_file() or not card_path.is_file():
            raise ValueError(f'{path}: missing; train with python -m attn_robotics.systems.gaze.train_selector')
        card = json.loads(card_path.read_text(encoding='utf-8'))
        data = path.read_bytes()
        if card.get('format') != FORMAT or hashlib.sha256(data).hexdigest() != card.get('sha256'):
            raise ValueError(f'{path}: not the weights of its card; restore both or train anew')
        # For so small a network, waiting for other threads costs more than they save: on two busy cores, 90 ms a tick.
        session = graph_session(path.with_suffix('.onnx'), card['sha256'], threads=1)
        if session is None:
            raise ValueError(f'{path.with_suffix(".onnx")}: missing or of other weights; restore it or train anew')
        self._session = session
        self.attention: dict[str, float] = {}  # of the last frame, for display

    def score(self, scene: Scene) -> Choice:
        """Log-probabilities as scores; the reason tells the probability."""
        return self.score_many([scene])[0]

    def score_many(self, scenes: Sequence[Scene]) -> list[Choice]:
        """Score several robots' scenes in one batch; `attention` is that of the last."""
        most = max([1, *(len(scene.entities) for scene in scenes)])
        tokens = np.zeros((len(scenes), most, N_FEATURES + 1), np.float32)
        state = np.zeros((len(scenes), N_STATE), np.float32)
        mask = np.zeros((len(scenes), most), dtype=bool)
        for row, scene in enumerate(scenes):
            n = len(scene.entities)
            tokens[row, :n], state[row] = scene_arrays(scene)
            mask[row, :n] = True
        chances, weights = self._session.run(OUTPUTS, dict(zip(INPUTS, (tokens, state, mask), strict=True)))
        choices = []
        for row, scene in enumerate(scenes):
            ids = [*(e.id for e in scene.entities), IDLE]
            places = [*range(len(ids) - 1), most]
            scores = {name: float(chances[row, at]) for name, at in zip(ids, places, strict=True)}
            best = max(scores, key=lambda name: scores[name])
            self.attention = {name: float(weights[row, at]) for name, at in zip(ids, places, strict=True)}
            reason = f'attention selector, p = {np.exp(scores[best]):.2f}' if scene.entities else 'nobody is there'
            choices.append(Choice(best, scores, reason))
        return choices
