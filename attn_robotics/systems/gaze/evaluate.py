"""Every figure of the gaze system beside its baselines: `python -m attn_robotics.systems.gaze.evaluate --json OUT`."""

from __future__ import annotations

import argparse
import math
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from attn_robotics.systems.gaze import checks
from attn_robotics.systems.gaze.baselines import Controller, FixedTimesBaseline, NearestFaceBaseline, ServoBaseline
from attn_robotics.systems.gaze.fidelity import compare, compare_model
from attn_robotics.systems.gaze.human import HORIZONTAL, VERTICAL
from attn_robotics.systems.gaze.learned import MotionModel
from attn_robotics.systems.gaze.learned_shift import LearnedSource
from attn_robotics.systems.gaze.pictures import draw_score, draw_table
from attn_robotics.systems.gaze.planner import GazePlanner
from attn_robotics.systems.gaze.profile import load_profile
from attn_robotics.systems.gaze.results import Row, conditions, write_results
from attn_robotics.systems.gaze.score import score_log
from attn_robotics.systems.gaze.selection import LoudestSelector, NearestFaceSelector, RuleSelector, Selector
from attn_robotics.systems.gaze.selection_check import check_selector
from attn_robotics.systems.gaze.selectors import make_selector
from attn_robotics.systems.gaze.session import standard_session
from attn_robotics.systems.gaze.stale import run_servo
from attn_robotics.systems.gaze.teacher import play

FOLDER: Final = Path(__file__).parent
RANDOM: Final = ('ours', 'ours_learned', 'cvae')  # controllers that never move twice alike
SECTIONS: Final = ('motor', 'fidelity', 'stale', 'selection', 'naturalness', 'robustness')


def controllers(seed: int) -> dict[str, Callable[[], Controller]]:
    """Everything that moves a head, by the name it has in the table; the robot has eyes, neck and lids."""
    profile = load_profile('eyes_neck_lids')

    def learned(name: str) -> Callable[[], Controller]:
        return lambda: GazePlanner(profile, seed=seed, source=LearnedSource(MotionModel(FOLDER / name), seed=seed))

    return {
        'ours': lambda: GazePlanner(profile, seed=seed),
        'ours_learned': learned('motion.safetensors'),
        'mlp': learned('baseline_mlp.safetensors'),
        'cvae': learned('baseline_cvae.safetensors'),
        'nearest_face': lambda: NearestFaceBaseline(profile),
        'icub_fixed': lambda: FixedTimesBaseline(profile),
        'exponential_servo': lambda: ServoBaseline(profile),
    }


def controller_peaks(name: str, seed: int, quick: bool) -> list[Row]:
    """Main sequence of one controller against published people."""
    make = controllers(seed)[name]
    n = (3 if quick else 15) if name in RANDOM else 1
    rows = []
    for word, points in (('horizontal', HORIZONTAL), ('vertical', VERTICAL)):
        for p in points:
            size = p.amplitude
            place = (size, 0.0) if word == 'horizontal' else (0.0, size)
            peak = np.mean([checks.step_peak(make(), *place) for _ in range(n)])
            z = abs(float(peak) - p.peak) / p.sd
            rows.append(Row(f'main_sequence_z/{name}/{word}/{size:g}', z, 'sd', n, 0.5, True))
    return rows


def motor_rows() -> list[Row]:
    """Skew, duration, head share and VOR of the motor model, and its main sequence as a whole."""
    top, constant, fit = checks.main_sequence_fit()
    duration, skew = checks.profile_errors()
    sizes = np.array([5.0, 10.0, 14.9, 25.0, 35.0, 45.0, 55.0, 68.0])
    seen, heard = checks.head_shares(sizes), checks.head_shares(sizes, auditory=True)
    return [
        Row('main_sequence_v_error/ours', abs(top - 500.0), 'deg/s', 1500, 10.0, True, {'fitted': top}),
        Row('main_sequence_c_error/ours', abs(constant - 10.0), 'deg', 1500, 1.0, True, {'fitted': constant}),
        Row('main_sequence_r2/ours', fit, '', 1500, 0.95),
        Row('duration_error/ours', duration, '', 15, 0.10, True),
        Row('skew_error/ours', skew, '', 15, 0.10, True),
        Row('head_share/ours/below_15deg', float(seen[:3].max()), '', 2000, 0.15, True),
        Row('head_share_error/ours/55deg', abs(float(seen[6]) - 0.5), '', 2000, 0.1, True, {'share': float(seen[6])}),
        Row('head_share_smallest_rise/ours', float(np.diff(seen).min()), '', 2000, 0.0),
        Row('head_share_sound_minus_sight/ours', float((heard - seen).min()), '', 2000, 0.0),
        Row('vor_slip_deg/ours/150deg_per_s', checks.vor_slip(delay=0.0, gain=1.0), 'deg', 1, 0.2, True),
        Row('vor_slip_deg/ours/10ms_5percent', checks.vor_slip(delay=0.01, gain=1.05), 'deg', 1, 1.0, True),
    ]


# name: weights, temperature, with the analytic layer; None for the motor model itself
SAMPLERS: Final[dict[str, tuple[str, float, bool] | None]] = {
    'ours': ('motion', 1.0, True),
    'ours_t0.7': ('motion', 0.7, True),
    'ours_argmax': ('motion', 0.0, True),
    'ours_without_analytic_layer': ('motion', 1.0, False),
    'mlp': ('baseline_mlp', 1.0, True),
    'mlp_without_analytic_layer': ('baseline_mlp', 1.0, False),
    'cvae': ('baseline_cvae', 1.0, True),
    'cvae_without_analytic_layer': ('baseline_cvae', 1.0, False),
    'teacher_redrawn': None,
}


def fidelity_rows(name: str, quick: bool) -> list[Row]:
    """Learned motion against the teacher, person known; ours and the teacher with another person a draw too."""
    n = 80 if quick else 300

    def figures(*, style_known: bool) -> dict[str, float]:
        entry = SAMPLERS[name]
        if entry is None:
            return compare(play, play, n=n, style_known=style_known)
        weights, temperature, safe = entry
        path = FOLDER / f'{weights}.safetensors'
        return compare_model(path, temperature, n, safe=safe, style_known=style_known)

    f = figures(style_known=True)
    ratio = {'ratio': f['diversity_ratio']}
    rows = [
        Row(f'frechet/{name}', f['frechet'], '', 10 * n, 5.0, True),
        Row(f'min_ade10/{name}', f['min_ade10'], 'deg', n, 1.5, True),
        Row(f'diversity_error/{name}', abs(f['diversity_ratio'] - 1.0), '', n, 0.1, True, ratio),
        Row(f'end_error_p95/{name}', f['end_error_p95'], 'deg', 10 * n, 1.3, True),
    ]
    if name in ('ours', 'teacher_redrawn'):
        f = figures(style_known=False)
        rows.append(Row(f'frechet_style_unknown/{name}', f['frechet'], '', 10 * n))
        rows.append(Row(f'min_ade10_style_unknown/{name}', f['min_ade10'], 'deg', n))
    return rows


def stale_rows(delay: float, seed: int, quick: bool) -> list[Row]:
    """Late images, a still target at 30 deg; settling includes the delay and the median human latency."""
    profile = load_profile()
    runs = range(3 if quick else 10)
    case = f'{1000 * delay:.0f}ms'
    rows = []

    def ours(k: int) -> GazePlanner:
        return GazePlanner(profile, seed=seed + k, scatter=False, idle=False)

    for name, image_time, make in (
        ('ours', True, ours),
        ('servo_image_time', True, lambda _: None),
        ('servo_present_pose', False, lambda _: None),
    ):
        results = [run_servo(delay=delay, jitter=0.03, image_time=image_time, seed=k, planner=make(k)) for k in runs]
        n = len(results)
        rows.append(Row(f'overshoot_deg/{name}/{case}', max(r.overshoot for r in results), 'deg', n, 0.5, True))
        rows.append(Row(f'settling_s/{name}/{case}', max(r.settling for r in results), 's', n, 0.7, True))
    return rows


SELECTORS: Final[dict[str, tuple[Callable[[], Selector], bool]]] = {
    'ours': (lambda: make_selector('attention'), True),
    'rule': (RuleSelector, True),
    'rule_no_hysteresis': (RuleSelector, False),
    'nearest_face': (NearestFaceSelector, True),
    'loudest': (LoudestSelector, True),
}


def selection_rows(name: str, quick: bool) -> list[Row]:
    """Synthetic scripted scenes; the first 0.35 s after a label changes are not counted."""
    scenes = 10 if quick else 200
    make, hysteresis = SELECTORS[name]
    f = check_selector(make(), scenes, hysteresis=hysteresis)
    spread = {'p10': f.reaction_p10, 'p90': f.reaction_p90}
    return [
        Row(f'selection_accuracy/{name}', f.accuracy, '', f.frames, 0.95),
        Row(f'selection_reaction_s/{name}', f.reaction, 's', scenes, 0.35, True, spread),
        Row(f'selection_reaction_p10_s/{name}', f.reaction_p10, 's', scenes, 0.15),
        Row(f'selection_ping_pong/{name}', f.ping_pong, '', scenes, 0.01, True),
    ]


def naturalness_rows(name: str, seed: int, quick: bool, pictures: Path | None) -> list[Row]:
    """Gaze Naturalness Score of a standard session, its axes beside it."""
    score = score_log(standard_session(controllers(seed)[name](), seconds=90.0 if quick else 300.0))
    if pictures is not None and name in ('ours', 'ours_learned', 'icub_fixed'):
        draw_score(score, pictures / f'{name}.png', name)
    axes = {axis.name: axis.value for axis in score.axes}
    return [Row(f'naturalness/{name}', score.total, '', score.saccades.onset.size, 0.9, False, axes)]


def robustness_rows(seed: int, steps: int, parts: int) -> list[Row]:
    """Fuzzing of the whole core, in parts of other seeds."""
    share = math.ceil(steps / parts)
    with tqdm(total=steps, desc='fuzz', mininterval=5.0) as bar:
        if parts == 1:
            found = [checks.fuzz(steps, seed, bar.update)]
        else:
            with multiprocessing.get_context('spawn').Pool(parts) as pool:
                jobs = [pool.apply_async(checks.fuzz, (share, seed + k)) for k in range(parts)]
                found = []
                for job in jobs:
                    found.append(job.get())
                    bar.update(share)
    rows = []
    for name in found[0]:
        is_jump = name == 'jump_deg'
        value = max(f[name] for f in found) if is_jump else sum(f[name] for f in found)
        rows.append(
            Row(
                f'fuzz_{name}/ours', value, 'deg' if is_jump else 'points', share * parts, 1.0 if is_jump else 0.0, True
            )
        )
    return rows


def beside(rows: list[Row]) -> list[Row]:
    """The rows, each of ours with the other methods' values of the same figure beside it."""
    values = {row.name: row.value for row in rows}
    told = []
    for row in rows:
        metric, method, *case = row.name.split('/')
        others = {}
        if method == 'ours':
            for name, value in values.items():
                parts = name.split('/')
                if parts[0] == metric and parts[2:] == case and parts[1] != 'ours' and math.isfinite(value):
                    others[parts[1]] = value
        told.append(replace(row, reference={**row.reference, **others}))
    return told


def tasks(section: str, args: argparse.Namespace) -> list[Callable[[], list[Row]]]:
    """What a section consists of."""
    seed, quick = args.seed, args.quick
    steps = min(args.fuzz_steps, 5000) if quick else args.fuzz_steps
    names = controllers(seed)
    lists: dict[str, list[Callable[[], list[Row]]]] = {
        'motor': [*(partial(controller_peaks, name, seed, quick) for name in names), motor_rows],
        'fidelity': [partial(fidelity_rows, name, quick) for name in SAMPLERS],
        'stale': [partial(stale_rows, delay, seed, quick) for delay in (0.05, 0.1, 0.2, 0.3)],
        'selection': [partial(selection_rows, name, quick) for name in SELECTORS],
        'naturalness': [partial(naturalness_rows, name, seed, quick, args.pictures) for name in names],
        'robustness': [partial(robustness_rows, seed, steps, args.workers)],
    }
    return lists[section]


def results_of(section: str, args: argparse.Namespace) -> Iterator[list[Row]]:
    """Rows of a section as they are ready, in order."""
    jobs = tasks(section, args)
    if args.workers == 1 or section == 'robustness':
        yield from (job() for job in jobs)
        return
    with multiprocessing.get_context('spawn').Pool(min(args.workers, len(jobs))) as pool:
        yield from (waiting.get() for waiting in [pool.apply_async(job) for job in jobs])


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', type=Path, help='write the results here, after every section')
    parser.add_argument('--pictures', type=Path, help='folder for pictures')
    parser.add_argument('--only', nargs='+', choices=SECTIONS, default=SECTIONS, help='sections to run')
    parser.add_argument('--quick', action='store_true', help='small samples, for a first look')
    parser.add_argument('--fuzz-steps', type=int, default=1_000_000)
    parser.add_argument('--seed', type=int, default=3)
    parser.add_argument('--workers', type=int, default=1, help='processes; set OMP_NUM_THREADS=1 with several')
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f'--workers must be at least 1, got {args.workers}')
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
    print(', '.join(f'{key} {value}' for key, value in conditions([args.seed]).items()))
    print(f'{"figure":48}{"value":>11} {"unit":7}{"target":>9}  met')
    rows: list[Row] = []
    for section in args.only:
        for found in results_of(section, args):
            for row in found:
                rows.append(row)
                met = {None: '', True: 'yes', False: 'NO'}[row.met]
                target = '' if row.target is None else f'{row.target:g}'
                print(f'{row.name:48}{row.value:11.4g} {row.unit:7}{target:>9}  {met}', flush=True)
        if args.json:
            write_results(args.json, beside(rows), 'evaluate ' + ' '.join(args.only), [args.seed])
        if section == 'naturalness' and args.pictures:
            scores = [row for row in rows if row.name.startswith('naturalness/')]
            axes = {row.name.split('/')[1]: dict(row.reference) for row in scores}
            draw_table(axes, args.pictures / 'naturalness.png')
    print('\nours beside the others:')
    for row in beside(rows):
        if '/ours' in row.name and row.reference:
            others = ', '.join(f'{name} {value:.3g}' for name, value in row.reference.items())
            print(f'{row.name}: {row.value:.3g} | {others}')


if __name__ == '__main__':
    main()
