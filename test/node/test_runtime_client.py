"""A node that asks the attention runtime, in its own process and elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from rclpy.task import Future

from attn_robotics.conversions.tensors import SHARED_FROM_BYTES
from attn_robotics.nodes.attention_runtime import AttentionRuntime
from attn_robotics.ros import runtime_client
from attn_robotics.ros.runtime_client import RuntimeClient
from attn_robotics.runtime import shared_memory
from attn_robotics.runtime.errors import EngineError
from attn_robotics_interfaces.msg import ModelStatus

pytestmark = pytest.mark.ros

TENSOR = {'dtype': 'float32', 'shape': ['N']}
ENTRY = {
    'name': 'identity', 'version': '1', 'backend': 'torch', 'system': 'identity', 'device': 'cpu',
    'dims': {'N': [1, 1_000_000]}, 'inputs': [{'name': 'x', **TENSOR}], 'outputs': [{'name': 'y', **TENSOR}],
    'warm_up': [{'N': 1}, {'N': 2}], 'deadline_ms': 30_000,
}  # fmt: skip
LARGE = np.arange(SHARED_FROM_BYTES // 4, dtype=np.float32)
SMALL = np.arange(3, dtype=np.float32)


class Asking:
    def __init__(self, graph, folder):
        self.graph, self.folder = graph, folder
        (folder / 'identity.yaml').write_text(yaml.safe_dump(ENTRY))

    def start(self, **parameters):
        self.runtime = self.graph.start(AttentionRuntime, models=[str(self.folder)], **parameters)
        return self.runtime

    def wait(self, future: Future):
        self.graph.until(future.done, 'an answer')
        return future.result()

    def refusal(self, future: Future) -> EngineError:
        self.graph.until(future.done, 'a refusal')
        assert isinstance(future.exception(), EngineError)
        return future.exception()


@pytest.fixture
def asking(graph, tmp_path):
    return Asking(graph, tmp_path)


@pytest.fixture
def elsewhere(asking):
    """A client that knows nothing of the engine in this process."""
    client = RuntimeClient(asking.graph.tester, 'attention_runtime')
    yield client
    client.close()


@pytest.mark.parametrize('runtime', [None, 'attention_runtime'], ids=['in its process', 'by service'])
def test_models_are_loaded_asked_and_unloaded(asking, runtime):
    asking.start()
    client = RuntimeClient(asking.graph.tester, runtime)
    asking.graph.until(lambda: asking.runtime.is_active)
    assert [status.name for status in asking.wait(client.list_models())] == ['identity']
    assert asking.wait(client.load('identity')).state == ModelStatus.READY
    for values in (SMALL, LARGE):
        answer = asking.wait(client.infer('identity', {'x': values}, deadline_s=30.0))
        np.testing.assert_array_equal(answer.outputs['y'], values)
        assert answer.compute_s > 0
    error = asking.refusal(client.infer('identity', {'x': SMALL.astype(np.int8)}))
    assert error.reason == 'bad_input' and 'x must be float32' in str(error)
    assert asking.wait(client.unload('identity')) is None
    assert asking.refusal(client.unload('identity')).reason == 'not_loaded'
    assert asking.refusal(client.infer('identity', {'x': SMALL})).reason == 'not_loaded'
    client.close()


def test_large_arrays_go_by_shared_memory_and_the_same_pages_serve_again(asking, elsewhere, monkeypatch):
    asking.start(preload=['identity'])
    created, keys = [], []
    create, read = shared_memory.Segment.create, runtime_client.from_tensor
    monkeypatch.setattr(shared_memory.Segment, 'create', lambda size: created.append(size) or create(size))
    monkeypatch.setattr(runtime_client, 'from_tensor', lambda t, claim: keys.append(t.shm_key) or read(t, claim=claim))
    for turn in range(5):
        answer = asking.wait(elsewhere.infer('identity', {'x': LARGE + turn}))
        np.testing.assert_array_equal(answer.outputs['y'], LARGE + turn)
    assert len(created) == 2  # one of the client, one of the runtime
    assert all(keys)
    asking.wait(elsewhere.infer('identity', {'x': SMALL}))
    assert keys[-1] == ''


def test_many_requests_under_way_at_once_do_not_mix(asking, elsewhere):
    asking.start(preload=['identity'])
    futures = [elsewhere.infer('identity', {'x': LARGE + turn if turn % 2 else SMALL + turn}) for turn in range(30)]
    for turn, future in enumerate(futures):
        np.testing.assert_array_equal(asking.wait(future).outputs['y'], LARGE + turn if turn % 2 else SMALL + turn)


def test_a_runtime_that_can_not_read_our_memory_is_asked_inline(asking, elsewhere, monkeypatch):
    asking.start(preload=['identity'])

    def blind(*args, **options):
        raise EngineError('bad_segment', 'no such segment on this host')

    monkeypatch.setattr('attn_robotics.conversions.tensors.read_array', blind)
    for _ in range(2):
        np.testing.assert_array_equal(asking.wait(elsewhere.infer('identity', {'x': LARGE})).outputs['y'], LARGE)
    assert asking.runtime.dropped == {'infer: bad_segment': 1}


def test_a_request_waits_for_a_runtime_that_is_still_coming_up(asking, elsewhere):
    future = elsewhere.infer('identity', {'x': SMALL})
    asking.graph.settle()
    assert not future.done()
    asking.start(preload=['identity'])
    np.testing.assert_array_equal(asking.wait(future).outputs['y'], SMALL)


def test_without_a_runtime_the_future_ends_with_one_line(asking):
    client = RuntimeClient(asking.graph.tester, 'nobody', timeout_s=0.2)
    error = asking.refusal(client.infer('identity', {'x': LARGE}))
    assert error.reason == 'expired' and '/nobody/infer' in str(error)
    waiting = RuntimeClient(asking.graph.tester, 'nobody')
    future = waiting.infer('identity', {'x': LARGE})
    waiting.close()
    assert asking.refusal(future).reason == 'stopped'
    client.close()


def test_a_load_tells_how_far_it_is(asking, elsewhere):
    asking.start()
    seen = []
    asking.graph.until(lambda: asking.runtime.is_active)
    asking.wait(elsewhere.list_models())
    asking.wait(elsewhere.load('identity', seen.append))
    asking.graph.until(lambda: seen, 'a status')
    assert all(status.name == 'identity' and 0 <= status.progress <= 1 for status in seen)


def test_in_the_same_process_arrays_go_by_reference_and_callbacks_run_in_the_executor(asking):
    import threading

    asking.start(preload=['identity'])
    asking.graph.until(lambda: asking.runtime.is_active)
    client = RuntimeClient(asking.graph.tester)
    threads = []
    future = client.infer('identity', {'x': LARGE})
    future.add_done_callback(lambda _: threads.append(threading.current_thread()))
    asking.graph.until(lambda: threads, 'the callback')
    assert threads == [threading.current_thread()]
    np.testing.assert_array_equal(future.result().outputs['y'], LARGE)
    client.close()
