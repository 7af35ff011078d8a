"""The main job on the real graph: `ros2 launch` with processes, over middleware, on the loopback interface."""

import itertools
import json
import signal
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.ros, pytest.mark.xdist_group('launch')]

QUICK = ('body:=disc', 'real_time_factor:=2', 'robots:=4')


def test_four_robots_arrive_with_a_summary_and_exit_code_0(launch, small_world, tmp_path):
    run = launch(small_world, *QUICK, f'out:={tmp_path / "out"}')
    assert run.end() == 0, run.text()
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['success'] and summary['arrived'] == 4 and summary['contacts'] == 0, f'{summary}\n{run.text()}'
    assert summary['decisions'] > 0 and summary['decision_p50_ms'] > 0
    assert 'all robots arrived, nothing touched' in run.text()
    assert 'Traceback' not in run.text() and not run.children()


def test_the_rest_goes_on_when_the_planner_is_killed_and_the_exit_is_reported(launch, graph, small_world):
    from diagnostic_msgs.msg import DiagnosticArray
    from nav_msgs.msg import Odometry

    from attn_robotics.ros import qos
    from attn_robotics_interfaces.msg import FleetStatus

    statuses, odometry = graph.hear(FleetStatus, 'sparc/status'), graph.hear(Odometry, 'robot_0/odom', qos.SENSOR)
    diagnostics = graph.hear(DiagnosticArray, '/diagnostics')
    run = launch(small_world, 'body:=disc', 'lifelong:=true', 'robots:=4')
    graph.until(lambda: statuses and odometry, 'robots that drive')
    run.node('sparc_fleet').send_signal(signal.SIGKILL)
    assert 'exit code -9' in run.wait_for('process has died')
    # The simulator's watchdog stops robots that nobody commands; they go on reporting where they are.
    graph.until(lambda: abs(odometry[-1].twist.twist.linear.x) < 1e-3, 'robots that stand')
    before = len(odometry)
    graph.until(lambda: len(odometry) > before + 5, 'odometry that goes on')
    del diagnostics[:]
    names = lambda: {s.name for a in diagnostics for s in a.status}  # noqa: E731
    graph.until(lambda: {'simulator: node', 'mission: node'} <= names(), 'diagnostics of the rest')
    assert 'sparc: node' not in names()
    assert run.process.poll() is None
    run.interrupt()
    run.end(30)


def test_robots_drive_on_when_the_mission_is_killed(launch, graph, small_world):
    from nav_msgs.msg import Odometry

    from attn_robotics.ros import qos

    odometry = graph.hear(Odometry, 'robot_0/odom', qos.SENSOR)
    run = launch(small_world, 'body:=disc')
    graph.until(lambda: odometry and odometry[-1].twist.twist.linear.x > 0.3, 'robots that drive')
    run.node('mission').send_signal(signal.SIGKILL)
    run.wait_for('mission was lost (exit code -9); the others go on')
    del odometry[:]
    graph.until(lambda: len(odometry) > 5 and any(o.twist.twist.linear.x > 0.3 for o in odometry), 'robots that drive')
    assert run.process.poll() is None and len(run.children()) >= 2
    run.interrupt()
    run.end(30)


def test_the_rest_stays_and_reports_when_the_simulator_is_killed(launch, graph, small_world):
    from diagnostic_msgs.msg import DiagnosticArray

    diagnostics = graph.hear(DiagnosticArray, '/diagnostics')
    run = launch(small_world, 'body:=disc', 'lifelong:=true')
    says = lambda: {s.name: s.message for a in diagnostics for s in a.status}  # noqa: E731
    graph.until(lambda: 'arrived' in (line := says().get('mission: node', '')) or 'goals' in line, 'a run')
    run.node('embedded_simulator').send_signal(signal.SIGKILL)
    assert 'exit code -9' in run.wait_for('process has died')
    del diagnostics[:]
    graph.until(lambda: {'sparc: node', 'mission: node'} <= says().keys(), 'diagnostics of the rest')
    assert 'simulator: node' not in says() and run.process.poll() is None
    run.interrupt()
    run.end(30)


def test_the_planner_gets_the_number_and_the_limits_of_the_worlds_robots(launch, tmp_path):
    path = tmp_path / 'slow.yaml'
    path.write_text(
        'map: {text: "......"}\nstarts: [[0, 0], [0, 3]]\ngoals: [[0, 2], [0, 5]]\n'
        'robot: {max_speed: 0.4, max_acceleration: 0.7, max_turn_rate: 1.1, max_turn_acceleration: 1.9}\n'
    )
    run = launch(f'world:={path}', 'body:=disc')
    run.wait_for('fleet of 2')
    given = parameters_of(run.node('sparc_fleet'))
    assert given['robots'] == 2
    wanted = {'max_speed': 0.4, 'max_acceleration': 0.7, 'max_turn_rate': 1.1, 'max_turn_acceleration': 1.9}
    assert {name: given[name] for name in wanted} == wanted
    run.interrupt()
    run.end(30)


def parameters_of(process):
    """Node parameters in the files that a process was started with; later files win."""
    given = {}
    for flag, value in itertools.pairwise(process.cmdline()):
        if flag == '--params-file':
            for section in yaml.safe_load(Path(value).read_text()).values():
                given |= section['ros__parameters']
    return given


def test_faults_are_switched_on_by_launch_arguments(launch, graph, small_world):
    from tf2_msgs.msg import TFMessage

    from attn_robotics.ros import qos

    heard = graph.hear(TFMessage, '/tf', qos.TRANSFORMS)
    run = launch(small_world, 'body:=disc', 'stops:=0@0+900', 'drop_outs:=robot_3@0', 'odometry_noise:=0.01')
    graph.until(lambda: len(heard) >= 40, 'transforms')
    mine = [t.transform for m in heard for t in m.transforms if t.child_frame_id == 'robot_0/base_link']
    assert len(mine) == len(heard) and not [m for m in heard for t in m.transforms if 'robot_3' in t.child_frame_id]
    assert len({t.translation.x for t in mine}) > 20 and len({t.rotation.z for t in mine}) > 20
    assert parameters_of(run.node('embedded_simulator'))['stops'] == '0@0+900'
    run.interrupt()
    run.end(30)


def test_ctrl_c_ends_everything_without_orphans_or_tracebacks(launch, small_world, wait_until):
    run = launch(small_world, 'body:=disc', 'lifelong:=true', 'robots:=4')
    run.wait_for('fleet of 4')
    children = run.children()
    assert len(children) >= 3
    run.interrupt()
    run.end(30)
    wait_until(lambda: not run.children(), 'the end of every process', 10)
    assert 'Traceback' not in run.text()
    # Nobody needed more than SIGINT: SIGTERM and SIGKILL follow only where a process is too slow.
    assert 'failed to terminate' not in run.text()


@pytest.mark.parametrize(
    ('argument', 'words'),
    [
        ('simulator:=webots', 'simulator'),
        ('robots:=many', "launch argument robots must be a whole number, got 'many'"),
        ('density:=half', "launch argument density must be a number, got 'half'"),
        ('scan:=maybe', "launch argument scan must be true or false, got 'maybe'"),
        ('robots:=4000', 'robots must be a whole number from 1 to 1024, got 4000'),
        ('world:=worlds/nowhere.yaml', 'worlds/nowhere.yaml'),
        ('density:=0.94', 'density'),
    ],
)
def test_a_bad_argument_is_named_without_a_traceback(launch, argument, words):
    run = launch(argument)
    run.wait_for(words, limit_s=60)
    assert run.end(30) == 1
    assert 'Traceback' not in run.text() and 'process started' not in run.text()


def test_the_manual_lists_every_argument(launch):
    run = launch('--show-args')
    assert run.end(30) == 0
    assert "'robots':" in run.text() and 'number of robots' in run.text()
