"""The learned motion model as a source of shifts for the planner, drawn chunk by chunk while the shift runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attn_robotics.systems.gaze.human import ONSET_SPEED, Array
from attn_robotics.systems.gaze.learned import MotionModel, Rollout
from attn_robotics.systems.gaze.motor import HeadMove, Limits, Shift, clip_eye, plan_shift
from attn_robotics.systems.gaze.style import Draws, Style
from attn_robotics.systems.gaze.teacher import RATE, STEPS, Conditions


@dataclass(frozen=True)
class _TrackHead(HeadMove):
    """A head that follows a roll-out; what is not drawn yet counts as standing still."""

    rollout: Rollout
    began: float  # s

    def state(self, t: Array) -> tuple[Array, Array, Array]:
        track = self.rollout.track[0, :, 2:]
        place = np.clip((t[0] - self.began) * RATE, 0.0, track.shape[0] - 1)
        low = np.minimum(place.astype(np.int64), max(track.shape[0] - 2, 0))
        high = np.minimum(low + 1, track.shape[0] - 1)
        step = track[high] - track[low]
        inside = ((place > 0.0) & (place < track.shape[0] - 1))[:, None]
        speed = np.where(inside, step * RATE, 0.0)
        return (track[low] + step * (place - low)[:, None])[None], speed[None], np.zeros((1, t.shape[1], 2))


@dataclass(frozen=True)
class LearnedShift(Shift):
    """A shift whose eye and head come from the network; onset, end and landing are filled in as they are drawn."""

    rollout: Rollout
    began: float  # s

    def sample(self, t: Array, drift: Array | None = None) -> tuple[Array, Array, Array]:
        """As `Shift.sample`; draws one more chunk a call until 1.2 s are complete."""
        when = np.broadcast_to(t, (1, np.shape(t)[-1]))
        if self.rollout.track.shape[1] <= STEPS:
            self.rollout.extend()
            self._read_off()
        track = self.rollout.track[0]
        place = (when[0] - self.began) * RATE
        grid = np.arange(track.shape[0])
        eye = np.stack([np.interp(place, grid, track[:, k]) for k in (0, 1)], axis=-1)[None]
        head, speed, _ = self.head.state(when)
        over = when > self.onset[0] + self.duration[0] + 0.15
        if bool(over.any()) and self.rollout.track.shape[1] > STEPS:
            # The network is done with the saccade: from here on the analytic hold keeps gaze where it landed.
            landing = self.landing[0] + (0.0 if drift is None else drift)
            held = clip_eye(landing - head, np.hypot(speed[..., 0], speed[..., 1]), self.limits)
            eye = np.where(over[..., None], held, eye)
        return eye, head, speed

    def _read_off(self) -> None:
        track = self.rollout.track[0]
        gaze = track[:, :2] + track[:, 2:]
        speed = np.linalg.norm(np.diff(gaze, axis=0), axis=1) * RATE
        fast = np.flatnonzero(speed > ONSET_SPEED)
        drawn = self.began + (track.shape[0] - 1) / RATE
        complete = track.shape[0] > STEPS
        self.onset[0] = self.began + fast[0] / RATE if fast.size else drawn
        ends = bool(fast.size) and (fast[-1] < speed.size - 1 or complete)
        # Until its end is drawn a saccade counts as in flight, so that nothing cuts it short.
        self.duration[0] = (fast[-1] + 1 - fast[0]) / RATE if ends else (0.0 if complete else 1.0)
        self.landing[0] = gaze[-1] if ends or complete else self.rollout.conditions.target[0]
        self.head.end[0] = track[-1, 2:]


class LearnedSource:
    """Plans shifts with a motion network; give it to `GazePlanner(source=...)`."""

    def __init__(self, model: MotionModel, *, seed: int = 0, temperature: float = 1.0) -> None:
        self.model = model
        self.temperature = temperature
        self._rng = np.random.default_rng(seed)

    def __call__(
        self,
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
        """As `motor.plan_shift`, for one shift; latency and scatter are the network's own.

        A head still under way is told to the network through its history.
        """
        plan = plan_shift(target, gaze, head, now, style, draws, limits=limits, auditory=auditory)
        if float(draws.latency[0]) <= 0.0:
            return plan  # the planner's initial rest
        body = plan.limits
        pose, speed, _ = head.state(now[:, None])
        eye = clip_eye(gaze - pose[:, 0], np.hypot(*np.moveaxis(speed[:, 0], -1, 0)), body)
        conditions = Conditions(np.asarray(target, dtype=np.float64), eye, pose[:, 0])
        rollout = Rollout(
            self.model, conditions, style, self._rng, self.temperature, limits=body, auditory=auditory
        )  # fmt: skip
        rollout.head_speed = speed[:, 0]
        began = float(now[0])
        moving = _TrackHead(
            pose[:, 0], speed[:, 0], np.zeros((1, 2)), plan.head.end.copy(), now.copy(), np.array([1.2]), rollout, began
        )
        still_to_come = np.array([began + 0.1])
        return LearnedShift(
            gaze,
            gaze,
            plan.gaze_end,
            np.array(target, dtype=np.float64),
            still_to_come,
            np.array([1.0]),
            plan.a,
            plan.b,
            moving,
            moving,
            plan.blink_onset,
            body,
            rollout,
            began,
        )
