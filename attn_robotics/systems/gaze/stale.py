"""The stale-image experiment: a camera on a turning head, images that arrive late, a still target at 30 deg."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from attn_robotics.systems.gaze.command import Target
from attn_robotics.systems.gaze.planner import GazePlanner
from attn_robotics.systems.gaze.pose_history import PoseHistory

BAND: Final = 2.0  # deg within which gaze counts as settled
NOISE: Final = 0.1  # deg of bearing noise


@dataclass(frozen=True)
class StaleResult:
    """Figures of one run."""

    overshoot: float  # deg beyond the target
    settling: float  # s from the target's appearance until gaze stays within the band
    error: float  # deg at the end


def run_servo(
    *,
    delay: float,
    jitter: float,
    image_time: bool,
    seed: int = 0,
    goal: float = 30.0,
    seconds: float = 6.0,
    planner: GazePlanner | None = None,
) -> StaleResult:
    """Drive the planner, or without one a plain 50 Hz servo, from 30 images a second that arrive late.

    Args:
        delay: mean age of an image on arrival [s].
        jitter: largest deviation from it [s].
        image_time: combine the bearing with the pose at the image's time, else with the present pose.
        seed: of jitter and noise.
        goal: true direction [deg].
        seconds: length of the run.
        planner: controller; None for the servo (35 % of the remaining error each 20 ms, at most 300 deg/s).
    """
    rng = np.random.default_rng(seed)
    history = PoseHistory()
    waiting: deque[tuple[float, float, float]] = deque()  # arrival, stamp, bearing
    head, gaze_track, times = 0.0, [], []
    seen: float | None = None
    next_frame = 0.0
    for k in range(round(seconds * 100)):
        t = k * 0.01
        history.add(t, head, 0.0)
        if t >= next_frame:
            next_frame += 1.0 / 30.0
            bearing = goal - head + rng.normal(0.0, NOISE)
            waiting.append((t + max(0.0, delay + rng.uniform(-jitter, jitter)), t, bearing))
        while waiting and waiting[0][0] <= t:
            _, stamp, bearing = waiting.popleft()
            pose = history.at(stamp if image_time else t)
            if pose is not None:
                seen = float(pose[0]) + bearing
        if planner is not None:
            command = planner.step(t, Target('face', seen, 0.0) if seen is not None else None)
            head = float(command.head[0])
            gaze = head + float(command.eye[0])
        else:
            if seen is not None and k % 2 == 0:
                head += min(max(0.35 * (seen - head), -6.0), 6.0)
            gaze = head
        gaze_track.append(gaze)
        times.append(t)
    track = np.array(gaze_track)
    outside = np.flatnonzero(np.abs(track - goal) > BAND)
    settled = times[min(outside[-1] + 1, len(times) - 1)] if outside.size else 0.0
    return StaleResult(max(0.0, float(track.max() - goal)), settled, float(abs(track[-1] - goal)))
