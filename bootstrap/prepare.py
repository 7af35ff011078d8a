"""Prepare a bare machine: virtual environment, pinned wheels, interface build, install.

Runs on the system's Python alone. Every step leaves a stamp with a digest of what it read, written only when the step
is complete: a second run does nothing, an interrupted one goes on where it stopped, a changed input redoes what
depends on it. Where a ROS 2 Jazzy is sourced, its own packages are used and only the rest is installed.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOOTSTRAP = ROOT / 'bootstrap'
STATE = ROOT / '.prepare'
VENV = ROOT / '.venv'
PYTHON = VENV / 'bin' / 'python'
SUPPORTED = ((3, 11), (3, 12))


class PrepareError(RuntimeError):
    """Preparation cannot go on; the message says what is missing and how to get it."""


def say(text: str) -> None:
    """Print one line of progress at once."""
    print(f'prepare: {text}', flush=True)


def digest(paths: Iterable[Path], *extra: str) -> str:
    """Digest files (by relative name and content) and strings."""
    total = hashlib.sha256()
    for text in extra:
        total.update(text.encode() + b'\0')
    for path in sorted(paths):
        total.update(str(path.relative_to(ROOT)).encode() + b'\0' + path.read_bytes() + b'\0')
    return total.hexdigest()


def has_system_ros() -> bool:
    """Whether a ROS 2 Jazzy is sourced in this shell, other than the one that this script makes."""
    command = shutil.which('ros2')
    return os.environ.get('ROS_DISTRO') == 'jazzy' and command is not None and VENV not in Path(command).parents


def check_machine() -> None:
    """Refuse a machine on which the wheels cannot work, before anything is downloaded.

    Raises:
        PrepareError: naming what is missing and the command that brings it.
    """
    if platform.system() != 'Linux' or platform.machine() != 'x86_64':
        raise PrepareError(
            f'ROS 2 wheels exist for Linux on x86_64 only, this is {platform.system()} on {platform.machine()};'
            ' install ROS 2 Jazzy and build with colcon (README, "With a real ROS 2")'
        )
    if sys.version_info[:2] not in SUPPORTED:
        names = ' or '.join(f'{major}.{minor}' for major, minor in SUPPORTED)
        raise PrepareError(
            f'needs Python {names}, this is {platform.python_version()} ({sys.executable});'
            ' name another with: make PYTHON=/usr/bin/python3.11'
        )
    missing = []
    if not (shutil.which(os.environ.get('CXX', 'c++')) or shutil.which('g++')):
        missing.append('g++')
    if not Path(sysconfig.get_paths()['include'], 'Python.h').exists():
        missing.append('python3-dev')
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        missing.append('python3-venv')
    if missing:
        packages = ' '.join(missing)
        raise PrepareError(f'missing {packages}; install with: sudo apt-get install {packages}')


def run(command: list[str], log: Path, **options: object) -> None:
    """Run a command with its output in a log; show the log's end when it fails.

    Raises:
        PrepareError: the command failed; the message names the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('ab') as sink:
        sink.write(f'\n$ {" ".join(command)}\n'.encode())
        sink.flush()
        code = subprocess.run(command, stdout=sink, stderr=subprocess.STDOUT, cwd=ROOT, **options).returncode  # type: ignore[call-overload]
    if code:
        tail = log.read_text(errors='replace').splitlines()[-15:]
        print('\n'.join(f'  | {line}' for line in tail), file=sys.stderr)
        hint = ''
        if re.search(r'Temporary failure in name|Connection|ConnectTimeout|Max retries', '\n'.join(tail)):
            hint = ' (no network? the package index must be reachable, or set PIP_INDEX_URL or PIP_FIND_LINKS)'
        raise PrepareError(f'{Path(command[0]).name} ended with {code}{hint}; whole output in {log.relative_to(ROOT)}')


def create_environment(log: Path) -> None:
    """Create the virtual environment; with a real ROS it sees the system's packages."""
    shutil.rmtree(VENV, ignore_errors=True)
    options = ['--system-site-packages'] if has_system_ros() else []
    # Started from the environment itself (after `source setup.bash`), its own Python must not make it anew.
    python = sys.executable if sys.prefix == sys.base_prefix else getattr(sys, '_base_executable', sys.executable)
    run([python, '-m', 'venv', *options, str(VENV)], log)


def install_wheels(log: Path) -> None:
    """Install every pinned version; pip does nothing for those already there."""
    files = ['requirements.txt', 'requirements-test.txt']
    if not has_system_ros():
        files.insert(0, 'requirements-ros.txt')
    wanted = [part for name in files for part in ('-r', str(BOOTSTRAP / name))]
    run([str(PYTHON), '-m', 'pip', 'install', '-c', str(BOOTSTRAP / 'constraints.txt'), *wanted], log)


def repair_exports(log: Path) -> None:
    """Point the wheels' CMake exports at this interpreter; they carry the include folders of their build machine."""
    query = 'import sysconfig, numpy; print(sysconfig.get_paths()["include"]); print(numpy.get_include())'
    found = subprocess.run([str(PYTHON), '-c', query], check=True, capture_output=True, text=True).stdout.split('\n')
    for path in VENV.glob('share/*/cmake/*rosidl_generator_pyExport.cmake'):
        text = path.read_text()
        fixed = re.sub(r'/opt/python/[^";]+/numpy/_core/include', found[1], text)
        fixed = re.sub(r'/opt/python/[^";]+/include/python[\d.]+', found[0], fixed)
        if fixed != text:
            path.write_text(fixed)


def install_stand_ins(log: Path) -> None:
    """Make `launch`, `launch_ros` and `ros2` importable and runnable where the real ones are absent."""
    site = next(VENV.glob('lib/python3*/site-packages'))
    (site / 'attn_robotics_stand_ins.pth').write_text(f'{BOOTSTRAP / "standin"}\n')
    command = VENV / 'bin' / 'ros2'
    command.write_text(f'#!{PYTHON}\nimport sys\n\nfrom ros2cli_standin.cli import main\n\nsys.exit(main())\n')
    command.chmod(0o755)


def environment() -> dict[str, str]:
    """The variables under which colcon and the suite run on the wheels."""
    values = dict(os.environ)
    if not has_system_ros():
        prefix = str(VENV)
        values |= {'AMENT_PREFIX_PATH': prefix, 'CMAKE_PREFIX_PATH': prefix, 'ROS_DISTRO': 'jazzy', 'ROS_VERSION': '2'}
        values.pop('PYTHONPATH', None)
        values.pop('COLCON_PREFIX_PATH', None)
    values['PATH'] = f'{VENV / "bin"}{os.pathsep}{values.get("PATH", os.defpath)}'
    values['VIRTUAL_ENV'] = str(VENV)
    return values


def colcon(log: Path, *packages: str) -> None:
    """Build packages of this checkout with colcon, as users do."""
    run(
        [
            str(PYTHON), '-m', 'colcon', 'build', '--symlink-install', '--event-handlers', 'console_cohesion+',
            '--base-paths', '.', 'attn_robotics_interfaces', 'bootstrap/tf2_msgs', '--packages-select', *packages,
            '--cmake-args', f'-DPython3_EXECUTABLE={PYTHON}', f'-DPYTHON_EXECUTABLE={PYTHON}', '-DBUILD_TESTING=OFF',
        ],
        log,
        env=environment(),
    )  # fmt: skip


def build_interfaces(log: Path) -> None:
    """Build the message packages; tf2_msgs only where there is none."""
    packages = ['attn_robotics_interfaces'] + ([] if has_system_ros() else ['tf2_msgs'])
    colcon(log, *packages)


def build_suite(log: Path) -> None:
    """Install the suite itself: executables, launch files, configuration."""
    colcon(log, 'attn_robotics')


def compile_ahead(log: Path) -> None:
    """Compile what numba would compile at first use, so that the first run is as quick as the others."""
    run([str(PYTHON), '-m', 'attn_robotics.systems.precompile'], log, env=environment())


def steps() -> list[tuple[str, str, Callable[[Path], None], str]]:
    """Name, explanation, action and input digest of every step, in order."""
    source = 'system' if has_system_ros() else 'wheels'
    base = f'{sys.version_info[:2]} {ROOT} {source}'
    pins = digest(BOOTSTRAP.glob('*.txt'), base)
    interfaces = digest(
        (
            p
            for top in ('attn_robotics_interfaces', 'bootstrap/tf2_msgs')
            for p in (ROOT / top).rglob('*')
            if p.is_file()
        ),
        pins,
    )
    # With symlink installs only names matter: contents are read from the checkout.
    installed = [
        str(p.relative_to(ROOT))
        for top in ('launch', 'config', 'attn_robotics/nodes')
        for p in sorted((ROOT / top).rglob('*'))
        if p.is_file() and '__pycache__' not in p.parts
    ]
    suite = digest([ROOT / name for name in ('setup.py', 'setup.cfg', 'package.xml')], interfaces, *installed)
    sources = (p for p in (ROOT / 'attn_robotics').rglob('*.py') if '@njit' in p.read_text())
    compiled = digest(sources, suite)
    result = [
        ('environment', 'create the virtual environment', create_environment, base),
        ('wheels', 'install pinned packages (a few minutes at first)', install_wheels, pins),
    ]
    if source == 'wheels':
        result += [
            ('exports', 'repair CMake exports of the wheels', repair_exports, pins),
            ('stand-ins', 'install stand-ins for launch, launch_ros and ros2', install_stand_ins, pins),
        ]
    return [
        *result,
        ('interfaces', 'build messages and services', build_interfaces, interfaces),
        ('suite', 'install the suite', build_suite, suite),
        ('compiled', 'compile planners ahead (a minute)', compile_ahead, compiled),
    ]


def prepare() -> None:
    """Run every step whose inputs changed since it was last complete."""
    check_machine()
    STATE.mkdir(exist_ok=True)
    with (STATE / 'lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('another preparation is under way in this checkout; waiting for it')
            fcntl.flock(lock, fcntl.LOCK_EX)
        todo = steps()
        if not PYTHON.exists():
            (STATE / todo[0][0]).unlink(missing_ok=True)
        for number, (name, explanation, action, inputs) in enumerate(todo):
            stamp = STATE / name
            if stamp.exists() and stamp.read_text() == inputs:
                continue
            say(f'{explanation} ...')
            start = time.monotonic()
            for later, *_ in todo[number:]:  # each step builds on those before it
                (STATE / later).unlink(missing_ok=True)
            log = STATE / f'{name}.log'
            log.unlink(missing_ok=True)
            action(log)
            temporary = stamp.with_suffix('.tmp')
            temporary.write_text(inputs)
            temporary.replace(stamp)
            say(f'{explanation}: done in {time.monotonic() - start:.0f} s')


def main() -> int:
    """Prepare, or say in one line why not."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args()
    try:
        prepare()
    except PrepareError as error:
        print(f'prepare: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('prepare: interrupted; the next run goes on from here', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
