from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_world import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from attn_robotics.runtime import shared_memory
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.shared_memory import HandOver, Segment, read_array, sweep


@pytest.fixture
def segment() -> Iterator[Segment]:
    with Segment.create(4096) as segment:
        yield segment


def refusal(*args: object, reason: str = 'bad_segment', **options: object) -> str:
    with pytest.raises(EngineError) as caught:
        read_array(*args, **options)  # type: ignore[arg-type]
    assert caught.value.reason == reason
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_what_one_process_writes_another_reads(segment: Segment) -> None:
    segment.array('float32', (2, 3), 64)[...] = np.arange(6).reshape(2, 3)
    code = (
        'import sys; from attn_robotics.runtime.shared_memory import read_array; '
        'print(read_array(sys.argv[1], "float32", (2, 3), offset=64).tolist())'
    )
    done = subprocess.run([sys.executable, '-c', code, segment.key], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]'
    assert (shared_memory.FOLDER / segment.key).exists()  # reading removes nothing


def test_a_read_array_is_a_copy_and_an_attached_one_is_not(segment: Segment) -> None:
    ours = segment.array('int32', (4,))
    ours[...] = 1
    copy = read_array(segment.key, 'int32', (4,))
    with Segment.attach(segment.key) as attached:
        view = attached.array('int32', (4,))
        ours[...] = 2
        assert view.tolist() == [2, 2, 2, 2]
        assert not view.flags.writeable
        del view
    assert copy.tolist() == [1, 1, 1, 1]


def test_strides_are_honoured(segment: Segment) -> None:
    segment.array('int16', (4, 6))[...] = np.arange(24).reshape(4, 6)
    assert read_array(segment.key, 'int16', (2, 3), strides=(24, 2), offset=2).tolist() == [[1, 2, 3], [13, 14, 15]]
    assert read_array(segment.key, 'int16', (0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    ('shape', 'offset', 'strides'),
    [
        ((4097,), 0, ()),
        ((4096,), 1, ()),
        ((1 << 62, 1 << 62), 0, ()),
        ((-1,), 0, ()),
        ((1,), -1, ()),
        ((1,), 1 << 70, ()),
        ((2, 2), 0, (1,)),
        ((4096, 4096), 0, (0, 1)),
        ((4,), 3, (-1,)),
        ((2,), 0, (4096,)),
        ((1,) * 33, 0, ()),
    ],
)
def test_an_array_that_reaches_beyond_its_segment_is_refused(
    segment: Segment, shape: tuple[int, ...], offset: int, strides: tuple[int, ...]
) -> None:
    refusal(segment.key, 'uint8', shape, offset=offset, strides=strides, reason='bad_input')


@given(st.lists(st.integers(-2, 70), max_size=3), st.integers(-2, 5000), st.lists(st.integers(-8, 5000), max_size=3))
def test_any_layout_is_read_or_refused(shape: list[int], offset: int, strides: list[int]) -> None:
    with Segment.create(4096) as segment:
        try:
            assert list(read_array(segment.key, 'int64', shape, offset=offset, strides=strides).shape) == shape
        except EngineError as error:
            assert error.reason == 'bad_input'


@pytest.mark.parametrize('key', ['', 'x', '../etc/passwd', 'attn_1_1_1_0123456789abcdef', 'attn_1_1_1_' + '/' * 16])
def test_a_key_that_names_no_segment_is_refused(key: str) -> None:
    refusal(key, 'uint8', (1,))


@pytest.mark.parametrize('dtype', ['object', 'nonsense', ''])
def test_a_dtype_that_can_not_be_shared_is_refused(segment: Segment, dtype: str) -> None:
    refusal(segment.key, dtype, (1,), reason='bad_input')


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can act as two users')
def test_another_users_segment_is_refused_both_ways(segment: Segment) -> None:
    nobody = pwd.getpwnam('nobody').pw_uid
    code = """
import os, sys
from attn_robotics.runtime.shared_memory import Segment, read_array
os.setuid(int(sys.argv[2]))
try:
    read_array(sys.argv[1], 'uint8', (1,))
except Exception as error:
    print(error.reason, error)
mine = Segment.create(8)
print(mine.key, flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, '-c', code, segment.key, str(nobody)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    refused, key = child.stdout.readline(), child.stdout.readline().strip()
    assert refused.startswith('bad_segment') and 'Permission denied' in refused
    # Root could read it, which is no reason to.
    assert f'belongs to user {nobody}, not 0' in refusal(key, 'uint8', (1,))
    with pytest.raises(EngineError, match='belongs to user'):
        Segment.attach(key)
    assert key not in sweep()
    child.communicate('')
    (shared_memory.FOLDER / key).unlink()


def test_a_segment_of_another_user_is_refused_where_there_is_only_one(
    segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, 'geteuid', lambda: 12345)
    assert 'belongs to user' in refusal(segment.key, 'uint8', (1,))


def test_a_segment_that_others_could_write_is_refused(segment: Segment) -> None:
    (shared_memory.FOLDER / segment.key).chmod(0o666)
    assert 'only its user' in refusal(segment.key, 'uint8', (1,))


def test_a_link_in_place_of_a_segment_is_refused(segment: Segment, tmp_path: Path) -> None:
    path = shared_memory.FOLDER / segment.key
    path.unlink()
    (tmp_path / 'secret').write_bytes(b'secret')
    path.symlink_to(tmp_path / 'secret')
    refusal(segment.key, 'uint8', (6,))


@pytest.mark.parametrize('size', [0, -1, shared_memory.MAX_SEGMENT_BYTES + 1])
def test_the_size_of_a_segment_is_bounded(size: int) -> None:
    with pytest.raises(EngineError) as caught:
        Segment.create(size)
    assert caught.value.reason == 'too_large'


def test_releasing_removes_the_segment_and_may_be_repeated() -> None:
    segment = Segment.create(16)
    segment.release()
    segment.release()
    assert not (shared_memory.FOLDER / segment.key).exists()
    with pytest.raises(EngineError, match='released'):
        segment.array('uint8', (1,))


def test_a_claimed_answer_is_gone_and_an_unclaimed_one_is_removed_in_time(clock: FakeClock) -> None:
    hand_over = HandOver(limit_bytes=100, ttl_s=5, clock=clock)
    values = np.arange(10, dtype=np.float32)
    key = hand_over.send(values)
    assert read_array(key, 'float32', (10,), claim=True).tolist() == values.tolist()
    refusal(key, 'float32', (10,))
    forgotten = [hand_over.send(values), hand_over.send(values)]
    with pytest.raises(EngineError) as caught:
        hand_over.send(values)
    assert caught.value.reason == 'out_of_memory'
    clock.now += 6
    last = hand_over.send(values)
    for key in forgotten:
        refusal(key, 'float32', (10,))
    hand_over.close()
    refusal(last, 'float32', (10,))


def pages(key: str) -> int:
    return (shared_memory.FOLDER / key).stat().st_ino


def test_a_claimed_segment_carries_the_next_answer_under_another_key(clock: FakeClock) -> None:
    hand_over = HandOver(ttl_s=5, clock=clock)
    key = hand_over.send(np.full(5000, 1, np.uint8))
    first = pages(key)
    assert read_array(key, 'uint8', (5000,), claim=True).tolist() == [1] * 5000
    again = hand_over.send(np.full(4000, 2, np.uint8))
    assert again != key and pages(again) == first
    refusal(key, 'uint8', (1,))
    refusal(f'{again}{shared_memory.FREE}', 'uint8', (1,))
    assert read_array(again, 'uint8', (4000,), claim=True).tolist() == [2] * 4000
    small = hand_over.send(np.full(10, 3, np.uint8))  # would waste a segment a hundred times as large
    assert pages(small) != first
    clock.now += 6
    hand_over.sweep()
    assert not list(shared_memory.FOLDER.glob(f'{again}*'))
    assert not (shared_memory.FOLDER / small).exists()
    hand_over.close()


def test_closing_leaves_nothing_whether_claimed_or_not(clock: FakeClock) -> None:
    hand_over = HandOver(clock=clock)
    keys = [hand_over.send(np.zeros(5000, np.uint8)) for _ in range(3)]
    read_array(keys[0], 'uint8', (5000,), claim=True)
    hand_over.sweep()
    read_array(keys[1], 'uint8', (5000,), claim=True)
    hand_over.close()
    assert not [path for key in keys for path in shared_memory.FOLDER.glob(f'{key}*')]


def test_a_segment_that_somebody_tidied_up_is_replaced(clock: FakeClock) -> None:
    hand_over = HandOver(clock=clock)
    key = hand_over.send(np.zeros(5000, np.uint8))
    read_array(key, 'uint8', (5000,), claim=True)
    hand_over.sweep()
    (shared_memory.FOLDER / f'{key}{shared_memory.FREE}').unlink()
    again = hand_over.send(np.full(5000, 2, np.uint8))
    assert read_array(again, 'uint8', (5000,), claim=True).tolist() == [2] * 5000
    hand_over.close()


def test_a_client_that_keeps_its_answer_never_sees_it_change(clock: FakeClock) -> None:
    hand_over = HandOver(ttl_s=5, clock=clock)
    key = hand_over.send(np.full(5000, 1, np.uint8))
    with Segment.attach(key) as attached:
        view = attached.array('uint8', (5000,))
        for value in range(2, 10):
            hand_over.send(np.full(5000, value, np.uint8))
        clock.now += 6
        hand_over.send(np.full(5000, 10, np.uint8))
        assert (view == 1).all()
        del view
    hand_over.close()


def test_segments_that_came_back_make_room_before_anything_is_refused(clock: FakeClock) -> None:
    hand_over = HandOver(limit_bytes=10_000, clock=clock)
    read_array(hand_over.send(np.zeros(9000, np.uint8)), 'uint8', (9000,), claim=True)
    hand_over.send(np.zeros(2000, np.uint8))  # too small for the free one, too large beside it
    hand_over.close()


def test_what_a_dead_process_left_is_swept_and_what_a_live_one_holds_is_not(segment: Segment) -> None:
    code = (
        'import os; from attn_robotics.runtime.shared_memory import Segment; print(Segment.create(8).key, flush=True)'
    )
    code += '; left = Segment.create(8); left.rename(left.key + "_free"); print(left.key, flush=True); os._exit(1)'
    keys = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.split()
    assert len(keys) == 2 and all((shared_memory.FOLDER / key).exists() for key in keys)
    assert set(keys) <= set(sweep())
    assert not any((shared_memory.FOLDER / key).exists() for key in keys)
    assert (shared_memory.FOLDER / segment.key).exists()
