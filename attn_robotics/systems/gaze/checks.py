"""The measurements behind `evaluate`, one function an axis of the table."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import curve_fit

from attn_robotics.systems.gaze.baselines import Controller
from attn_robotics.systems.gaze.command import GazeLog, Target
from attn_robotics.systems.gaze.core import GazeCore
from attn_robotics.systems.gaze.entities import SOUND, Entity
from attn_robotics.systems.gaze.human import ONSET_SPEED, Array, acceleration_share, saccade_duration
from attn_robotics.systems.gaze.motor import Shift, plan_shift, still_head
from attn_robotics.systems.gaze.planner import PERIOD, GazePlanner
from attn_robotics.systems.gaze.pose_history import HeadPredictor
from attn_robotics.systems.gaze.profile import AXES, Profile, load_profile
from attn_robotics.systems.gaze.saccades import find_saccades
from attn_robotics.systems.gaze.style import Draws, Style
from attn_robotics.systems.gaze.tracker import TrackedFace


def step_peak(controller: Controller, yaw: float, pitch: float) -> float:
    """Peak gaze speed [deg/s] of a controller asked once to look at (yaw, pitch) from rest."""
    points, times = [], []
    for k in range(250):
        t = (k + 1) * PERIOD
        command = controller.step(t, Target('a', 0.0, 0.0) if t < 0.6 else Target('b', yaw, pitch))
        points.append(command.points)
        times.append(t - PERIOD + PERIOD * np.arange(1, len(command.points) + 1) / len(command.points))
    rows, t_all = np.concatenate(points), np.concatenate(times)
    log = GazeLog(t_all, rows[:, :2], rows[:, 2:4], rows[:, 5])
    found = find_saccades(log)
    if found.onset.size:
        return float(found.peak.max())
    return float(np.linalg.norm(np.gradient(log.gaze, t_all, axis=0), axis=1).max())


def many_shifts(size: Array, rng: np.random.Generator, *, scatter: bool = True, auditory: bool = False) -> Shift:
    """Horizontal shifts of random people from straight ahead, one of each size [deg]."""
    n = size.size
    rest = np.zeros((n, 2))
    style = Style.draw(rng, n) if scatter else Style()
    draws = Draws.draw(rng, n, auditory=auditory, scatter=scatter)
    target = np.stack([size, np.zeros(n)], axis=-1)
    return plan_shift(target, rest, still_head(rest), np.zeros(n), style, draws, auditory=auditory)


def main_sequence_fit(n: int = 1500, seed: int = 5) -> tuple[float, float, float]:
    """V, c and R^2 of V (1 - exp(-A / c)) over `n` shifts of 3 to 75 deg, amplitudes and peaks as measured at 1 kHz."""
    rng = np.random.default_rng(seed)
    eye, head, _ = many_shifts(rng.uniform(3.0, 75.0, n), rng).sample(np.arange(0.0, 1.0, 0.001))
    gaze = (eye + head)[..., 0]
    speed = np.abs(np.diff(gaze, axis=1)) / 0.001
    above = speed > ONSET_SPEED
    first, last = above.argmax(1), above.shape[1] - above[:, ::-1].argmax(1)
    rows = np.arange(n)
    amplitude, peak = np.abs(gaze[rows, last] - gaze[rows, first]), speed.max(1)
    (top, constant), _ = curve_fit(lambda a, v, c: v * (1.0 - np.exp(-a / c)), amplitude, peak, (500.0, 10.0))
    rest = peak - top * (1.0 - np.exp(-amplitude / constant))
    return float(top), float(constant), float(1.0 - np.square(rest).sum() / np.square(peak - peak.mean()).sum())


def profile_errors() -> tuple[float, float]:
    """Largest relative deviation of duration and of skew from their laws over 5 to 40 deg, above 30 deg/s."""
    sizes = np.arange(5.0, 41.0, 2.5)
    t = np.arange(0.0, 0.6, 0.0005)
    eye, head, _ = many_shifts(sizes, np.random.default_rng(0), scatter=False).sample(t)
    speed = np.abs(np.diff((eye + head)[..., 0], axis=1)) / 0.0005
    above = speed > ONSET_SPEED
    first, last = above.argmax(1), above.shape[1] - above[:, ::-1].argmax(1)
    duration = (last - first) * 0.0005
    skew = (speed.argmax(1) - first + 0.5) / (last - first)
    law, share = saccade_duration(sizes), acceleration_share(sizes)
    return float(np.abs(duration / law - 1.0).max()), float(np.abs(skew / share - 1.0).max())


def head_shares(sizes: Array, *, auditory: bool = False, n: int = 2000) -> Array:
    """Mean head share of a population at each size."""
    rng = np.random.default_rng(9)
    return np.array(
        [float(np.abs(many_shifts(np.full(n, s), rng, auditory=auditory).head.end[:, 0]).mean() / s) for s in sizes]
    )


def vor_slip(*, delay: float, gain: float, seconds: float = 4.0) -> float:
    """RMS slip [deg] of a fixation while the head is swung by hand at 1 Hz with a peak of 150 deg/s.

    Args:
        delay: of the head measurement [s]; made up for by `HeadPredictor` with the measured speed.
        gain: of the speed measurement, 1.05 for 5 % too much.
        seconds: length; the first half second is left out.
    """
    planner = GazePlanner(load_profile(), scatter=False, idle=False)
    size = 150.0 / (2.0 * math.pi)

    def head(t: Array | float) -> Array:
        return np.asarray(size * np.sin(2.0 * math.pi * np.asarray(t)))

    predictor, eyes, times = HeadPredictor(delay), [0.0], [0.0]
    for k in range(1, round(seconds / PERIOD)):
        t = k * PERIOD
        speed = gain * 150.0 * math.cos(2.0 * math.pi * (t - delay))
        now = predictor.predict(np.array([float(head(t - delay)), 0.0]), np.array([speed, 0.0]))
        command = planner.step(t, Target('a', 0.0, 0.0), head_measured=(float(now[0]), 0.0))
        n = len(command.points)
        eyes += command.points[:, 2].tolist()
        times += (t - PERIOD + PERIOD * np.arange(1, n + 1) / n).tolist()
    fine = np.arange(0.5, times[-1], 0.001)
    slip = np.interp(fine, times, eyes) + head(fine)
    return float(np.sqrt(np.mean(np.square(slip))))


def fuzz(steps: int, seed: int = 0, tick: Callable[[int], object] | None = None) -> dict[str, float]:
    """Random abuse of the whole core; counts what must never happen.

    NaN and infinite percepts, no percepts, 50 people, ids that change every frame, clocks that jump, targets behind,
    several clients, measured heads that are nonsense, limits that shrink and come back.

    Returns:
        not_finite, beyond_limit and too_fast (numbers of points), and jump_deg, the largest step of any joint beyond
        what its speed limit allows in the time.
    """
    rng = np.random.default_rng(seed)
    wide = load_profile()
    narrow = Profile(
        wide.name,
        {
            a: type(j)(j.name, 0.5 * j.lower, 0.5 * j.upper, j.velocity, j.acceleration, j.sign)
            for a, j in wide.joints.items()
        },
        wide.eye_end,
        wide.camera_on,
    )
    core = GazeCore(wide, GazePlanner(wide, seed=seed))
    profile, shrunk_for = wide, 0
    counts = {'not_finite': 0.0, 'beyond_limit': 0.0, 'too_fast': 0.0, 'jump_deg': 0.0}
    now, last = 0.0, np.zeros(len(AXES))
    low, high, fastest = _bounds(profile)
    for k in range(steps):
        now += float(rng.choice([0.01, 0.01, 0.01, 0.01, 0.012, 0.0, 0.2])) if k % 997 else float(rng.normal(0, 30))
        if k % 4001 == 4000:
            profile = narrow if profile is wide else wide
            core.planner.set_profile(profile)
            low, high, fastest = _bounds(profile)
            shrunk_for = 0
        if k % 5 == 0:
            _abuse(core, rng, now, k)
        measured = None
        if rng.random() < 0.05:
            measured = (float(rng.choice([0.0, 500.0, np.nan])), float(rng.normal(0, 20)))
        command = core.step(now, speaking=bool(k & 64), head_measured=measured).command
        shrunk_for += 1
        points = command.points
        counts['not_finite'] += float((~np.isfinite(points)).sum())
        # Limits that have just shrunk are returned to at joint speed, which takes up to a second.
        if shrunk_for > 100:
            counts['beyond_limit'] += float(((points < low - 1e-9) | (points > high + 1e-9)).sum())
        span = np.diff(np.concatenate([[0.0], command.times]))[: len(points)]
        excess = np.abs(np.diff(points, axis=0, prepend=last[None])) - fastest * span[:, None]
        counts['too_fast'] += float((excess > 1e-6).sum())
        counts['jump_deg'] = max(counts['jump_deg'], float(excess[:, :5].max()))
        last = points[-1]
        if tick is not None:
            tick(1)
    return counts


def _bounds(profile: Profile) -> tuple[Array, Array, Array]:
    joints = [profile.joints.get(axis) for axis in AXES]
    return (
        np.array([j.lower if j else 0.0 for j in joints]),
        np.array([j.upper if j else 0.0 for j in joints]),
        np.array([j.velocity if j else 0.0 for j in joints]),
    )


def _abuse(core: GazeCore, rng: np.random.Generator, now: float, k: int) -> None:
    def number(spread: float) -> float:
        return float(rng.choice([rng.normal(0.0, spread), np.nan, np.inf, 180.0], p=[0.94, 0.03, 0.02, 0.01]))

    core.observe_head(now, float(core.planner.safety.positions()['neck_yaw']), number(5.0))
    kind = int(rng.integers(8))
    n = 50 if kind == 0 else int(rng.integers(0, 4))
    prefix = str(k) if kind == 1 else 'p'
    if kind < 5:
        people = [
            Entity(f'{prefix}{i}', str(rng.choice(['person', SOUND])), number(90.0), number(30.0), abs(number(2.0)),
                   bool(rng.random() < 0.8), float(rng.random()), float(rng.random()), 0.0, float(rng.random() < 0.1))
            for i in range(n)
        ]  # fmt: skip
        core.observe_entities(now + float(rng.choice([0.0, -0.5, 5.0])), people)
    elif kind == 5:
        core.observe_faces(now - 0.05, [TrackedFace('f', number(40.0), number(20.0), abs(number(1.0)), 0.0)])
    elif kind == 6:
        from attn_robotics.systems.gaze.arbitration import Request

        target = Target('t', number(150.0), number(60.0), abs(number(2.0)), 'commanded')
        core.request(Request(str(rng.integers(3)), target, int(rng.integers(3)), abs(number(1.0)), 0.5), now)
