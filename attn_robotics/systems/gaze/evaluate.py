"""Every figure of the gaze system beside its baselines: `python -m attn_robotics.systems.gaze.evaluate --json OUT`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from attn_robotics.systems.gaze import checks
from attn_robotics.systems.gaze.baselines import Controller, FixedTimesBaseline, NearestFaceBaseline, ServoBaseline
from attn_robotics.systems.gaze.fidelity import Sampler, compare
from attn_robotics.systems.gaze.human import HORIZONTAL, VERTICAL
from attn_robotics.systems.gaze.learned import MotionModel, draw_tracks
from attn_robotics.systems.gaze.learned_shift import LearnedSource
from attn_robotics.systems.gaze.pictures import draw_score, draw_table
from attn_robotics.systems.gaze.planner import GazePlanner
from attn_robotics.systems.gaze.profile import load_profile
from attn_robotics.systems.gaze.results import Row, write_results
from attn_robotics.systems.gaze.score import score_log
from attn_robotics.systems.gaze.selection import LoudestSelector, NearestFaceSelector, RuleSelector, Selector
from attn_robotics.systems.gaze.selection_check import check_selector
from attn_robotics.systems.gaze.selector import AttentionSelector
from attn_robotics.systems.gaze.session import standard_session
from attn_robotics.systems.gaze.stale import run_servo
from attn_robotics.systems.gaze.teacher import play

FOLDER: Final = Path(__file__).parent
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


def motor_rows(seed: int, quick: bool) -> Iterator[Row]:
    """Main sequence, skew, duration, head share, VOR."""
    repeats = 3 if quick else 15
    for name, make in controllers(seed).items():
        n = repeats if name in ('ours', 'ours_learned', 'cvae') else 1
        for word, points in (('horizontal', HORIZONTAL), ('vertical', VERTICAL)):
            for p in points:
                size = p.amplitude
                place = (size, 0.0) if word == 'horizontal' else (0.0, size)
                peak = np.mean([checks.step_peak(make(), *place) for _ in range(n)])
                z = abs(float(peak) - p.peak) / p.sd
                yield Row(f'main_sequence_z/{name}/{word}/{size:g}', z, 'sd', n, 0.5, True)
    top, constant, fit = checks.main_sequence_fit()
    yield Row('main_sequence_v_error/ours', abs(top - 500.0), 'deg/s', 1500, 10.0, True, {'fitted': top})
    yield Row('main_sequence_c_error/ours', abs(constant - 10.0), 'deg', 1500, 1.0, True, {'fitted': constant})
    yield Row('main_sequence_r2/ours', fit, '', 1500, 0.95)
    duration, skew = checks.profile_errors()
    yield Row('duration_error/ours', duration, '', 15, 0.10, True)
    yield Row('skew_error/ours', skew, '', 15, 0.10, True)
    sizes = np.array([5.0, 10.0, 14.9, 25.0, 35.0, 45.0, 55.0, 68.0])
    seen, heard = checks.head_shares(sizes), checks.head_shares(sizes, auditory=True)
    yield Row('head_share/ours/below_15deg', float(seen[:3].max()), '', 2000, 0.15, True)
    yield Row('head_share_error/ours/55deg', abs(float(seen[6]) - 0.5), '', 2000, 0.1, True, {'share': float(seen[6])})
    yield Row('head_share_smallest_rise/ours', float(np.diff(seen).min()), '', 2000, 0.0)
    yield Row('head_share_sound_minus_sight/ours', float((heard - seen).min()), '', 2000, 0.0)
    yield Row('vor_slip_deg/ours/150deg_per_s', checks.vor_slip(delay=0.0, gain=1.0), 'deg', 1, 0.2, True)
    yield Row('vor_slip_deg/ours/10ms_5percent', checks.vor_slip(delay=0.01, gain=1.05), 'deg', 1, 1.0, True)


def _sampler(model: MotionModel, temperature: float, *, safe: bool = True) -> Sampler:
    return lambda conditions, style, rng: draw_tracks(
        model, conditions, style, rng, temperature=temperature, safe=safe
    )  # fmt: skip


def fidelity_rows(quick: bool) -> Iterator[Row]:
    """Learned motion against the teacher, style known; one line with style unknown."""
    n = 80 if quick else 300
    model = MotionModel(FOLDER / 'motion.safetensors')
    samplers: dict[str, Sampler] = {
        'ours': _sampler(model, 1.0),
        'ours_t0.7': _sampler(model, 0.7),
        'ours_argmax': _sampler(model, 0.0),
        'ours_without_analytic_layer': _sampler(model, 1.0, safe=False),
        'teacher_redrawn': play,
        'mlp': _sampler(MotionModel(FOLDER / 'baseline_mlp.safetensors'), 1.0),
        'cvae': _sampler(MotionModel(FOLDER / 'baseline_cvae.safetensors'), 1.0),
    }
    for name, sampler in samplers.items():
        f = compare(sampler, play, n=n)
        yield Row(f'frechet/{name}', f['frechet'], '', 10 * n, 5.0, True)
        yield Row(f'min_ade10/{name}', f['min_ade10'], 'deg', n, 1.5, True)
        yield Row(f'diversity_error/{name}', abs(f['diversity_ratio'] - 1.0), '', n, 0.1, True)
        yield Row(f'end_error_p95/{name}', f['end_error_p95'], 'deg', 10 * n, 1.3, True)
    for name, sampler in (('ours', samplers['ours']), ('teacher_redrawn', play)):
        f = compare(sampler, play, n=n, style_known=False)
        yield Row(f'frechet_style_unknown/{name}', f['frechet'], '', 10 * n)
        yield Row(f'min_ade10_style_unknown/{name}', f['min_ade10'], 'deg', n)


def stale_rows(seed: int, quick: bool) -> Iterator[Row]:
    """Late images, a still target at 30 deg; settling includes the delay and the median human latency."""
    profile = load_profile()
    runs = 3 if quick else 10
    for delay in (0.05, 0.1, 0.2, 0.3):
        case = f'{1000 * delay:.0f}ms'
        ours = [
            run_servo(
                delay=delay, jitter=0.03, image_time=True, seed=k,
                planner=GazePlanner(profile, seed=seed + k, scatter=False, idle=False),
            )
            for k in range(runs)
        ]  # fmt: skip
        yield Row(f'overshoot_deg/ours/{case}', max(r.overshoot for r in ours), 'deg', runs, 0.5, True)
        yield Row(f'settling_s/ours/{case}', max(r.settling for r in ours), 's', runs, 0.7, True)
        for name, image_time in (('servo_image_time', True), ('servo_present_pose', False)):
            others = [run_servo(delay=delay, jitter=0.03, image_time=image_time, seed=k) for k in range(runs)]
            yield Row(f'overshoot_deg/{name}/{case}', max(r.overshoot for r in others), 'deg', runs, 0.5, True)
            yield Row(f'settling_s/{name}/{case}', max(r.settling for r in others), 's', runs, 0.7, True)


def selection_rows(quick: bool) -> Iterator[Row]:
    """Synthetic scripted scenes; the first 0.35 s after a label changes are not counted."""
    scenes = 10 if quick else 200
    selectors: dict[str, tuple[Selector, bool]] = {
        'ours': (AttentionSelector(), True),
        'rule': (RuleSelector(), True),
        'rule_no_hysteresis': (RuleSelector(), False),
        'nearest_face': (NearestFaceSelector(), True),
        'loudest': (LoudestSelector(), True),
    }
    for name, (selector, hysteresis) in selectors.items():
        f = check_selector(selector, scenes, hysteresis=hysteresis)
        yield Row(f'selection_accuracy/{name}', f.accuracy, '', f.frames, 0.95)
        spread = {'p10': f.reaction_p10, 'p90': f.reaction_p90}
        yield Row(f'selection_reaction_s/{name}', f.reaction, 's', scenes, 0.35, True, spread)
        yield Row(f'selection_ping_pong/{name}', f.ping_pong, '', scenes, 0.01, True)


def naturalness_rows(seed: int, quick: bool, pictures: Path | None) -> Iterator[Row]:
    """Gaze Naturalness Score of a standard session."""
    totals: dict[str, dict[str, float]] = {}
    for name, make in controllers(seed).items():
        score = score_log(standard_session(make(), seconds=90.0 if quick else 300.0))
        totals[name] = {axis.name: axis.value for axis in score.axes}
        yield Row(f'naturalness/{name}', score.total, '', score.saccades.onset.size, 0.9, False, totals[name])
        if pictures is not None and name in ('ours', 'ours_learned', 'icub_fixed'):
            draw_score(score, pictures / f'{name}.png', name)
    if pictures is not None:
        draw_table(totals, pictures / 'naturalness.png')


def robustness_rows(seed: int, steps: int) -> Iterator[Row]:
    """Fuzzing of the whole core."""
    with tqdm(total=steps, desc='fuzz', mininterval=5.0) as bar:
        counts = checks.fuzz(steps, seed, bar.update)
    for name, value in counts.items():
        unit = 'deg' if name == 'jump_deg' else 'points'
        yield Row(f'fuzz_{name}/ours', value, unit, steps, 1.0 if name == 'jump_deg' else 0.0, True)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--json', type=Path, help='write the results here')
    parser.add_argument('--pictures', type=Path, help='folder for pictures')
    parser.add_argument('--only', nargs='+', choices=SECTIONS, default=SECTIONS, help='sections to run')
    parser.add_argument('--quick', action='store_true', help='small samples, for a first look')
    parser.add_argument('--fuzz-steps', type=int, default=1_000_000)
    parser.add_argument('--seed', type=int, default=3)
    args = parser.parse_args(argv)
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
    steps = min(args.fuzz_steps, 5000) if args.quick else args.fuzz_steps
    sections: dict[str, Callable[[], Iterator[Row]]] = {
        'motor': lambda: motor_rows(args.seed, args.quick),
        'fidelity': lambda: fidelity_rows(args.quick),
        'stale': lambda: stale_rows(args.seed, args.quick),
        'selection': lambda: selection_rows(args.quick),
        'naturalness': lambda: naturalness_rows(args.seed, args.quick, args.pictures),
        'robustness': lambda: robustness_rows(args.seed, steps),
    }
    rows: list[Row] = []
    print(f'{"figure":48}{"value":>11} {"unit":7}{"target":>9}  met')
    for section in args.only:
        for row in sections[section]():
            rows.append(row)
            met = {None: '', True: 'yes', False: 'NO'}[row.met]
            target = '' if row.target is None else f'{row.target:g}'
            print(f'{row.name:48}{row.value:11.4g} {row.unit:7}{target:>9}  {met}', flush=True)
    if args.json:
        write_results(args.json, rows, 'evaluate ' + ' '.join(args.only), [args.seed])


if __name__ == '__main__':
    main()
