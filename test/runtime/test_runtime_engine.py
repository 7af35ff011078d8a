from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
import torch
from engine_world import Fragile, Gate, Shelf, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attn_robotics.runtime import engine as engine_module
from attn_robotics.runtime import residency
from attn_robotics.runtime.backends import Progress
from attn_robotics.runtime.batching import ModelQueue
from attn_robotics.runtime.catalogue import Catalogue
from attn_robotics.runtime.engine import Engine, ModelState
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.lanes import Lane
from attn_robotics.runtime.progress import load_with_bar
from attn_robotics.runtime.requests import Request

Make = Callable[..., Engine]


def dropped(engine: Engine, model: str) -> dict[str, int]:
    return dict(engine.metrics()[model].dropped)


def refusal(action: Callable[[], Any]) -> EngineError:
    with pytest.raises(EngineError) as caught:
        action()
    assert '\n' not in str(caught.value)
    return caught.value


def test_loading_reports_progress_and_a_status_that_ends_ready(shelf: Shelf, engine: Engine) -> None:
    shelf.put('m')
    assert engine.status('m').state == ModelState.UNLOADED
    seen: list[Progress] = []
    status = engine.load('m', seen.append).result(30)
    assert status.state == ModelState.READY
    assert (status.version, status.system, status.backend, status.device) == ('1', 'identity', 'torch', 'cpu')
    assert {step.stage for step in seen} == {'build', 'warm up'}
    assert seen[-1].done == seen[-1].total == 4
    assert [status.name for status in engine.list_models()] == ['m']


def test_a_bar_shows_how_far_a_load_is_where_somebody_looks(
    shelf: Shelf, engine: Engine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shelf.put('m')
    assert load_with_bar(engine, 'm').state == ModelState.READY
    assert capfd.readouterr().err == ''  # no terminal, no bar
    monkeypatch.setattr('sys.stderr.isatty', lambda: True)
    load_with_bar(engine, 'm')
    shown = capfd.readouterr().err
    assert 'm: build' in shown and 'm: warm up' in shown and '4/4' in shown


def test_a_progress_callback_that_fails_does_not_fail_the_load(shelf: Shelf, engine: Engine) -> None:
    shelf.put('m')

    def broken(progress: Progress) -> None:
        raise RuntimeError('no terminal')

    assert engine.load('m', broken).result(30).state == ModelState.READY


def test_requests_that_arrive_while_the_device_works_share_one_launch(closed_gate: type[Gate], engine: Engine) -> None:
    futures = [engine.submit('gate', rows(value)) for value in (1, 2, 3)]
    closed_gate.opened.set()
    for value, future in zip((1, 2, 3), futures, strict=True):
        reply = future.result(30)
        np.testing.assert_array_equal(reply.outputs['y'], rows(value)['x'])
        assert reply.rows == 3
    assert closed_gate.batches == [[0.0], [1.0, 2.0, 3.0]]


def test_on_an_idle_device_a_request_may_wait_for_company(shelf: Shelf, engine: Engine) -> None:
    shelf.put('m', dims={'N': [1, 2]}, batch={'dim': 'N', 'wait_ms': 10000})
    engine.load('m').result(30)
    first = engine.submit('m', rows(1))
    assert not first.done()
    assert engine.infer('m', rows(2)).rows == 2
    np.testing.assert_array_equal(first.result(30).outputs['y'], rows(1)['x'])


def test_higher_priority_overtakes_and_128_has_a_lane_of_its_own(closed_gate: type[Gate], engine: Engine) -> None:
    full = rows(*range(10, 18))
    futures = [engine.submit('gate', full), engine.submit('gate', rows(1), priority=100)]
    fast = engine.submit('gate', rows(2), priority=128)
    assert closed_gate.entered.acquire(timeout=30)  # although the normal lane is held up
    closed_gate.opened.set()
    for future in (*futures, fast):
        future.result(30)
    assert closed_gate.batches == [[0.0], [2.0], [1.0], [float(value) for value in range(10, 18)]]


def test_a_cancelled_request_is_not_run_and_is_counted(closed_gate: type[Gate], engine: Engine) -> None:
    future, other = engine.submit('gate', rows(1)), engine.submit('gate', rows(2))
    assert future.cancel()
    closed_gate.opened.set()
    other.result(30)
    with pytest.raises(CancelledError):
        future.result(30)
    assert closed_gate.batches == [[0.0], [2.0]]
    assert dropped(engine, 'gate') == {'cancelled': 1}


def test_a_request_whose_deadline_passes_in_the_queue_is_dropped_and_counted(shelf: Shelf, make_engine: Make) -> None:
    now = [0.0]
    engine = make_engine(clock=lambda: now[0])
    shelf.put('gate', 'gate')
    Gate.opened.set()
    engine.load('gate').result(30)
    Gate.opened.clear()
    Gate.entered = threading.Semaphore(0)
    first = engine.submit('gate', rows(0))
    assert Gate.entered.acquire(timeout=30)
    late = engine.submit('gate', rows(1), deadline_s=0.5)
    now[0] = 1.0
    Gate.opened.set()
    assert refusal(lambda: late.result(30)).reason == 'expired'
    first.result(30)
    assert dropped(engine, 'gate') == {'expired': 1}


def test_a_full_queue_refuses_and_the_rest_are_served(shelf: Shelf, engine: Engine, gate: type[Gate]) -> None:
    shelf.put('gate', 'gate', queue_limit=2)
    engine.load('gate').result(30)
    gate.opened.clear()
    gate.entered = threading.Semaphore(0)
    futures = [engine.submit('gate', rows(0))]
    assert gate.entered.acquire(timeout=30)
    futures += [engine.submit('gate', rows(1)) for _ in range(2)]
    surplus = [engine.submit('gate', rows(1)) for _ in range(5)]
    assert {refusal(lambda f=f: f.result(30)).reason for f in surplus} == {'queue_full'}
    vip = engine.submit('gate', rows(2), priority=1)
    gate.opened.set()
    vip.result(30)
    answered = [future for future in futures if future.exception(30) is None]
    assert len(answered) == 2
    assert dropped(engine, 'gate') == {'queue_full': 5, 'displaced': 1}


def test_a_version_is_replaced_under_load_without_a_failed_request(shelf: Shelf, engine: Engine) -> None:
    Gate.opened.set()
    shelf.put('m', 'gate', config={'scale': 1.0})
    engine.load('m').result(30)
    stop = threading.Event()
    failures: list[BaseException] = []
    answers: list[list[tuple[str, float]]] = [[], [], []]

    def client(index: int) -> None:
        while not stop.is_set():
            try:
                ask = engine.infer if index else lambda *args: engine.submit(*args).result(30)
                reply = ask('m', rows(1))
                answers[index].append((reply.version, float(reply.outputs['y'][0, 0])))
            except BaseException as error:
                failures.append(error)

    clients = [threading.Thread(target=client, args=(index,)) for index in range(3)]
    for thread in clients:
        thread.start()
    for version in range(2, 8):
        shelf.put('m', 'gate', config={'scale': float(version)}, version=str(version))
        assert engine.load('m').result(30).version == str(version)
        assert engine.infer('m', rows(1)).version == str(version)
    stop.set()
    for thread in clients:
        thread.join(30)
    assert not failures
    for seen in answers:
        assert seen
        assert all(float(version) == scale for version, scale in seen)
        assert [version for version, _ in seen] == sorted(version for version, _ in seen)


def test_requests_under_way_end_on_the_version_they_began_on(
    shelf: Shelf, closed_gate: type[Gate], engine: Engine
) -> None:
    waiting = engine.submit('gate', rows(1))
    shelf.put('gate', version='2')  # identity now
    engine.load('gate').result(30)
    fresh = engine.submit('gate', rows(5))
    closed_gate.opened.set()
    assert waiting.result(30).version == '1'
    assert fresh.result(30).version == '2'


def test_a_version_that_fails_to_load_leaves_the_running_one_alone(shelf: Shelf, engine: Engine) -> None:
    shelf.put('m')
    engine.load('m').result(30)
    shelf.put('m', 'identity', config={'nonsense': 1}, version='2')
    error = refusal(lambda: engine.load('m').result(30))
    assert error.reason == 'bad_entry'
    assert engine.infer('m', rows(1)).version == '1'
    status = engine.status('m')
    assert (status.state, status.version) == (ModelState.READY, '1')
    assert 'nonsense' in status.reason


def test_an_entry_that_promises_other_outputs_than_the_model_gives_is_refused(shelf: Shelf, engine: Engine) -> None:
    shelf.put('m', outputs=[{'name': 'y', 'dtype': 'float32', 'shape': ['N', 5]}])
    error = refusal(lambda: engine.load('m').result(30))
    assert error.reason == 'bad_entry'
    assert engine.status('m').state == ModelState.FAILED


def test_unloading_answers_what_is_under_way_and_refuses_the_rest(closed_gate: type[Gate], engine: Engine) -> None:
    waiting = engine.submit('gate', rows(1))
    gone = engine.unload('gate')
    assert refusal(lambda: engine.infer('gate', rows(1))).reason == 'not_loaded'
    assert not gone.done()
    closed_gate.opened.set()
    waiting.result(30)
    gone.result(30)
    assert engine.memory_bytes('cpu') == 0
    assert refusal(lambda: engine.unload('gate')).reason == 'not_loaded'


def put_affine(shelf: Shelf, *names: str) -> int:
    """Affine models of 100 wide without weights files; the bytes that each holds."""
    for name in names:
        x, y = ([{'name': tensor, 'dtype': 'float32', 'shape': ['N', 100]}] for tensor in 'xy')
        shelf.put(name, 'affine', config={'width': 100}, inputs=x, outputs=y)
    return 4 * (100 * 100 + 100)


def test_the_least_recently_used_idle_model_makes_room(shelf: Shelf, make_engine: Make) -> None:
    size = put_affine(shelf, 'a', 'b', 'c')
    engine = make_engine(budget_bytes=2 * size + 10)
    for name in 'ab':
        engine.load(name).result(30)
    engine.infer('a', {'x': np.zeros((1, 100), np.float32)})
    engine.load('c').result(30)
    assert [engine.status(name).state for name in 'abc'] == [ModelState.READY, ModelState.UNLOADED, ModelState.READY]
    assert 'evicted' in engine.status('b').reason
    assert engine.memory_bytes('cpu') == 2 * size


def test_a_busy_model_is_never_evicted(shelf: Shelf, make_engine: Make, gate: type[Gate]) -> None:
    size = put_affine(shelf, 'a')
    engine = make_engine(budget_bytes=size // 2)
    shelf.put('gate', 'gate')
    engine.load('gate').result(30)
    gate.opened.clear()
    future = engine.submit('gate', rows(1))
    error = refusal(lambda: engine.load('a').result(30))
    assert error.reason == 'out_of_memory'
    assert engine.memory_bytes('cpu') > 0
    assert engine.status('gate').state == ModelState.READY
    gate.opened.set()
    future.result(30)


@pytest.mark.parametrize('failures', [1, 2, 3])
def test_running_out_of_memory_evicts_one_idle_model_after_the_other(
    shelf: Shelf, engine: Engine, failures: int
) -> None:
    put_affine(shelf, 'old', 'new', 'newest')
    shelf.put('m', 'fragile')
    for name in ('new', 'old', 'newest', 'm'):
        engine.load(name).result(30)
    for name in ('new', 'newest'):
        engine.infer(name, {'x': np.zeros((1, 100), np.float32)})
    Fragile.out_of_memory = failures
    np.testing.assert_array_equal(engine.infer('m', rows(99)).outputs['y'], rows(99)['x'])
    gone = [name for name in ('old', 'new', 'newest') if engine.status(name).state == ModelState.UNLOADED]
    assert gone == ['old', 'new', 'newest'][:failures]
    assert all('ran out of memory' in engine.status(name).reason for name in gone)
    assert dropped(engine, 'm') == {}


def test_a_load_that_runs_out_of_memory_evicts_one_idle_model_after_the_other(
    shelf: Shelf, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_affine(shelf, 'old', 'new')
    for name in ('old', 'new'):
        engine.load(name).result(30)
    real = residency.open_model
    left = [1]

    def scarce(*arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError('CUDA out of memory (pretended)')
        return real(*arguments)

    monkeypatch.setattr(residency, 'open_model', scarce)
    shelf.put('m', 'identity')
    assert engine.load('m').result(30).state == ModelState.READY
    assert [engine.status(name).state for name in ('old', 'new')] == [ModelState.UNLOADED, ModelState.READY]
    left[0] = 3
    shelf.put('huge', 'identity')
    error = refusal(lambda: engine.load('huge').result(30))
    assert error.reason == 'out_of_memory' and 'no idle model is left' in str(error) and '\n' not in str(error)


def test_running_out_of_memory_twice_is_refused_and_the_engine_lives_on(shelf: Shelf, engine: Engine) -> None:
    shelf.put('m', 'fragile')
    engine.load('m').result(30)
    Fragile.out_of_memory = 2
    error = refusal(lambda: engine.infer('m', rows(99)))
    assert error.reason == 'out_of_memory'
    assert Fragile.out_of_memory == 0
    assert dropped(engine, 'm') == {'out_of_memory': 1}
    engine.infer('m', rows(99))


@pytest.fixture
def evicted(shelf: Shelf, make_engine: Make) -> Engine:
    """An engine with room for one of `a`, `b`, `c`: `a` was loaded first and had to go."""
    size = put_affine(shelf, 'a', 'b', 'c')
    engine = make_engine(budget_bytes=size + 10)
    for name in 'ab':
        engine.load(name).result(30)
    assert engine.status('a').state == ModelState.UNLOADED
    return engine


X = {'x': np.zeros((1, 100), np.float32)}


def test_a_model_that_was_evicted_comes_back_when_somebody_asks(evicted: Engine) -> None:
    assert evicted.entry('a').name == 'a'
    first = evicted.infer('a', X, deadline_s=30).outputs['y']
    assert evicted.status('a').state == ModelState.READY
    assert evicted.status('b').state == ModelState.UNLOADED  # for which another one went
    np.testing.assert_array_equal(evicted.submit('b', X, deadline_s=30).result(30).outputs['y'].shape, first.shape)
    assert dropped(evicted, 'a') == dropped(evicted, 'b') == {}


def test_clients_of_more_models_than_fit_are_all_answered(evicted: Engine) -> None:
    failures: list[BaseException] = []

    def client(name: str) -> None:
        for turn in range(8):
            try:
                ask = evicted.infer if turn % 2 else lambda *a, **k: evicted.submit(*a, **k).result(30)
                ask(name, X, deadline_s=30)
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=client, args=(name,)) for name in 'abab']
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


def test_many_who_ask_for_an_evicted_model_wait_for_one_load(evicted: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    real, opened = residency.open_model, []
    monkeypatch.setattr(residency, 'open_model', lambda entry, *rest: opened.append(entry.name) or real(entry, *rest))
    futures = [evicted.submit('a', X, deadline_s=30) for _ in range(5)]
    for future in futures:
        future.result(30)
    assert opened == ['a']


def test_requests_that_wait_for_a_load_are_bounded_can_be_cancelled_and_expire(
    evicted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    real = residency.open_model
    monkeypatch.setattr(residency, 'open_model', lambda *arguments: held.wait(30) and real(*arguments))
    limit = evicted.entry('a').queue_limit
    futures = [evicted.submit('a', X, deadline_s=30) for _ in range(limit)]
    assert refusal(lambda: evicted.submit('a', X).result(30)).reason == 'queue_full'
    assert futures[1].cancel()
    evicted.submit('b', X).result(30)  # others are served meanwhile
    held.set()
    futures[0].result(30)
    futures[2].result(30)
    counted = dropped(evicted, 'a')
    assert counted.pop('queue_full') == 1 and counted.pop('cancelled') == 1


def test_who_waits_for_an_evicted_model_beyond_the_deadline_gets_one_clear_error(
    evicted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    real = residency.open_model
    monkeypatch.setattr(residency, 'open_model', lambda *arguments: held.wait(30) and real(*arguments))
    error = refusal(lambda: evicted.infer('a', X, deadline_s=0.05))
    assert error.reason == 'expired' and 'still being loaded' in str(error)
    held.set()
    evicted.infer('a', X, deadline_s=30)
    assert dropped(evicted, 'a') == {'expired': 1}


def test_an_evicted_model_that_can_not_come_back_is_one_clear_error_and_is_not_tried_again(
    evicted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Any:
        raise EngineError('bad_weights', 'the file is gone')

    monkeypatch.setattr(residency, 'open_model', broken)
    for ask in (evicted.infer, lambda name, x: evicted.submit(name, x).result(30)):
        error = refusal(lambda ask=ask: ask('a', X))
        assert error.reason in ('bad_weights', 'not_loaded')
    assert evicted.status('a').state == ModelState.FAILED
    assert dropped(evicted, 'a') == {'bad_weights': 1, 'not_loaded': 1}
    evicted.infer('b', X)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(['infer', 'submit', 'load', 'unload']), st.sampled_from('abc')),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_is_asked_for_the_budget_holds_and_every_request_is_answered_or_refused_in_one_line(
    shelf: Shelf, steps: list[tuple[str, str]]
) -> None:
    size = put_affine(shelf, 'a', 'b', 'c')
    budget = 2 * size + 10
    known: set[str] = set()  # loaded once and not unloaded since: these answer
    with Engine(Catalogue(shelf.folder), budget_bytes=budget) as engine:
        for deed, name in steps:
            if deed == 'load':
                engine.load(name).result(30)
                known.add(name)
            elif deed == 'unload' and name in known:
                engine.unload(name).result(30)
                known.discard(name)
            elif deed == 'unload':
                assert refusal(lambda name=name: engine.unload(name)).reason == 'not_loaded'
            else:
                ask = engine.infer if deed == 'infer' else lambda *a, **k: engine.submit(*a, **k).result(30)
                if name in known:
                    assert ask(name, X, deadline_s=30).outputs['y'].shape == (1, 100)
                else:
                    assert refusal(lambda ask=ask, name=name: ask(name, X)).reason == 'not_loaded'
            assert engine.memory_bytes('cpu') <= budget
        ready = {name for name in 'abc' if engine.status(name).state == ModelState.READY}
        assert ready <= known and len(ready) <= 2


def test_an_evicted_model_that_is_unloaded_stays_away(evicted: Engine) -> None:
    evicted.unload('a').result(30)
    assert refusal(lambda: evicted.infer('a', X)).reason == 'not_loaded'
    assert evicted.status('a').reason == ''
    assert refusal(lambda: evicted.unload('a')).reason == 'not_loaded'


def test_the_outputs_of_a_shared_launch_are_looked_at_once(
    shelf: Shelf, closed_gate: type[Gate], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    real = engine_module.check_values

    def counted(spec: Any, tensor: Any, *rest: Any) -> None:
        looked.append(len(tensor))
        real(spec, tensor, *rest)

    monkeypatch.setattr(engine_module, 'check_values', counted)
    shelf.put('m', 'fragile')
    engine.load('m').result(30)
    futures = [engine.submit('m', rows(number)) for number in (1, 2, 3)]
    closed_gate.opened.set()
    assert [future.result(30).outputs['y'][0, 0] for future in futures] == [1, 2, 3]
    assert looked[-1] == 3  # and not three times one


@pytest.mark.parametrize(('value', 'reason'), [(13, 'backend'), (14, 'bad_output')])
def test_in_a_shared_batch_only_the_request_that_breaks_the_model_fails(
    shelf: Shelf, closed_gate: type[Gate], engine: Engine, value: int, reason: str
) -> None:
    shelf.put('m', 'fragile')
    engine.load('m').result(30)
    futures = {number: engine.submit('m', rows(number)) for number in (1, value, 2)}
    closed_gate.opened.set()
    assert refusal(lambda: futures[value].result(30)).reason == reason
    for number in (1, 2):
        np.testing.assert_array_equal(futures[number].result(30).outputs['y'], rows(number)['x'])
    assert dropped(engine, 'm') == {reason: 1}


def test_memory_is_given_back_although_a_long_load_is_under_way(shelf: Shelf, engine: Engine, gate: type[Gate]) -> None:
    shelf.put('m')
    shelf.put('slow', 'gate')
    engine.load('m').result(30)
    gate.opened.clear()
    gate.entered = threading.Semaphore(0)
    loading = engine.load('slow')
    assert gate.entered.acquire(timeout=30)
    assert engine.status('slow').state == ModelState.LOADING
    engine.unload('m').result(30)
    gate.opened.set()
    assert loading.result(30).state == ModelState.READY


def test_asking_for_unknown_models_leaves_no_trace(engine: Engine) -> None:
    for number in range(20):
        assert refusal(lambda n=number: engine.load(f'nobody{n}').result(30)).reason == 'unknown_model'
        assert refusal(lambda n=number: engine.infer(f'nobody{n}', rows(1))).reason == 'not_loaded'
    assert engine.list_models() == []
    assert set(engine.metrics()) == {''}
    assert dropped(engine, '') == {'not_loaded': 20}


def test_an_error_that_a_client_keeps_does_not_keep_the_models_tensors(shelf: Shelf, engine: Engine) -> None:
    shelf.put('m', 'fragile')
    engine.load('m').result(30)
    error = engine.submit('m', rows(13)).exception(30)
    assert error is not None
    assert (error.__cause__, error.__context__, error.__traceback__) == (None, None, None)


def test_closing_answers_what_runs_and_refuses_what_waits(closed_gate: type[Gate], engine: Engine) -> None:
    waiting = engine.submit('gate', rows(1))
    closer = threading.Thread(target=engine.close)
    closer.start()
    assert refusal(lambda: waiting.result(30)).reason == 'stopped'
    closed_gate.opened.set()
    closer.join(30)
    assert refusal(lambda: engine.infer('gate', rows(1))).reason == 'not_loaded'
    assert refusal(lambda: engine.load('gate')).reason == 'stopped'


def test_a_stopped_lane_takes_nothing_any_more() -> None:
    queue = ModelQueue(1, 0.0, 8)
    late = Request(None, queue, {}, 1, (), (0, 1e9, 0), 1e9, 0.0)
    ran: list[object] = []
    lane = Lane('engine-test', 0, lambda batch, index: ran.extend(batch), lambda request, reason: None)
    lane.stop()
    assert not lane.run_here(late)
    assert refusal(lambda: lane.offer(late)).reason == 'stopped'
    assert not ran


def test_an_exception_in_a_callback_does_not_end_the_lane(shelf: Shelf, engine: Engine) -> None:
    shelf.put('m')
    engine.load('m').result(30)

    def broken(future: Any) -> None:
        raise RuntimeError('callback')

    future = engine.submit('m', rows(1))
    future.add_done_callback(broken)
    future.result(30)
    assert engine.submit('m', rows(2)).result(30).rows == 1


def test_loading_and_unloading_leaves_nothing_behind(shelf: Shelf, engine: Engine) -> None:
    import gc
    import weakref

    put_affine(shelf, 'a')
    ghosts: list[weakref.ref[Any]] = []
    for _ in range(3):
        engine.load('a').result(30)
        request = {'x': np.zeros((1, 100), np.float32)}
        engine.submit('a', request).result(30)
        engine.infer('a', request)
        ghosts += [weakref.ref(engine._residency.find('a').backend), weakref.ref(request['x'])]
        del request
        engine.unload('a').result(30)
    gc.collect()
    assert [ghost() for ghost in ghosts] == [None] * 6


def test_the_collector_leaves_loaded_models_alone_but_not_what_they_leave_behind(
    shelf: Shelf, make_engine: Make
) -> None:
    import gc
    import weakref

    engine = make_engine()
    shelf.put('m', 'cyclic')
    engine.load('m').result(30)
    assert gc.get_freeze_count() > 10_000  # a full collection would hold up every thread to walk them
    ghost = weakref.ref(engine._residency.find('m').backend._module)  # type: ignore[attr-defined]
    engine.unload('m').result(30)
    assert ghost() is None
    engine.close()
    assert gc.get_freeze_count() == 0


def test_a_reply_tells_its_times_apart_and_the_metrics_hold_them(shelf: Shelf, engine: Engine) -> None:
    shelf.put('m')
    engine.load('m').result(30)
    reply = engine.infer('m', rows(1))
    assert min(reply.queue_s, reply.batch_s, reply.compute_s) > 0
    assert reply.transfer_s == 0  # on the CPU
    assert reply.launch_s >= reply.queue_s + reply.batch_s
    counted = engine.metrics()['m']
    assert (counted.requests, counted.batches) == (1, 1)
    assert set(counted.p50_s) == {'queue', 'batch', 'transfer', 'compute'}
