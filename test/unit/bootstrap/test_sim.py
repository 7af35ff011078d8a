"""The `make sim` script and `setup.bash`, with a made-up ros2 and made-up installations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SUMMARY = '{"success": true, "robots": 8}'
ENDLESS = 'trap "echo interrupted; exit 0" INT; while :; do sleep 0.05; done'
KEEN = f'for a; do case "$a" in out:=*) echo \'{SUMMARY}\' > "${{a#out:=}}/summary.json";; esac; done'


@pytest.fixture
def sim(tmp_path):
    """Run bootstrap/sim.py with a ros2 that does what a line of shell says, none where it is empty."""

    def run(ros2, *arguments):
        folder = tmp_path / 'bin'
        folder.mkdir()
        path = str(folder)
        if ros2:
            (folder / 'ros2').write_text(f'#!/bin/sh\n{ros2}\n')
            (folder / 'ros2').chmod(0o755)
            path += f'{os.pathsep}/usr/bin{os.pathsep}/bin'
        command = [sys.executable, str(ROOT / 'bootstrap' / 'sim.py'), '--no-bag', '--out', str(tmp_path / 'out')]
        return subprocess.run(
            [*command, *arguments], env=os.environ | {'PATH': path}, capture_output=True, text=True, timeout=60
        )

    return run


def test_a_run_that_does_not_end_is_stopped_and_failed(sim):
    done = sim(ENDLESS, '--limit', '3')
    assert done.returncode == 1
    assert 'not over after 3 s: stopped' in done.stderr and 'Traceback' not in done.stderr
    assert 'interrupted' in done.stdout, 'it was killed instead of asked'


def test_a_run_that_succeeds_ends_with_0_and_shows_its_summary(sim):
    done = sim(KEEN)
    assert done.returncode == 0, done.stderr
    assert 'robots             8' in done.stdout and 'summary.json' in done.stdout


def test_a_run_without_a_summary_is_a_failure(sim):
    done = sim('exit 0')
    assert done.returncode == 1 and 'without a summary' in done.stderr


def test_without_ros2_there_is_one_line(sim):
    done = sim('')
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert 'no ros2 on the path' in line and 'make prepare' in line


@pytest.fixture
def checkout(tmp_path):
    """A prepared checkout in a folder with a space, as far as setup.bash looks at it."""
    root = tmp_path / 'my checkout'
    (root / 'install').mkdir(parents=True)
    (root / '.venv' / 'bin').mkdir(parents=True)
    for name in ('setup.bash', 'local_setup.bash'):
        (root / 'install' / name).touch()
    (root / 'setup.bash').write_text((ROOT / 'setup.bash').read_text())
    return root


def prefixes_after(checkout, before):
    """AMENT_PREFIX_PATH after setup.bash was sourced, strictly."""
    script = 'set -eu; source "$1/setup.bash"; echo "$AMENT_PREFIX_PATH"; compgen -v _attn_ || true'
    environment = {k: v for k, v in os.environ.items() if k not in ('AMENT_PREFIX_PATH', 'VIRTUAL_ENV')}
    environment |= {} if before is None else {'AMENT_PREFIX_PATH': before}
    command = ['bash', '-c', script, 'bash', str(checkout)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize('place', [0, 1, 2])
def test_a_ros_that_is_there_stays_wherever_it_is_on_the_path(checkout, tmp_path, place):
    folders = [tmp_path / name for name in ('overlay', 'other', 'ros')]
    share = folders[place] / 'share' / 'launch_ros'
    share.mkdir(parents=True)
    (share / 'package.xml').touch()
    before = ':'.join(map(str, folders))
    assert prefixes_after(checkout, before) == before


@pytest.mark.parametrize('before', [None, '', '/nowhere:/elsewhere'])
def test_without_a_ros_the_wheels_are_one(checkout, before):
    assert prefixes_after(checkout, before) == str(checkout / '.venv')
