"""A standard session: a scripted order of targets that any controller is run through before it is scored."""

from __future__ import annotations

import numpy as np

from attn_robotics.systems.gaze.baselines import Controller
from attn_robotics.systems.gaze.command import GazeLog, Target
from attn_robotics.systems.gaze.planner import PERIOD


def standard_session(controller: Controller, *, seconds: float = 300.0, seed: int = 11) -> GazeLog:
    """Drive a controller with targets of everyday and large amplitudes and log its joints.

    Amplitudes are log-normal about 12 deg with one in four drawn from 25 to 70 deg; a target is held 1.4 to 3.5 s.
    Targets stay within 40 deg of yaw and 18 deg of pitch, so that every shipped robot can reach them.
    """
    rng = np.random.default_rng(seed)
    place = np.zeros(2)
    t, points, times, commands, aims, until, k = 0.0, [], [], [], [], 0.0, 0
    target = Target('0', 0.0, 0.0)
    for step in range(round(seconds / PERIOD)):
        t = (step + 1) * PERIOD
        if t >= until:
            place = _next_place(rng, place)
            k += 1
            target = Target(str(k), float(place[0]), float(place[1]))
            until = t + rng.uniform(1.4, 3.5)
            commands.append(t)
            aims.append(place)
        command = controller.step(t, target)
        points.append(command.points)
        times.append(t - PERIOD + PERIOD * np.arange(1, len(command.points) + 1) / len(command.points))
    rows = np.concatenate(points)
    return GazeLog(np.concatenate(times), rows[:, :2], rows[:, 2:4], rows[:, 5], np.array(commands), np.array(aims))


def _next_place(rng: np.random.Generator, place: np.ndarray) -> np.ndarray:
    for _ in range(50):
        size = rng.uniform(25.0, 70.0) if rng.random() < 0.25 else min(rng.lognormal(np.log(12.0), 0.6), 40.0)
        angle = rng.uniform(-np.pi, np.pi)
        there = place + size * np.array([np.cos(angle), 0.4 * np.sin(angle)])
        if abs(there[0]) <= 40.0 and abs(there[1]) <= 18.0:
            return there
    return np.zeros(2)
