"""The 100 Hz planner: turns a target into eye, head and lid commands that are always safe to send."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final, Protocol

import numpy as np

from attn_robotics.systems.gaze.command import Command, Phase, Target
from attn_robotics.systems.gaze.human import FREEZE, Array, vergence_angle
from attn_robotics.systems.gaze.idle import IdleLife
from attn_robotics.systems.gaze.lids import Blinker
from attn_robotics.systems.gaze.motor import HeadMove, Limits, Shift, clip_eye, plan_shift, still_head
from attn_robotics.systems.gaze.profile import AXES, Profile
from attn_robotics.systems.gaze.safety import AxisLimiter, SafetyLayer
from attn_robotics.systems.gaze.style import Draws, Style

PERIOD: Final = 0.01  # s, nominal
MAX_STEP: Final = 0.05  # s that one call may cover; longer gaps and clock jumps are cut to it
SUBSTEP: Final = 0.005  # s between the points of a command
LOST_AFTER: Final = 2.0  # s without a valid target until the head goes back to rest
CATCH_UP: Final = 2.5  # deg of pursuit error that calls for a saccade
STEP_SIZE: Final = 0.5  # deg of a new target that is worth a saccade
LONGEST_PREPARATION: Final = 0.6  # s by which targets that keep changing can put a saccade off
BETWEEN: Final = 0.1  # s at least from one saccade to the onset of the next, however long that was prepared
PURSUIT_SPEED: Final = 40.0  # deg/s
PURSUIT_LAG: Final = 0.08  # s
PURSUIT_DEAD_ZONE: Final = 0.7  # deg: the human undershoot is left alone
_REST_STYLE = Style(hinge=np.array(-30.0), slope=np.ones(()), gain=np.array(1.6))


class ShiftSource(Protocol):
    """Whatever can plan a shift: `plan_shift`, or the learned motion model."""

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
        """Plan shifts; see `motor.plan_shift`."""
        ...


class GazePlanner:
    """One head. Not thread-safe: call `step` from the control loop alone.

    Args:
        profile: the robot's joints.
        style: head habits; the median person when None.
        seed: of everything random.
        scatter: human variability on; off gives the median movement every time.
        idle: scan faces, break mutual gaze and blink spontaneously.
        source: how shifts are planned.
    """

    def __init__(
        self,
        profile: Profile,
        style: Style | None = None,
        *,
        seed: int = 0,
        scatter: bool = True,
        idle: bool = True,
        source: ShiftSource = plan_shift,
    ) -> None:
        self.profile = profile
        self.style = style or Style()
        self.safety = SafetyLayer(profile)
        self._limits = profile.limits()
        self._rng = np.random.default_rng(seed)
        self._scatter = scatter
        self._source = source
        self._idle = IdleLife(self._rng) if idle else None
        self._blinker = Blinker(self._rng)
        self._spontaneous = idle
        self._last_now: float | None = None
        self._measured: Array | None = None
        self._t = 0.0
        self._goal = Target('', 0.0, 0.0)
        self._valid_at = self._came_at = -math.inf
        self._prepared_at = 0.0
        self._aim: tuple[str, float, float] = ('', 0.0, 0.0)
        self._aimed_at = np.zeros(2)
        self._drift = np.zeros(2)
        self._vergence = 0.0
        self._shift = self._rest_at(np.zeros(2))

    def set_profile(self, profile: Profile) -> None:
        """Take over new limits of the same axes while running; the head comes back inside at its allowed speed."""
        if set(profile.joints) != set(self.profile.joints):
            raise ValueError('set_profile: the axes differ; build a new planner instead')
        self.profile = profile
        self._limits = profile.limits()
        self.safety.set_joints(profile.joints)

    @property
    def head(self) -> Array:
        """(2,) commanded head yaw and pitch [deg]."""
        return np.array(self._row()[:2])

    def start_at(self, head: tuple[float, float], eye: tuple[float, float] = (0.0, 0.0)) -> None:
        """Take a measured pose [deg] as the present command, at rest; without it, heads begin looking ahead.

        Values that are not finite are taken as 0, those outside the limits as the nearest inside. From there gaze goes
        on to its target as from any fixation.
        """
        for axis, value in zip(AXES, (*head, *eye), strict=False):
            if axis in self.safety.axes:
                self.safety.axes[axis] = AxisLimiter(self.profile.joints[axis], value if math.isfinite(value) else 0.0)
        self._shift = self._rest_at(self.head)
        self._aim = ('', math.nan, math.nan)  # of no target: the next step decides afresh

    def step(
        self,
        now: float,
        target: Target | None,
        *,
        speaking: bool = False,
        head_measured: tuple[float, float] | None = None,
    ) -> Command:
        """Advance to `now` and return the command.

        Args:
            now: monotonic time [s]; going back or standing still holds the pose, a long gap counts as 50 ms.
            target: where to look, or None. Without one for 2 s the head goes back to rest.
            speaking: the robot is talking (blinks more, averts upwards).
            head_measured: yaw and pitch of the head as its encoders tell [deg], for a neck that lags its commands.

        Returns:
            The command with its points at 200 Hz or more; positions are finite and within every limit.
        """
        warnings: list[str] = []
        dt = self._advance(now, warnings)
        goal = self._accept(target, warnings)
        if dt <= 0.0:
            return self._report(np.zeros(1), [self._row()], goal, warnings)
        offset = self._offset(goal, speaking)
        self._decide(goal, offset, dt)
        measured = self._between(head_measured)
        n = max(1, math.ceil(dt / SUBSTEP - 1e-9))
        times = dt * np.arange(1, n + 1) / n
        eye, head, speed = self._shift.sample(self._t + times, self._drift)
        rows = [
            self._move(eye[0, i], head[0, i], speed[0, i], dt / n, self._t + float(times[i]), goal, speaking)
            if measured is None
            else self._move(
                eye[0, i], head[0, i], speed[0, i], dt / n, self._t + float(times[i]), goal, speaking,
                measured[0] + (measured[1] - measured[0]) * (i + 1) / n,
            )
            for i in range(n)
        ]  # fmt: skip
        self._t += dt
        return self._report(times, rows, goal, warnings)

    def _between(self, measured: tuple[float, float] | None) -> tuple[Array, Array] | None:
        """Measured head at the last step and now, between which the points of a command lie."""
        last, self._measured = self._measured, None
        if measured is None or not (math.isfinite(measured[0]) and math.isfinite(measured[1])):
            return None
        self._measured = np.array(measured)
        return (self._measured if last is None else last), self._measured

    def _advance(self, now: float, warnings: list[str]) -> float:
        """Seconds that this step covers, whatever the caller's clock does."""
        if not math.isfinite(now):
            warnings.append('time is not finite; the pose is held')
            return 0.0
        last, self._last_now = self._last_now, now
        if last is None:
            return PERIOD
        dt = now - last
        if dt < 0.0:
            warnings.append(f'clock went back by {-dt:.3f} s; the pose is held for one step')
            return 0.0
        if dt > 1.0:
            warnings.append(f'no step for {dt:.1f} s; going on from the last pose')
        return min(dt, MAX_STEP)

    def _accept(self, target: Target | None, warnings: list[str]) -> Target:
        if target is not None and target.is_valid:
            low, high = self._limits.head_low, self._limits.head_high
            yaw_room = self._limits.eye_range[0]
            yaw = (target.yaw + 180.0) % 360.0 - 180.0
            # A target behind stays on the side where gaze already is, or the head would swing through the front.
            if abs(yaw) > 150.0 and self._goal.id == target.id:
                yaw = math.copysign(abs(yaw), self._goal.yaw or yaw)
            yaw = min(max(yaw, low[0] - 0.9 * yaw_room), high[0] + 0.9 * yaw_room)
            pitch_low = low[1] - 0.9 * self._limits.eye_range[2]
            pitch_high = high[1] + 0.9 * self._limits.eye_range[1]
            pitch = min(max(target.pitch, pitch_low), pitch_high)
            if target.id != self._goal.id:
                self._came_at = self._t
            self._goal = replace(target, yaw=yaw, pitch=pitch, distance=min(max(target.distance, 0.15), 1e3))
            self._valid_at = self._t
        elif target is not None:
            warnings.append(f'target {target.id!r} is not finite and is ignored')
        if self._t - self._valid_at > LOST_AFTER and self._goal.id:
            self._goal = Target('', 0.0, 0.0)
        return self._goal

    def _offset(self, goal: Target, speaking: bool) -> tuple[float, float]:
        if self._idle is None or not goal.is_face:
            return 0.0, 0.0
        return self._idle.step(self._t, goal.id, goal.distance, speaking=speaking, mutual=goal.looks_back)

    def _decide(self, goal: Target, offset: tuple[float, float], dt: float) -> None:
        """Keep, re-aim or replace the shift under way."""
        t, shift = self._t, self._shift
        aim = (goal.id, *offset)
        wanted = np.array([goal.yaw + offset[0], goal.pitch + offset[1]])
        onset, end = float(shift.onset[0]), float(shift.onset[0] + shift.duration[0])
        if t < onset - FREEZE:
            if math.hypot(*(wanted - self._aimed_at)) > STEP_SIZE:
                self._aim_anew(aim, wanted, onset - t)
            return
        if t < end:
            return  # ballistic: a newer target waits until the saccade is over
        held = shift.landing[0] + self._drift
        error = wanted - self._aimed_at if aim != self._aim else wanted - held
        size = math.hypot(*error)
        resting = t > float(shift.head.onset[0] + shift.head.duration[0])
        eccentric = math.hypot(*(held - shift.head.end[0])) if self.profile.has_eyes else 0.0
        is_far = resting and eccentric > self._limits.eye_end + 3.0 and self._head_can_help(held, shift.head.end[0])
        if size > (STEP_SIZE if aim != self._aim else CATCH_UP) or is_far:
            self._prepare(aim, wanted, shift.head, held)
            return
        lag = math.hypot(*(wanted - held))
        if lag > PURSUIT_DEAD_ZONE:
            rate = min((lag - PURSUIT_DEAD_ZONE) / PURSUIT_LAG, PURSUIT_SPEED)
            self._drift = self._drift + (wanted - held) / lag * rate * dt

    def _head_can_help(self, held: Array, head: Array) -> bool:
        reach = np.clip(held, self._limits.head_low, self._limits.head_high) - head
        return math.hypot(*reach) > 1.0

    def _prepare(self, aim: tuple[str, float, float], wanted: Array, head: HeadMove, gaze: Array) -> None:
        """Plan a new shift."""
        draws = self._draw()
        if aim[0] != self._aim[0]:
            # The next saccade is prepared while the last one runs (double-step experiments): waiting counts.
            waited = self._t - max(self._came_at, self._prepared_at)
            draws = replace(draws, latency=np.maximum(draws.latency - waited, BETWEEN))
        self._prepared_at = self._t
        self._shift = self._plan(wanted, head, gaze, draws)
        self._aim = aim
        self._blinker.plan(self._t, float(self._shift.blink_onset[0]))

    def _aim_anew(self, aim: tuple[str, float, float], wanted: Array, left: float) -> None:
        """Aim the shift in preparation elsewhere, `left` seconds before its onset.

        A better look at the same target does not put it off; another target has its own latency, but targets that keep
        changing cannot put it off for ever. Chance is not drawn again for the same target: it is the same shift.
        """
        shift = self._shift
        if aim[0] != self._aim[0]:
            draws = self._draw()
            latest = self._prepared_at + LONGEST_PREPARATION - self._t
            left = max(left, min(float(draws.latency[0]), latest))
        else:
            draws = self._draws
        draws = replace(draws, latency=np.array([max(left, FREEZE)]))
        self._shift = self._plan(wanted, shift.head_before, shift.gaze_before[0], draws)
        self._aim = aim
        self._blinker.plan(self._t, float(self._shift.blink_onset[0]))

    def _draw(self) -> Draws:
        auditory = self._goal.modality == 'auditory'
        return Draws.draw(self._rng, 1, auditory=auditory, scatter=self._scatter)

    def _plan(self, wanted: Array, head: HeadMove, gaze: Array, draws: Draws) -> Shift:
        self._draws = draws
        self._aimed_at = wanted
        self._drift = np.zeros(2)
        style = self.style if self._goal.id else _REST_STYLE
        auditory, now = self._goal.modality == 'auditory', np.array([self._t])
        return self._source(
            wanted[None], gaze[None], head, now, style, draws, limits=self._limits, auditory=auditory
        )  # fmt: skip

    def _rest_at(self, pose: Array) -> Shift:
        """A shift that is over, with eyes and head at rest."""
        draws = replace(Draws.draw(self._rng, 1, scatter=False), latency=np.array([-10.0]))
        return self._plan(pose, still_head(pose[None]), pose, draws)

    def _move(
        self,
        eye: Array,
        head: Array,
        speed: Array,
        dt: float,
        t: float,
        goal: Target,
        speaking: bool,
        head_measured: Array | None = None,
    ) -> list[float]:
        """Limit one point; the eye makes up for what the head does differently from its plan."""
        safety = self.safety
        yaw, pitch = safety.step('neck_yaw', float(head[0]), dt), safety.step('neck_pitch', float(head[1]), dt)
        real = np.array([yaw, pitch])
        if head_measured is not None:
            real = head_measured
        if self.profile.has_eyes:
            eye = clip_eye(eye + head - real, np.asarray(math.hypot(speed[0], speed[1])), self._limits)
            safety.step('eyes_yaw', float(eye[0]), dt)
            safety.step('eyes_pitch', float(eye[1]), dt)
        demand = float(vergence_angle(goal.distance)) * min(1.0, 0.8 + 0.2 * max(goal.distance - 0.5, 0.0) / 1.5)
        rate = (demand - self._vergence) / 0.15
        self._vergence += min(max(rate, -50.0), 70.0) * dt
        safety.step('vergence', self._vergence, dt)
        self._spontaneous_or_planned(t, dt, speaking)
        return self._row()

    def _spontaneous_or_planned(self, t: float, dt: float, speaking: bool) -> None:
        self.safety.step('lids', self._blinker.step(t, dt if self._spontaneous else 0.0, speaking=speaking), dt)

    def _row(self) -> list[float]:
        positions = self.safety.positions()
        return [positions[axis] for axis in AXES]

    def _report(self, times: Array, rows: list[list[float]], goal: Target, warnings: list[str]) -> Command:
        t, shift = self._t, self._shift
        onset = float(shift.onset[0])
        moving = float(np.hypot(*self._drift)) > 0.0 and t > onset + float(shift.duration[0])
        if t - self._valid_at > 0.1 and goal.id:
            phase = Phase.HOLD
        elif not goal.id:
            phase = Phase.REST
        elif rows[-1][5] > 0.5:
            phase = Phase.BLINK
        elif onset <= t < onset + float(shift.duration[0]):
            phase = Phase.SACCADE
        else:
            phase = Phase.PURSUIT if moving else Phase.FIXATION
        return Command(phase, goal.id, times, np.array(rows), tuple(warnings), {'onset_in_s': onset - t})
