"""Times of the gaze system on this machine: planner step, selection, image to command, loop jitter beside the detector.

`python benchmarks/gaze.py --json OUT`
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from attn_robotics.systems.gaze.camera import Camera
from attn_robotics.systems.gaze.command import Target
from attn_robotics.systems.gaze.core import GazeCore
from attn_robotics.systems.gaze.detector_process import DetectorProcess
from attn_robotics.systems.gaze.entities import Entity
from attn_robotics.systems.gaze.faces import draw_face
from attn_robotics.systems.gaze.learned import MotionModel
from attn_robotics.systems.gaze.learned_shift import LearnedSource
from attn_robotics.systems.gaze.planner import PERIOD, GazePlanner
from attn_robotics.systems.gaze.profile import load_profile
from attn_robotics.systems.gaze.results import Row, write_results
from attn_robotics.systems.gaze.selection import RuleSelector
from attn_robotics.systems.gaze.selector import AttentionSelector
from attn_robotics.systems.gaze.tracker import FaceTracker

WEIGHTS = Path(__file__).resolve().parents[1] / 'attn_robotics/systems/gaze/motion.safetensors'


def planner_rows(steps: int) -> list[Row]:
    """Planner step with the motor model and with the learned motion model, a new target every 1.5 s."""
    rows = []
    for name, source in (('ours', None), ('ours_learned', LearnedSource(MotionModel(WEIGHTS)))):
        profile = load_profile()
        planner = GazePlanner(profile) if source is None else GazePlanner(profile, source=source)
        spent, busy = np.empty(steps), np.empty(steps)
        for k in range(steps + 100):
            target = Target(str(k // 150), 25.0 * (-1) ** (k // 150), 3.0, is_face=True)
            begun, cpu = time.perf_counter(), time.thread_time()
            planner.step((k + 1) * PERIOD, target)
            if k >= 100:
                spent[k - 100], busy[k - 100] = time.perf_counter() - begun, time.thread_time() - cpu
        p50, p99 = 1e3 * np.percentile(spent, [50, 99])
        rows.append(Row(f'planner_step_p99_ms/{name}', float(p99), 'ms', steps, 1.0, True, {'p50': float(p50)}))
        # Processor time alone: what the step itself needs, on a machine that others use too.
        rows.append(Row(f'planner_step_cpu_p99_ms/{name}', float(1e3 * np.percentile(busy, 99)), 'ms', steps))
    return rows


def selection_row_list(steps: int) -> list[Row]:
    """One frame with eight people through memory and selector."""
    rows = []
    for name, selector in (('ours', AttentionSelector()), ('rule', RuleSelector())):
        core = GazeCore(load_profile(), GazePlanner(load_profile()), selector)
        people = [Entity(str(k), azimuth=12.0 * k - 40, speaking=0.1 * k, face_visible=True) for k in range(8)]
        spent = np.empty(steps)
        for k in range(steps + 20):
            scene = core.memory.observe(0.05 * k, people, current='1')
            begun = time.perf_counter()
            selector.score(scene)
            if k >= 20:
                spent[k - 20] = time.perf_counter() - begun
        p50, p99 = 1e3 * np.percentile(spent, [50, 99])
        rows.append(Row(f'selection_p99_ms/{name}', float(p99), 'ms', steps, None, True, {'p50': float(p50)}))
    return rows


def loop_rows(seconds: float) -> list[Row]:
    """A real 100 Hz loop beside a detector that is never idle: wake-up jitter, and image stamp to command."""
    image = np.full((480, 640, 3), 90, np.uint8)
    image[100:260, 100:260], image[150:280, 380:510] = draw_face(1, 160), draw_face(2, 130)
    detector, tracker = DetectorProcess(), FaceTracker(Camera.from_field_of_view(640, 480, 60.0))
    core = GazeCore(load_profile(), GazePlanner(load_profile()))
    jitter, latency, missed = [], [], 0
    try:
        detector.submit(0.0, image)
        if not detector.poll(timeout=60.0):
            raise SystemExit('the detector process did not answer within 60 s')
        begin = time.perf_counter()
        due = begin
        for _ in tqdm(range(round(seconds / PERIOD)), desc='loop', mininterval=1.0):
            due += PERIOD
            if due < time.perf_counter() - PERIOD:
                missed += 1
            time.sleep(max(0.0, due - time.perf_counter()))
            now = time.perf_counter()
            jitter.append(now - due)
            head = core.planner.safety.positions()
            core.observe_head(now, head['neck_yaw'], head['neck_pitch'])
            finished = detector.poll()
            for found in finished:
                core.observe_faces(found.stamp, tracker.update(found.stamp, found.boxes))
            detector.submit(now, image)
            core.step(now)
            latency += [time.perf_counter() - found.stamp for found in finished if found.stamp >= begin]
    finally:
        detector.close()
    late = 1e3 * np.percentile(np.maximum(jitter, 0.0), 99)
    rows = [Row('loop_jitter_p99_ms/ours', float(late), 'ms', len(jitter), 2.0, True, {'missed': missed})]
    if latency:
        p50, p99 = 1e3 * np.percentile(latency, [50, 99])
        rows.append(
            Row('image_to_command_p99_ms/ours', float(p99), 'ms', len(latency), 60.0, True, {'p50': float(p50)})
        )
    return rows


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--json', type=Path, help='write the results here')
    parser.add_argument('--steps', type=int, default=5000, help='planner steps')
    parser.add_argument('--seconds', type=float, default=20.0, help='of the real-time loop')
    args = parser.parse_args(argv)
    rows = [*planner_rows(args.steps), *selection_row_list(max(args.steps // 10, 100)), *loop_rows(args.seconds)]
    load = os.getloadavg()[0]
    rows.append(Row('load_average/machine', load, f'of {os.cpu_count()} cores'))
    for row in rows:
        met = {None: '', True: 'yes', False: 'NO'}[row.met]
        print(f'{row.name:40}{row.value:10.3f} {row.unit:4} {met}  {dict(row.reference)}')
    if args.json:
        write_results(args.json, rows, 'benchmarks/gaze.py', [0])


if __name__ == '__main__':
    main()
