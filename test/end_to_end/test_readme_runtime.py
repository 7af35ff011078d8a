"""README's words on the attention runtime, on a real graph: launch, `ros2 service call`, ten lines of Python."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.xdist_group('launch')]

ROOT = Path(__file__).parents[2]
README = (ROOT / 'README.md').read_text()
SECTION = README[README.index('### `attention_runtime`') : README.index('### `container`')]
LIMIT_S = 90


def block(language):
    return re.search(rf'^```{language}\n(.*?)^```', SECTION, re.DOTALL | re.MULTILINE)[1]


@pytest.fixture(scope='module')
def runtime():
    """The launch of README, ready."""
    if shutil.which('ros2') is None:
        pytest.skip('no ros2 on the path: source setup.bash')
    launch = shlex.split(block('bash').splitlines()[0])
    launch[3] = str(ROOT / 'launch' / launch[3])
    process = subprocess.Popen(
        ['ros2', 'launch', *launch[3:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    watchdog = threading.Timer(LIMIT_S, process.kill)
    watchdog.start()
    lines = []
    for line in process.stdout:
        lines.append(line)
        if 'ready; loaded: small_transformer' in line:
            break
    watchdog.cancel()
    drain = threading.Thread(target=process.stdout.read, daemon=True)
    drain.start()
    assert process.poll() is None, ''.join(lines)
    yield
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.stdout.close()


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_service_call_lists_the_models(runtime):
    shown = run(shlex.split(block('bash').splitlines()[1]))
    for name in ('identity', 'small_transformer', 'sparc'):
        assert f"name='{name}'" in shown
    assert re.search(r"name='small_transformer'.*?state=2", shown)


def test_the_topic_shows_a_model(runtime):
    assert 'name: ' in run(shlex.split(block('bash').splitlines()[2]))


def test_ten_lines_of_python_get_an_answer(runtime):
    code = block('python')
    assert len(code.strip().splitlines()) <= 11
    assert run([sys.executable, '-c', code]).strip() == '(1, 16, 64)'
