"""The base of every node: what it does in each state, and that it leaves nothing behind."""

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn
from std_msgs.msg import String

from attn_robotics.ros import lifecycle
from attn_robotics.ros.lifecycle import AttnNode, ConfigurationError
from attn_robotics.ros.parameters import param

pytestmark = pytest.mark.ros


@dataclass(frozen=True)
class DemoParams:
    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    fails: str = param('', 'Where to fail.')


class Demo(AttnNode):
    NAME = 'demo'
    Params = DemoParams

    def configure(self):
        self.held = self.create_publisher(String, 'held', 10)
        self.deeds = [*getattr(self, 'deeds', []), 'configure']
        self._fail('configure')

    def activate(self):
        self.deeds.append('activate')
        self._fail('activate')

    def deactivate(self):
        self.deeds.append('deactivate')

    def release(self):
        self.deeds.append('release')
        if getattr(self, 'held', None) is not None:
            self.destroy_publisher(self.held)
            self.held = None

    def diagnose(self):
        return DiagnosticStatus.OK, 'well', {'deeds': len(self.deeds)}

    def _fail(self, where):
        if self.params.fails == where:
            raise ConfigurationError(f'no luck in {where};\n try again')
        if self.params.fails == 'defect':
            raise ZeroDivisionError('a defect')


def topics(node):
    return {publisher.topic_name for publisher in node.publishers}


def newest(heard):
    return heard[-1].status[0] if heard else None


def test_a_node_brings_itself_up(graph):
    node = graph.start(Demo)
    assert graph.state(node) == 'unconfigured'
    graph.until(lambda: graph.state(node) == 'active')
    assert node.is_active and node.deeds == ['configure', 'activate']


def test_without_autostart_a_node_waits_and_says_so(graph):
    node = graph.start(Demo, autostart=False)
    graph.until(lambda: 'autostart is off' in graph.log())
    graph.settle()
    assert graph.state(node) == 'unconfigured'
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert graph.state(node) == 'inactive' and not node.is_active
    node.trigger_activate()
    assert graph.state(node) == 'active' and node.is_active


def test_a_failed_configure_leaves_nothing_held_and_can_be_tried_again(graph):
    node = graph.start(Demo, autostart=False)
    before = topics(node)
    node.set_parameters([rclpy_parameter('fails', 'configure')])
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert graph.state(node) == 'unconfigured' and topics(node) == before
    (line,) = graph.errors()
    assert line.endswith('cannot configure: no luck in configure; try again')
    node.set_parameters([rclpy_parameter('fails', '')])
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert '/held' in topics(node)


def test_a_failed_activation_leaves_the_node_inactive(graph):
    node = graph.start(Demo, fails='activate')
    graph.until(lambda: graph.state(node) == 'inactive')
    assert not node.is_active
    assert 'Traceback' not in graph.log()


def test_a_defect_keeps_its_traceback_and_the_node_falls_back(graph):
    node = graph.start(Demo, fails='defect')
    graph.until(lambda: 'back to unconfigured' in graph.log())
    assert 'ZeroDivisionError: a defect' in graph.log() and 'Traceback' in graph.log()
    assert graph.state(node) == 'unconfigured' and '/held' not in topics(node)


def test_cleanup_returns_everything(graph):
    node = graph.start(Demo)
    before = topics(node)
    graph.until(lambda: graph.state(node) == 'active')
    node.trigger_deactivate()
    assert node.deeds[-1] == 'deactivate' and not node.is_active
    node.trigger_cleanup()
    assert graph.state(node) == 'unconfigured' and topics(node) == before


def test_closing_stops_before_it_releases(graph):
    node = graph.start(Demo)
    graph.until(lambda: graph.state(node) == 'active')
    graph.stop(node)
    assert node.deeds == ['configure', 'activate', 'deactivate', 'release']


def test_a_destroyed_node_leaves_the_graph_at_once(graph):
    node = graph.start(Demo)
    graph.until(lambda: 'demo' in graph.tester.get_node_names())
    graph.stop(node)
    assert node is not None and 'demo' not in graph.tester.get_node_names()


def test_diagnostics_tell_the_state_from_birth_on(graph):
    heard = graph.hear(DiagnosticArray, '/diagnostics')
    node = graph.start(Demo, autostart=False)
    graph.until(lambda: newest(heard) and newest(heard).level == DiagnosticStatus.WARN)
    assert newest(heard).name == 'demo: node' and newest(heard).message == 'not active'
    node.trigger_configure()
    node.trigger_activate()
    node.drop('odd input', 'the second')
    node.drop('odd input', 'the third')
    graph.until(lambda: newest(heard).level == DiagnosticStatus.OK)
    values = {pair.key: pair.value for pair in newest(heard).values}
    assert newest(heard).message == 'well' and values == {'deeds': '2', 'dropped: odd input': '2'}
    assert len(graph.warnings()) == 1 and 'dropped: odd input: the second' in graph.warnings()[0]


def test_diagnostics_keep_showing_why_configure_failed(graph):
    heard = graph.hear(DiagnosticArray, '/diagnostics')
    node = graph.start(Demo, fails='configure')
    graph.until(lambda: newest(heard) and newest(heard).level == DiagnosticStatus.ERROR)
    assert 'no luck in configure' in newest(heard).message
    node.set_parameters([rclpy_parameter('fails', '')])
    node.trigger_configure()
    node.trigger_activate()
    graph.until(lambda: newest(heard).level == DiagnosticStatus.OK)


def rclpy_parameter(name, value):
    from rclpy.parameter import Parameter

    return Parameter(name, value=value)


PROCESS = """
import sys
sys.path.insert(0, {folder!r})
from test_ros_lifecycle import Demo
from attn_robotics.ros.lifecycle import run_node
sys.exit(run_node(Demo))
"""


def start_process(*arguments):
    code = PROCESS.format(folder=str(Path(__file__).parent))
    return subprocess.Popen(
        [sys.executable, '-c', code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_the_process_with_0_and_no_traceback(number):
    with start_process('--ros-args', '-p', 'autostart:=false') as process:
        for line in process.stdout:
            if 'autostart is off' in line:
                break
        process.send_signal(number)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and 'Traceback' not in rest


@pytest.mark.parametrize('arguments', [['--ros-args', '-p', 'fails=x'], ['--ros-args', '--bogus'], ['--bogus']])
def test_a_command_line_that_makes_no_sense_is_exit_code_2_and_no_traceback(arguments):
    with start_process(*arguments) as process:
        text, _ = process.communicate(timeout=30)
    assert process.returncode == 2 and 'Traceback' not in text
    assert arguments[-1] in text


def test_help_lists_the_parameters():
    with start_process('--help') as process:
        text, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert 'fails' in text and 'Where to fail. (string)' in text


def test_simulated_time_that_stands_still_is_one_line_and_shown(graph, monkeypatch):
    monkeypatch.setattr(lifecycle, 'STILL_S', 0.5)
    heard = graph.hear(DiagnosticArray, '/diagnostics')
    graph.start(Demo, use_sim_time=True)
    graph.until(graph.errors, 'an error line')
    assert "time stands still: nothing on '/clock'" in graph.errors()[0]
    graph.until(lambda: any(s.message.startswith('time stands still') for a in heard for s in a.status))
    before = len(heard)
    graph.until(lambda: len(heard) > before + 1, 'more diagnostics')
    assert len(graph.errors()) == 1
