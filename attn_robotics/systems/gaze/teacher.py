"""Synthetic shifts of the motor model: training data and yardstick of the learned motion model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from attn_robotics.systems.gaze.human import Array
from attn_robotics.systems.gaze.motor import plan_shift, still_head
from attn_robotics.systems.gaze.style import Draws, Style

RATE: Final = 100.0  # Hz
STEPS: Final = 120  # increments of a movement, 1.2 s
CHUNK: Final = 10  # increments a model step, unless a network says otherwise
HISTORY: Final = 10  # increments seen
N_CONDITION: Final = 54


@dataclass(frozen=True)
class Conditions:
    """N situations at the moment of the command."""

    target: Array  # (N, 2) deg
    eye: Array  # (N, 2) deg
    head: Array  # (N, 2) deg

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int) -> Conditions:
        """Amplitudes of 3 to 75 deg in any direction, vertical part times 0.4; eye and head start near the middle."""
        size, angle = rng.uniform(3.0, 75.0, n), rng.uniform(-np.pi, np.pi, n)
        eye, head = rng.normal(0.0, 5.0, (n, 2)), rng.normal(0.0, 5.0, (n, 2))
        way = np.stack([size * np.cos(angle), 0.4 * size * np.sin(angle)], axis=-1)
        return cls(eye + head + way, eye, head)

    def repeat(self, times: int) -> Conditions:
        """Each situation `times` times in a row."""
        return Conditions(*(np.repeat(part, times, axis=0) for part in (self.target, self.eye, self.head)))


def play(conditions: Conditions, style: Style, rng: np.random.Generator, rate: float = RATE) -> Array:
    """Let the motor model act: (N, 1.2 s * rate + 1, 4) of eye yaw, eye pitch, head yaw, head pitch [deg]."""
    n = conditions.target.shape[0]
    shift = plan_shift(
        conditions.target,
        conditions.eye + conditions.head,
        still_head(conditions.head),
        np.zeros(n),
        style,
        Draws.draw(rng, n),
    )
    eye, head, _ = shift.sample(np.arange(round(STEPS * rate / RATE) + 1) / rate)
    return np.concatenate([eye, head], axis=-1)


def style_features(style: Style, n: int) -> Array:
    """(n, 3) roughly standardised hinge, slope and gain."""
    columns = ((style.hinge - 18.0) / 7.0, (style.slope - 0.75) / 0.12, (style.gain - 2.6) / 0.6)
    return np.stack([np.broadcast_to(column, (n,)) for column in columns], axis=-1)


def condition_vector(history: Array, state: Array, start: Array, target: Array, elapsed: Array, style: Array) -> Array:
    """What the model is told before each chunk.

    Args:
        history: (N, 10, 4) last increments [deg].
        state: (N, 4) eye and head now [deg].
        start: (N, 4) eye and head at the command.
        target: (N, 2) deg.
        elapsed: (N,) s since the command.
        style: (N, 3) of `style_features`.

    Returns:
        (N, 54): history / 2 deg, errors of gaze and of head / 30 deg now and at the command, eye / 30 deg, time, style.
    """
    gaze, head = state[:, :2] + state[:, 2:], state[:, 2:]
    first = start[:, :2] + start[:, 2:]
    parts = [
        history.reshape(history.shape[0], -1) / 2.0,
        (target - gaze) / 30.0,
        (target - head) / 30.0,
        state[:, :2] / 30.0,
        elapsed[:, None],
        style,
        (target - first) / 30.0,
        (target - start[:, 2:]) / 30.0,
    ]
    return np.concatenate(parts, axis=1)


def chunks(tracks: Array, target: Array, style: Array, chunk: int = CHUNK) -> tuple[Array, Array]:
    """Cut tracks (N, 121, 4) into model steps of `chunk` increments.

    Returns:
        Conditions (N * 120 / chunk, 54) and increments (N * 120 / chunk, 4 * chunk), float32.
    """
    n = tracks.shape[0]
    steps = np.diff(tracks, axis=1)
    padded = np.concatenate([np.zeros((n, HISTORY, 4)), steps], axis=1)
    rows = []
    for k in range(0, STEPS, chunk):
        elapsed = np.full(n, k / RATE)
        rows.append(condition_vector(padded[:, k : k + HISTORY], tracks[:, k], tracks[:, 0], target, elapsed, style))
    wanted = steps.reshape(n * len(rows), chunk * 4)
    return np.stack(rows, axis=1).reshape(n * len(rows), -1).astype(np.float32), wanted.astype(np.float32)
