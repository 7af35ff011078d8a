"""Whatever a client sends is answered or refused in one line, and nobody else notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from engine_world import Gate, Shelf, entry_of, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attn_robotics.runtime.catalogue import Catalogue, ModelEntry, parse_entry
from attn_robotics.runtime.engine import Engine
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.requests import check_request


def pair_entry(**changes: Any) -> ModelEntry:
    entry = entry_of('pair', **changes)
    entry['dims'] = {'N': [1, 64], 'T': [2, 8]}
    entry['inputs'] = [
        {'name': 'a', 'dtype': 'float32', 'shape': ['N', 'T']},
        {'name': 'b', 'dtype': 'int64', 'shape': ['N'], 'low': 0, 'high': 9},
    ]
    return parse_entry(entry)


def pair(**changes: Any) -> dict[str, Any]:
    return {'a': np.zeros((3, 4), np.float32), 'b': np.zeros(3, np.int64)} | changes


def test_rows_and_the_other_sizes_are_bound() -> None:
    assert check_request(pair_entry(), pair()) == (3, (4,))


@pytest.mark.parametrize(
    ('request_', 'reason', 'says'),
    [
        ({'a': np.zeros((3, 4), np.float32)}, 'bad_input', 'takes a, b; got a'),
        (pair(c=np.zeros(1)), 'bad_input', 'takes a, b; got a, b, c'),
        (pair(a=np.zeros((3, 4))), 'bad_input', 'a must be float32'),
        (pair(a=np.zeros((3, 4), '>f4')), 'bad_input', 'native byte order'),
        (pair(a=[[0.0]]), 'bad_input', 'a must be a numpy array or torch tensor, got list'),
        (pair(a=np.zeros((3, 4), object)), 'bad_input', 'a must be float32'),
        (pair(a=np.zeros(3, np.float32)), 'bad_input', 'a must have shape [N, T]'),
        (pair(b=np.zeros(2, np.int64)), 'bad_input', 'with N = 3, got [2]'),
        (pair(a=np.zeros((3, 1), np.float32)), 'bad_input', 'T must be from 2 to 8, got 1'),
        (pair(a=np.zeros((3, 9), np.float32)), 'too_large', 'T must be from 2 to 8, got 9'),
        (pair(a=np.full((3, 4), np.nan, np.float32)), 'bad_input', 'a holds NaN or infinity'),
        (pair(a=np.full((3, 4), -np.inf, np.float32)), 'bad_input', 'a holds NaN or infinity'),
        (pair(a=torch.full((3, 4), torch.nan)), 'bad_input', 'a holds NaN or infinity'),
        (pair(b=np.full(3, 10)), 'bad_input', 'b holds values from 10 to 10, allowed are 0.0 to 9.0'),
        (pair(b=torch.full((3,), -1)), 'bad_input', 'b holds values from -1 to -1'),
        (pair(a=np.broadcast_to(np.float32(0), (64, 1 << 25))), 'too_large', 'T must be from 2 to 8'),
    ],
)
def test_a_wrong_request_is_refused_by_name(request_: dict[str, Any], reason: str, says: str) -> None:
    with pytest.raises(EngineError) as caught:
        check_request(pair_entry(), request_)
    assert caught.value.reason == reason
    assert says in str(caught.value)


def test_what_was_right_once_is_recognised_by_type_shape_and_dtype_and_its_values_are_still_read() -> None:
    class Disguised:
        shape, dtype = (3, 4), np.dtype('float32')

    entry = pair_entry()
    assert check_request(entry, pair()) == check_request(entry, pair()) == (3, (4,))
    for wrong in (
        pair(a=Disguised()),
        pair(a=np.zeros((3, 4), '>f4')),
        pair(c=np.zeros(1)),
        pair(a=np.full((3, 4), np.nan, np.float32)),
    ):
        with pytest.raises(EngineError) as caught:
            check_request(entry, wrong)
        assert caught.value.reason == 'bad_input'
    with pytest.raises(EngineError, match='allowed are 10'):
        check_request(entry, pair(), max_bytes=10)


def test_a_request_beyond_the_byte_limit_is_refused_before_its_values_are_read() -> None:
    # Two gigabytes of one repeated element: reading them would take seconds.
    entry = entry_of('huge', dims={'N': [1, (1 << 40) - 1]}, batch=None)
    huge = np.broadcast_to(np.float32(np.nan), (1 << 27, 4))
    with pytest.raises(EngineError) as caught:
        check_request(parse_entry(entry), {'x': huge}, max_bytes=1 << 28)
    assert caught.value.reason == 'too_large'


def test_large_finite_values_are_not_taken_for_infinity() -> None:
    values = np.full((5000, 4), np.finfo(np.float32).max)
    entry = parse_entry(entry_of('long', dims={'N': [1, 5000]}))
    assert check_request(entry, {'x': values}) == (5000, ())


@given(hnp.arrays(np.float32, 40, elements=st.floats(width=32)), st.booleans())
def test_the_quick_check_for_nan_agrees_with_the_plain_one(values: np.ndarray[Any, Any], strided: bool) -> None:
    values = np.tile(values, 110)  # long enough for the quick way
    values = values[::2] if strided else values
    entry = parse_entry(
        entry_of(
            'one',
            dims={'N': [1, 4400]},
            batch={'dim': 'N', 'buckets': [4400]},
            inputs=[{'name': 'x', 'dtype': 'float32', 'shape': ['N']}],
            outputs=[{'name': 'y', 'dtype': 'float32', 'shape': ['N']}],
        )
    )
    try:
        check_request(entry, {'x': values})
        accepted = True
    except EngineError:
        accepted = False
    assert accepted == bool(np.isfinite(values).all())


@pytest.fixture(scope='module')
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    shelf = Shelf(tmp_path_factory.mktemp('models'))
    shelf.put('m')
    shelf.put('sum', 'accumulate', streams={'ttl_s': 60, 'limit': 4})
    with Engine(Catalogue(shelf.folder)) as engine:
        engine.load('m').result(30)
        engine.load('sum').result(30)
        yield engine


DTYPES = st.sampled_from(['float32', 'float64', 'float16', 'int8', 'bool', '>f4', 'U3', 'complex64', 'M8[s]', 'object'])
ARRAYS = DTYPES.flatmap(
    lambda dtype: st.lists(st.integers(0, 9), max_size=3).map(lambda shape: np.zeros(shape, dtype))
) | hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(4)), elements=st.floats(width=32))
VALUES = ARRAYS | st.none() | st.integers() | st.text(max_size=3) | ARRAYS.map(lambda array: array.tolist())
REQUESTS = st.dictionaries(st.sampled_from(['x', 'y', 'total', '']), VALUES, max_size=2) | ARRAYS.map(
    lambda a: {'x': a}
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    model=st.sampled_from(['m', 'm', 'sum', 'nobody']),
    inputs=REQUESTS,
    version=st.sampled_from(['', '', '1', '2', 'x' * 1000]),
    deadline_s=st.sampled_from([None, None, 30.0, 0.0, -1.0, float('nan'), float('inf')]),
    priority=st.sampled_from([0, 0, 200, 255, 256, -1]),
    stream=st.sampled_from(['', '', 's', 'é\n', 'x' * 1000]),
    reset=st.booleans(),
    wait=st.booleans(),
)
def test_any_request_is_answered_rightly_or_refused_in_one_line_and_counted(
    fuzzed: Engine, inputs: dict[str, Any], wait: bool, model: str, **options: Any
) -> None:
    def lost() -> int:
        return sum(sum(counted.dropped.values()) for counted in fuzzed.metrics().values())

    before = lost()
    try:
        ask = fuzzed.infer if wait else lambda *args, **given: fuzzed.submit(*args, **given).result(30)
        reply = ask(model, inputs, **options)
    except EngineError as error:
        assert '\n' not in str(error)
        assert lost() == before + 1
    else:
        assert lost() == before
        assert reply.outputs['y'].shape == inputs['x'].shape
        if model == 'm':
            np.testing.assert_array_equal(reply.outputs['y'], inputs['x'])
    # Whatever that was, the next client is served.
    np.testing.assert_array_equal(fuzzed.infer('m', rows(1, 2), deadline_s=30).outputs['y'], rows(1, 2)['x'])


def test_an_answer_never_shares_memory_with_the_request(shelf: Shelf, make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    shelf.put('m', 'gate', config={'scale': 1.0})
    Gate.opened.set()
    engine.load('m').result(30)
    request = rows(3)
    request['x'].flags.writeable = False  # as a message's buffer is
    answer = engine.infer('m', request).outputs['y']
    assert not np.shares_memory(answer, request['x'])


def test_torch_tensors_go_in_and_stay_torch_tensors_when_asked(shelf: Shelf, engine: Engine) -> None:
    shelf.put('m')
    engine.load('m').result(30)
    request = {'x': torch.arange(8.0).reshape(2, 4)}
    assert isinstance(engine.infer('m', request).outputs['y'], np.ndarray)
    kept = engine.infer('m', request, on_device=True).outputs['y']
    assert isinstance(kept, torch.Tensor)
    assert torch.equal(kept, request['x'])
