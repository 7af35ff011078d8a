"""Faces, tracks, the simulated head and the whole core."""

import math
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.systems.gaze.arbitration import Request
from attn_robotics.systems.gaze.camera import Camera
from attn_robotics.systems.gaze.checks import fuzz
from attn_robotics.systems.gaze.command import Target
from attn_robotics.systems.gaze.core import GazeCore
from attn_robotics.systems.gaze.detector import HaarDetector, check_image
from attn_robotics.systems.gaze.detector_process import DetectorProcess
from attn_robotics.systems.gaze.entities import Entity
from attn_robotics.systems.gaze.faces import draw_face
from attn_robotics.systems.gaze.head_sdf import main as write_sdf
from attn_robotics.systems.gaze.head_sim import HeadSim
from attn_robotics.systems.gaze.head_world import PARTS, Person
from attn_robotics.systems.gaze.planner import GazePlanner
from attn_robotics.systems.gaze.profile import load_profile
from attn_robotics.systems.gaze.tracker import Box, FaceTracker, OneEuro, TrackedFace

CAMERA = Camera.from_field_of_view(640, 480, 60.0)


def picture(*faces):
    image = np.full((480, 640, 3), 90, np.uint8)
    for seed, x, y, size in faces:
        image[y : y + size, x : x + size] = draw_face(seed, size)
    return image


def test_drawn_faces_are_found_where_they_are_and_none_on_a_wall():
    detector = HaarDetector()
    found = detector.detect(picture((1, 60, 100, 150), (2, 400, 150, 120)))
    centres = sorted((b.x + b.width / 2, b.y + b.height / 2) for b in found)
    assert len(found) == 2
    assert centres[0] == pytest.approx((135, 175), abs=15) and centres[1] == pytest.approx((460, 210), abs=15)
    assert detector.detect(picture()) == []


def test_known_faces_are_followed_between_whole_searches_and_a_new_one_is_noticed():
    detector = HaarDetector()
    for k in range(4):
        (box,) = detector.detect(picture((1, 60 + 8 * k, 100, 150)))
        assert box.x + box.width / 2 == pytest.approx(135 + 8 * k, abs=15)
    counts = [len(detector.detect(picture((1, 90, 100, 150), (2, 400, 150, 120)))) for _ in range(6)]
    assert counts[-1] == 2
    assert detector.detect(picture()) == []


@pytest.mark.parametrize(
    'image', [None, np.zeros((480, 640)), np.zeros((480, 640, 4), np.uint8), np.zeros((3, 3), np.uint8)]
)
def test_what_is_no_image_is_refused_in_one_line(image):
    with pytest.raises(ValueError, match='image'):
        check_image(image)


def test_the_detector_in_its_own_process_answers_drops_and_survives_bad_images():
    process = DetectorProcess()
    try:
        assert process.submit(1.0, picture((1, 60, 100, 150)))
        assert not process.submit(2.0, picture()) and process.dropped == 1
        (first,) = process.poll(timeout=60)
        assert first.stamp == 1.0 and len(first.boxes) == 1
        with pytest.raises(ValueError, match='outside'):
            process.submit(2.5, np.zeros((2, 2), np.uint8))
        assert process.submit(3.0, picture((1, 60, 100, 150))[:, :, 0])
        (second,) = process.poll(timeout=60)
        assert second.stamp == 3.0 and len(second.boxes) == 1 and process.is_alive
    finally:
        process.close()
    assert not process.is_alive


def test_bearings_are_left_and_up_positive_and_invert_the_projection():
    yaw, pitch = CAMERA.bearing(0.0, 0.0)
    assert yaw == pytest.approx(30.0, abs=0.1) and pitch > 0
    assert CAMERA.bearing(CAMERA.cx, CAMERA.cy) == (0.0, 0.0)
    with pytest.raises(ValueError, match='calibrate'):
        Camera(640, 480, 0.0, 1.0, 0.0, 0.0)


def test_two_faces_that_pass_keep_their_ids_and_a_lost_one_is_waited_for():
    tracker = FaceTracker(CAMERA)
    ids = {}
    for k in range(60):
        boxes = [Box(100 + 4 * k, 100, 80, 80), Box(400 - 4 * k, 240, 80, 80)]
        faces = tracker.update(k / 30, boxes if k % 5 else boxes[:1])
        for face in faces:
            ids.setdefault(face.id, []).append(face.pitch)
    assert len(ids) == 2
    assert all(np.ptp(pitches) < 1.0 for pitches in ids.values())
    assert tracker.update(10.0, []) == []


@given(st.lists(st.builds(Box, *[st.floats(allow_nan=True, allow_infinity=True)] * 4), max_size=60))
@settings(max_examples=30, deadline=None)
def test_broken_boxes_never_break_the_tracker(boxes):
    tracker = FaceTracker(CAMERA)
    for k in range(3):
        faces = tracker.update(0.1 * k, boxes)
        assert all(math.isfinite(f.yaw) and math.isfinite(f.pitch) for f in faces)


def test_one_euro_smooths_what_stands_and_follows_what_moves():
    rng = np.random.default_rng(0)
    still = OneEuro()
    rest = [still.step(float(v), 1 / 30) for v in rng.normal(0, 1, 300)]
    assert np.std(rest[50:]) < 0.6
    moving = OneEuro()
    follow = [moving.step(20.0 * k / 30, 1 / 30) for k in range(90)]
    assert abs(follow[-1] - 20 * 89 / 30) < 4.0


def test_simulated_eyes_converge_on_what_they_fixate():
    person = Person('p', 0, 20.0, 0.6, 1.53)
    sim = HeadSim([person])
    yaw, pitch = sim.true_direction(person)
    sim.set_axes(np.array([yaw, pitch, 0.0, 0.0, 6.8, 0.0]))
    rays = sim.eye_rays()
    angle = math.degrees(math.acos(float(rays[0, 1] @ rays[1, 1])))
    assert angle == pytest.approx(6.8, abs=1e-6)
    assert rays[0, 0, 1] > rays[1, 0, 1]  # the left eye is to the left
    assert sim.gaze_error(person) < 10.0


@pytest.fixture
def sdf(tmp_path):
    write_sdf([str(tmp_path), '--people', '4'])
    return tmp_path / 'gaze.sdf'


def test_the_same_scene_as_sdf_has_every_person_joint_shape_and_picture(sdf):
    tree = ElementTree.parse(sdf)
    assert {m.get('name') for m in tree.iter('model')} == {'gaze_head', 'p0', 'p1', 'p2', 'p3'}
    joints = {j.get('name') for j in tree.iter('joint')}
    assert {hinge.name for part in PARTS for hinge in part.hinges} == joints - {'stand'}
    assert {'head_camera', 'left_eye_camera', 'right_eye_camera'} == {s.get('name') for s in tree.iter('sensor')}
    assert all((sdf.parent / picture.text).is_file() for picture in tree.iter('albedo_map'))
    sim = HeadSim([Person('a', 0, -20, 1.0)])
    assert {sim.model.joint(k).name for k in range(sim.model.njnt)} == joints - {'stand'}, 'MuJoCo has the same'


@pytest.mark.skipif(shutil.which('ign') is None, reason='needs Debian packages ignition-tools and libsdformat-dev')
def test_the_sdf_parser_calls_the_scene_valid(sdf):
    checked = subprocess.run(['ign', 'sdf', '-k', str(sdf)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0 and checked.stdout.strip().splitlines()[-1:] == ['Valid.']
    assert 'Error' not in checked.stderr.replace('Library error', '')


def make_core():
    return GazeCore(load_profile(), GazePlanner(load_profile(), scatter=False, idle=False))


def test_the_core_looks_at_a_face_placed_with_the_head_pose_of_its_image():
    core = make_core()
    true = np.array([30.0, 2.0])
    for k in range(300):
        t = (k + 1) * 0.01
        result = core.step(t)
        core.observe_head(t, *map(float, result.command.head))
        if k % 5 == 0 and k > 12:
            past = t - 0.1
            pose = core._history.at(past)
            if pose is not None:
                core.observe_faces(past, [TrackedFace('f', *(true - pose), 50.0, 0.0)])
    gaze = result.command.head + result.command.eye
    assert result.client == 'attention' and gaze == pytest.approx(true, abs=1.0)


def test_an_image_older_than_the_pose_history_is_dropped_and_counted():
    core = make_core()
    core.observe_head(100.0, 0.0, 0.0)
    assert core.observe_faces(1.0, [TrackedFace('f', 0.0, 0.0, 1.0, 0.0)]) == 0
    assert core.dropped['image without head pose'] == 1


def test_a_client_overrides_attention_until_its_time_is_up():
    core = make_core()
    seen = []
    for k in range(400):
        t = (k + 1) * 0.01
        core.observe_entities(t, [Entity('p', azimuth=-20.0, speaking=1.0, distance=2.0)])
        if k == 100:
            assert core.request(Request('app', Target('wall', 25.0, 0.0), timeout=1.0), t) is None
        seen.append(core.step(t))
    assert seen[90].client == 'attention' and seen[150].client == 'app' and seen[-1].client == 'attention'
    assert seen[190].command.head[0] + seen[190].command.eye[0] == pytest.approx(25, abs=0.5)


def test_fuzzing_finds_no_nan_no_broken_limit_and_no_jump():
    counts = fuzz(4500, seed=1)
    assert counts['not_finite'] == counts['beyond_limit'] == counts['too_fast'] == 0
    assert counts['jump_deg'] < 1e-6


@pytest.mark.parametrize('silent', [True, False])
def test_joints_that_fall_silent_or_do_not_follow_are_reported_and_gaze_goes_to_rest(silent):
    core = make_core()
    warned, commands = [], []
    for k in range(900):
        t = (k + 1) * 0.01
        core.observe_entities(t, [Entity('p', azimuth=60.0, speaking=1.0, distance=2.0)])
        result = core.step(t)
        stuck = k > 100
        if not (silent and stuck):
            head = (0.0, 0.0) if stuck else tuple(map(float, result.command.head))
            core.observe_head(t, *head)
        warned += result.warnings
        commands.append(result.command)
    words = 'no joint states' if silent else 'does not follow'
    assert any(words in warning for warning in warned)
    points = np.concatenate([c.points for c in commands])
    assert np.abs(np.diff(points[:, 0])).max() <= 260 * 0.005 + 1e-9
    if silent:
        assert abs(commands[-1].head[0]) < 1.0
