"""The base of perception nodes: order, drops, evicted models, defects, and what diagnostics say."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from std_msgs.msg import Float32

from attn_robotics.ros import hosting, qos
from attn_robotics.ros.hosting import EngineSettings, engine_of_process
from attn_robotics.ros.lifecycle import ConfigurationError
from attn_robotics.ros.parameters import param
from attn_robotics.ros.perception import PerceptionNode
from attn_robotics.runtime.engine import ModelState

pytestmark = pytest.mark.ros


@dataclass(frozen=True)
class EchoParams:
    model: str = param('mirror', 'Model.', read_only=True)


class Echo(PerceptionNode):
    """Publishes what a model that copies its input made of a number."""

    NAME = 'echo'
    INPUT = 'numbers'
    DEPTH = 2
    Params = EchoParams
    gate = threading.Event()
    entered = threading.Semaphore(0)

    def configure(self):
        self.open_model(self.params.model)
        self.out = self.advertise(Float32, 'copies', qos.STATE)
        self.hear(Float32, 'numbers', lambda message: self.offer(message.data), qos.STATE)

    def process(self, item):
        Echo.entered.release()
        assert Echo.gate.wait(30)
        if item < 0:
            raise KeyError('a defect')
        answer = self.ask({'x': np.array([item], np.float32)})
        self.out.publish(Float32(data=float(answer['y'][0])))


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    tensor = {'dtype': 'float32', 'shape': ['N']}
    entry = {
        'name': 'mirror', 'version': '1', 'backend': 'torch', 'system': 'identity', 'device': 'cpu',
        'dims': {'N': [1, 4]}, 'inputs': [{'name': 'x', **tensor}], 'outputs': [{'name': 'y', **tensor}],
        'deadline_ms': 30_000,
    }  # fmt: skip
    (tmp_path / 'mirror.yaml').write_text(yaml.safe_dump(entry))
    monkeypatch.setattr(hosting._shared, 'settings', EngineSettings(folders=(tmp_path,)))
    Echo.gate.set()
    Echo.entered = threading.Semaphore(0)


@pytest.fixture
def echo(graph, catalogue):
    node = graph.start(Echo)
    graph.until(lambda: node.is_active, 'an active node')
    return node


def say(graph, *values):
    for value in values:
        graph.say(Float32(data=float(value)), 'numbers', qos.STATE)


def test_items_are_answered_in_order_and_the_oldest_make_room(graph, echo):
    heard = graph.hear(Float32, 'copies')
    Echo.gate.clear()
    say(graph, 1)
    graph.until(lambda: Echo.entered.acquire(blocking=False), 'the first item at work')
    say(graph, 2, 3, 4, 5)
    graph.until(lambda: echo.dropped['overrun'] == 2, 'two dropped items')
    Echo.gate.set()
    graph.until(lambda: len(heard) == 3, 'three answers')
    assert [message.data for message in heard] == [1.0, 4.0, 5.0]


def test_an_evicted_model_is_loaded_again(graph, echo):
    engine_of_process().unload('mirror').result(30)
    heard = graph.hear(Float32, 'copies')
    say(graph, 7)
    graph.until(lambda: heard, 'an answer')
    assert not echo.dropped


def test_a_refused_item_and_a_defect_are_counted_and_the_next_item_is_answered(graph, echo):
    heard = graph.hear(Float32, 'copies')
    say(graph, np.nan)
    graph.until(lambda: echo.dropped['bad_input'] == 1, 'a refusal')
    say(graph, -1)
    graph.until(lambda: echo.dropped['defect'] == 1, 'a defect')
    say(graph, 3)
    graph.until(lambda: heard, 'an answer')
    assert heard[0].data == 3.0


def test_an_unknown_model_leaves_the_node_unconfigured_with_one_line(graph, catalogue):
    node = graph.start(Echo, model='mirorr')
    graph.until(lambda: "no model 'mirorr'" in node._last_error, 'a reason')
    assert graph.state(node) == 'unconfigured'
    with pytest.raises(ConfigurationError):
        engine_of_process()


def test_two_nodes_share_one_model_and_the_last_one_gives_it_back(graph, catalogue):
    other = hosting.hold_engine(graph)
    try:
        nodes = [graph.start(Echo, namespace=name) for name in ('one', 'two')]
        graph.until(lambda: all(node.is_active for node in nodes), 'active nodes')
        graph.stop(nodes[0])
        assert other.status('mirror').state == ModelState.READY
        graph.stop(nodes[1])
        assert other.status('mirror').state == ModelState.UNLOADED
    finally:
        hosting.release_engine(graph)


def test_a_model_that_somebody_else_loaded_is_left_to_them(graph, catalogue):
    other = hosting.hold_engine(graph)
    try:
        other.load('mirror').result(30)
        node = graph.start(Echo)
        graph.until(lambda: node.is_active, 'an active node')
        graph.stop(node)
        assert other.status('mirror').state == ModelState.READY
    finally:
        hosting.release_engine(graph)


def test_diagnostics_tell_of_drops_and_times(graph, echo):
    reports = graph.hear(DiagnosticArray, '/diagnostics')
    say(graph, 3, np.nan)
    graph.until(lambda: echo.dropped['bad_input'] == 1, 'a refusal')
    graph.until(lambda: reports and reports[-1].status[0].level == DiagnosticStatus.WARN, 'a warning')
    status = reports[-1].status[0]
    values = {pair.key: pair.value for pair in status.values}
    assert values['model'] == 'mirror' and values['dropped: bad_input'] == '1'
    assert {'queue p50, p99 [ms]', 'compute p50, p99 [ms]', 'transfer p50, p99 [ms]'} <= set(values)
