"""The score, its logs and the small CDR reader."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.systems.gaze import score as score_module
from attn_robotics.systems.gaze.baselines import FixedTimesBaseline, NearestFaceBaseline, ServoBaseline
from attn_robotics.systems.gaze.cdr import (
    CdrError,
    read_gaze_state,
    read_joint_state,
    read_joint_trajectory,
    read_transforms,
)
from attn_robotics.systems.gaze.command import GazeLog
from attn_robotics.systems.gaze.joint_log import match_aims, read_log, write_log
from attn_robotics.systems.gaze.planner import GazePlanner
from attn_robotics.systems.gaze.profile import load_profile
from attn_robotics.systems.gaze.saccades import find_saccades
from attn_robotics.systems.gaze.score import latencies, response_times, score_log
from attn_robotics.systems.gaze.session import standard_session

PROFILE = load_profile()


class Writer:
    """Just enough CDR to write test messages."""

    def __init__(self):
        self.data = bytearray(b'\0\1\0\0')

    def put(self, code, size, value):
        self.data += b'\0' * (-(len(self.data) - 4) % size) + struct.pack('<' + code, value)
        return self

    def text(self, value):
        raw = value.encode() + b'\0'
        self.put('I', 4, len(raw))
        self.data += raw
        return self

    def header(self, stamp):
        self.put('i', 4, int(stamp)).put('I', 4, round((stamp % 1) * 1e9)).text('base')
        return self

    def doubles(self, values):
        self.put('I', 4, len(values))
        for value in values:
            self.put('d', 8, value)
        return self


def joint_state(stamp, names, positions):
    w = Writer().header(stamp).put('I', 4, len(names))
    for name in names:
        w.text(name)
    return bytes(w.doubles(positions).doubles([]).doubles([]).data)


def test_a_joint_state_is_read_back_with_its_stamp():
    sample = read_joint_state(joint_state(12.25, ['a', 'bcd'], [0.5, -1.5]))
    assert sample.stamp == pytest.approx(12.25) and sample.names == ('a', 'bcd')
    assert sample.positions.tolist() == [0.5, -1.5]


def test_a_trajectory_becomes_points_in_time():
    w = Writer().header(3.0).put('I', 4, 1)
    w.text('n').put('I', 4, 2)
    for k in range(2):
        w.doubles([0.1 * k]).doubles([]).doubles([]).doubles([])
        w.put('i', 4, 0).put('I', 4, 500_000_000 * (k + 1))
    samples = read_joint_trajectory(bytes(w.data))
    assert [s.stamp for s in samples] == pytest.approx([3.5, 4.0])
    assert [s.positions[0] for s in samples] == pytest.approx([0, 0.1])


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_garbage_is_refused_and_never_read_past_its_end(data):
    for read in (read_joint_state, read_joint_trajectory, read_gaze_state, read_transforms):
        try:
            read(data)
        except CdrError:
            continue


def test_a_huge_count_is_refused_before_it_costs_memory():
    w = Writer().header(0.0).put('I', 4, 2**31)
    with pytest.raises(CdrError, match='at most'):
        read_joint_state(bytes(w.data))


@pytest.fixture(scope='module')
def ours():
    return standard_session(GazePlanner(PROFILE, seed=3), seconds=90)


def test_our_gaze_scores_at_least_0_9_and_every_baseline_far_less(ours):
    total = score_log(ours).total
    assert total > 0.9
    for make in (NearestFaceBaseline, FixedTimesBaseline, ServoBaseline):
        assert score_log(standard_session(make(PROFILE), seconds=60)).total < 0.5 * total


def test_without_commands_or_lids_those_axes_are_left_out_or_replaced(ours):
    bare = GazeLog(ours.t, ours.head, ours.eye, np.full_like(ours.lids, np.nan))
    axes = {axis.name: axis for axis in score_log(bare).axes}
    assert np.isnan(axes['blink'].value) and axes['latency'].value > 0.4
    assert score_log(bare).total > 0.8


def test_a_gaze_that_never_moves_scores_no_main_sequence():
    t = np.arange(0, 5, 0.01)
    still = GazeLog(t, np.zeros((500, 2)), np.zeros((500, 2)), np.zeros(500))
    assert score_log(still).total == 0.0


def test_saccades_of_a_log_at_100_hz_are_measured_as_at_200(ours):
    thin = GazeLog(ours.t[::2], ours.head[::2], ours.eye[::2], ours.lids[::2])
    fine, coarse = find_saccades(ours), find_saccades(thin)
    assert abs(fine.onset.size - coarse.onset.size) <= 0.05 * fine.onset.size + 1
    assert np.median(coarse.peak) == pytest.approx(np.median(fine.peak), rel=0.05)


def test_only_a_saccade_towards_the_target_answers_and_only_a_target_elsewhere_asks(ours):
    saccades = find_saccades(ours)
    assert response_times(ours, saccades).size > 20
    first, aim = float(ours.command[3]), ours.aim[3]
    renamed = np.array([first + 1.2])  # the same place under another name, when gaze is there
    log = replace(ours, command=renamed, aim=aim[None])
    assert response_times(log, saccades).size == 0
    away = replace(ours, command=np.array([first]), aim=-aim[None])
    assert response_times(away, saccades).size == 0, 'the saccade went elsewhere'


def test_aims_belong_to_the_change_they_follow_at_once():
    times, aims = match_aims([1.0, 2.0, 3.0], [(1.05, 10.0, 0.0), (2.5, 5.0, 5.0), (3.0, -4.0, 1.0)])
    assert times.tolist() == [1.0, 2.0, 3.0] and np.isnan(aims[1]).all()
    assert aims[[0, 2]].tolist() == [[10.0, 0.0], [-4.0, 1.0]]
    assert match_aims([1.0], [])[1].shape == (0, 2)


def test_latency_counts_only_saccades_that_follow_soon():
    assert latencies(np.array([1.2, 5.0]), np.array([1.0, 3.0, 4.9, 6.0])) == pytest.approx([0.2, 0.1])
    assert latencies(np.zeros(0), np.array([1.0])).size == 0


def test_logs_survive_npz_csv_and_a_bag(ours, tmp_path):
    from mcap.writer import Writer as McapWriter

    path = tmp_path / 'log.npz'
    write_log(path, ours)
    back = read_log(path, PROFILE)
    assert back.gaze == pytest.approx(ours.gaze) and back.command == pytest.approx(ours.command)
    table = tmp_path / 'log.csv'
    lines = [f'{t},{h[0]},{h[1]}' for t, h in zip(ours.t[:300], ours.head[:300], strict=True)]
    table.write_text('\n'.join(['t,neck_yaw,neck_pitch', *lines]), encoding='utf-8')
    assert read_log(table, PROFILE).head == pytest.approx(ours.head[:300])
    bag = tmp_path / 'bag'
    bag.mkdir()
    axes = ['neck_yaw', 'neck_pitch', 'eyes_yaw', 'eyes_pitch', 'lids']
    names = [PROFILE.joints[a].name for a in axes]
    signs = np.array([PROFILE.joints[a].sign for a in axes])
    with (bag / 'x.mcap').open('wb') as stream:
        writer = McapWriter(stream)
        writer.start()
        schema = writer.register_schema('sensor_msgs/msg/JointState', 'ros2msg', b'')
        channel = writer.register_channel('/joint_states', 'cdr', schema)
        for k in range(0, 3000):
            row = np.radians([*ours.head[k], *ours.eye[k], 0.0]) * signs
            row[4] = ours.lids[k]
            writer.add_message(channel, int(k), joint_state(ours.t[k] + 1.0, names, row), int(k))
        writer.add_message(channel, 9999, b'broken', 9999)
        writer.finish()
    again = read_log(bag, PROFILE)
    assert again.gaze == pytest.approx(ours.gaze[:3000], abs=1e-9)


@pytest.mark.parametrize(
    ('name', 'content', 'words'),
    [('a.mcap', b'nonsense', 'MCAP'), ('a.csv', b't,neck_yaw\n1,x', 'not a number'), ('a.txt', b'', 'expected')],
)
def test_an_unusable_log_is_refused_in_one_line(tmp_path, name, content, words, capsys):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        score_module.main([str(path)])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert words in message and len(message.strip().splitlines()) == 1


def test_the_score_tool_writes_results_and_a_picture(ours, tmp_path, capsys):
    write_log(tmp_path / 'log.npz', ours)
    arguments = ['--json', str(tmp_path / 'r.json'), '--plot', str(tmp_path / 'p.png')]
    score_module.main([str(tmp_path / 'log.npz'), *arguments])
    rows = {row['name']: row for row in json.loads((tmp_path / 'r.json').read_text())['rows']}
    assert rows['naturalness/log']['met'] is True
    assert (tmp_path / 'p.png').stat().st_size > 10_000
    assert 'main_sequence' in capsys.readouterr().out
