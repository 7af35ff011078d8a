"""The scripted conversation, started as a user does."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros

LAUNCH = Path(__file__).parents[2] / 'launch' / 'gaze_sim.launch.py'
LIMIT_S = 150.0  # only a failing test waits that long


def launch(*arguments):
    if shutil.which('ros2') is None:
        pytest.skip('no ros2 on the path: source setup.bash')
    return subprocess.run(
        ['ros2', 'launch', str(LAUNCH), *arguments], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def test_a_conversation_ends_by_itself_with_joint_log_and_score(tmp_path):
    run = launch('seconds:=3', 'people:=2', 'render:=false', f'out:={tmp_path}')
    text = run.stdout + run.stderr
    assert run.returncode == 0 and 'Traceback' not in text, text
    assert "rendering is off; people are told on 'people' instead of shown" in text
    rows = {row['name']: row['value'] for row in json.loads((tmp_path / 'score.json').read_text())['rows']}
    assert rows['launch_on_speaker/ours'] > 0.0, 'gaze has found somebody who speaks'
    assert (tmp_path / 'joints.npz').is_file()


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
