"""Times of the gaze system on this machine: planner step, selection, image to command, loop jitter beside the detector.

`python benchmarks/gaze.py --json OUT` needs no ROS: the loop, the camera's thread and the detector's process are those
of the node, without its messages. `--launch` measures the running node too (source setup.bash).
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from attn_robotics.runtime.pace import Pace, settle_interpreter
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
from attn_robotics.systems.gaze.results import Row, machine, write_results
from attn_robotics.systems.gaze.selection import RuleSelector
from attn_robotics.systems.gaze.selectors import make_selector
from attn_robotics.systems.gaze.tracker import FaceTracker

WEIGHTS = Path(__file__).resolve().parents[1] / 'attn_robotics/systems/gaze/motion.safetensors'
FRAME_RATE = 30.0  # Hz of the camera
WARM_UP = 200  # steps that are not counted


def row(name: str, values_ms: np.ndarray | list[float], target: float | None = None, **facts: float) -> Row:
    """99th percentile with the others beside it [ms]."""
    p50, p99, p999 = np.percentile(values_ms, [50, 99, 99.9])
    spread = {'p50': float(p50), 'p99.9': float(p999), 'max': float(np.max(values_ms)), **facts}
    return Row(name, float(p99), 'ms', len(values_ms), target, True, spread)


def planner_rows(steps: int) -> list[Row]:
    """Planner step with the motor model and with the learned motion model, a new target every 1.5 s."""
    rows = []
    for name, source in (('ours', None), ('ours_learned', LearnedSource(MotionModel(WEIGHTS)))):
        profile = load_profile()
        planner = GazePlanner(profile) if source is None else GazePlanner(profile, source=source)
        settle_interpreter()
        spent = np.empty(steps)
        for k in range(steps + WARM_UP):
            target = Target(str(k // 150), 25.0 * (-1) ** (k // 150), 3.0, is_face=True)
            begun = time.perf_counter()
            planner.step((k + 1) * PERIOD, target)
            if k >= WARM_UP:
                spent[k - WARM_UP] = time.perf_counter() - begun
        rows.append(row(f'planner_step_p99_ms/{name}', 1e3 * spent, 1.0))
    return rows


def selection_row_list(steps: int) -> list[Row]:
    """One frame with eight people through memory and selector."""
    rows = []
    for name, selector in (('ours', make_selector('attention')), ('rule', RuleSelector())):
        core = GazeCore(load_profile(), GazePlanner(load_profile()), selector)
        people = [Entity(str(k), azimuth=12.0 * k - 40, speaking=0.1 * k, face_visible=True) for k in range(8)]
        spent = np.empty(steps)
        for k in range(steps + 20):
            scene = core.memory.observe(0.05 * k, people, current='1')
            begun = time.perf_counter()
            selector.score(scene)
            if k >= 20:
                spent[k - 20] = time.perf_counter() - begun
        rows.append(row(f'selection_p99_ms/{name}', 1e3 * spent))
    return rows


class CameraThread(threading.Thread):
    """Hands over 30 images a second as the node's executor does: a copy of each, dropped while the detector is busy."""

    def __init__(self, detector: DetectorProcess) -> None:
        super().__init__(daemon=True)
        self._detector = detector
        self._image = np.full((480, 640, 3), 90, np.uint8)
        self._image[100:260, 100:260], self._image[150:280, 380:510] = draw_face(1, 160), draw_face(2, 130)
        self._ends = threading.Event()
        self.shown = 0

    def run(self) -> None:
        """Until `close`."""
        pace = Pace(1.0 / FRAME_RATE)
        while not self._ends.is_set():
            pace.wait()
            stamp = time.monotonic()
            self._detector.submit(stamp, np.ascontiguousarray(self._image[:, :, ::-1]))
            self.shown += 1

    def close(self) -> None:
        """Show no more."""
        self._ends.set()
        self.join()


def loop_rows(seconds: float, priority: int) -> list[Row]:
    """A real 100 Hz loop beside the detector: how late it wakes up, and image stamp to the command that uses it."""
    detector, tracker = DetectorProcess(), FaceTracker(Camera.from_field_of_view(640, 480, 60.0))
    core = GazeCore(load_profile(), GazePlanner(load_profile()), make_selector('attention'))
    camera = CameraThread(detector)
    if priority:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    late, work, latency = [], [], []
    try:
        camera.start()
        first = detector.poll(timeout=60.0)
        if not first or first[0].error:
            raise RuntimeError(first[0].error if first else 'the detector process did not answer within 60 s')
        core.step(time.monotonic())
        settle_interpreter()
        pace = Pace(PERIOD)
        for k in tqdm(range(round(seconds / PERIOD)), desc='loop', mininterval=5.0):
            lateness = pace.wait()
            now = begun = time.monotonic()
            head = core.planner.safety.positions()
            core.observe_head(now, head['neck_yaw'], head['neck_pitch'])
            finished = detector.poll()
            for found in finished:
                core.observe_faces(found.stamp, tracker.update(found.stamp, found.boxes))
            core.step(now)
            if k >= WARM_UP:
                late.append(1e3 * lateness)
                work.append(1e3 * (time.monotonic() - begun))
                latency += [1e3 * (time.monotonic() - found.stamp) for found in finished]
    finally:
        camera.close()
        detector.close()
    facts = {'ticks_left_out': float(pace.missed), 'priority': float(priority)}
    rows = [row('loop_jitter_p99_ms/ours', late, 2.0, **facts), row('loop_work_p99_ms/ours', work)]
    if latency:
        share = len(latency) / max(camera.shown, 1)
        rows.append(row('image_to_command_p99_ms/ours', latency, 60.0, share_of_images_searched=share))
    return rows


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--json', type=Path, help='write the results here')
    parser.add_argument('--steps', type=int, default=10000, help='planner steps')
    parser.add_argument('--seconds', type=float, default=30.0, help='of the real-time loop')
    parser.add_argument('--priority', type=int, default=0, help='real-time priority (SCHED_FIFO) of the loop; 0: none')
    parser.add_argument('--launch', action='store_true', help='measure the running node too; needs ROS')
    args = parser.parse_args(argv)
    rows = [*planner_rows(args.steps), *selection_row_list(max(args.steps // 10, 100))]
    try:
        rows += loop_rows(args.seconds, args.priority)
    except RuntimeError as error:
        print(f'the loop is not measured: {error}')
    if args.launch:
        from gaze_node import node_rows

        rows += node_rows(args.seconds, args.priority)
    print(f'{machine()}, load {os.getloadavg()[0]:.2f}')
    for entry in rows:
        met = {None: '', True: 'yes', False: 'NO'}[entry.met]
        facts = ', '.join(f'{name} {value:.2f}' for name, value in entry.reference.items())
        print(f'{entry.name:36}{entry.value:10.3f} {entry.unit:4}{met:4} {facts}')
    if args.json:
        write_results(args.json, rows, f'benchmarks/gaze.py --steps {args.steps} --seconds {args.seconds:g}', [0])


if __name__ == '__main__':
    main()
