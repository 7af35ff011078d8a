"""The gaze simulator in one process with the gaze node, or alone."""

import math

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from attn_robotics.conversions import gaze as messages
from attn_robotics.conversions.stamps import to_seconds, to_stamp
from attn_robotics.nodes.gaze import Gaze
from attn_robotics.nodes.gaze_simulator import BIRTH_S, GazeSimulator
from attn_robotics.ros import qos
from attn_robotics.systems.gaze.command import Command, Phase
from attn_robotics.systems.gaze.profile import load_profile
from attn_robotics_interfaces.msg import GazeTarget

pytestmark = pytest.mark.ros

PROFILE = load_profile('eyes_neck_lids')


def test_a_head_looks_at_who_speaks_and_the_run_is_written(graph, tmp_path):
    simulator = graph.start(GazeSimulator, render=False, seconds=2.0, people=2, out=str(tmp_path), wait_s=2.0)
    graph.start(Gaze, use_sim_time=True, faces=False, selection='rules')
    graph.until(lambda: simulator.is_done, 'the end')
    assert simulator.exit_code == 0 and not graph.errors()
    assert (tmp_path / 'score.json').is_file() and (tmp_path / 'joints.npz').is_file()
    assert not (tmp_path / 'gaze.mp4').exists()
    with np.load(tmp_path / 'joints.npz', allow_pickle=False) as log:
        assert log['t'].size > 300 and (np.diff(log['t']) > 0.0).all()
        assert np.abs(log['neck_yaw'] + log['eyes_yaw']).max() > 10.0, 'gaze went to a side, where people are'


def test_it_tells_joints_voices_and_people_and_follows_trajectories_but_not_while_frozen(graph):
    simulator = graph.start(GazeSimulator, render=False, seconds=0.0, freeze_at_s=0.1, freeze_for_s=1000.0)
    joints = graph.hear(JointState, 'joint_states', qos.SENSOR)
    truth = graph.hear(GazeTarget, 'gaze_simulator/people', qos.STATE)
    people = graph.hear(GazeTarget, 'people', qos.STATE)
    voices = graph.hear(GazeTarget, 'targets', qos.STATE)
    clocks = graph.hear(Clock, '/clock', qos.CLOCK)
    graph.until(lambda: len(joints) > 5 and truth and people and clocks, 'sensors')
    assert simulator.diagnose()[0] == DiagnosticStatus.WARN and not voices, 'the conversation waits for a commander'
    assert to_seconds(joints[0].header.stamp) >= BIRTH_S
    row = np.array([12.0, -4.0, 3.0, 2.0, 1.0, 0.0])
    command = Command(Phase.FIXATION, '', np.array([0.01]), row[None])
    graph.say(messages.to_trajectory(PROFILE, command, to_stamp(0.0)), 'joint_trajectory', qos.COMMAND)

    def pose():
        return messages.from_joint_state(PROFILE, joints[-1], 0.0)

    graph.until(lambda: pose().head == pytest.approx((12.0, -4.0)), 'the pose')
    graph.until(lambda: voices, 'a voice')
    assert voices[0].modality == 'auditory' and voices[0].point.z == 0.0
    places = {t.id: math.degrees(math.atan2(t.point.y, t.point.x)) for t in truth}
    heard = math.degrees(math.atan2(voices[-1].point.y, voices[-1].point.x))
    assert min(abs(heard - place) for place in places.values()) < 5.0, 'voices come from people'
    graph.until(lambda: simulator._clock_s > simulator._begun_s + 0.2, 'the freeze')
    away = Command(Phase.FIXATION, '', np.array([0.01]), -row[None])
    graph.say(messages.to_trajectory(PROFILE, away, to_stamp(0.0)), 'joint_trajectory', qos.COMMAND)
    graph.settle()
    assert pose().head == pytest.approx((12.0, -4.0))


def test_a_trajectory_for_another_robot_is_refused_by_name(graph):
    simulator = graph.start(GazeSimulator, render=False)
    graph.until(lambda: graph.state(simulator) == 'active')
    graph.say(JointTrajectory(joint_names=['elbow']), 'joint_trajectory', qos.COMMAND)
    graph.until(lambda: simulator.dropped['bad trajectory'], 'the complaint')
    assert 'trajectory without' in graph.log()


def test_without_a_commander_it_gives_up_with_one_clear_line(graph):
    simulator = graph.start(GazeSimulator, render=False, start_s=1.0)
    graph.until(lambda: simulator.is_done, 'the end')
    assert simulator.exit_code == 1
    assert any("no command on 'joint_trajectory' for 1 s" in line for line in graph.errors())


def test_the_camera_is_rendered_where_it_can_be_and_a_clear_line_is_said_where_not(graph):
    simulator = graph.start(GazeSimulator, people=2)
    images = graph.hear(Image, 'image', qos.SENSOR)
    infos = graph.hear(CameraInfo, 'camera_info', qos.SENSOR)
    people = graph.hear(GazeTarget, 'people', qos.STATE)
    graph.until(lambda: (images and infos) or people, 'pictures, or people instead')
    if people:
        assert any("people are told on 'people'" in line for line in graph.warnings())
        assert simulator._stage.problem
    else:
        pixels = messages.from_image(images[0])
        assert pixels.std() > 10.0 and images[0].header.frame_id == infos[0].header.frame_id
        assert messages.to_camera(infos[0]).width == pixels.shape[1]
