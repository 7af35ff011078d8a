from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from engine_world import FakeClock, Shelf, rows

from attn_robotics.runtime.engine import Engine, ModelState
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.streams import MAX_WAITING

STREAMS = {'ttl_s': 10, 'limit': 3}


@pytest.fixture
def engine(shelf: Shelf, make_engine: Callable[..., Engine], clock: FakeClock) -> Engine:
    engine = make_engine(clock=clock)
    shelf.put('sum', 'accumulate', streams=STREAMS)
    engine.load('sum').result(30)
    return engine


def add(engine: Engine, stream: str, value: float, **options: bool) -> float:
    return float(engine.infer('sum', rows(value), stream=stream, **options).outputs['y'][0, 0])


def refused(action: Callable[[], object]) -> str:
    with pytest.raises(EngineError) as caught:
        action()
    return caught.value.reason


def test_streams_keep_their_own_state_and_can_be_reset(engine: Engine) -> None:
    assert [add(engine, 'a', 1), add(engine, 'a', 2), add(engine, 'b', 10), add(engine, 'a', 3)] == [1, 3, 10, 6]
    assert add(engine, 'a', 5, reset=True) == 5
    assert add(engine, 'b', 1) == 11


def test_a_stream_unused_for_its_time_to_live_begins_anew(engine: Engine, clock: FakeClock) -> None:
    add(engine, 'a', 1)
    add(engine, 'b', 1)
    clock.now += 9
    assert add(engine, 'a', 1) == 2
    clock.now += 9
    assert add(engine, 'a', 1) == 3
    assert add(engine, 'b', 1) == 1
    assert 'attn_runtime_streams{model="sum"} 2' in engine.prometheus()


def test_streams_are_bounded_and_an_old_one_makes_room(engine: Engine, clock: FakeClock) -> None:
    for name in 'abc':
        add(engine, name, 1)
    assert refused(lambda: add(engine, 'd', 1)) == 'bad_stream'
    clock.now += 11
    assert add(engine, 'd', 1) == 1


def test_a_snapshot_restores_a_stream_elsewhere_and_is_a_copy(engine: Engine) -> None:
    add(engine, 'a', 7)
    snapshot = engine.snapshot_stream('sum', 'a')
    add(engine, 'a', 1)
    engine.restore_stream('sum', 'b', snapshot)
    snapshot['total'][...] = 99
    assert add(engine, 'b', 1) == 8
    assert add(engine, 'a', 1) == 9


@pytest.mark.parametrize(
    'state',
    [
        {},
        {'other': np.zeros((1, 4), np.float32)},
        {'total': np.zeros((1, 4))},
        {'total': np.zeros((1, 5), np.float32)},
        {'total': np.zeros((9, 4), np.float32)},
        {'total': np.zeros(4, np.float32)},
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused(engine: Engine, state: dict[str, np.ndarray]) -> None:
    assert refused(lambda: engine.restore_stream('sum', 'a', state)) == 'bad_stream'


def test_snapshots_of_unknown_streams_are_refused_and_dropping_one_says_so(engine: Engine) -> None:
    assert refused(lambda: engine.snapshot_stream('sum', 'nobody')) == 'bad_stream'
    add(engine, 'a', 1)
    assert engine.drop_stream('sum', 'a')
    assert not engine.drop_stream('sum', 'a')
    assert add(engine, 'a', 1) == 1


def test_the_number_of_rows_stays_what_the_stream_began_with(engine: Engine) -> None:
    add(engine, 'a', 1)
    assert refused(lambda: engine.infer('sum', rows(1, 2), stream='a')) == 'bad_input'
    assert engine.infer('sum', rows(1, 2), stream='a', reset=True).outputs['y'].shape == (2, 4)


def test_what_a_client_does_to_its_answer_does_not_reach_the_state(engine: Engine) -> None:
    answer = engine.infer('sum', rows(1), stream='a').outputs['y']
    answer *= 100
    assert add(engine, 'a', 1) == 2


def test_stateless_models_take_no_stream_and_stateful_ones_need_one(shelf: Shelf, engine: Engine) -> None:
    shelf.put('m')
    engine.load('m').result(30)
    assert refused(lambda: engine.infer('m', rows(1), stream='a')) == 'bad_stream'
    assert refused(lambda: engine.infer('sum', rows(1))) == 'bad_stream'


def test_requests_of_one_stream_run_in_order_whatever_their_deadlines_and_priorities(engine: Engine) -> None:
    futures = [
        engine.submit('sum', rows(2.0**step), stream='a', deadline_s=1000.0 - step, priority=16 * step)
        for step in range(12)
    ]
    assert [float(future.result(30).outputs['y'][0, 0]) for future in futures] == [
        2.0 ** (n + 1) - 1 for n in range(12)
    ]


def test_the_line_of_one_stream_is_bounded_and_a_refusal_leaves_the_state_alone(engine: Engine) -> None:
    futures = [engine.submit('sum', rows(1), stream='a') for _ in range(20 * MAX_WAITING)]
    reasons = [error.reason for future in futures if isinstance(error := future.exception(30), EngineError)]
    assert set(reasons) <= {'queue_full'}
    assert add(engine, 'a', 0) == len(futures) - len(reasons)


def test_many_streams_from_many_threads_all_add_up(shelf: Shelf, engine: Engine) -> None:
    totals: dict[str, float] = {}

    def client(name: str) -> None:
        for _ in range(50):
            totals[name] = add(engine, name, 1)

    threads = [threading.Thread(target=client, args=(name,)) for name in 'abc']
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert totals == {'a': 50, 'b': 50, 'c': 50}


def test_a_new_version_goes_on_with_the_streams_when_their_state_is_the_same(shelf: Shelf, engine: Engine) -> None:
    add(engine, 'a', 5)
    shelf.put('sum', 'accumulate', version='2', streams=STREAMS)
    engine.load('sum').result(30)
    assert add(engine, 'a', 1) == 6


def test_a_model_with_live_streams_is_not_idle(shelf: Shelf, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(budget_bytes=300)
    shelf.put('sum', 'accumulate', streams=STREAMS)
    shelf.put('big', 'affine')
    engine.load('sum').result(30)
    add(engine, 'a', 5)
    assert refused(lambda: engine.load('big').result(30)) == 'out_of_memory'
    assert add(engine, 'a', 1) == 6
    engine.drop_stream('sum', 'a')
    engine.load('big').result(30)
    assert engine.status('sum').state == ModelState.UNLOADED
    assert add(engine, 'a', 1) == 1  # back on demand, with nothing of the stream that was dropped
