"""Tensor messages: what goes in comes out, and everything malformed is refused with one line."""

from __future__ import annotations

import array
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('attn_robotics_interfaces', reason='needs the built interfaces')

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attn_robotics.conversions.tensors import (
    KINDS,
    SHARED_FROM_BYTES,
    from_tensor,
    from_tensors,
    to_shared_tensor,
    to_tensor,
    to_tensors,
)
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.shared_memory import FOLDER, HandOver, Segment
from attn_robotics_interfaces.msg import Tensor

pytestmark = pytest.mark.ros

ARRAYS = st.sampled_from(sorted(KINDS)).flatmap(
    lambda name: hnp.arrays(np.dtype(name), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def refuse(message: Tensor, reason: str, words: str, **options: object) -> None:
    with pytest.raises(EngineError, match=words) as caught:
        from_tensor(message, **options)
    assert caught.value.reason == reason and '\n' not in str(caught.value)


@settings(deadline=None)
@given(ARRAYS, st.booleans())
def test_every_array_comes_back_bit_for_bit(values, is_reversed):
    values = values[::-1] if is_reversed and values.ndim else values.T
    found = from_tensor(to_tensor('x', values))
    assert found.dtype == values.dtype and found.shape == values.shape
    assert found.tobytes() == values.tobytes()


@settings(deadline=None)
@given(ARRAYS, st.lists(st.integers(0, 3), min_size=4, max_size=4), st.integers(0, 9), st.booleans())
def test_padded_rows_behind_an_offset_are_read_inline_and_from_shared_memory(values, pads, offset, is_shared):
    if values.size == 0:
        return
    strides, step = [], values.itemsize
    for length, pad in zip(reversed(values.shape), pads, strict=False):
        strides.insert(0, step := step + pad)
        step *= length
    room = bytearray(offset + step)
    np.ndarray(values.shape, values.dtype, room, offset, strides)[...] = values
    message = Tensor(name='x', dtype=values.dtype.name, shape=list(values.shape), strides=strides, byte_offset=offset)
    with Segment.create(len(room)) as segment:
        segment.array('uint8', [len(room)])[...] = np.frombuffer(room, np.uint8)
        if is_shared:
            message.shm_key = segment.key
        else:
            message.data = array.array('B', bytes(room))
        np.testing.assert_array_equal(from_tensor(message), values)


def test_inline_bytes_are_not_copied_on_the_way_in():
    message = to_tensor('x', floats(300))
    found = from_tensor(message)
    message.data[0] ^= 1
    assert found.tobytes() == message.data.tobytes()


def test_bytes_are_little_endian_whatever_the_array_was():
    assert to_tensor('x', np.array([1], '>i4')).data.tobytes() == b'\x01\0\0\0'
    np.testing.assert_array_equal(from_tensor(to_tensor('x', np.array([1, -2], '>i4'))), [1, -2])


def test_large_answers_are_handed_over_and_small_ones_are_not():
    hand_over = HandOver()
    values = {'large': floats(SHARED_FROM_BYTES // 4), 'small': floats(3)}
    large, small = to_tensors(values, hand_over=hand_over)
    assert large.shm_key and not len(large.data) and not small.shm_key
    assert (FOLDER / large.shm_key).exists()
    np.testing.assert_array_equal(from_tensor(large, claim=True), values['large'])
    assert not (FOLDER / large.shm_key).exists()
    refuse(large, 'bad_segment', "tensor 'large'.*can not be opened")
    hand_over.close()


def test_a_client_writes_its_segment_anew_for_every_request():
    with Segment.create(100) as segment:
        for values in (floats(4, 5), -floats(4, 5)):
            message = to_shared_tensor('x', values, segment, offset=20)
            np.testing.assert_array_equal(from_tensor(message), values)
        with pytest.raises(EngineError, match='beyond the segment'):
            to_shared_tensor('x', floats(4, 5), segment, offset=24)


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can give a file to another user')
def test_the_segment_of_another_user_is_refused():
    with Segment.create(64) as segment:
        message = to_shared_tensor('x', floats(16), segment)
        os.chown(FOLDER / segment.key, 12345, -1)
        refuse(message, 'bad_segment', 'belongs to user 12345')


def test_a_key_is_no_way_to_other_files(tmp_path: Path):
    for key in ('../etc/passwd', '/etc/passwd', 'sem.x', 'x' * 5000, 'attn_1_1_1_0123456789abcdef\n', '\0'):
        refuse(Tensor(name='x', dtype='uint8', shape=[1], shm_key=key), 'bad_segment', 'segment')


GOOD = {'name': 'x', 'dtype': 'float32', 'shape': [2, 2], 'data': array.array('B', bytes(16))}


@pytest.mark.parametrize(
    ('changes', 'reason', 'words'),
    [
        ({'dtype': ''}, 'bad_input', "dtype ''"),
        ({'dtype': 'object'}, 'bad_input', 'dtype'),
        ({'dtype': 'O'}, 'bad_input', 'dtype'),
        ({'dtype': '>f4'}, 'bad_input', 'dtype'),
        ({'dtype': 'float32\n' * 99}, 'bad_input', 'dtype'),
        ({'shape': [2, -2]}, 'bad_input', 'shape'),
        ({'shape': [1] * 33}, 'bad_input', 'up to 32'),
        ({'shape': [2, 3]}, 'bad_input', 'needs more than its 16 bytes'),
        ({'shape': [2]}, 'bad_input', 'are 8 bytes, but 16 came'),
        ({'shape': []}, 'bad_input', 'are 4 bytes, but 16 came'),
        ({'shape': [2**62, 2**62]}, 'too_large', 'bytes'),
        ({'shape': [0, 2**62]}, 'too_large', 'bytes'),
        ({'shape': [2**29]}, 'too_large', '2147483648 bytes'),
        ({'strides': [8]}, 'bad_input', '1 strides for 2 axes'),
        ({'strides': [0, 0]}, 'bad_input', 'overlap'),
        ({'strides': [-8, 4]}, 'bad_input', 'backwards'),
        ({'strides': [4, 8]}, 'bad_input', 'C order'),
        ({'strides': [16, 4]}, 'bad_input', 'needs more'),
        ({'strides': [2**62, 4]}, 'too_large', 'bytes'),
        ({'byte_offset': 4}, 'bad_input', 'needs more'),
        ({'byte_offset': 2**64 - 1}, 'bad_input', 'byte_offset'),
        ({'data': array.array('B')}, 'bad_input', 'needs more than its 0 bytes'),
        ({'shm_key': 'attn_1_1_1_0123456789abcdef'}, 'bad_input', 'both data and shm_key'),
        ({'dtype': 'bool', 'shape': [16], 'data': array.array('B', bytes([2] * 16))}, 'bad_input', '0 or 1'),
    ],
)  # fmt: skip
def test_malformed_fields_are_refused_with_one_line(changes, reason, words):
    assert from_tensor(Tensor(**GOOD)).shape == (2, 2)
    refuse(Tensor(**(GOOD | changes)), reason, words)


def test_a_small_segment_can_not_pose_as_a_huge_array():
    with Segment.create(4096) as segment:
        point_at = {'name': 'x', 'dtype': 'uint8', 'shm_key': segment.key}
        refuse(Tensor(**point_at, shape=[1 << 20, 64], strides=[0, 1]), 'bad_input', 'overlap')
        refuse(Tensor(**point_at, shape=[4097]), 'bad_input', 'beyond the segment')
        refuse(Tensor(**point_at, shape=[1], byte_offset=2**63), 'bad_input', 'beyond the segment')
        refuse(Tensor(**point_at, shape=[4096]), 'too_large', '4096 bytes', max_bytes=4095)


def test_a_request_is_bounded_as_a_whole():
    tensors = [to_tensor(f'x{index}', floats(10)) for index in range(300)]
    assert len(from_tensors(tensors[:3], max_bytes=120)) == 3
    for messages, bound, words in (
        (tensors[:3], 119, "'x2': 40 bytes, 39 are left"),
        (tensors[:1] * 2, 120, 'given twice'),
        (tensors, 1 << 20, 'more than 256'),
    ):
        with pytest.raises(EngineError, match=words):
            from_tensors(messages, max_bytes=bound)


def test_an_array_that_has_no_message_is_refused():
    with pytest.raises(EngineError, match='dtype complex128'):
        to_tensor('x', np.zeros(2, complex))
