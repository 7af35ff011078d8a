"""The spoken commands that ship, started as a newcomer does."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros

ROOT = Path(__file__).parents[2]
LIMIT_S = 150.0  # only a failing test waits that long


def launch(*arguments):
    if shutil.which('ros2') is None:
        pytest.skip('no ros2 on the path: source setup.bash')
    command = ['ros2', 'launch', str(ROOT / 'launch' / 'speech.launch.py'), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def test_the_sample_is_understood_and_the_launch_ends_by_itself():
    run = launch()
    text = run.stdout + run.stderr
    assert run.returncode == 0 and 'Traceback' not in text, text
    said = json.loads((ROOT / 'config' / 'audio' / 'commands.json').read_text())['sentences']
    places = [text.find(f"heard '{sentence}'") for sentence in said]
    assert all(place >= 0 for place in places) and places == sorted(places), text


def test_a_missing_file_is_named_without_a_traceback():
    run = launch('wav:=nowhere.wav')
    text = run.stdout + run.stderr
    assert run.returncode != 0 and "launch argument wav: no file 'nowhere.wav'" in text and 'Traceback' not in text, (
        text
    )
