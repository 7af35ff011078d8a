"""The scripted conversation, started as a user does."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from attn_robotics.systems.gaze import score
from attn_robotics.systems.gaze.joint_log import read_log
from attn_robotics.systems.gaze.profile import load_profile

pytestmark = pytest.mark.ros

LAUNCH = Path(__file__).parents[2] / 'launch' / 'gaze_sim.launch.py'
LIMIT_S = 150.0  # only a failing test waits that long


def launch(*arguments):
    if shutil.which('ros2') is None:
        pytest.skip('no ros2 on the path: source setup.bash')
    return subprocess.run(
        ['ros2', 'launch', str(LAUNCH), *arguments], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def test_a_conversation_ends_by_itself_with_joint_log_and_score_and_its_bag_is_scored(tmp_path, capsys):
    if shutil.which('ros2') is None:
        pytest.skip('no ros2 on the path: source setup.bash')
    bag = tmp_path / 'bag'
    topics = ['joint_states', 'gaze/state', '/tf']
    recorder = subprocess.Popen(['ros2', 'bag', 'record', '-s', 'mcap', '-o', str(bag), *topics])
    try:
        run = launch('seconds:=6', 'people:=2', 'render:=false', f'out:={tmp_path}')
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.wait(30.0)
    text = run.stdout + run.stderr
    assert run.returncode == 0 and 'Traceback' not in text, text
    assert "rendering is off; people are told on 'people' instead of shown" in text
    rows = {row['name']: row['value'] for row in json.loads((tmp_path / 'score.json').read_text())['rows']}
    assert rows['launch_on_speaker/ours'] > 0.0, 'gaze has found somebody who speaks'
    assert (tmp_path / 'joints.npz').is_file()
    score.main([str(bag), '--plot', str(tmp_path / 'bag.png')])
    assert 'main_sequence' in capsys.readouterr().out and (tmp_path / 'bag.png').is_file()
    profile = load_profile()
    recorded, written = read_log(bag, profile), read_log(tmp_path / 'joints.npz', profile)
    assert recorded.command.size >= 1 and recorded.aim.shape == (recorded.command.size, 2)
    assert recorded.gaze[:, 0].max() == pytest.approx(written.gaze[:, 0].max(), abs=2.0), 'the same movement'


@pytest.mark.parametrize(
    ('argument', 'words'),
    [
        ('people:=some', "launch argument people must be a whole number, got 'some'"),
        ('selection:=oracle', 'selection'),
    ],
)
def test_a_bad_argument_is_named_without_a_traceback(argument, words):
    run = launch(argument)
    text = run.stdout + run.stderr
    assert run.returncode != 0 and words in text and 'Traceback' not in text, text
