"""One process a robot: no central planner, one robot lost on the way."""

import itertools
import json
import signal
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.xdist_group('launch')]


def test_robots_without_a_planner_arrive_though_messages_get_lost_and_late(launch, small_world, tmp_path):
    run = launch(
        small_world, 'planner:=robots', 'body:=disc', 'real_time_factor:=3', 'robots:=3', 'message_loss:=0.1',
        'message_delay:=0.05', f'out:={tmp_path / "out"}',
    )  # fmt: skip
    assert run.end() == 0, run.text()
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['success'] and summary['arrived'] == 3 and summary['contacts'] == 0, run.text()
    assert 'Traceback' not in run.text()


def test_the_others_go_on_when_a_robot_is_killed(launch, graph, small_world):
    from diagnostic_msgs.msg import DiagnosticArray

    from attn_robotics_interfaces.msg import FleetStatus

    statuses = graph.hear(FleetStatus, 'sparc/status')
    diagnostics = graph.hear(DiagnosticArray, '/diagnostics')
    run = launch(small_world, 'planner:=robots', 'body:=disc', 'robots:=3', 'lifelong:=true', 'real_time_factor:=2')
    graph.until(lambda: any(status.tick > 1 for status in statuses), 'robots that plan', limit_s=90)
    victim = next(c for c in run.children() if any('robot_1' in part for part in read_parameters(c)))
    victim.send_signal(signal.SIGKILL)
    run.wait_for('exit code -9')
    # On a slow machine it may be lost while teams still form.
    run.wait_for('robot_1 fell silent: an obstacle from now on', 'going on without robot_1')
    del statuses[:]
    others = {'robot_0', 'robot_2'}
    graph.until(lambda: {s.robot_ids[0] for s in statuses if s.tick > 2} >= others, 'the others to plan on')
    graph.until(
        lambda: any('lost: robot_1' in s.message for a in diagnostics for s in a.status), 'diagnostics that tell'
    )
    run.interrupt()
    run.end(30)


def read_parameters(process):
    """Contents of the parameter files of a node process, line by line."""
    arguments = process.cmdline()
    files = [value for flag, value in itertools.pairwise(arguments) if flag == '--params-file']
    lines = [line for name in files for line in Path(name).read_text().splitlines()]
    return [line for line in lines if line.strip().startswith('robot:')]
