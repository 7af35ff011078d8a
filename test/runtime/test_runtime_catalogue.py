from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from engine_world import Shelf, entry_of
from hypothesis import given
from hypothesis import strategies as st

from attn_robotics.runtime.catalogue import Catalogue, parse_entry
from attn_robotics.runtime.errors import EngineError

SHIPPED = Path(__file__).parents[2] / 'config' / 'models'


def refusal(entry: object) -> str:
    with pytest.raises(EngineError) as caught:
        parse_entry(entry)
    assert caught.value.reason == 'bad_entry'
    assert '\n' not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize('name', ['identity', 'small_transformer'])
def test_shipped_examples_are_valid_entries(name: str) -> None:
    assert Catalogue(SHIPPED).entry(name).name == name


def test_an_entry_keeps_what_it_says() -> None:
    entry = parse_entry(entry_of('m', deadline_ms=20, queue_limit=7, batch={'dim': 'N', 'wait_ms': 3}))
    assert entry.deadline_s == 0.02
    assert entry.queue_limit == 7
    assert entry.batching is not None
    assert entry.batching.buckets == (1, 2, 4, 8)
    assert entry.batching.wait_s == 0.003
    assert [shape['N'] for shape in entry.warm_shapes()] == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        ({'colour': 'red'}, 'colour is not a known key'),
        ({'version': 1.1}, 'quote it'),
        ({'version': None}, 'version is missing'),
        ({'backend': 'tensorflow'}, 'backend must be'),
        ({'backend': 'https://far.example/x/y'}, 'backend must be'),
        ({'system': None}, 'system is required'),
        ({'system': '../evil'}, 'system must be'),
        ({'device': 'cuda:x'}, 'device must be'),
        ({'dims': {'N': [0, 8]}}, 'N must be [low, high]'),
        ({'dims': {'N': [8, 1]}}, 'N must be [low, high]'),
        ({'dims': {'N': [1, 8], 'T': [1, 2]}}, 'is in no input'),
        ({'dims': {}}, 'sizes are positive or named in dims'),
        ({'inputs': []}, 'must name at least one tensor'),
        ({'inputs': [{'name': 'x', 'dtype': 'object', 'shape': ['N', 4]}]}, 'dtype must be'),
        ({'inputs': [{'name': 'x', 'dtype': 'float32', 'shape': ['N', -4]}]}, 'sizes are positive'),
        ({'inputs': [{'name': 'x', 'dtype': 'float32', 'shape': ['N', 4], 'unit': 'm'}]}, 'unit is not a known key'),
        ({'inputs': [{'name': 'x', 'dtype': 'float32', 'shape': [4, 'N']}]}, 'must be axis 0'),
        ({'inputs': 2 * [{'name': 'x', 'dtype': 'float32', 'shape': ['N', 4]}]}, 'names a tensor twice'),
        ({'batch': {'dim': 'M'}}, 'not in dims'),
        ({'batch': {'dim': 'N', 'buckets': [4, 2, 8]}}, 'ascending'),
        ({'batch': {'dim': 'N', 'buckets': [1, 2]}}, 'below the largest N'),
        ({'streams': {'ttl_s': 3}}, 'no state'),
        ({'weights': 'x.safetensors'}, 'sha256 is missing'),
        ({'weights': '../x.safetensors', 'sha256': 64 * '0'}, 'climb'),
        ({'weights': 'x.pt', 'sha256': 64 * '0'}, '.safetensors'),
        ({'sha256': 64 * '0'}, 'without weights'),
        ({'deadline_ms': -1}, 'deadline_ms must be a number'),
        ({'deadline_ms': float('nan')}, 'deadline_ms must be a number'),
        ({'queue_limit': True}, 'queue_limit must be'),
        ({'warm_up': [{'Q': 1}]}, 'Q is not a known key'),
        ({'warm_up': [{'N': 100}]}, 'N must be a number from 1 to 8'),
    ],
)
def test_a_wrong_entry_is_refused_by_name(change: dict[str, Any], says: str) -> None:
    assert says in refusal(entry_of('m', **change))


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'm.yaml').write_text('name: m\nname: m\n')
    with pytest.raises(EngineError, match='given twice'):
        Catalogue(tmp_path).entry('m')


def test_name_and_file_must_agree(shelf: Shelf) -> None:
    shelf.put('m', name='other')
    with pytest.raises(EngineError, match='must equal the file name'):
        Catalogue(shelf.folder).entry('m')


@pytest.mark.parametrize('name', ['nobody', '../../etc/passwd', '', 'a/b', 'x' * 300])
def test_an_unknown_name_is_refused_and_never_a_path(shelf: Shelf, name: str) -> None:
    with pytest.raises(EngineError, match='no model') as caught:
        Catalogue(shelf.folder).entry(name)
    assert caught.value.reason == 'unknown_model'


@pytest.mark.parametrize(
    'content', ['', '[]', '{', '!!python/object:os.system {}', '\x00', 'name: [', '&a [*a]', '? {}']
)
def test_yaml_that_is_no_entry_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / 'm.yaml').write_text(content)
    with pytest.raises(EngineError) as caught:
        Catalogue(tmp_path).entry('m')
    assert caught.value.reason == 'bad_entry'
    assert '\n' not in str(caught.value)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted({*entry_of('m'), 'state', 'config', 'streams', 'warm_up', 'weights', 'precision'})), JUNK)
def test_junk_under_any_key_is_an_entry_or_one_clear_refusal(key: str, junk: object) -> None:
    entry = copy.deepcopy(entry_of('m'))
    entry[key] = junk
    try:
        parse_entry(entry)
    except EngineError as error:
        assert error.reason == 'bad_entry'
        assert '\n' not in str(error)
