"""Say in one screen what this machine gives, what falls back to what, and which command comes next.

Needs no running node. Ends with 0 when the main job (`ros2 launch attn_robotics sparc_sim.launch.py`) can run here,
with 1 and the reasons otherwise.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

OK, FALLBACK, MISSING = 'ok', 'fallback', 'missing'
MARKS = {OK: ' ok ', FALLBACK: 'note', MISSING: 'MISS'}
MODES = {'LOCALHOST': 'this machine only', 'SUBNET': 'the local network', 'OFF': 'nobody'}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        part: what was looked at.
        state: `ok`, `fallback` (the main job runs, something else steps in) or `missing` (it can't run).
        text: what was found.
        advice: what steps in, or what to do; empty when there is nothing to say.
    """

    part: str
    state: str
    text: str
    advice: str = ''


def version_of(distribution: str) -> str | None:
    """Version of an installed Python distribution, None when there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def ament_share(package: str) -> Path | None:
    """Share folder of an installed ROS package, without needing anything of ROS."""
    for prefix in filter(None, os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)):
        if Path(prefix, 'share', 'ament_index', 'resource_index', 'packages', package).exists():
            return Path(prefix, 'share', package)
    return None


def ros() -> Finding:
    """The client library and where it comes from."""
    spec = importlib.util.find_spec('rclpy')
    if spec is None or spec.origin is None:
        return Finding('ROS', MISSING, 'no rclpy', 'type: make prepare && source setup.bash')
    importlib.import_module('rclpy')  # finds missing libraries
    distro = os.environ.get('ROS_DISTRO', 'unknown distribution')
    wheel = version_of('ros-rclpy')
    if wheel and 'site-packages' in spec.origin:
        return Finding('ROS', OK, f'{distro}, rclpy {wheel} from Python wheels ({Path(spec.origin).parents[1]})')
    return Finding('ROS', OK, f"{distro}, the system's own ({Path(spec.origin).parents[1]})")


def command_line() -> Finding:
    """The `ros2` command and the launch system."""
    path = shutil.which('ros2')
    if path is None or importlib.util.find_spec('launch') is None:
        return Finding('ros2, launch', MISSING, 'not found', 'type: make prepare && source setup.bash')
    if importlib.util.find_spec('launch.missing') is not None:
        return Finding('ros2, launch', FALLBACK, f'stand-in ({path})', 'a sourced ROS 2 Jazzy takes its place')
    return Finding('ros2, launch', OK, f'official ({path})')


def messages() -> Finding:
    """Our own messages and tf2_msgs, built into this environment."""
    missing = [name for name in ('attn_robotics_interfaces', 'tf2_msgs') if importlib.util.find_spec(name) is None]
    if missing:
        return Finding('messages', MISSING, f'{", ".join(missing)} not built', 'type: make prepare, or colcon build')
    importlib.import_module('attn_robotics_interfaces.msg')
    return Finding('messages', OK, 'attn_robotics_interfaces, tf2_msgs')


def suite() -> Finding:
    """Launch files and executables, as `ros2 launch` finds them."""
    share = ament_share('attn_robotics')
    if share is None:
        return Finding('suite', MISSING, 'attn_robotics is not installed', 'type: make prepare && source setup.bash')
    return Finding('suite', OK, f'installed in {share.parents[1]}')


def python() -> Finding:
    """The interpreter."""
    text = f'{platform.python_version()} ({sys.executable})'
    if sys.version_info[:2] not in ((3, 11), (3, 12)):
        return Finding('Python', MISSING, text, 'ROS 2 Jazzy is for 3.12, the wheels also for 3.11')
    return Finding('Python', OK, text)


def computer() -> Finding:
    """Cores and memory."""
    memory_gb = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    cores = len(os.sched_getaffinity(0))
    text = f'{cores} cores, {memory_gb:.1f} GiB, load {os.getloadavg()[0]:.1f}, {platform.machine()}'
    if memory_gb < 2:
        return Finding('computer', FALLBACK, text, 'less than 2 GiB: expect swapping')
    return Finding('computer', OK, text)


def gpu() -> Finding:
    """The GPU, through torch alone."""
    if importlib.util.find_spec('torch') is None:
        return Finding('GPU', FALLBACK, 'unknown without torch')
    import torch

    if not torch.cuda.is_available():
        built = f'torch {torch.__version__} is built for CUDA {torch.version.cuda}' if torch.version.cuda else ''
        return Finding('GPU', FALLBACK, built or 'torch is built without CUDA', 'networks run on the CPU')
    names = ', '.join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return Finding('GPU', OK, f'{names}, CUDA {torch.version.cuda}', 'use it with device:=cuda')


def networks() -> Finding:
    """What can run a network."""
    found = version_of('torch')
    if found is None:
        return Finding('torch', MISSING, 'not installed', 'type: make prepare')
    return Finding('torch', OK, found)


def onnx() -> Finding:
    """ONNX Runtime and its providers."""
    if importlib.util.find_spec('onnxruntime') is None:
        return Finding('ONNX Runtime', FALLBACK, 'not installed', 'backend:=torch is the default')
    import onnxruntime

    providers = ', '.join(name.removesuffix('ExecutionProvider') for name in onnxruntime.get_available_providers())
    return Finding('ONNX Runtime', OK, f'{onnxruntime.__version__} ({providers})')


def triton() -> Finding:
    """Triton kernels."""
    found = version_of('triton')
    if found is None:
        return Finding('Triton', FALLBACK, 'not installed', 'kernels run in plain torch')
    import torch

    if not torch.cuda.is_available():
        return Finding('Triton', FALLBACK, found, 'without a GPU kernels run in plain torch')
    return Finding('Triton', OK, found)


def simulator() -> Finding:
    """The embedded simulator."""
    found = version_of('mujoco')
    if found is None:
        gazebo_works = gazebo().state == OK
        state = FALLBACK if gazebo_works else MISSING
        return Finding('MuJoCo', state, 'not installed', 'simulator:=gazebo' if gazebo_works else 'type: make prepare')
    return Finding('MuJoCo', OK, found)


def window() -> Finding:
    """Whether a viewer can open."""
    display = os.environ.get('WAYLAND_DISPLAY') or os.environ.get('DISPLAY')
    if not display:
        return Finding('rendering', FALLBACK, 'no display', 'runs headless; matplotlib draws pictures and videos')
    return Finding('rendering', OK, f'display {display}')


def gazebo() -> Finding:
    """Gazebo and its bridge."""
    missing = [name for name in ('ros_gz_sim', 'ros_gz_bridge') if ament_share(name) is None]
    if shutil.which('gz') is None:
        missing.insert(0, 'gz')
    if missing:
        advice = 'simulator:=embedded is the default; install with: sudo apt install ros-jazzy-ros-gz'
        return Finding('Gazebo', FALLBACK, f'{", ".join(missing)} not found', advice)
    return Finding('Gazebo', OK, f'{shutil.which("gz")}, ros_gz', 'use it with simulator:=gazebo')


def weights() -> Finding:
    """The policy's weights and their checksum."""
    if importlib.util.find_spec('torch') is None:
        return Finding('weights', MISSING, 'unknown without torch')
    from attn_robotics.systems.sparc.weights_card import DEFAULT_WEIGHTS, WeightsError, verify_weights

    try:
        card = verify_weights().card
    except WeightsError as error:
        return Finding('weights', MISSING, str(error), 'or name others with weights:=FILE')
    return Finding('weights', OK, f'{DEFAULT_WEIGHTS.name}, sha256 {card["sha256"][:12]} as on its card')


def discovery() -> Finding:
    """Who hears our topics."""
    mode = os.environ.get('ROS_AUTOMATIC_DISCOVERY_RANGE', '')
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    if mode in MODES:
        return Finding('discovery', OK, f'domain {domain}, {mode}: heard by {MODES[mode]}')
    text = f'domain {domain}, range {mode or "not set"}: heard by the local network'
    return Finding('discovery', FALLBACK, text, 'launch files of this suite stay on this machine all the same')


CHECKS: Mapping[str, Callable[[], Finding]] = {
    check.__name__: check
    for check in (
        ros, command_line, messages, suite, python, computer, networks, gpu, onnx, triton, simulator, window, gazebo,
        weights, discovery,
    )
}  # fmt: skip


def examine() -> list[Finding]:
    """Every check; one that fails itself is reported like something missing."""
    findings = []
    for name, check in CHECKS.items():
        try:
            findings.append(check())
        except Exception as error:  # a broken installation fails in many ways; the others are still worth showing
            findings.append(Finding(name, MISSING, f'{type(error).__name__}: {" ".join(str(error).split())}'))
    return findings


def next_command(findings: list[Finding]) -> str:
    """What to type now."""
    missing = [finding for finding in findings if finding.state == MISSING]
    if not missing:
        return 'ros2 launch attn_robotics sparc_sim.launch.py headless:=true'
    advice = next((finding.advice for finding in missing if finding.advice.startswith('type: ')), 'type: make prepare')
    return advice.removeprefix('type: ').split(',')[0]


def main(args: list[str] | None = None) -> int:
    """Print the report; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='ros2 run attn_robotics doctor',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--json', action='store_true', help='print the findings as JSON')
    options = parser.parse_args(args)
    findings = examine()
    runs = all(finding.state != MISSING for finding in findings)
    if options.json:
        body = {'runs': runs, 'next': next_command(findings), 'findings': [asdict(finding) for finding in findings]}
        print(json.dumps(body, indent=1))
        return 0 if runs else 1
    for finding in findings:
        advice = f' -> {finding.advice.removeprefix("type: ")}' if finding.advice else ''
        print(f'[{MARKS[finding.state]}] {finding.part:13} {finding.text}{advice}')
    reasons = ', '.join(finding.part for finding in findings if finding.state == MISSING)
    print('\nThe main job can run here.' if runs else f'\nThe main job cannot run here: {reasons}.')
    print(f'Next: {next_command(findings)}')
    return 0 if runs else 1


if __name__ == '__main__':
    sys.exit(main())
