"""The learned motion model at run time, in numpy: roll-out of chunks under the analytic safety layer."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit
from safetensors.numpy import load, save

from attn_robotics.systems.gaze.human import Array
from attn_robotics.systems.gaze.motor import Limits, eye_inside, head_amplitude
from attn_robotics.systems.gaze.style import Style
from attn_robotics.systems.gaze.teacher import (
    HISTORY,
    N_CONDITION,
    RATE,
    STEPS,
    Conditions,
    condition_vector,
    style_features,
)

FORMAT = 1
REFINING = 0.5  # temperature of each further level relative to the one before: it refines, and need not surprise
_RUNTIME = ('decoder.', 'priors.', 'books.')
_HOLD_SPEED = 30.0  # deg/s: a saccade that has fallen below is over
_HOLD_ERROR = 4.0  # deg from the target within which it counts as landed
_LANDING_ERROR = 1.1  # deg that human scatter reaches in 95 of 100 shifts
_BLEND = 0.15  # s
_SETTLING_SPEED = 15.0  # deg/s: a head slower than this after landing is drawn to its soft-hinge end
_SETTLING_RATE = 0.1  # of the way per step


def save_model(path: Path, weights: Mapping[str, Any], config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write the run-time part of a network as fp16 safetensors with a JSON card that holds its sha256."""
    arrays = {
        name: np.ascontiguousarray(value.detach().cpu().numpy().astype(np.float16))
        for name, value in weights.items()
        if name.startswith(_RUNTIME) and not name.endswith(('count', 'total'))
    }
    data = save(arrays)
    card = {
        'format': FORMAT,
        'system': 'gaze motion model',
        'config': dict(config),
        'training': dict(facts),
        'data': 'synthetic shifts of the motor model (teacher.py)',
        'sha256': hashlib.sha256(data).hexdigest(),
    }
    for target, content in ((path, data), (path.with_suffix('.json'), (json.dumps(card, indent=2) + '\n').encode())):
        part = target.with_name(target.name + '.part')
        part.write_bytes(content)
        part.replace(target)


def _dense(weights: Mapping[str, Array], prefix: str) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    names = sorted((n for n in weights if n.startswith(prefix) and n.endswith('weight')), key=_layer)
    return [
        (np.ascontiguousarray(weights[n].astype(np.float32).T), weights[n[:-6] + 'bias'].astype(np.float32))
        for n in names
    ]


def _layer(name: str) -> int:
    return int(name.split('.')[-2])


def _forward(layers: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]], x: Any) -> Any:
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        if i < len(layers) - 1:
            x = x / (1.0 + np.exp(-np.clip(x, -60.0, 60.0)))
    return x


class MotionModel:
    """A trained motion network.

    Args:
        path: weights; the card `<name>.json` must lie beside them.

    Raises:
        ValueError: card and weights do not belong together, or are of another format.
    """

    def __init__(self, path: Path) -> None:
        card_path = path.with_suffix('.json')
        if not path.is_file() or not card_path.is_file():
            raise ValueError(f'{path}: weights or card missing; train with python -m attn_robotics.systems.gaze.train')
        card = json.loads(card_path.read_text(encoding='utf-8'))
        if card.get('format') != FORMAT:
            raise ValueError(f'{card_path}: format {card.get("format")!r}, this version reads {FORMAT}; train anew')
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != card['sha256']:
            raise ValueError(f'{path}: sha256 differs from its card; restore or train anew')
        weights = load(data)
        self.config: dict[str, Any] = card['config']
        self.kind = str(self.config['kind'])
        self.length = int(self.config['chunk'])  # increments a step
        self._decoder = _dense(weights, 'decoder.')
        levels = int(self.config['levels']) if self.kind == 'vqvae' else 0
        self._priors = [_dense(weights, f'priors.{level}.') for level in range(levels)]
        self._books = [weights[f'books.{level}.vectors'].astype(np.float32) for level in range(levels)]

    def chunk(self, condition: Array, rng: np.random.Generator, temperature: float = 1.0) -> Array:
        """Increments (N, chunk, 4) [deg] for conditions (N, 54); temperature 0 takes the most probable codes."""
        given = condition.astype(np.float32)
        n = given.shape[0]
        if given.shape[1] != N_CONDITION:
            raise ValueError(f'condition must have {N_CONDITION} columns, got {given.shape[1]}')
        if self.kind == 'cvae':
            latent = temperature * rng.standard_normal((n, int(self.config['latent'])))
            out = _forward(self._decoder, np.concatenate([latent.astype(np.float32), given], axis=1))
        elif self.kind == 'mlp':
            out = _forward(self._decoder, given)
        else:
            latent = np.zeros((n, self._books[0].shape[1]), np.float32)
            for level, (prior, book) in enumerate(zip(self._priors, self._books, strict=True)):
                logits = _forward(prior, np.concatenate([given, latent], axis=1) if level else given)
                warmth = temperature * REFINING**level
                if warmth > 0.0:
                    logits = logits / warmth + rng.gumbel(size=logits.shape)
                latent = latent + book[logits.argmax(1)]
            out = _forward(self._decoder, np.concatenate([latent, given], axis=1))
        return np.asarray(out.reshape(n, self.length, 4), dtype=np.float64)


@dataclass
class Rollout:
    """N movements being drawn chunk by chunk, kept inside the body's limits."""

    model: MotionModel
    conditions: Conditions
    style: Style
    rng: np.random.Generator
    temperature: float = 1.0
    limits: Limits | None = None
    safe: bool = True  # the analytic layer: limits, then the VOR hold of the landing point
    auditory: bool = False

    def __post_init__(self) -> None:
        c = self.conditions
        self.track = np.concatenate([c.eye, c.head], axis=1)[:, None]  # (N, T, 4), grows
        n = c.target.shape[0]
        self._body = self.limits or Limits()
        self._features = style_features(self.style, n)
        offset = c.target - c.head
        angle = np.hypot(offset[:, 0], offset[:, 1])
        turn = head_amplitude(angle, self.style, auditory=self.auditory, eye_end=self._body.eye_end)
        self._head_end = c.head + offset * (turn / np.maximum(angle, 1e-9))[:, None]
        self.head_speed = np.zeros((n, 2))  # deg/s at the command
        self._landed = np.zeros(n, dtype=bool)
        self._moved = np.zeros(n, dtype=bool)
        self._landing = np.zeros((n, 2))
        self._since = np.zeros(n)

    def extend(self) -> None:
        """Draw the next chunk."""
        track, c = self.track, self.conditions
        n = track.shape[0]
        steps = np.diff(track, axis=1)[:, -HISTORY:]
        # Before the command the head may have been moving, with gaze held against it.
        drift = np.concatenate([-self.head_speed, self.head_speed], axis=1) / RATE
        earlier = np.repeat(drift[:, None], HISTORY - steps.shape[1], axis=1)
        history = np.concatenate([earlier, steps], axis=1)
        elapsed = np.full(n, (track.shape[1] - 1) / RATE)
        condition = condition_vector(history, track[:, -1], track[:, 0], c.target, elapsed, self._features)
        increments = self.model.chunk(condition, self.rng, self.temperature)
        new = track[:, -1:] + np.cumsum(increments, axis=1)
        if self.safe:
            new = self._secure(np.concatenate([track[:, -1:], new], axis=1))
        self.track = np.concatenate([track, new], axis=1)

    def run(self) -> Array:
        """The whole 1.2 s: (N, 121, 4)."""
        while self.track.shape[1] <= STEPS:
            self.extend()
        return self.track

    def _secure(self, rows: Array) -> Array:
        """Limits of range and speed; once the saccade is over, the eye makes up for the head (VOR)."""
        body = self._body
        out = np.ascontiguousarray(rows)
        _secure(
            out,
            np.ascontiguousarray(self.conditions.target),
            self._head_end,
            self._moved,
            self._landed,
            self._landing,
            self._since,
            (*body.eye_range, body.eye_speed, body.head_speed, *body.head_low, *body.head_high),
        )
        return out[:, 1:]


@njit(cache=True)
def _secure(
    rows: Array,
    target: Array,
    head_end: Array,
    moved: npt.NDArray[np.bool_],
    landed: npt.NDArray[np.bool_],
    landing: Array,
    since: Array,
    body: tuple[float, ...],
) -> None:
    """`Rollout._secure` in place: rows (N, K + 1, 4), the first of which is the last of before."""
    across, up, down, eye_speed, head_speed, low_yaw, low_pitch, high_yaw, high_pitch = body
    eye_step, head_step = eye_speed / RATE, head_speed / RATE
    for i in range(rows.shape[0]):
        drawn = rows[i, 0].copy()  # what the network drew for the point before, which its increments start from
        for k in range(1, rows.shape[1]):
            before, now = rows[i, k - 1], rows[i, k]
            turn_yaw = min(max(now[2] - drawn[2], -head_step), head_step)
            turn_pitch = min(max(now[3] - drawn[3], -head_step), head_step)
            if landed[i] and math.hypot(turn_yaw, turn_pitch) * RATE < _SETTLING_SPEED:
                turn_yaw += _SETTLING_RATE * min(max(head_end[i, 0] - before[2], -2.0), 2.0)
                turn_pitch += _SETTLING_RATE * min(max(head_end[i, 1] - before[3], -2.0), 2.0)
            yaw = min(max(before[2] + turn_yaw, low_yaw), high_yaw)
            pitch = min(max(before[3] + turn_pitch, low_pitch), high_pitch)
            eye_yaw = before[0] + min(max(now[0] - drawn[0], -eye_step), eye_step)
            eye_pitch = before[1] + min(max(now[1] - drawn[1], -eye_step), eye_step)
            speed = math.hypot(yaw - before[2], pitch - before[3]) * RATE
            gaze_yaw, gaze_pitch = eye_yaw + yaw, eye_pitch + pitch
            rate = math.hypot(gaze_yaw - before[0] - before[2], gaze_pitch - before[1] - before[3]) * RATE
            way_yaw, way_pitch = gaze_yaw - target[i, 0], gaze_pitch - target[i, 1]
            error = math.hypot(way_yaw, way_pitch)
            moved[i] |= rate > _HOLD_SPEED
            if moved[i] and not landed[i] and rate < _HOLD_SPEED and error < _HOLD_ERROR:
                # A landing further off than people's is corrected while the hold is blended in.
                pull = min(1.0, _LANDING_ERROR / max(error, 1e-9))
                landing[i, 0], landing[i, 1] = target[i, 0] + way_yaw * pull, target[i, 1] + way_pitch * pull
                landed[i] = True
            eye_yaw, eye_pitch = eye_inside(eye_yaw, eye_pitch, speed, across, up, down)
            if landed[i]:
                # The hold is blended in, so that whatever the network drew just before goes over without a step.
                since[i] += 1.0 / RATE
                share = min(since[i] / _BLEND, 1.0)
                held_yaw, held_pitch = eye_inside(
                    landing[i, 0] - yaw, landing[i, 1] - pitch, speed, across, up, down
                )  # fmt: skip
                eye_yaw, eye_pitch = (
                    share * held_yaw + (1.0 - share) * eye_yaw,
                    share * held_pitch + (1.0 - share) * eye_pitch,
                )
            drawn[:] = now
            now[0], now[1], now[2], now[3] = eye_yaw, eye_pitch, yaw, pitch


def draw_tracks(
    model: MotionModel,
    conditions: Conditions,
    style: Style,
    rng: np.random.Generator,
    *,
    temperature: float = 1.0,
    safe: bool = True,
) -> Array:
    """Complete movements (N, 121, 4) of N people (or of one style) for N situations."""
    return Rollout(model, conditions, style, rng, temperature, safe=safe).run()
