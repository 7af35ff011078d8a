"""The motor model: one coordinated eye and head shift in closed form, for one head or for N at once.

Angles are yaw and pitch added axis by axis (gaze = eye + head), good to a few tenths of a degree within the ranges a
humanoid head has. Gaze itself follows the main sequence; the eye makes up whatever the head does not (gain 1) as far
as its dynamic range lets it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from attn_robotics.systems.gaze.human import EYE_RANGE, Array, blink_probability
from attn_robotics.systems.gaze.saccade import progress, shape_at, shapes
from attn_robotics.systems.gaze.style import Draws, Style

KNEE = 4.0  # deg, softness of the head hinge
Pair = tuple[float, float]
MIN_EYE_RANGE = 0.05  # share of the range that is left however fast the head


@dataclass(frozen=True)
class Limits:
    """What the body allows; the defaults are a person's."""

    eye_range: tuple[float, float, float] = (EYE_RANGE, EYE_RANGE, EYE_RANGE)  # deg: yaw, pitch up, pitch down
    eye_end: float = 30.0  # deg of eccentricity people keep at the end of a shift
    eye_speed: float = 700.0  # deg/s
    head_speed: float = 250.0  # deg/s
    head_acceleration: float = 4000.0  # deg/s^2
    head_low: tuple[float, float] = (-90.0, -60.0)  # deg: yaw, pitch
    head_high: tuple[float, float] = (90.0, 60.0)


def clip_eye(eye: Array, head_speed: Array, limits: Limits) -> Array:
    """Pull an eye position into its dynamic range, an ellipse that shrinks while the head moves.

    Args:
        eye: (..., 2) wanted eye in head [deg].
        head_speed: (...) speed of the head [deg/s]; range 50 (1 - v / 600) as in character animation.
        limits: body.

    Returns:
        (..., 2) eye inside the range.
    """
    eye = np.asarray(eye, dtype=np.float64)
    clipped = np.ascontiguousarray(eye).reshape(-1, 2).copy()
    speed = np.array(np.broadcast_to(head_speed, eye.shape[:-1]), dtype=np.float64).ravel()
    _clip_eyes(clipped, speed, *limits.eye_range)
    return clipped.reshape(eye.shape)


@njit(cache=True)
def eye_inside(yaw: float, pitch: float, head_speed: float, across: float, up: float, down: float) -> Pair:
    """`clip_eye` of one eye position, for compiled loops."""
    if min(across, up, down) <= 0.0:
        return 0.0, 0.0
    scale = max(1.0 - head_speed / 600.0, MIN_EYE_RANGE)
    reach = max(math.hypot(yaw / across, pitch / (up if pitch >= 0.0 else down)) / scale, 1.0)
    return yaw / reach, pitch / reach


@njit(cache=True)
def _clip_eyes(eye: Array, head_speed: Array, across: float, up: float, down: float) -> None:
    """`clip_eye` of (K, 2) in place."""
    for k in range(eye.shape[0]):
        eye[k, 0], eye[k, 1] = eye_inside(eye[k, 0], eye[k, 1], head_speed[k], across, up, down)


def head_amplitude(offset: Array, style: Style, *, auditory: bool = False, eye_end: float = 30.0) -> Array:
    """How far the head turns towards a target `offset` degrees from where it points (soft hinge), (N,)."""
    hinge = style.hinge * (0.6 if auditory else 1.0)
    soft = style.slope * KNEE * (np.logaddexp(0.0, (offset - hinge) / KNEE) - np.logaddexp(0.0, -hinge / KNEE))
    return np.asarray(np.clip(np.maximum(soft, offset - eye_end), 0.0, offset))


@dataclass(frozen=True)
class HeadMove:
    """N quintics from a moving start to rest (minimum jerk when the start is at rest)."""

    start: Array  # (N, 2) deg
    speed: Array  # (N, 2) deg/s at the start
    acceleration: Array  # (N, 2) deg/s^2 at the start
    end: Array  # (N, 2) deg
    onset: Array  # (N,) s
    duration: Array  # (N,) s

    def state(self, t: Array) -> tuple[Array, Array, Array]:
        """Position, speed and acceleration at times t (N, T), each (N, T, 2)."""
        n, steps = t.shape
        out = np.empty((3, n, steps, 2))
        _quintics(
            self.start, self.speed, self.acceleration, self.end, self.onset, self.duration, np.array(t, np.float64), out
        )
        return out[0], out[1], out[2]


@njit(cache=True)
def _quintic(p: float, speed: float, bend: float, end: float, span: float, since: float) -> tuple[float, float, float]:
    """Position, speed and acceleration of one coordinate `since` seconds after onset."""
    x = min(max(since / span, 0.0), 1.0)
    v, a = speed * span, bend * span * span
    gap = end - p
    c3 = 10.0 * gap - 6.0 * v - 1.5 * a
    c4 = -15.0 * gap + 8.0 * v + 1.5 * a
    c5 = 6.0 * gap - 3.0 * v - 0.5 * a
    position = p + x * (v + x * (0.5 * a + x * (c3 + x * (c4 + x * c5))))
    if x >= 1.0 or since < 0.0:
        return position, 0.0, 0.0
    rate = (v + x * (a + x * (3.0 * c3 + x * (4.0 * c4 + x * 5.0 * c5)))) / span
    return position, rate, (a + x * (6.0 * c3 + x * (12.0 * c4 + x * 20.0 * c5))) / span**2


@njit(cache=True)
def _quintics(
    start: Array, speed: Array, bend: Array, end: Array, onset: Array, duration: Array, t: Array, out: Array
) -> None:
    """`HeadMove.state` into `out` (3, N, T, 2): one loop, since a tick of one head would drown in small numpy calls."""
    for i in range(t.shape[0]):
        for k in range(t.shape[1]):
            since = t[i, k] - onset[i]
            for j in range(2):
                out[0, i, k, j], out[1, i, k, j], out[2, i, k, j] = _quintic(
                    start[i, j], speed[i, j], bend[i, j], end[i, j], duration[i], since
                )


@njit(cache=True)
def _settle(
    landing: Array,
    start: Array,
    onset: Array,
    vigour: Array,
    head: Array,
    timing: Array,
    body: tuple[float, float, float, float],
    tables: tuple[Array, Array, Array, Array],
    out: Array,
) -> None:
    """Where the saccades end, as far as the eyes then reach, how long they take, and their exponents.

    The reachable end depends on where the head will be, that on the duration, that on the end: a few rounds settle.

    Args:
        landing: (N, 2) where gaze shall come to rest.
        start: (N, 2) where it is at onset.
        onset: (N,) s.
        vigour: (N,).
        head: (2, 4, N, 2) start, speed, acceleration and end of the head's move before and after its onset.
        timing: (2, 2, N) onset and duration of both.
        body: eye range across, up and down, and eye speed.
        tables: of `saccade.shapes`.
        out: (5, N) end yaw, end pitch, duration, a and b.
    """
    across, up, down, eye_speed = body
    for i in range(onset.size):
        end_yaw, end_pitch = landing[i, 0], landing[i, 1]
        for _ in range(4):
            way_yaw, way_pitch = end_yaw - start[i, 0], end_pitch - start[i, 1]
            amplitude = math.hypot(way_yaw, way_pitch)
            duration, a, b = shape_at(amplitude, way_pitch * way_pitch / max(amplitude * amplitude, 1e-12), tables)
            duration = duration / vigour[i] * max(1.7 * amplitude / duration / eye_speed, 1.0)
            t = onset[i] + duration
            m = 1 if t >= timing[1, 0, i] else 0
            yaw, rate, _unused = _quintic(
                head[m, 0, i, 0], head[m, 1, i, 0], head[m, 2, i, 0], head[m, 3, i, 0],
                timing[m, 1, i], t - timing[m, 0, i],
            )  # fmt: skip
            pitch, tilt, _unused = _quintic(
                head[m, 0, i, 1], head[m, 1, i, 1], head[m, 2, i, 1], head[m, 3, i, 1],
                timing[m, 1, i], t - timing[m, 0, i],
            )  # fmt: skip
            eye_yaw, eye_pitch = eye_inside(
                landing[i, 0] - yaw, landing[i, 1] - pitch, math.hypot(rate, tilt), across, up, down
            )
            end_yaw, end_pitch = yaw + eye_yaw, pitch + eye_pitch
        out[0, i], out[1, i], out[2, i], out[3, i], out[4, i] = end_yaw, end_pitch, duration, a, b


def _stacked(before: HeadMove, after: HeadMove) -> tuple[Array, Array]:
    """Both moves as `_settle` wants them."""
    n = after.onset.size
    head, timing = np.empty((2, 4, n, 2)), np.empty((2, 2, n))
    for k, move in enumerate((before, after)):
        head[k] = move.start, move.speed, move.acceleration, move.end
        timing[k] = move.onset, move.duration
    return head, timing


def still_head(head: Array) -> HeadMove:
    """A head that rests at (N, 2)."""
    n = head.shape[0]
    zero = np.zeros_like(head)
    return HeadMove(head, zero, zero, head, np.full(n, -1e3), np.ones(n))


def turn_head(before: HeadMove, turn: Array, onset: Array, gain: Array, limits: Limits) -> HeadMove:
    """Start a head turn by (N, 2) degrees at `onset` (N,) from whatever `before` is doing then.

    The peak is gain * H + 20 deg/s, lowered to the joint limits with the shape kept.
    """
    start, speed, bend = (part[:, 0] for part in before.state(onset[:, None]))
    end = np.clip(start + turn, limits.head_low, limits.head_high)
    size = np.hypot(*np.moveaxis(end - start, -1, 0))
    peak = np.minimum(gain * size + 20.0, limits.head_speed)
    duration = np.maximum(1.875 * size / peak, np.sqrt(5.78 * size / limits.head_acceleration))
    # A head already under way needs time to come to rest whatever is left to turn.
    running = np.hypot(*np.moveaxis(speed, -1, 0))
    duration = np.maximum.reduce([duration, 4.0 * running / limits.head_acceleration, np.minimum(running, 1.0) * 0.2])
    return HeadMove(start, speed, bend, end, onset, np.maximum(duration, 0.02))


@dataclass(frozen=True)
class Shift:
    """N gaze shifts, evaluated at any time."""

    gaze_before: Array  # (N, 2) wanted gaze until onset
    gaze_start: Array  # (N, 2) where gaze really is at onset
    gaze_end: Array  # (N, 2) end of the saccade, short of `landing` when the eye range ends
    landing: Array  # (N, 2) where gaze comes to rest
    onset: Array  # (N,) s
    duration: Array  # (N,) s
    a: Array  # (N,) exponents of the profile
    b: Array
    head_before: HeadMove
    head: HeadMove
    blink_onset: Array  # (N,) s, NaN without a blink
    limits: Limits

    def sample(self, t: Array, drift: Array | None = None) -> tuple[Array, Array, Array]:
        """Eye in head, head and head velocity, each (N, T, 2), at times t (T,) or (N, T).

        `drift` (2,) is added to the wanted gaze once the saccade is over (pursuit).
        """
        when = np.broadcast_to(t, (self.onset.size, np.shape(t)[-1]))
        early, late = self.head_before.state(when), self.head.state(when)
        begun = (when >= self.head.onset[:, None])[..., None]
        head, speed = np.where(begun, late[0], early[0]), np.where(begun, late[1], early[1])
        head = np.clip(head, self.limits.head_low, self.limits.head_high)
        wanted = self.gaze(when, drift)
        return clip_eye(wanted - head, np.hypot(speed[..., 0], speed[..., 1]), self.limits), head, speed

    def gaze(self, t: Array, drift: Array | None = None) -> Array:
        """Wanted gaze (N, T, 2) at times (N, T)."""
        x = (t - self.onset[:, None]) / self.duration[:, None]
        share = progress(x, self.a[:, None], self.b[:, None])[..., None]
        path = self.gaze_start[:, None] + (self.gaze_end - self.gaze_start)[:, None] * share
        after = self.landing[:, None] if drift is None else self.landing[:, None] + drift
        wanted = np.where((x < 0.0)[..., None], self.gaze_before[:, None], path)
        return np.asarray(np.where((x > 1.0)[..., None], after, wanted))

    @property
    def finish(self) -> Array:
        """(N,) s when eye and head have both arrived."""
        return np.maximum(self.onset + self.duration, self.head.onset + self.head.duration)


def plan_shift(
    target: Array,
    gaze: Array,
    head: HeadMove,
    now: Array,
    style: Style,
    draws: Draws,
    *,
    limits: Limits | None = None,
    auditory: bool = False,
) -> Shift:
    """Plan N shifts commanded at `now`.

    Args:
        target: (N, 2) direction to look at [deg, body frame].
        gaze: (N, 2) gaze held until onset [deg].
        head: what the head is doing.
        now: (N,) time of the command [s].
        style: one person, or N.
        draws: chance of these shifts.
        limits: body; a person's when None.
        auditory: the target is only heard: hinge at 60 %, head and eye start together.

    Returns:
        The shifts; all fields finite except `blink_onset`.
    """
    body = limits or Limits()
    target, gaze = np.asarray(target, dtype=np.float64), np.asarray(gaze, dtype=np.float64)
    onset = now + draws.latency
    head_onset = np.maximum(onset + draws.head_delay, now)
    pose = head.state(head_onset[:, None])[0][:, 0]
    offset = target - pose
    angle = np.hypot(offset[:, 0], offset[:, 1])
    turn = head_amplitude(angle, style, auditory=auditory, eye_end=body.eye_end)
    if max(body.eye_range) <= 0.0:
        turn = angle
    unit = offset / np.maximum(angle, 1e-9)[:, None]
    after = turn_head(head, unit * turn[:, None], head_onset, np.broadcast_to(style.gain, onset.shape), body)

    early, late = head.state(onset[:, None]), after.state(onset[:, None])
    begun = (onset >= head_onset)[:, None]
    at_onset = np.where(begun, late[0][:, 0], early[0][:, 0])
    speed_onset = np.where(begun, late[1][:, 0], early[1][:, 0])
    gaze_start = at_onset + clip_eye(gaze - at_onset, np.hypot(speed_onset[:, 0], speed_onset[:, 1]), body)
    way = target - gaze_start
    size = np.hypot(way[:, 0], way[:, 1])
    along = way / np.maximum(size, 1e-9)[:, None]
    # Small steps cannot fall short by more than a share of themselves.
    small = np.minimum(1.0, size / 5.0)[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=-1)
    landing = target - small * (along * draws.undershoot[:, None] + across * draws.sideways[:, None])
    settled = np.empty((5, onset.size))
    _settle(
        landing,
        gaze_start,
        onset,
        draws.vigour,
        *_stacked(head, after),
        (*body.eye_range, body.eye_speed),
        shapes(),
        settled,
    )
    gaze_end, (duration, a, b) = np.ascontiguousarray(settled[:2].T), settled[2:]
    moved = np.hypot(*np.moveaxis(landing - gaze_start, -1, 0))
    blinks = draws.blink < blink_probability(moved)
    blink_onset = np.where(blinks, np.maximum(head_onset - draws.blink_lead, now), np.nan)
    return Shift(
        gaze, gaze_start, gaze_end, landing, onset, duration, a, b, head, after, blink_onset, body
    )  # fmt: skip
