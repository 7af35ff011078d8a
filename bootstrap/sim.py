"""The main job as one command: launch the simulated fleet, record it, judge it.

Writes runs/<time>/ with summary.json, a picture, a video and an MCAP bag; ends with 0 only if every robot arrived and
nothing touched. What follows the options goes to `ros2 launch` (such as robots:=32 density:=0.3).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BAG_TOPICS = (
    '/clock', '/map', '/tf', '/tf_static', '/diagnostics', '/sparc/status', '/sparc/attention',
    '/sparc/attention_markers', '/sparc/attention_image',
)  # fmt: skip

STOP_S = 30.0  # for nodes to write what they have and for the launch to end those that don't


def own_domain() -> int:
    """A ROS domain that other runs on this machine are unlikely to use."""
    return 1 + os.getpid() % 100


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process that we started to end, as Ctrl-C does, and wait."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(out: Path, arguments: list[str], with_bag: bool, limit_s: float) -> int:
    """Launch and record; returns the launch's exit code, 1 when it had to be stopped after `limit_s`."""
    recorder = None
    if with_bag:
        command = ['ros2', 'bag', 'record', '--storage', 'mcap', '-o', str(out / 'bag'), *BAG_TOPICS]
        with (out / 'bag.log').open('wb') as log:
            recorder = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    launch = subprocess.Popen(
        ['ros2', 'launch', 'attn_robotics', 'sparc_sim.launch.py', 'headless:=true', f'out:={out}', *arguments]
    )
    try:
        return launch.wait(limit_s)
    except subprocess.TimeoutExpired:
        print(f'sim: not over after {limit_s:g} s: stopped (--limit allows more)', file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        with contextlib.suppress(subprocess.TimeoutExpired):
            launch.wait(STOP_S)  # the terminal has told the launch as well
        return 130
    finally:
        stop(launch)
        if recorder is not None:
            stop(recorder)


def report(out: Path) -> int:
    """Print the summary; returns the exit code."""
    path = out / 'summary.json'
    if not path.exists():
        print('sim: the run ended without a summary; see the lines above', file=sys.stderr)
        return 1
    summary = json.loads(path.read_text())
    print()
    for key, value in summary.items():
        print(f'  {key.replace("_", " "):18} {value}')
    print('\n  written:')
    for name in ('summary.json', 'run.png', 'run.gif', 'bag'):
        if (out / name).exists():
            print(f'    {(out / name).relative_to(ROOT) if out.is_relative_to(ROOT) else out / name}')
    return 0 if summary['success'] else 1


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, help='folder for the results (default: runs/<time>)')
    parser.add_argument('--no-bag', action='store_true', help='record no bag')
    parser.add_argument(
        '--limit',
        type=float,
        default=1200.0,
        metavar='SECONDS',
        help='fail after this wall time (%(default)g)',
    )
    parser.add_argument('arguments', nargs='*', metavar='name:=value', help='launch arguments')
    options = parser.parse_args()
    if shutil.which('ros2') is None:
        print('sim: there is no ros2 on the path; type: make prepare && source setup.bash', file=sys.stderr)
        return 1
    out = (options.out or ROOT / 'runs' / time.strftime('%Y%m%d-%H%M%S')).absolute()
    out.mkdir(parents=True, exist_ok=True)
    domain = os.environ['ROS_DOMAIN_ID'] = str(own_domain())
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    print('sim: to listen, in a second terminal: source setup.bash')
    print(f'sim:   ROS_DOMAIN_ID={domain} ros2 topic echo /sparc/attention --once', flush=True)
    code = run(out, options.arguments, not options.no_bag, options.limit)
    return report(out) or code


if __name__ == '__main__':
    sys.exit(main())
