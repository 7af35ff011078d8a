"""The embedded simulator's node: clock, transforms, commands, lidar, faults and bad worlds."""

import math
import sys
import threading
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import Odometry
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import LaserScan
from std_msgs.msg import UInt32
from tf2_msgs.msg import TFMessage

from attn_robotics.conversions.poses import from_odometry, from_transform, to_twist
from attn_robotics.conversions.stamps import to_seconds
from attn_robotics.nodes import embedded_simulator
from attn_robotics.nodes.embedded_simulator import EmbeddedSimulatorNode
from attn_robotics.ros import qos
from attn_robotics.simulation.embedded import EmbeddedSimulator, ViewerError
from attn_robotics.simulation.world import World

pytestmark = pytest.mark.ros

WORLD = """
map:
  text: |
    ......
    .####.
    ......
starts: [[0, 0], [2, 0]]
goals: [[0, 5], [2, 5]]
"""


@pytest.fixture
def simulator(graph, world_file):
    """Start the simulator on a small world of discs, as fast as it goes."""

    def start(text=WORLD, **parameters):
        options = {'world': world_file(text), 'body': 'disc', 'real_time_factor': 20.0, **parameters}
        return graph.start(EmbeddedSimulatorNode, **options)

    return start


@pytest.fixture
def running(graph, simulator):
    node = simulator(odom_rate=50.0)
    graph.until(lambda: graph.state(node) == 'active')
    return node


def drive(graph, robot, linear, angular=0.0):
    """Repeat a velocity command for as long as the test spins, as a controller does."""
    publisher = graph.tester.create_publisher(type(to_twist(0, 0)), f'robot_{robot}/cmd_vel', qos.COMMAND)
    return graph.tester.create_timer(0.02, lambda: publisher.publish(to_twist(linear, angular)))


def pose_of(messages, robot):
    """Newest odom-frame pose and stamp of a robot, None before the first."""
    for message in reversed(messages):
        for transform in message.transforms:
            if transform.child_frame_id == f'robot_{robot}/base_link':
                return from_transform(transform.transform), to_seconds(transform.header.stamp)
    return None


def test_the_clock_runs_forward_in_even_steps(graph, running):
    heard = graph.hear(Clock, '/clock', qos.CLOCK)
    graph.until(lambda: len(heard) >= 10, 'ten ticks')
    times = [to_seconds(message.clock) for message in heard]
    steps = np.diff(times) / 0.02
    assert (steps > 0.5).all() and np.allclose(steps, np.round(steps), atol=1e-6)


def test_transforms_say_what_the_physics_does(graph, running):
    heard = graph.hear(TFMessage, '/tf', qos.TRANSFORMS)
    drive(graph, 0, 0.8, 0.3)
    graph.until(lambda: (found := pose_of(heard, 0)) and found[0][0] > 0.3, 'robot_0 to move')
    running.trigger_deactivate()
    end = running._simulator.time
    graph.until(lambda: abs(pose_of(heard, 0)[1] - end) < 1e-6, 'the last transform')
    truth = running._simulator.poses()
    truth[:, :2] -= running._world.start_xy
    for robot in range(2):
        assert pose_of(heard, robot)[0] == pytest.approx(truth[robot], abs=1e-6)
    assert {t.header.frame_id for m in heard for t in m.transforms} == {'robot_0/odom', 'robot_1/odom'}


def test_time_stands_still_while_inactive(graph, running):
    running.trigger_deactivate()
    stopped = running._simulator.time
    graph.settle()
    assert running._simulator.time == stopped
    running.trigger_activate()
    graph.until(lambda: running._simulator.time > stopped, 'time to go on')


def test_a_command_moves_one_robot_and_the_watchdog_stops_it(graph, running):
    heard = graph.hear(Odometry, 'robot_0/odom', qos.SENSOR)
    timer = drive(graph, 0, 0.5)
    graph.until(lambda: heard and heard[-1].twist.twist.linear.x > 0.45, 'full speed')
    graph.tester.destroy_timer(timer)
    graph.until(lambda: abs(heard[-1].twist.twist.linear.x) < 1e-3, 'standstill')
    assert from_odometry(heard[-1])[0] > 0.1
    assert heard[-1].header.frame_id == 'robot_0/odom' and heard[-1].child_frame_id == 'robot_0/base_link'
    assert running._simulator.poses()[1, :2] == pytest.approx(running._world.start_xy[1], abs=1e-3)


def test_time_waits_for_each_driver_that_is_late_and_once_for_one_that_is_gone(graph, running, monkeypatch):
    monkeypatch.setattr(embedded_simulator, 'WAIT_S', 60.0)
    simulator = running._simulator
    for robot in range(2):
        graph.say(to_twist(0.5, 0.0), f'robot_{robot}/cmd_vel', qos.COMMAND)
    graph.until(lambda: (running._commanded_s >= 0).all(), 'the commands to take hold')
    latest_s = running._commanded_s.min() + embedded_simulator.ANSWER_S + 0.02 + 1e-9
    graph.settle()
    assert simulator.time <= latest_s
    graph.say(to_twist(0.5, 0.0), 'robot_0/cmd_vel', qos.COMMAND)
    graph.settle()
    assert simulator.time <= latest_s  # the other one is still late
    monkeypatch.setattr(embedded_simulator, 'WAIT_S', 0.0)
    graph.say(to_twist(0.5, 0.0), 'robot_1/cmd_vel', qos.COMMAND)
    graph.until(lambda: not running._is_awaited.any(), 'time to go on without either')
    graph.say(to_twist(0.5, 0.0), 'robot_1/cmd_vel', qos.COMMAND)
    before_s = running._commanded_s[1]
    graph.until(lambda: running._commanded_s[1] > before_s, 'the robot to be driven again')


def test_time_does_not_wait_for_a_robot_that_shall_stand(graph, running, monkeypatch):
    """Drivers here do not repeat that a robot shall stand."""
    monkeypatch.setattr(embedded_simulator, 'WAIT_S', 60.0)
    graph.say(to_twist(0.5, 0.0), 'robot_0/cmd_vel', qos.COMMAND)
    graph.until(lambda: running._commanded_s[0] >= 0, 'the command to take hold')
    graph.say(to_twist(0.0, 0.0), 'robot_0/cmd_vel', qos.COMMAND)
    graph.until(lambda: running._simulator.time > running._commanded_s[0] + 0.5, 'time to go on')


def test_time_does_not_wait_where_a_person_drives(graph, simulator, monkeypatch):
    monkeypatch.setattr(embedded_simulator, 'WAIT_S', 60.0)
    node = simulator(wait_for_commands=False)
    graph.say(to_twist(0.5, 0.0), 'robot_0/cmd_vel', qos.COMMAND)
    graph.until(lambda: node._commanded_s[0] >= 0, 'the command to take hold')
    graph.until(lambda: node._simulator.time > node._commanded_s[0] + 0.5, 'time to go on')


@pytest.mark.parametrize('command', [(math.nan, 0.0), (0.0, math.inf)])
def test_a_command_that_is_no_number_is_refused(graph, running, command):
    graph.say(to_twist(*command), 'robot_0/cmd_vel', qos.COMMAND)
    graph.until(lambda: running.dropped['cmd_vel is not a number'], 'a refusal')
    assert running.dropped == {'cmd_vel is not a number': 1}
    before = running._simulator.time
    graph.until(lambda: running._simulator.time > before + 0.2, 'time to go on')
    assert np.isfinite(running._simulator.poses()).all()
    (line,) = graph.warnings()
    assert 'cmd_vel is not a number: robot_0' in line


def test_scans_come_when_asked_for(graph, simulator):
    node = simulator(scan=True, scan_beams=16, scan_range=4.0)
    heard = graph.hear(LaserScan, 'robot_0/scan', qos.SENSOR)
    graph.until(lambda: heard, 'a scan')
    scan = heard[0]
    assert len(scan.ranges) == 16 and scan.header.frame_id == 'robot_0/base_link'
    assert scan.angle_min + 15 * scan.angle_increment == pytest.approx(scan.angle_max)
    finite = np.array([r for r in scan.ranges if math.isfinite(r)])
    assert len(finite) and finite.min() > 0.0 and finite.max() <= 4.0
    assert scan.ranges[0] == pytest.approx(0.5, abs=0.02)  # backwards: the border behind the start cell
    assert graph.state(node) == 'active'


def test_there_is_no_scan_unless_asked_for(graph, running):
    assert not [publisher.topic_name for publisher in running.publishers if publisher.topic_name.endswith('/scan')]


def test_robots_that_touch_are_counted_and_named(graph, simulator):
    node = simulator('map: {text: "...."}\nstarts: [[0, 1], [0, 3]]\ngoals: [[0, 0], [0, 2]]\n')
    counts, diagnostics = (
        graph.hear(UInt32, 'simulator/contacts', qos.LATCHED),
        graph.hear(DiagnosticArray, '/diagnostics'),
    )
    drive(graph, 0, 1.0)
    graph.until(lambda: counts and counts[-1].data > 0, 'a contact')
    said = lambda: [s.message for a in diagnostics for s in a.status if s.level == DiagnosticStatus.WARN]  # noqa: E731
    graph.until(lambda: any('touched' in message for message in said()), 'a word in diagnostics')
    assert ('robot_0', 'robot_1') in [tuple(sorted(pair)) for pair in node._simulator.contact_pairs]
    assert graph.state(node) == 'active'


def test_a_stopped_robot_stays_while_others_drive(graph, simulator):
    node = simulator(stops='robot_1@0')
    graph.until(lambda: graph.state(node) == 'active')
    drive(graph, 0, 0.5)
    drive(graph, 1, 0.5)
    start = node._world.start_xy
    graph.until(lambda: node._simulator.poses()[0, 0] - start[0, 0] > 0.3, 'robot_0 to drive')
    assert node._simulator.poses()[1, :2] == pytest.approx(start[1], abs=1e-3)


def test_a_stopped_robot_goes_on_when_its_time_is_over(graph, simulator):
    node = simulator(stops='1@0+2')
    graph.until(lambda: graph.state(node) == 'active')
    start = node._world.start_xy
    drive(graph, 1, 0.5)
    graph.until(lambda: node._simulator.poses()[1, 0] - start[1, 0] > 0.3, 'robot_1 to drive again')
    assert node._simulator.time > 2.0


def test_a_dropped_robot_falls_silent_and_others_do_not(graph, simulator):
    node = simulator(drop_outs='1@1')
    heard = graph.hear(TFMessage, '/tf', qos.TRANSFORMS)
    graph.until(lambda: (found := pose_of(heard, 0)) and found[1] > 3.0, 'three seconds of robot_0')
    last = max(
        to_seconds(t.header.stamp) for m in heard for t in m.transforms if t.child_frame_id.startswith('robot_1')
    )
    assert last <= 1.05
    assert graph.state(node) == 'active'


def test_noise_shakes_reported_poses_only(graph, simulator):
    node = simulator(odometry_noise_m=0.05, odometry_noise_rad=0.03)
    heard = graph.hear(TFMessage, '/tf', qos.TRANSFORMS)
    graph.until(lambda: heard and to_seconds(heard[-1].transforms[0].header.stamp) > 30.0, 'thirty seconds')
    x, _, yaw = np.array([from_transform(t.transform) for m in heard for t in m.transforms]).T
    assert 0.02 < x.std() < 0.09 and 0.01 < yaw.std() < 0.06  # errors last two seconds, so this is a small sample
    assert node._simulator.poses()[0] == pytest.approx([*node._world.start_xy[0], 0.0], abs=1e-3)


IN_WALL = WORLD.replace('[[0, 0], [2, 0]]', '[[1, 1], [2, 0]]')
TWICE = WORLD.replace('[[0, 0], [2, 0]]', '[[0, 0], [0, 0]]')
CUT_OFF = 'map: {text: ".#."}\nstarts: [[0, 0]]\ngoals: [[0, 2]]\n'
BAD = {
    'missing file': ({'world': 'worlds/nowhere.yaml'}, 'worlds/nowhere.yaml'),
    'missing map': ({'map': '/nowhere/floor.yaml'}, '/nowhere/floor.yaml'),
    'no map': ({'text': 'robots: 2\n'}, 'map must hold exactly one of'),
    'no YAML': ({'text': 'map: [}'}, 'world.yaml'),
    'start in a wall': ({'text': IN_WALL}, '(1, 1)'),
    'two robots on one start': ({'text': TWICE}, '(0, 0)'),
    'unreachable goal': ({'text': CUT_OFF}, '(0, 2)'),
    'unknown key': ({'text': WORLD + 'robts: 3\n'}, "unknown key 'robts'; did you mean 'robots'?"),
    'more robots than starts': ({'robots': 3}, 'starts names 2 cells for 3 robots'),
    'size of a drawn map': ({'size': 9}, 'size only applies to a random map'),
    'fault of a robot that is not there': ({'stops': 'robot_9@3'}, 'an outage names robot 9, but there are only 2'),
    'fault that is misspelt': ({'drop_outs': '1 at 3'}, "'1 at 3' is no outage; write robot@seconds"),
    'no body': ({'body': 'sphere'}, "parameter 'body' must be 'wheeled' or 'disc'"),
}


@pytest.mark.parametrize('case', BAD)
def test_a_bad_world_is_one_line_and_the_node_stays_unconfigured(graph, simulator, case):
    options, line = BAD[case]
    node = simulator(**options)
    graph.until(graph.errors, 'an error line')
    graph.settle()
    (error,) = graph.errors()
    assert 'cannot configure' in error and line in error
    assert graph.state(node) == 'unconfigured' and 'Traceback' not in graph.log()


def test_a_window_without_a_display_is_one_warning(graph, simulator, monkeypatch):
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    node = simulator(headless=False)
    graph.until(lambda: graph.warnings(), 'a warning')
    graph.until(lambda: node._simulator.time > 0.1, 'time to run')
    (line,) = graph.warnings()
    assert 'no display' in line and 'headless:=true' in line


@pytest.fixture
def window(monkeypatch):
    """A display on which MuJoCo's viewer is opened by the function that it is called with."""

    def pretend(launch_passive, has_glfw=True):
        viewer = SimpleNamespace(launch_passive=launch_passive)
        monkeypatch.setenv('DISPLAY', ':99')
        monkeypatch.setitem(sys.modules, 'glfw', SimpleNamespace(init=lambda: has_glfw))
        monkeypatch.setitem(sys.modules, 'mujoco.viewer', viewer)
        monkeypatch.setattr(mujoco, 'viewer', viewer, raising=False)

    return pretend


def test_a_window_shows_what_happens(graph, simulator, window):
    shown = []
    window(lambda model, data: SimpleNamespace(sync=lambda: shown.append(data.time)))
    simulator(headless=False)
    graph.until(lambda: len(shown) >= 5, 'five pictures')
    assert (np.diff(shown) > 0).all() and not graph.warnings()


def no_window(model, data):
    raise RuntimeError('no OpenGL here')


@pytest.mark.parametrize(('has_glfw', 'words'), [(True, 'no OpenGL here'), (False, 'GLFW finds no usable display')])
def test_a_window_that_cannot_be_opened_is_one_warning(graph, simulator, window, has_glfw, words):
    window(no_window, has_glfw)
    node = simulator(headless=False)
    graph.until(lambda: graph.state(node) == 'active' and node._simulator.time > 0.1, 'time to run')
    (line,) = graph.warnings()
    assert f'cannot open a window: {words}' in line and graph.state(node) == 'active'


def test_a_window_that_never_comes_is_given_up(window):
    forever = threading.Event()
    window(lambda model, data: forever.wait())
    world = World.from_description({'map': {'text': '..'}, 'starts': [[0, 0]], 'goals': [[0, 1]]})
    with pytest.raises(ViewerError, match='no window after'):
        EmbeddedSimulator(world, body='disc').open_viewer(limit_s=0.01)
    forever.set()


def test_physics_that_fails_is_one_line_and_ends_the_process(graph, running, monkeypatch):
    diagnostics = graph.hear(DiagnosticArray, '/diagnostics')
    graph.until(lambda: diagnostics, 'diagnostics')

    def burst(duration):
        raise FloatingPointError('the state is not finite')

    monkeypatch.setattr(running._simulator, 'step', burst)
    graph.until(lambda: running.is_done, 'the end')
    assert running.exit_code == 1
    (line,) = graph.errors()
    assert 'simulation failed: FloatingPointError: the state is not finite' in line
    errors = lambda: [s.message for a in diagnostics for s in a.status if s.level == DiagnosticStatus.ERROR]  # noqa: E731
    graph.until(lambda: any('FloatingPointError' in message for message in errors()), 'a word in diagnostics')
    assert 'Traceback' not in graph.log()
