"""How close drawn movements are to the teacher's: Frechet distance, best-of-ten error, diversity, end error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from scipy.linalg import sqrtm

from attn_robotics.systems.gaze.human import ONSET_SPEED, Array
from attn_robotics.systems.gaze.learned import MotionModel, draw_tracks
from attn_robotics.systems.gaze.style import Style
from attn_robotics.systems.gaze.teacher import RATE, Conditions, play

DRAWS: Final = 10
Sampler = Callable[[Conditions, Style, np.random.Generator], Array]


def features(tracks: Array, target: Array) -> Array:
    """Seven features of each movement (N, T, 4): (N, 7).

    Amplitude [deg], peak / 10 [deg/s], duration * 100 [s], head amplitude [deg], head peak / 10, end error [deg],
    latency * 100 [s]; a movement that never passes 30 deg/s has latency T and no amplitude, peak or duration.
    """
    gaze, head = tracks[..., :2] + tracks[..., 2:], tracks[..., 2:]
    speed = np.linalg.norm(np.diff(gaze, axis=1), axis=-1) * RATE
    head_speed = np.linalg.norm(np.diff(head, axis=1), axis=-1) * RATE
    above = speed > ONSET_SPEED
    any_above = above.any(1)
    n_steps = speed.shape[1]
    first = np.where(any_above, above.argmax(1), n_steps)
    last = np.where(any_above, n_steps - above[:, ::-1].argmax(1), n_steps)
    rows = np.arange(tracks.shape[0])
    amplitude = np.linalg.norm(gaze[rows, last] - gaze[rows, np.minimum(first, n_steps)], axis=-1)
    columns = [
        amplitude,
        np.where(any_above, speed.max(1), 0.0) / 10.0,
        (last - first) / RATE * 100.0,
        np.linalg.norm(head[:, -1] - head[:, 0], axis=-1),
        head_speed.max(1) / 10.0,
        np.linalg.norm(gaze[:, -1] - target, axis=-1),
        first / RATE * 100.0,
    ]
    return np.stack(columns, axis=1)


def frechet(a: Array, b: Array) -> float:
    """Frechet distance of the Gaussians fitted to two feature sets (N, F)."""
    gap = a.mean(0) - b.mean(0)
    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(sqrtm(one @ two))
    return float(gap @ gap + np.trace(one + two - 2.0 * root))


def distance(a: Array, b: Array) -> Array:
    """Mean over time of the joint-space distance of tracks (..., T, 4) [deg]."""
    return np.asarray(np.linalg.norm(a - b, axis=-1).mean(-1))


def compare(
    sampler: Sampler, teacher: Sampler, *, n: int = 300, seed: int = 7, style_known: bool = True
) -> dict[str, float]:
    """All figures of one sampler over n held-out situations, each of another random person.

    With `style_known` the person (hinge, slope, gain) belongs to the situation, as a robot's own habits do; otherwise
    every draw is of another person.

    Returns:
        frechet, ade, min_ade10, diversity [deg], diversity_ratio (of the teacher's), end_error_p95 [deg] and
        saccade_share (movements that pass 30 deg/s).
    """
    conditions = Conditions.draw(np.random.default_rng([seed, 1]), n)
    person = Style.draw(np.random.default_rng([seed, 5]), n)
    same = Style(*(np.repeat(part, DRAWS) for part in (person.hinge, person.slope, person.gain)))
    many = conditions.repeat(DRAWS)

    def people(stream: int) -> Style:
        return same if style_known else Style.draw(np.random.default_rng([seed, stream]), n * DRAWS)

    truth = teacher(conditions, person, np.random.default_rng([seed, 2]))
    shape = (n, DRAWS, *truth.shape[1:])
    drawn = sampler(many, people(6), np.random.default_rng([seed, 3])).reshape(shape)
    redrawn = teacher(many, people(8), np.random.default_rng([seed, 4])).reshape(shape)
    apart = distance(drawn, truth[:, None])
    flat = drawn.reshape(n * DRAWS, *truth.shape[1:])
    own = features(flat, many.target)
    spread, teacher_spread = _spread(drawn), _spread(redrawn)
    return {
        'frechet': frechet(own, features(redrawn.reshape(flat.shape), many.target)),
        'ade': float(apart[:, 0].mean()),
        'min_ade10': float(apart.min(1).mean()),
        'diversity': spread,
        'diversity_ratio': spread / teacher_spread,
        'end_error_p95': float(np.percentile(own[:, 5], 95)),
        'saccade_share': float((own[:, 1] > 0).mean()),
    }


def compare_model(
    path: Path, temperature: float = 1.0, n: int = 300, *, safe: bool = True, style_known: bool = True
) -> dict[str, float]:
    """`compare` for the weights at `path` against the motor model, with or without the analytic layer."""
    model = MotionModel(path)

    def draw(conditions: Conditions, style: Style, rng: np.random.Generator) -> Array:
        return draw_tracks(model, conditions, style, rng, temperature=temperature, safe=safe)

    return compare(draw, play, n=n, style_known=style_known)


def _spread(drawn: Array) -> float:
    """Mean pairwise distance among the draws of one situation."""
    pairs = [(i, j) for i in range(DRAWS) for j in range(i)]
    return float(np.mean([distance(drawn[:, i], drawn[:, j]).mean() for i, j in pairs]))
