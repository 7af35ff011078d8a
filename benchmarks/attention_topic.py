"""What does showing attention cost, how quick are the fleet node's decisions, and how soon does a launch decide?

Launches the simulated fleet for ever and listens, first to `sparc/status` alone, then to `sparc/attention` too. The
node's decision latency comes from its own status messages; its processor time, from the operating system, holds all
that it does between two decisions, steering included. Start-up is from the launch command to the first decision heard.
One launch a case; everything stays on this machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rclpy
from tqdm import tqdm

from attn_robotics.systems.sparc.report import Row, conditions, table, write_json
from attn_robotics_interfaces.msg import AttentionMap, FleetStatus

LIMIT_S = 120.0
WARM_UP = 3  # decisions


class Listener:
    """Counts what a topic brings."""

    def __init__(self, node: Any, kind: Any, topic: str) -> None:
        self.heard: list[Any] = []
        self._node, self._subscription = node, node.create_subscription(kind, topic, self.heard.append, 10)

    def close(self) -> None:
        """Stop listening."""
        self._node.destroy_subscription(self._subscription)


def spin_until(node: Any, condition: Callable[[], object], what: str) -> None:
    """Spin until a condition holds.

    Raises:
        RuntimeError: it does not in two minutes.
    """
    end = time.perf_counter() + LIMIT_S
    while not condition():
        if time.perf_counter() > end:
            raise RuntimeError(f'no {what} after {LIMIT_S:g} s')
        rclpy.spin_once(node, timeout_sec=0.1)


def planner_of(launch: subprocess.Popen[bytes]) -> psutil.Process:
    """The fleet node's process."""
    for child in psutil.Process(launch.pid).children(recursive=True):
        if any(part.endswith('/sparc_fleet') for part in child.cmdline()):
            return child
    raise RuntimeError('the launch has no sparc_fleet process')


def processor_s(process: psutil.Process) -> float:
    """Processor time that a process has used [s]."""
    times = process.cpu_times()
    return float(times.user + times.system)


def watch(node: Any, planner: psutil.Process, decisions: int, with_attention: bool, label: str) -> dict[str, Any]:
    """Latencies [ms] of some decisions, and the planner's processor time a decision [ms]."""
    extra = Listener(node, AttentionMap, 'sparc/attention') if with_attention else None
    if extra is not None:
        spin_until(node, lambda: extra.heard, 'attention')
    statuses = Listener(node, FleetStatus, 'sparc/status')
    spin_until(node, lambda: len(statuses.heard) >= WARM_UP, 'decision')
    begin, wall = processor_s(planner), time.perf_counter()
    first = len(statuses.heard)
    with tqdm(total=decisions, desc=label, disable=not sys.stderr.isatty()) as progress:
        while (done := len(statuses.heard) - first) < decisions:
            wanted = done
            spin_until(node, lambda seen=wanted: len(statuses.heard) - first > seen, 'decision')
            progress.update(len(statuses.heard) - first - wanted)
    spent_s, wall_s = processor_s(planner) - begin, time.perf_counter() - wall
    latencies = np.array([message.decision_ms for message in statuses.heard[first:]])
    heard = 0 if extra is None else len(extra.heard)
    for listener in filter(None, (statuses, extra)):
        listener.close()
    return {'latencies_ms': latencies, 'processor_ms': 1e3 * spent_s / len(latencies), 'load': spent_s / wall_s,
            'maps': heard}  # fmt: skip


def measure(robots: int, size: int, args: argparse.Namespace) -> list[Row]:
    """All numbers of one fleet."""
    what = [str(args.launch_file)] if args.launch_file else ['attn_robotics', 'sparc_sim.launch.py']
    world = [f'robots:={robots}', f'size:={size}', f'density:={args.density}', f'seed:={args.seed}', 'body:=disc']
    command = ['ros2', 'launch', *what, *world, 'headless:=true', 'lifelong:=true', 'timeout_s:=100000']
    rclpy.init(args=[])
    node = rclpy.create_node('attention_topic_benchmark')
    first = Listener(node, FleetStatus, 'sparc/status')
    begin = time.perf_counter()
    launch = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        spin_until(node, lambda: first.heard, 'decision')
        startup_s = time.perf_counter() - begin
        first.close()
        planner = planner_of(launch)
        case = f'{robots}x{size}/{args.density:.2f}'
        quiet = watch(node, planner, args.decisions, False, f'{case}, nobody listens')
        shown = watch(node, planner, args.decisions, True, f'{case}, attention heard')
    finally:
        launch.send_signal(signal.SIGINT)
        launch.wait(30)
        node.destroy_node()
        rclpy.shutdown()
    rows = [Row(f'startup/launch_to_first_decision/{case}', startup_s, 's', 1)]
    for name, found in (('without_subscriber', quiet), ('with_subscriber', shown)):
        count = len(found['latencies_ms'])
        rows += [
            Row(f'latency_p{q}/{name}/{case}', float(np.percentile(found['latencies_ms'], q)), 'ms', count)
            for q in (50, 99)
        ]
        rows.append(Row(f'processor_time_a_decision/{name}/{case}', found['processor_ms'], 'ms', count))
        rows.append(Row(f'processor_load/{name}/{case}', found['load'], '', count))
    extra_ms = float(np.median(shown['latencies_ms']) - np.median(quiet['latencies_ms']))
    rows.append(Row(f'attention_cost/median_latency/{case}', extra_ms, 'ms', len(shown['latencies_ms'])))
    return rows


def fleet_of(text: str) -> tuple[int, int]:
    """Read `8x20`: robots and the side of their map."""
    robots, _, size = text.partition('x')
    if not (robots.isdigit() and size.isdigit()):
        raise argparse.ArgumentTypeError(f'{text!r} is no fleet; write robots x side, such as 8x20')
    return int(robots), int(size)


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--fleets',
        type=fleet_of,
        nargs='+',
        default=[(8, 20), (32, 20), (128, 40)],
        metavar='8x20',
        help='robots and map side',
    )
    parser.add_argument('--decisions', type=int, default=30, help='timed decisions of each kind (default 30)')
    parser.add_argument('--density', type=float, default=0.15, help='share of obstacles (default 0.15)')
    parser.add_argument('--seed', type=int, default=0, help='of map, starts and goals (default 0)')
    parser.add_argument('--launch-file', type=Path, help='launch this file instead of the installed one')
    parser.add_argument('--json', type=Path, help='write the rows here')
    args = parser.parse_args()
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)
    rows: list[Row] = []
    try:
        for robots, size in args.fleets:
            rows += measure(robots, size, args)
    except RuntimeError as error:
        print(f'attention_topic: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(table(('name', 'value', 'unit'), [(row.name, f'{row.value:.3f}', row.unit) for row in rows]))
    if args.json:
        machine = {'seeds': [args.seed], 'cores': os.cpu_count(), 'load': os.getloadavg()[0], 'cpu': platform.machine()}
        write_json(args.json, shlex.join(['attention_topic', *sys.argv[1:]]), rows, conditions(machine))
    return 0


if __name__ == '__main__':
    sys.exit(main())
