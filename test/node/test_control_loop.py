"""The control loop beside the executor."""

import threading
from dataclasses import dataclass

import pytest
from rosgraph_msgs.msg import Clock

from attn_robotics.conversions.stamps import to_stamp
from attn_robotics.ros import qos
from attn_robotics.ros.lifecycle import AttnNode
from attn_robotics.ros.loop import ControlLoop
from attn_robotics.ros.parameters import param

pytestmark = pytest.mark.ros


@dataclass(frozen=True)
class PulseParams:
    """Tunables of the test's node."""

    priority: int = param(0, 'Real-time priority.')


class Pulse(AttnNode):
    """Ticks."""

    NAME = 'pulse'
    Params = PulseParams

    def configure(self):
        self.threads, self.fails, self.blocks = [], False, threading.Event()
        self.blocks.set()
        self.loop = ControlLoop(self, 0.01, self.tick, priority=self.params.priority)

    def activate(self):
        self.loop.start()

    def deactivate(self):
        self.loop.stop()

    def release(self):
        self.loop.close()

    def tick(self):
        if self.fails:
            raise RuntimeError('no idea')
        self.threads.append(threading.current_thread())
        self.blocks.wait()


def test_it_ticks_beside_the_executor_and_never_after_it_was_stopped(graph):
    node = graph.start(Pulse)
    graph.until(lambda: graph.state(node) == 'active')
    graph.until(lambda: len(node.threads) > 5, 'ticks')
    assert threading.main_thread() not in node.threads
    assert float(node.loop.values()['control lateness p99 [ms]']) >= 0.0
    node.trigger_deactivate()
    count = len(node.threads)
    graph.settle()
    assert len(node.threads) == count
    node.trigger_activate()
    graph.until(lambda: len(node.threads) > count, 'ticks again')


def test_ticks_that_no_longer_fit_are_left_out_and_counted_instead_of_made_up_for(graph):
    node = graph.start(Pulse)
    graph.until(lambda: graph.state(node) == 'active' and node.threads)
    node.blocks.clear()
    count = len(node.threads)
    graph.settle()
    graph.settle()
    node.blocks.set()
    graph.until(lambda: len(node.threads) > count + 5, 'ticks again')
    assert node.loop.missed > 10


def test_an_exception_ends_the_node_with_a_line_and_exit_code_1(graph):
    node = graph.start(Pulse)
    graph.until(lambda: graph.state(node) == 'active')
    node.fails = True
    graph.until(lambda: node.is_done, 'the end')
    assert node.exit_code == 1
    assert any('the control loop failed: RuntimeError: no idea' in line for line in graph.errors())


def test_on_simulated_time_it_ticks_when_that_time_moves(graph):
    node = graph.start(Pulse, use_sim_time=True)
    graph.until(lambda: graph.state(node) == 'active')
    graph.settle()
    assert not node.threads
    for k in range(1, 8):
        graph.say(Clock(clock=to_stamp(1.0 + 0.01 * k)), '/clock', qos.CLOCK)
        graph.until(lambda k=k: node.get_clock().now().nanoseconds >= 1_000_000_000 + k * 10_000_000)
        graph.settle()
    assert node.threads and set(node.threads) == {threading.main_thread()}
