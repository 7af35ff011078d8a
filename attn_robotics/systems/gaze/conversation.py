"""A scripted conversation in simulation, seen through the head's own rendered camera: video and score.

`MUJOCO_GL=egl python -m attn_robotics.systems.gaze.conversation --seconds 20 --video talk.mp4 --json talk.json`
"""

from __future__ import annotations

import argparse
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from attn_robotics.systems.gaze.camera import Camera
from attn_robotics.systems.gaze.command import GazeLog
from attn_robotics.systems.gaze.core import CoreResult, GazeCore
from attn_robotics.systems.gaze.detector import HaarDetector
from attn_robotics.systems.gaze.entities import SOUND, Entity
from attn_robotics.systems.gaze.head_sim import HeadSim
from attn_robotics.systems.gaze.head_world import FOV, IMAGE, Person, default_people
from attn_robotics.systems.gaze.planner import PERIOD, GazePlanner
from attn_robotics.systems.gaze.profile import load_profile
from attn_robotics.systems.gaze.results import Row, write_results
from attn_robotics.systems.gaze.score import score_log
from attn_robotics.systems.gaze.selector import AttentionSelector
from attn_robotics.systems.gaze.selectors import make_selector
from attn_robotics.systems.gaze.tracker import FaceTracker, TrackedFace

FRAME_RATE = 20.0  # Hz of the camera and of the video
PIPELINE_DELAY = 0.08  # s from image to detections
ON_TARGET = 5.0  # deg between line of sight and face, eyes to mouth included


@dataclass(frozen=True)
class TalkResult:
    """What happened."""

    log: GazeLog
    on_speaker: float  # share of the time from 0.7 s after a turn began in which gaze is on the speaker's face
    face_error: float  # deg, median distance of placed faces from the truth
    faces_found: float  # share of visible faces in images that were placed


def run_conversation(
    seconds: float = 20.0, *, n_people: int = 3, seed: int = 0, video: Path | None = None, show: bool = False
) -> TalkResult:
    """Let people talk in turns and the head look at them.

    Speaking is told by the script (a beamformer's task); faces come from the rendered images only.
    """
    people = default_people(n_people, seed)
    rng = np.random.default_rng([seed, 3])
    sim, detector = HeadSim(people), HaarDetector()
    profile = load_profile('eyes_neck_lids')
    core = GazeCore(profile, GazePlanner(profile, seed=seed), make_selector('attention'))
    camera = Camera.from_field_of_view(*IMAGE, FOV)
    tracker = FaceTracker(camera)
    writer = _open_video(video) if video else None
    waiting: deque[tuple[float, float, list[TrackedFace]]] = deque()
    rows, times, errors, commands, aims = [], [], [], [], []
    speaker, until, begun, looked_at = 0, 0.0, 0.0, ''
    right = counted = seen = visible = 0
    next_frame = 0.0
    try:
        for k in tqdm(range(round(seconds / PERIOD)), disable=not show, desc='conversation'):
            t = (k + 1) * PERIOD
            if t >= until:
                speaker = int((speaker + rng.integers(1, n_people)) % n_people) if n_people > 1 else 0
                begun, until = t, t + float(rng.uniform(2.0, 4.5))
            for i, person in enumerate(people):
                is_open = i == speaker and int(t * 6) % 2 == 0
                sim.move_person(person, person.azimuth + 2.0 * float(np.sin(0.5 * t + i)), mouth_open=is_open)
            while waiting and waiting[0][0] <= t:
                _, stamp, faces = waiting.popleft()
                core.observe_faces(stamp, faces, _cues(sim, core, faces, people[speaker], stamp))
            result = core.step(t)
            if result.command.target_id != looked_at:
                looked_at = result.command.target_id
                commands.append(t)
                aims.append((result.target.yaw, result.target.pitch) if result.target is not None else (0.0, 0.0))
            sim.set_axes(result.command.points[-1])
            core.observe_head(t, *map(float, result.command.points[-1, :4]))
            rows.append(result.command.points)
            times.append(
                t - PERIOD + PERIOD * np.arange(1, len(result.command.points) + 1) / len(result.command.points)
            )
            if t - begun > 0.7:
                counted += 1
                right += sim.gaze_error(people[speaker]) < ON_TARGET
            if t >= next_frame:
                next_frame += 1.0 / FRAME_RATE
                image = sim.render()
                boxes = detector.detect(image)
                waiting.append((t + PIPELINE_DELAY, t, tracker.update(t, boxes)))
                ahead = [sim.true_direction(p) for p in people]
                visible += sum(abs(a - result.command.head[0]) < FOV / 2 - 6 for a, _ in ahead)
                seen += len(boxes)
                errors += _face_errors(core, ahead)
                if writer is not None:
                    writer.write(_picture(sim, image, boxes, core, result))
    finally:
        sim.close()
        if writer is not None:
            writer.release()
    track = np.concatenate(rows)
    aim = np.array(aims).reshape(-1, 2)
    log = GazeLog(np.concatenate(times), track[:, :2], track[:, 2:4], track[:, 5], np.array(commands), aim)
    return TalkResult(log, right / max(counted, 1), float(np.median(errors or [np.nan])), seen / max(visible, 1))


def _cues(sim: HeadSim, core: GazeCore, faces: list[TrackedFace], speaker: Person, stamp: float) -> dict[str, Entity]:
    """Give the speaking cue to the face nearest to where the voice comes from, or tell of a voice without a face."""
    voice = sim.true_direction(speaker)[0]
    places = {f.id: core.place(f, stamp) for f in faces}
    known = {name: way for name, way in places.items() if way is not None}
    talker = min(known, key=lambda name: abs(float(known[name][0]) - voice), default='')
    near = bool(talker) and abs(float(known[talker][0]) - voice) < 10.0
    if not near:
        # A voice from where no face is seen: a beamformer tells its azimuth alone.
        core.observe_entities(stamp, [Entity('voice', SOUND, voice, 0.0, 1.5, speaking=0.9)])
    return {f.id: Entity(f.id, speaking=float(near and f.id == talker), looks_at_robot=0.6) for f in faces}


def _face_errors(core: GazeCore, truth: list[tuple[float, float]]) -> list[float]:
    if core.scene is None:
        return []
    return [
        min(float(np.hypot(e.azimuth - a, e.elevation - b)) for a, b in truth)
        for e in core.scene.entities
        if e.face_visible
    ]


def _open_video(path: Path) -> Any:
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), FRAME_RATE, (3 * IMAGE[0], IMAGE[1]))
    if not writer.isOpened():
        raise OSError(f'{path}: this OpenCV cannot write the video; use a name ending in .mp4')
    return writer


def _picture(sim: HeadSim, image: Any, boxes: Any, core: GazeCore, result: CoreResult) -> Any:
    """Own view with faces and gaze cross, portrait, overview with rays and bars of the attention weights (BGR)."""
    import cv2

    own = image[:, :, ::-1].copy()
    for box in boxes:
        corner = (int(box.x + box.width), int(box.y + box.height))
        cv2.rectangle(own, (int(box.x), int(box.y)), corner, (80, 220, 80), 2)
    focal = 0.5 * IMAGE[0] / np.tan(np.radians(FOV / 2))
    yaw, pitch = np.radians(result.command.eye)
    spot = (int(IMAGE[0] / 2 - focal * np.tan(yaw)), int(IMAGE[1] / 2 - focal * np.tan(pitch)))
    cv2.drawMarker(own, spot, (20, 220, 255), cv2.MARKER_CROSS, 26, 3)
    over = sim.render('overview', rays=True)[:, :, ::-1].copy()
    weights = core.selector.attention if isinstance(core.selector, AttentionSelector) else {}
    for row, (name, weight) in enumerate(sorted(weights.items())):
        y = 22 + 20 * row
        cv2.rectangle(over, (90, y - 12), (90 + int(150 * weight), y), (60, 160, 240), -1)
        cv2.putText(over, name or 'idle', (6, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), 1, cv2.LINE_AA)
    return np.hstack([own, sim.render('portrait')[:, :, ::-1], over])


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seconds', type=float, default=120.0, help='scores need two minutes')
    parser.add_argument('--people', type=int, default=3, choices=(2, 3, 4))
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--video', type=Path, help='write a video here (.mp4)')
    parser.add_argument('--json', type=Path, help='write the results here')
    args = parser.parse_args(argv)
    talk = run_conversation(args.seconds, n_people=args.people, seed=args.seed, video=args.video, show=True)
    score = score_log(talk.log)
    rows = [
        Row('conversation_on_speaker/ours', talk.on_speaker, n=1),
        Row('conversation_face_error_deg/ours', talk.face_error, 'deg'),
        Row('conversation_faces_found/ours', talk.faces_found),
        Row('conversation_naturalness/ours', score.total, n=score.saccades.onset.size),
    ]
    for row in rows:
        print(f'{row.name:40}{row.value:8.3f} {row.unit}')
    if args.json:
        write_results(args.json, rows, 'conversation', [args.seed])


if __name__ == '__main__':
    main()
