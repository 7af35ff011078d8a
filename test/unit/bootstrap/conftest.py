"""The stand-in comes first on the path, and every test has a log folder of its own."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

STANDIN = Path(__file__).parents[3] / 'bootstrap' / 'standin'
sys.path.insert(0, str(STANDIN))
# With the official launch already imported there is nothing of ours to test.
pytest.importorskip('launch.missing')


@pytest.fixture(autouse=True)
def log_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    from launch.logging import launch_config

    folder = tmp_path / 'log'
    monkeypatch.setenv('ROS_LOG_DIR', str(folder))
    monkeypatch.delenv('OVERRIDE_LAUNCH_PROCESS_OUTPUT', raising=False)
    vars(launch_config).clear()
    yield folder
    if file := vars(launch_config).pop('log_file', None):
        file.close()
    vars(launch_config).clear()


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An install prefix with one package, `demo`, and three executables."""
    root = tmp_path / 'prefix'
    (root / 'share' / 'ament_index' / 'resource_index' / 'packages').mkdir(parents=True)
    (root / 'share' / 'ament_index' / 'resource_index' / 'packages' / 'demo').touch()
    (root / 'share' / 'demo' / 'launch').mkdir(parents=True)
    executables = root / 'lib' / 'demo'
    executables.mkdir(parents=True)
    for name, text in {
        'show': 'printf "<%s>" "$@"; echo; for a; do case $a in *.yaml) cat "$a";; esac; done',
        'fail': 'echo "on stderr" >&2; exit 7',
        'stubborn': "trap '' INT TERM; sleep 1000 & echo ready $$ $!; while :; do wait; sleep 0.1; done",
    }.items():
        path = executables / name
        path.write_text(f'#!/bin/sh\n{text}\n')
        path.chmod(0o755)
    return root


@pytest.fixture
def environment(prefix: Path, log_folder: Path) -> dict[str, str]:
    """For a `ros2` command that sees only that prefix."""
    path = os.pathsep.join(filter(None, [str(STANDIN), os.environ.get('PYTHONPATH')]))
    return os.environ | {'AMENT_PREFIX_PATH': str(prefix), 'PYTHONPATH': path, 'ROS_LOG_DIR': str(log_folder)}
