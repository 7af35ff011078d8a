"""Gaze Naturalness Score of a joint log: `python -m attn_robotics.systems.gaze.score BAG --profile NAME`.

Seven axes, each max(0, 1 - |z| / 3) with z the distance from people in standard deviations; the score is their mean.
The scales of skew, VOR, coupling and diversity are choices of this project, stated beside each axis.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from attn_robotics.systems.gaze.command import GazeLog
from attn_robotics.systems.gaze.human import (
    BLINK_RATE,
    LATENCY_MEAN,
    LATENCY_SD,
    Array,
    acceleration_share,
    blink_probability,
    head_share_mean,
    peak_speed,
)
from attn_robotics.systems.gaze.joint_log import read_log
from attn_robotics.systems.gaze.profile import load_profile
from attn_robotics.systems.gaze.results import Row, write_results
from attn_robotics.systems.gaze.saccades import Saccades, find_saccades

BINS: Final = ((3.0, 10.0), (10.0, 22.0), (22.0, 45.0))  # deg, around the published 5, 15 and 30
PEAK_SD: Final = 0.14  # of the mean, between people (29 / 213, 50 / 352, 67 / 455)
SKEW_SD: Final = 0.10
SHARE_SD: Final = 0.15  # spread between people in the reconstruction, 0.11 to 0.19
SLIP_SD: Final = 0.5  # deg; gaze is read by people to about 4 deg, the target for slip is 0.2
BLINK_SD: Final = 0.15
# Spontaneous blinks, too, fall into the window of 0.25 s on either side of an onset in which lids count as closed.
CHANCE_BLINK: Final = 1.0 - math.exp(-BLINK_RATE * 0.55)
DELAY_MEAN: Final = 0.05  # s from eye to head as measured, the head crossing its threshold late
DELAY_SD: Final = 0.04
SMALLEST_COMMAND: Final = 5.0  # deg from gaze to a new target
LOG_RATIO_SD: Final = 0.5  # a spread 1.6 times too large or small counts as one SD


@dataclass(frozen=True)
class Axis:
    """One axis of the score; z is NaN where the log cannot tell, and the axis is then left out of the mean."""

    name: str
    z: float
    n: int

    @property
    def value(self) -> float:
        """max(0, 1 - |z| / 3)."""
        return max(0.0, 1.0 - abs(self.z) / 3.0) if math.isfinite(self.z) else math.nan


@dataclass(frozen=True)
class Score:
    """Axes and their mean."""

    axes: tuple[Axis, ...]
    saccades: Saccades

    @property
    def total(self) -> float:
        """Mean over the axes that could be measured; NaN when none could."""
        values = [axis.value for axis in self.axes if math.isfinite(axis.value)]
        return float(np.mean(values)) if values else math.nan


def _binned(saccades: Saccades, z: Array) -> tuple[float, int]:
    """Mean over amplitude bins of |median z|, and how many saccades went into it."""
    parts = []
    n = 0
    for low, high in BINS:
        inside = (saccades.amplitude >= low) & (saccades.amplitude < high) & np.isfinite(z)
        if inside.sum() >= 3:
            parts.append(abs(float(np.median(z[inside]))))
            n += int(inside.sum())
    return (float(np.mean(parts)) if parts else math.nan), n


def _spread(values: Array, expected: float) -> float:
    """Distance of a standard deviation from the expected one, in |log ratio| / 0.5, at most 3."""
    clean = values[np.isfinite(values)]
    if clean.size < 5:
        return math.nan
    ratio = float(clean.std(ddof=1)) / expected
    return min(3.0, abs(math.log(max(ratio, 1e-6))) / LOG_RATIO_SD)


def response_times(log: GazeLog, saccades: Saccades, longest: float = 0.6) -> Array:
    """Time from each command to the saccade that answers it, within `longest` seconds [s].

    Where the log tells directions, only a target more than 5 deg away from gaze asks for a shift (the same face under
    a new name does not), and only a saccade that takes away half of the distance answers; one to somewhere else was
    under way already. Otherwise the first saccade counts. What takes longer than 0.6 s is no reaction, by the custom of
    saccadometry.
    """
    if log.aim.shape[0] != log.command.size:
        return latencies(saccades.onset, log.command, longest)
    ends = np.stack([saccades.end_yaw, saccades.end_pitch], axis=-1)
    gaze = np.stack([np.interp(log.command, log.t, log.gaze[:, k]) for k in (0, 1)], axis=-1)
    times = []
    for begun, aim, start in zip(log.command, log.aim, gaze, strict=True):
        way = float(np.hypot(*(aim - start)))
        if way > SMALLEST_COMMAND:
            soon = (saccades.onset >= begun) & (saccades.onset < begun + longest)
            answers = soon & (np.hypot(*(ends - aim).T) < 0.5 * way)
            if answers.any():
                times.append(float(saccades.onset[answers.argmax()] - begun))
    return np.array(times)


def latencies(onset: Array, command: Array, longest: float = 0.6) -> Array:
    """Time from each command to the first saccade after it, where one follows within `longest` seconds [s]."""
    index = np.searchsorted(onset, command)
    found = index < onset.size
    gap = onset[np.minimum(index, max(onset.size - 1, 0))] - command if onset.size else np.full(command.size, np.nan)
    return np.asarray(gap[found & (gap < longest)])


def score_log(log: GazeLog) -> Score:
    """Score a log.

    Axes: main_sequence (peak against the published law, per bin), skew, head_share, vor (RMS slip after landing),
    blink (blinks about an onset against the published chance, spontaneous ones included), latency (mean and spread from
    command to the saccade that answers, where commands are logged, else eye to head), diversity (spread of the eye-head
    delay and of the latency).
    """
    s = find_saccades(log)
    size = s.amplitude
    law = peak_speed(size, s.vertical)
    main, n_main = _binned(s, (s.peak - law) / (PEAK_SD * law))
    skew, n_skew = _binned(s, (s.skew - acceleration_share(size)) / SKEW_SD)
    with_head = np.isfinite(s.head_share) & (size > 4.0) & (s.offset > 4.0)
    # The head follows the target seen from the head, wherever gaze was before (Goossens and Van Opstal 1997).
    share = (s.head_share - head_share_mean(s.offset)) / SHARE_SD
    bins = np.digitize(s.offset, [15.0, 30.0, 45.0])
    shares = [float(np.median(share[with_head & (bins == k)])) for k in range(4) if (with_head & (bins == k)).sum() > 2]
    turned = np.isfinite(s.slip)
    slip = float(np.sqrt(np.mean(np.square(s.slip[turned])))) / SLIP_SD if turned.sum() > 2 else math.nan
    large = (size > 10.0) & np.isfinite(s.blinked)
    coupling = math.nan
    if large.sum() > 4:
        with_shift = blink_probability(size[large])
        expected = with_shift + (1.0 - with_shift) * CHANCE_BLINK
        coupling = float(s.blinked[large].mean() - expected.mean()) / BLINK_SD
    delay = s.head_delay[size > 10.0]
    wait = response_times(log, s)
    if log.command.size > 4:
        mean, spread, n_wait = (float(wait.mean()) if wait.size else math.inf), _spread(wait, LATENCY_SD), wait.size
        latency = 0.5 * min(3.0, abs(mean - LATENCY_MEAN) / LATENCY_SD) + 0.5 * spread
    else:
        clean = delay[np.isfinite(delay)]
        n_wait = clean.size
        mean = float(clean.mean()) if n_wait > 4 else math.nan
        latency = 0.5 * min(3.0, abs(mean - DELAY_MEAN) / DELAY_SD) + 0.5 * _spread(delay, DELAY_SD)
    different = [z for z in (_spread(delay, DELAY_SD), _spread(wait, LATENCY_SD)) if math.isfinite(z)]
    if s.onset.size == 0:
        main = skew = 3.0  # gaze never moves like a saccade: as far from people as the scale goes
    return Score(
        (
            Axis('main_sequence', main, n_main),
            Axis('skew', skew, n_skew),
            Axis('head_share', float(np.mean(np.abs(shares))) if shares else math.nan, int(with_head.sum())),
            Axis('vor', slip, int(turned.sum())),
            Axis('blink', coupling, int(large.sum())),
            Axis('latency', latency, int(n_wait)),
            Axis('diversity', float(np.mean(different)) if different else math.nan, s.onset.size),
        ),
        s,
    )


def plot(score: Score, path: Path) -> None:
    """Write a picture: main sequence, head share, latency of the head, and the axes."""
    from attn_robotics.systems.gaze.pictures import draw_score

    draw_score(score, path)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('log', type=Path, help='bag folder, .mcap, .npz or .csv')
    parser.add_argument('--profile', default='eyes_neck_lids', help='robot profile: shipped name or YAML path')
    parser.add_argument('--plot', type=Path, help='write a picture here (.png)')
    parser.add_argument('--json', type=Path, help='write the results here')
    args = parser.parse_args(argv)
    try:
        score = score_log(read_log(args.log, load_profile(args.profile)))
    except (ValueError, OSError) as error:
        parser.exit(2, f'{parser.prog}: {error}\n')
    print(f'{"axis":16}{"z":>8}{"value":>8}{"n":>7}')
    for axis in score.axes:
        print(f'{axis.name:16}{axis.z:8.2f}{axis.value:8.2f}{axis.n:7d}')
    print(f'{"score":16}{"":8}{score.total:8.3f}')
    if args.plot:
        plot(score, args.plot)
    if args.json:
        rows = [Row(f'naturalness_axis/{args.log.stem}/{axis.name}', axis.value, n=axis.n) for axis in score.axes]
        rows.append(Row(f'naturalness/{args.log.stem}', score.total, n=score.saccades.onset.size, target=0.9))
        write_results(args.json, rows, 'score', seeds=[])


if __name__ == '__main__':
    main()
