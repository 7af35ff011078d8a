"""Start `ros2 launch` as a user does, watch its output, and see that nothing is left of it."""

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 90.0  # only failing tests wait that long


class Launched:
    """A `ros2 launch` under way; its output is read in a thread."""

    def __init__(self, *arguments):
        self.lines, self._changed = [], threading.Condition()
        # A group of its own, so that Ctrl-C from a test reaches what a terminal's would.
        self.process = subprocess.Popen(
            ['ros2', 'launch', str(ROOT / 'launch' / 'sparc_sim.launch.py'), 'headless:=true', *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, errors='replace',
        )  # fmt: skip
        self._seen, self._is_over = {}, False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def text(self):
        return '\n'.join(self.lines)

    def wait_for(self, *words, limit_s=LIMIT_S):
        """The first line with any of these words."""
        with self._changed:
            found = lambda: [line for line in self.lines if any(part in line for part in words)]  # noqa: E731
            self._changed.wait_for(lambda: found() or self._is_over, limit_s)
            assert found(), f'no {words!r} in:\n{self.text()}'
            return found()[0]

    def children(self):
        """Processes below the launch, also those seen before that have lost their parent since."""
        if self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self._seen[child.pid] = child
        return [child for child in self._seen.values() if child.is_running() and child.status() != 'zombie']

    def node(self, executable):
        """The process of one of our executables."""
        (found,) = [c for c in self.children() if any(part.endswith(f'/{executable}') for part in c.cmdline())]
        return found

    def interrupt(self):
        os.kill(self.process.pid, signal.SIGINT)

    def end(self, limit_s=LIMIT_S):
        """Exit code; output is complete then."""
        code = self.process.wait(limit_s)
        self._reader.join(limit_s)
        return code

    def kill(self):
        children = self.children()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for child in children:
            if child.is_running():
                child.kill()
        self._reader.join(10)
        self.process.stdout.close()


@pytest.fixture
def launch():
    """Start launches; whatever is left of them at the end of the test is killed."""
    if shutil.which('ros2') is None:
        pytest.skip('no ros2 on the path: source setup.bash')
    started = []

    def start(*arguments):
        started.append(Launched(*arguments))
        return started[-1]

    yield start
    for launched in started:
        launched.kill()


@pytest.fixture
def small_world(tmp_path):
    """Four robots on a small map drawn by hand."""
    path = tmp_path / 'small.yaml'
    path.write_text(
        'map:\n  text: |\n    .....\n    .#.#.\n    .....\n    .#.#.\n    .....\n'
        'starts: [[0, 0], [0, 4], [4, 0], [4, 4]]\ngoals: [[4, 4], [4, 0], [0, 4], [0, 0]]\n'
    )
    return f'world:={path}'


def wait_until(condition, what, limit_s=LIMIT_S):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f'{what} did not come true in {limit_s:g} s'
        time.sleep(0.05)


@pytest.fixture(name='wait_until')
def _wait_until():
    return wait_until
