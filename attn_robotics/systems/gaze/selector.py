"""The trained attention selector: entity tokens, two encoder layers, a robot-state query that attends to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor, nn

from attn_robotics.systems.gaze.entities import N_FEATURES, Scene
from attn_robotics.systems.gaze.human import Array
from attn_robotics.systems.gaze.selection import IDLE, Choice

FORMAT: Final = 1
N_STATE: Final = 3


class AttentionSelectorNetwork(nn.Module):
    """Tokens (B, N, 14 + 1) and robot state (B, 3) to logits over N entities and idle.

    The extra column tells which entity gaze is on. Padded rows are masked; a scene without entities gives idle.
    """

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(N_FEATURES + 1, width)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, 'gelu', batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.query = nn.Linear(N_STATE, width)
        self.idle = nn.Parameter(torch.zeros(1, 1, width))
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mix = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, tokens: Tensor, state: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, N + 1), idle last, and attention weights (B, N + 1).

        Args:
            tokens: (B, N, 15).
            state: (B, 3).
            mask: (B, N) True for real entities.
        """
        x = torch.cat([self.embed(tokens), self.idle.expand(tokens.shape[0], -1, -1)], 1)  # (B, N + 1, W)
        real = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        x = self.encoder(x, src_key_padding_mask=~real)
        query = self.query(state)[:, None]
        seen, weights = self.cross(query, x, x, key_padding_mask=~real)
        around = (seen + query).expand(-1, x.shape[1], -1)
        logits = self.mix(torch.cat([x, around, x * around], 2))[..., 0]
        return logits.masked_fill(~real, -1e9), weights[:, 0]


def scene_arrays(scene: Scene) -> tuple[Array, Array]:
    """Tokens (N, 15) with the is-current column, and robot state (3,)."""
    current = np.array([[float(e.id == scene.current)] for e in scene.entities]).reshape(-1, 1)
    return np.concatenate([scene.tokens, current], axis=1), scene.robot_state()


class AttentionSelector:
    """The trained selector behind the common contract.

    Args:
        path: weights with their card beside them.

    Raises:
        ValueError: weights missing or not those of the card.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = path or Path(__file__).with_name('selector.safetensors')
        card_path = path.with_suffix('.json')
        if not path.is_file() or not card_path.is_file():
            raise ValueError(f'{path}: missing; train with python -m attn_robotics.systems.gaze.train_selector')
        card = json.loads(card_path.read_text(encoding='utf-8'))
        data = path.read_bytes()
        if card.get('format') != FORMAT or hashlib.sha256(data).hexdigest() != card.get('sha256'):
            raise ValueError(f'{path}: not the weights of its card; restore both or train anew')
        self.network = AttentionSelectorNetwork()
        self.network.load_state_dict({name: value.float() for name, value in load(data).items()})
        self.network.eval()
        self.attention: dict[str, float] = {}  # of the last frame, for display

    def score(self, scene: Scene) -> Choice:
        """Log-probabilities as scores; the reason tells the probability."""
        return self.score_many([scene])[0]

    @torch.inference_mode()
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
        logits, weights = self.network(*(torch.from_numpy(part) for part in (tokens, state, mask)))
        chances = logits.log_softmax(1).numpy()
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
