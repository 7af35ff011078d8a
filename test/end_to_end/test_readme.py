"""README does what it says: its first Python example runs, its commands and parameters exist."""

import importlib
import itertools
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from attn_robotics.ros.parameters import table

pytestmark = [pytest.mark.ros, pytest.mark.xdist_group('launch')]

ROOT = Path(__file__).parents[2]
README = (ROOT / 'README.md').read_text() if (ROOT / 'README.md').exists() else ''
LAUNCH_FILES = {path.name: path for path in (ROOT / 'launch').rglob('*.launch.py')}


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```', README, re.DOTALL | re.MULTILINE)


def commands():
    """Every command of the bash blocks, comments left out, continued lines joined."""
    text = ''.join(blocks('bash')).replace('\\\n', ' ')
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [command for line in lines if line for command in split_at_and(line)]


def split_at_and(words):
    command = []
    for word in words:
        if word == '&&':
            yield command
            command = []
        else:
            command.append(word)
    yield command


def targets():
    return set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))


def launch_arguments(path):
    return set(re.findall(r"^ +\('(\w+)', |^ +'(\w+)',$", path.read_text(), re.MULTILINE))


def has_module(name):
    path = ROOT / Path(*name.split('.'))
    return path.with_suffix('.py').exists() or (path / '__main__.py').exists()


def check(words):
    """Say what is wrong with a command, None when nothing is; cheap, so nothing is started."""
    match words:
        case ['make', *rest]:
            unknown = {word for word in rest if '=' not in word} - targets()
            return f'no make target {unknown}' if unknown else None
        case ['source' | '.', path]:
            return None if path.startswith('install/') or (ROOT / path).exists() else f'no {path}'
        case ['ros2', 'launch', 'attn_robotics', name, *rest]:
            if name not in LAUNCH_FILES:
                return f'no launch file {name}'
            known = {argument for pair in launch_arguments(LAUNCH_FILES[name]) for argument in pair if argument}
            given = {word.split(':=')[0] for word in rest if ':=' in word}
            return f'{name} has no argument {given - known}' if given - known else None
        case ['ros2', 'run', 'attn_robotics', name, *_]:
            return None if (ROOT / 'attn_robotics' / 'nodes' / f'{name}.py').exists() else f'no executable {name}'
        case ['ros2', 'topic' | 'node' | 'service' | 'param' | 'lifecycle' | 'interface' | 'pkg' | 'bag', *_]:
            return None
        case ['python' | 'python3', '-m', module, *_]:
            return None if module == 'pip' or has_module(module) else f'no module {module}'
        case ['python' | 'python3', path, *_]:
            return None if (ROOT / path).exists() else f'no {path}'
        case ['sudo' | 'apt-get' | 'rosdep' | 'colcon' | 'pip' | 'git' | 'cd' | 'export' | 'pre-commit', *_]:
            return None
    return f'{words[0]}: is it spelled right? add it to this test then'


def test_every_command_exists():
    assert commands(), 'README has no bash blocks'
    wrong = [f'{" ".join(words)}: {problem}' for words in commands() if (problem := check(words))]
    assert not wrong, '\n'.join(wrong)


def test_a_command_that_does_not_exist_would_be_found():
    assert check(['make', 'simm']) and check(['ros2', 'run', 'attn_robotics', 'docter'])
    assert check(['ros2', 'launch', 'attn_robotics', 'sparc_sim.launch.py', 'robot:=3'])
    assert check(['python', '-m', 'attn_robotics.systems.spark.evaluate']) and check(['rviz3'])


def test_links_lead_somewhere():
    links = re.findall(r'\]\((?!https?:|#)([^)#]+)', README)
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


@pytest.mark.parametrize('node', re.findall(r'<!-- parameters: (\w+) -->', README))
def test_parameter_tables_are_those_of_the_classes(node):
    module = importlib.import_module(f'attn_robotics.nodes.{node}')
    (kind,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and getattr(value, 'Params', None) and value.__module__ == module.__name__
    ]
    shown = re.search(rf'<!-- parameters: {node} -->\n(.*?)\n<!-- end -->', README, re.DOTALL)[1]
    assert shown.strip() == table(kind.Params), 'renew the tables with: python docs/parameters.py'


@pytest.fixture
def fleet():
    """A fleet that drives for ever."""
    if shutil.which('ros2') is None:
        pytest.skip('no ros2 on the path: source setup.bash')
    arguments = ['robots:=3', 'size:=8', 'density:=0.1', 'body:=disc', 'lifelong:=true', 'headless:=true']
    process = subprocess.Popen(
        ['ros2', 'launch', str(ROOT / 'launch' / 'sparc_sim.launch.py'), *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield process
    process.send_signal(signal.SIGINT)
    try:
        process.wait(30)
    finally:
        process.kill()


@pytest.fixture
def listener(tmp_path):
    """The first Python example of README, as its user starts it."""
    example = tmp_path / 'listener.py'
    example.write_text(blocks('python')[0])
    process = subprocess.Popen(
        [sys.executable, str(example)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    watchdog = threading.Timer(100, process.kill)  # ends the reading of its lines
    watchdog.start()
    yield process
    watchdog.cancel()
    process.kill()
    process.communicate()


def test_the_first_python_example_hears_a_running_fleet(fleet, listener):
    lines = list(itertools.islice(listener.stdout, 6))
    assert len(lines) == 6, f'heard {lines} in 100 s; {listener.stderr.read()}'
    assert all(re.fullmatch(r'step \d+: robot_\d attends most to robot_\d \(\d\.\d\d\)\n', line) for line in lines)
    assert fleet.poll() is None
    listener.send_signal(signal.SIGINT)
    assert listener.wait(30) == 0 and not listener.stderr.read()
