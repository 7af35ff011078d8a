"""Several nodes in one process around one engine, and what happens to the others when one fails."""

from __future__ import annotations

import signal
import subprocess
import sys
import types
from dataclasses import dataclass

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.srv import GetParameters

from attn_robotics.nodes import attention_runtime, container
from attn_robotics.nodes.container import Container, executables, parse_item
from attn_robotics.ros.hosting import (
    EngineSettings,
    declare_engine,
    engine_of_process,
    hold_engine,
    release_engine,
)
from attn_robotics.ros.lifecycle import AttnNode, ConfigurationError
from attn_robotics.ros.parameters import param
from attn_robotics_interfaces.srv import ListModels

pytestmark = pytest.mark.ros


@dataclass(frozen=True)
class AskerParams:
    autostart: bool = param(True, 'Configure and activate without being told.')


class Asker(AttnNode):
    """A node that needs the engine, and does what a test tells it in its own thread."""

    NAME = 'asker'
    Params = AskerParams
    fails_to_start = False

    def __init__(self, **options):
        super().__init__(**options)
        if self.fails_to_start:
            raise ValueError('no luck')
        self.engine = None
        self.order = None
        self.create_timer(0.02, self._obey, clock=self._wall)

    def configure(self):
        self.engine = hold_engine(self)

    def release(self):
        release_engine(self)
        self.engine = None

    def _obey(self):
        order, self.order = self.order, None
        if order is not None:
            order(self)


@pytest.fixture
def asker(monkeypatch):
    """The executables `asker` and `broken`, beside those that ship."""
    module = types.ModuleType('attn_robotics.nodes.asker')
    Kind = type('Kind', (Asker,), {'__module__': module.__name__})
    module.Kind = Kind
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(container, 'executables', lambda: ['asker', 'attention_runtime', 'broken'])
    return Kind


@pytest.fixture
def hosting(graph, asker):
    """Start a container and wait until its nodes are active."""

    def start(*items, **options):
        node = graph.start(Container, nodes=list(items), **options)
        graph.until(lambda: graph.state(node) == 'active' or graph.errors(), 'the container')
        return node

    return start


def hosted(node, name):
    return next(one for one in node._hosted if one.name == name)


def test_hosted_nodes_reach_the_same_engine_by_reference(graph, hosting, tmp_path):
    node = hosting('asker', 'attention_runtime', 'asker@second')
    first, second = hosted(node, '/asker'), hosted(node, '/second')
    runtime = hosted(node, '/attention_runtime')
    graph.until(lambda: all(one.node.is_active for one in (first, second, runtime)), 'three active nodes')
    engine = engine_of_process()
    assert first.node.engine is second.node.engine is runtime.node._engine is engine
    engine.load('identity').result(30)
    x = np.arange(10, dtype=np.float32)
    np.testing.assert_array_equal(engine.infer('identity', {'x': x}, deadline_s=30.0).outputs['y'], x)
    assert node.diagnose() == (
        DiagnosticStatus.OK,
        'running',
        {'/asker': 'running', '/attention_runtime': 'running', '/second': 'running'},
    )


def test_a_node_that_fails_does_not_take_the_others_down(graph, hosting):
    node = hosting('asker', 'asker@doomed', 'broken')
    kept, doomed = hosted(node, '/asker'), hosted(node, '/doomed')
    graph.until(lambda: kept.node.is_active and doomed.node is not None and doomed.node.is_active)
    doomed.node.order = lambda self: 1 // 0
    graph.until(lambda: doomed.state == 'failed' and doomed.node is None, 'the failure')
    obeyed = []
    kept.node.order = obeyed.append
    graph.until(lambda: obeyed, 'the other node to go on')
    level, message, values = node.diagnose()
    assert level == DiagnosticStatus.ERROR and message == 'failed: /doomed, broken'
    assert 'ZeroDivisionError' in values['/doomed'] and 'ModuleNotFoundError' in values['broken']
    assert values['/asker'] == 'running' and not node.is_done and node.exit_code == 1
    assert engine_of_process() is kept.node.engine


def test_a_node_that_can_not_be_built_is_one_line_and_the_others_run(graph, hosting, asker, monkeypatch):
    monkeypatch.setattr(asker, 'fails_to_start', True)
    node = hosting('asker', 'attention_runtime')
    graph.until(lambda: hosted(node, '/attention_runtime').node.is_active)
    assert hosted(node, '/asker').problem == 'no luck'


def test_the_process_ends_with_its_last_node(graph, hosting):
    node = hosting('asker', 'asker@second')
    graph.until(lambda: all(one.node is not None and one.node.is_active for one in node._hosted))

    def end(self):
        self.exit_code, self.is_done = 3, True

    hosted(node, '/asker').node.order = end
    graph.until(lambda: hosted(node, '/asker').state == 'ended')
    graph.settle()
    assert not node.is_done
    hosted(node, '/second').node.order = end
    graph.until(lambda: node.is_done)
    assert node.exit_code == 3


def test_cleaning_up_ends_the_nodes_and_configuring_starts_them_anew(graph, hosting):
    before = sys.getswitchinterval()
    node = hosting('asker')
    graph.until(lambda: node._hosted[0].node.is_active)
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert not node._hosted and not node.is_done and sys.getswitchinterval() == before
    with pytest.raises(ConfigurationError, match='no engine runs in this process'):
        engine_of_process()
    node.trigger_configure()
    graph.until(lambda: node._hosted[0].node.is_active)


@pytest.mark.parametrize(
    ('items', 'words'),
    [
        ([], 'has none to host; choose from: asker'),
        (['nobody'], "there is no 'nobody' to host"),
        (['container'], "there is no 'container' to host"),
        (['../asker'], 'must be executable'),
        (['asker@9lives'], 'must be executable'),
        (['asker', 'asker'], '/asker twice'),
    ],
)
def test_a_wrong_list_is_refused_with_one_line(graph, hosting, items, words):
    hosting(*items)
    (line,) = graph.errors()
    assert words in line


def test_names_follow_the_containers_namespace():
    place = lambda item, namespace: parse_item(item, namespace)[1:]  # noqa: E731
    assert place('sparc_fleet', '/') == ('/', 'sparc')
    assert place('sparc_fleet', '/fleet') == ('/fleet', 'sparc')
    assert place('sparc_fleet@left', '/fleet') == ('/fleet', 'left')
    assert place('sparc_fleet@a/left', '/fleet') == ('/fleet/a', 'left')
    assert place('sparc_fleet@/a/left', '/fleet') == ('/a', 'left')
    assert parse_item('attention_runtime', '/')[0] is attention_runtime.AttentionRuntime
    assert {'attention_runtime', 'sparc_fleet'} <= set(executables()) and 'container' not in executables()


def test_two_runtimes_that_want_different_engines_are_told_so():
    declare_engine(EngineSettings(budget_bytes=1 << 30))
    try:
        hold_engine('one')
        declare_engine(EngineSettings(budget_bytes=1 << 30))
        with pytest.raises(ConfigurationError, match='give all nodes of the container the same'):
            declare_engine(EngineSettings())
    finally:
        release_engine('one')
        declare_engine(EngineSettings())


def test_hosted_nodes_keep_their_names_namespaces_and_parameters(graph, tmp_path):
    parameters = tmp_path / 'parameters.yaml'
    parameters.write_text(
        '/**/attention_runtime:\n  ros__parameters: {preload: [identity], shm_ttl_s: 7.0}\n'
        '/**/sparc:\n  ros__parameters: {robots: 3, autostart: false}\n'
    )
    process = subprocess.Popen(
        [
            sys.executable, '-m', 'attn_robotics.nodes.container', '--ros-args', '-r', '__node:=host',
            '-r', '__ns:=/fleet', '--params-file', str(parameters),
            '-p', 'nodes:=[attention_runtime, sparc_fleet@left/sparc]',
        ],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert parameter(graph, '/fleet/left/sparc', 'robots').integer_value == 3
        assert parameter(graph, '/fleet/attention_runtime', 'shm_ttl_s').double_value == 7.0
        assert 'sparc_fleet@left/sparc' in parameter(graph, '/fleet/host', 'nodes').string_array_value
        models = graph.call(ListModels, '/fleet/attention_runtime/list_models', again_s=3.0).models
        assert {model.name: model.state for model in models}['identity'] == 2
        process.send_signal(signal.SIGINT)
        log = process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert process.returncode == 0 and 'ERROR' not in log and 'Traceback' not in log, log


def parameter(graph, node, name):
    return graph.call(GetParameters, f'{node}/get_parameters', names=[name], again_s=3.0).values[0]
