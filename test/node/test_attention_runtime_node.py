"""The attention runtime as other processes see it: services, model states, metrics, and what it refuses."""

from __future__ import annotations

import array
import math
import socket
import threading
import time
import urllib.request

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runtime_world import PATIENCE_MS, Held, rows
from std_msgs.msg import String

from attn_robotics.conversions.tensors import KINDS, SHARED_FROM_BYTES, from_tensor, to_shared_tensor, to_tensor
from attn_robotics.ros.hosting import engine_of_process
from attn_robotics.ros.lifecycle import ConfigurationError
from attn_robotics.ros.model_board import CHANGES
from attn_robotics.runtime.shared_memory import FOLDER, Segment
from attn_robotics_interfaces.msg import ModelStatus, Tensor
from attn_robotics_interfaces.srv import Infer, ListModels, LoadModel, UnloadModel

pytestmark = pytest.mark.ros


def test_a_preloaded_model_answers_with_times(runtime):
    runtime.start(preload=['identity'])
    reply = runtime.infer('identity', rows(1, 2, 3))
    assert reply.success and reply.message == '' and reply.compute_ms > 0 and reply.queue_ms >= 0
    np.testing.assert_array_equal(from_tensor(reply.outputs[0]), rows(1, 2, 3))
    assert reply.outputs[0].name == 'y'


def test_models_are_loaded_listed_and_unloaded_by_service(runtime):
    runtime.put('broken', system='no_such_system')
    node = runtime.start()
    assert not runtime.infer('identity', rows(1)).success
    listed = {status.name: status for status in runtime.call(ListModels).models}
    assert set(listed) == {'broken', 'identity'} and listed['identity'].state == ModelStatus.UNLOADED

    reply = runtime.call(LoadModel, model='identity')
    assert reply.success and reply.status.state == ModelStatus.READY and reply.status.device == 'cpu'
    assert runtime.infer('identity', rows(1)).success
    for name, words in (('broken', 'no_such_system'), ('../identity', 'no model'), ('', 'no model')):
        reply = runtime.call(LoadModel, model=name)
        assert not reply.success and words in reply.message and '\n' not in reply.message
    assert node.dropped['load_model: unknown_model'] == 2
    runtime.graph.until(lambda: 'failed to load: broken' in node.diagnose()[1])

    assert runtime.call(UnloadModel, model='identity').success
    assert not runtime.call(UnloadModel, model='identity').success
    assert 'not loaded' in runtime.infer('identity', rows(1)).message
    listed = {status.name: status for status in runtime.call(ListModels).models}
    assert listed['identity'].requests == 1 and listed['broken'].state == ModelStatus.FAILED


def test_a_slow_model_delays_no_other_request_and_each_gets_its_own_answer(runtime):
    runtime.put('held', system='held', batch={'dim': 'N', 'buckets': [4, 100_000]})
    runtime.start(preload=['held'])
    Held.free.clear()
    futures = [runtime.ask(Infer, model='held', inputs=[to_tensor('x', rows(i))]) for i in range(20)]
    assert runtime.call(ListModels).models and not runtime.infer('nobody', rows(1)).success
    assert not any(future.done() for future in futures)
    Held.free.set()
    runtime.graph.until(lambda: all(future.done() for future in futures), 'twenty answers')
    for i, future in enumerate(futures):
        np.testing.assert_array_equal(from_tensor(future.result().outputs[0]), 2 * rows(i))


def test_a_request_by_shared_memory_is_answered_by_shared_memory_and_the_rest_inline(runtime):
    runtime.start(preload=['identity'], shm_ttl_s=60.0)
    large = rows(*range(SHARED_FROM_BYTES // 8))
    with Segment.create(large.nbytes) as segment:
        for values, is_shared in ((large, True), (rows(1), False)):
            reply = runtime.call(Infer, model='identity', inputs=[to_shared_tensor('x', values, segment)])
            assert reply.success and bool(reply.outputs[0].shm_key) == is_shared
            np.testing.assert_array_equal(from_tensor(reply.outputs[0], claim=is_shared), values)
            assert not is_shared or not (FOLDER / reply.outputs[0].shm_key).exists()
    assert not runtime.infer('identity', large).outputs[0].shm_key


def test_answers_that_nobody_fetches_are_removed_with_the_node(runtime):
    node = runtime.start(preload=['identity'], shm_ttl_s=600.0)
    large = rows(*range(SHARED_FROM_BYTES // 8))
    with Segment.create(large.nbytes) as segment:
        key = runtime.call(Infer, model='identity', inputs=[to_shared_tensor('x', large, segment)]).outputs[0].shm_key
    assert (FOLDER / key).exists()
    runtime.graph.stop(node)
    assert not (FOLDER / key).exists()


def test_cleaning_up_refuses_what_waits_and_gives_the_engine_back(runtime):
    runtime.put('held', system='held')
    node = runtime.start(preload=['held'])
    Held.free.clear()
    Held.entered.clear()
    running = runtime.ask(Infer, model='held', inputs=[to_tensor('x', rows(1))])
    waiting = runtime.ask(Infer, model='held', inputs=[to_tensor('x', rows(2))])
    engine = engine_of_process()
    runtime.graph.until(lambda: Held.entered and sum(engine.waiting().values()) == 1, 'one that runs, one that waits')
    node.trigger_deactivate()
    assert 'not active' in runtime.infer('held', rows(3)).message
    threading.Timer(0.2, Held.free.set).start()  # cleaning up waits for what runs
    node.trigger_cleanup()
    runtime.graph.until(lambda: running.done() and waiting.done(), 'two refusals')
    assert {future.result().message for future in (running, waiting)} == {'the runtime is being cleaned up'}
    with pytest.raises(ConfigurationError, match='no engine runs'):
        engine_of_process()
    node.trigger_configure()
    node.trigger_activate()
    assert runtime.infer('held', rows(4)).success


def test_late_comers_learn_of_every_models_last_change(runtime):
    runtime.put('held', system='held')
    runtime.start(preload=['identity'])
    assert runtime.call(LoadModel, model='held').success
    heard = runtime.graph.hear(ModelStatus, '/attention_runtime/models', CHANGES)
    last = lambda: {status.name: status.state for status in heard}  # noqa: E731
    runtime.graph.until(lambda: last() == {'identity': ModelStatus.READY, 'held': ModelStatus.READY})
    runtime.call(UnloadModel, model='identity')
    runtime.graph.until(lambda: last()['identity'] == ModelStatus.UNLOADED)
    engine_of_process()._residency.evict_one('cpu', 'a test')  # as when memory runs out
    runtime.graph.until(lambda: last()['held'] == ModelStatus.UNLOADED)
    assert heard[-1].reason == 'evicted: a test'


def test_a_long_load_is_seen_on_the_topic_in_the_list_and_in_the_log(runtime):
    runtime.put('held', system='held', warm_up=[{'N': 1}, {'N': 2}])
    runtime.start()
    heard = runtime.graph.hear(ModelStatus, '/attention_runtime/models', CHANGES)
    runtime.call(ListModels)
    Held.free.clear()
    Held.only = 2
    loading = runtime.ask(LoadModel, model='held')
    shown = lambda status: (status.name, status.state, status.stage, status.progress)  # noqa: E731
    expected = ('held', ModelStatus.LOADING, 'warm up', 0.5)
    runtime.graph.until(lambda: expected in map(shown, heard), 'a model that warms up')
    assert expected in map(shown, runtime.call(ListModels).models)
    assert not loading.done()
    Held.free.set()
    runtime.graph.until(lambda: ('held', ModelStatus.READY, '', 0.0) in map(shown, heard), 'a model that is ready')
    assert 'held: build' in runtime.graph.log()


def test_metrics_are_made_only_while_somebody_listens(runtime, monkeypatch):
    node = runtime.start(preload=['identity'])
    made = []
    prometheus = node._engine.prometheus
    monkeypatch.setattr(node._engine, 'prometheus', lambda: made.append(1) or prometheus())
    node._board.watch()
    assert not made
    runtime.infer('identity', rows(1))
    runtime.infer('identity', np.zeros(3, np.int8))
    heard = runtime.graph.hear(String, '/attention_runtime/metrics')
    runtime.graph.until(lambda: heard, 'metrics')
    assert 'attn_runtime_requests_total{model="identity"} 1' in heard[-1].data
    assert 'attn_runtime_refused_total{service="infer",reason="bad_input"} 1' in heard[-1].data


def test_diagnostics_tell_times_apart_and_lateness(runtime):
    runtime.put('held', system='held')
    node = runtime.start(preload=['held'])
    heard = runtime.graph.hear(DiagnosticArray, '/diagnostics')
    runtime.infer('held', rows(1))

    def shown():
        statuses = [s for message in heard for s in message.status if s.name.startswith('attention_runtime')]
        return {value.key: value.value for value in statuses[-1].values} if statuses else {}

    runtime.graph.until(lambda: shown().get('held: answered') == '1', 'an answer in the diagnostics')
    assert {f'held: {phase} p50, p99 [ms]' for phase in ('queue', 'batch', 'transfer', 'compute')} <= set(shown())
    Held.free.clear()
    Held.entered.clear()
    ask = lambda deadline_ms: runtime.ask(  # noqa: E731
        Infer, model='held', inputs=[to_tensor('x', rows(1))], deadline_ms=deadline_ms
    )
    futures = [ask(PATIENCE_MS)]
    runtime.graph.until(lambda: Held.entered, 'one that runs')
    futures += [ask(1.0), ask(1.0)]
    settled = lambda: sum(future.done() for future in futures)  # noqa: E731
    runtime.graph.until(lambda: settled() + sum(node._engine.waiting().values()) == 2, 'two that wait or were refused')
    too_late = time.monotonic() + 0.01
    runtime.graph.until(lambda: time.monotonic() > too_late, 'their deadline to pass')
    Held.free.set()
    runtime.graph.until(lambda: all(future.done() for future in futures), 'three answers')
    assert sorted(future.result().success for future in futures) == [False, False, True]
    assert sum(count for reason, count in node.dropped.items() if reason.startswith('infer: ')) == 2
    messages = [status.message for message in heard for status in message.status]
    runtime.graph.until(lambda: any('for lack of time' in s.message for m in heard for s in m.status), 'a warning')
    assert not any('again' in message for message in messages)


def test_the_door_lets_http_clients_in_while_the_node_is_active(runtime):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    node = runtime.start(preload=['identity'], door_port=port)
    with urllib.request.urlopen(f'http://127.0.0.1:{port}/v2/models/identity/ready', timeout=30) as answer:
        assert answer.status == 200
    node.trigger_deactivate()
    with pytest.raises(OSError, match='refused'):
        urllib.request.urlopen(f'http://127.0.0.1:{port}/v2/health/live', timeout=30)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(('127.0.0.1', port))
        taken.listen()
        node.trigger_activate()
    assert any(f'door_port {port}' in line for line in runtime.graph.errors())


def test_a_preload_that_does_not_exist_is_refused_and_leaves_nothing(runtime):
    runtime.start(preload=['identty'])
    runtime.graph.until(lambda: runtime.graph.errors(), 'an error')
    (line,) = runtime.graph.errors()
    assert "parameter 'preload'" in line and 'identity' in line
    with pytest.raises(ConfigurationError):
        engine_of_process()


BAD_FLOATS = [math.nan, math.inf, -1.0, 1e30]
WORDS = st.one_of(st.sampled_from(['x', 'y', 'identity', *KINDS]), st.text(st.characters(codec='utf-8'), max_size=8))
SIZES = st.one_of(st.integers(-2, 5), st.sampled_from([2**31, 2**62, -(2**63)]))
TENSORS = st.builds(
    Tensor,
    name=WORDS,
    dtype=WORDS,
    shape=st.lists(SIZES, max_size=4),
    strides=st.lists(SIZES, max_size=4),
    byte_offset=st.one_of(st.integers(0, 64), st.just(2**64 - 1)),
    data=st.binary(max_size=64).map(lambda data: array.array('B', data)),
    shm_key=st.one_of(st.just(''), WORDS, st.sampled_from(['attn_1_1_1_0123456789abcdef', '../../etc/passwd'])),
)
GOOD = st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=4).map(lambda values: to_tensor('x', rows(*values)))
# What a client with a defect sends: right but for one or two fields.
FLAWS = {
    'name': WORDS,
    'dtype': WORDS,
    'shape': st.lists(SIZES, max_size=3).map(lambda sizes: array.array('q', sizes)),
    'strides': st.lists(SIZES, max_size=3).map(lambda sizes: array.array('q', sizes)),
    'byte_offset': st.integers(0, 64),
    'data': st.binary(max_size=40).map(lambda data: array.array('B', data)),
    'shm_key': WORDS,
}


@st.composite
def flawed(draw):
    tensor = draw(GOOD)
    for field in draw(st.lists(st.sampled_from(sorted(FLAWS)), max_size=2, unique=True)):
        setattr(tensor, field, draw(FLAWS[field]))
    return tensor


REQUESTS = st.builds(
    Infer.Request,
    model=st.one_of(st.just('identity'), WORDS),
    version=st.sampled_from(['', '1', '2', '\n']),
    inputs=st.one_of(st.lists(flawed(), min_size=1, max_size=1), st.lists(st.one_of(TENSORS, flawed()), max_size=3)),
    deadline_ms=st.sampled_from([0.0, *BAD_FLOATS[:3]]),
    priority=st.integers(0, 255),
    stream=st.one_of(st.just(''), WORDS),
    reset=st.booleans(),
)


def test_no_request_whatever_it_holds_breaks_the_service(runtime):
    node = runtime.start(preload=['identity'])
    runtime.infer('identity', rows(1))
    client = runtime.clients['infer']
    end = time.monotonic() + 15.0
    outcomes = set()

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(REQUESTS, st.integers(0, 1000))
    def throw(request, value):
        if time.monotonic() > end:
            return  # on a slow machine fewer examples must do
        refused = sum(node.dropped.values())
        bad, good = client.call_async(request), runtime.ask(
            Infer, model='identity', inputs=[to_tensor('x', rows(value))]
        )  # fmt: skip
        runtime.graph.until(lambda: bad.done() and good.done(), f'answers to {request}', limit_s=10.0)
        reply = bad.result()
        outcomes.add(reply.reason)
        assert (
            reply.success == (not reply.message) == (not reply.reason)
            and len(reply.message) <= 400
            and '\n' not in reply.message
        )
        assert sum(node.dropped.values()) == refused + (not reply.success)
        np.testing.assert_array_equal(from_tensor(good.result().outputs[0]), rows(value))

    throw()
    assert node.is_active and {'', 'bad_input'} <= outcomes  # some were good, and they were answered
