"""Tensor messages to numpy arrays and back, inline or by shared memory.

An array travels as little-endian bytes in C order, padded rows allowed. What does not fit is refused with one line
before memory is spent on it.
"""

from __future__ import annotations

import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from attn_robotics.runtime.catalogue import DTYPES, FLOATS
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.shared_memory import HandOver, Segment, read_array
from attn_robotics_interfaces.msg import Tensor

NumpyArray = np.ndarray[Any, np.dtype[Any]]

KINDS: Mapping[str, np.dtype[Any]] = {name: np.dtype(name).newbyteorder('<') for name in (*DTYPES, *FLOATS)}
MAX_BYTES = 256 << 20
MAX_TENSORS = 256
MAX_AXES = 32
# From here on a segment costs less than the copies of a message.
SHARED_FROM_BYTES = 1 << 16


def from_tensor(message: Tensor, *, max_bytes: int = MAX_BYTES, claim: bool = False) -> NumpyArray:
    """Read one message.

    Args:
        message: with its bytes inline, or the key of a segment in shared memory.
        max_bytes: refuse larger arrays.
        claim: remove the segment's name after reading: for answers, which a server hands over.

    Returns:
        An array that looks at the message's own bytes where they are inline, a copy of the segment otherwise.

    Raises:
        EngineError: `bad_input` or `too_large`, naming the tensor and what is wrong with it.
    """
    where = f'tensor {message.name[:100]!r}'
    kind = KINDS.get(message.dtype)
    if kind is None:
        raise EngineError('bad_input', f'{where}: dtype {message.dtype[:40]!r} is none of {", ".join(KINDS)}')
    shape, strides, offset = tuple(message.shape), tuple(message.strides), int(message.byte_offset)
    _check_layout(where, kind, shape, strides, max_bytes)
    if 0 in shape:
        strides = ()
    if message.shm_key:
        if len(message.data):
            raise EngineError('bad_input', f'{where}: has both data and shm_key; send one of them')
        try:
            found = read_array(message.shm_key, kind.str, shape, offset=offset, strides=strides, claim=claim)
        except EngineError as error:
            raise EngineError(error.reason, f'{where}: {error}') from None
    else:
        found = _view(where, message.data, kind, shape, strides, offset)
    if kind.kind == 'b' and found.size and found.view(np.uint8).max() > 1:
        raise EngineError('bad_input', f'{where}: a bool must be a byte of 0 or 1')
    return found


def from_tensors(messages: Iterable[Tensor], *, max_bytes: int = MAX_BYTES) -> dict[str, NumpyArray]:
    """Read the tensors of a request, by name.

    Args:
        messages: at most `MAX_TENSORS`, no name twice.
        max_bytes: refuse more, all tensors together.

    Raises:
        EngineError: `bad_input` or `too_large`, naming the tensor and what is wrong with it.
    """
    found: dict[str, NumpyArray] = {}
    left = max_bytes
    for message in messages:
        if message.name in found:
            raise EngineError('bad_input', f'tensor {message.name[:100]!r} is given twice')
        if len(found) == MAX_TENSORS:
            raise EngineError('too_large', f'more than {MAX_TENSORS} tensors')
        found[message.name] = tensor = from_tensor(message, max_bytes=left)
        left -= tensor.nbytes
    return found


def to_tensor(name: str, values: NumpyArray, *, hand_over: HandOver | None = None) -> Tensor:
    """Write one message.

    Args:
        name: of the tensor.
        values: of a dtype in `KINDS`, any layout.
        hand_over: where given, arrays of `SHARED_FROM_BYTES` and more go by shared memory, for the reader to claim.

    Raises:
        EngineError: `bad_output` for another dtype, or what `HandOver.send` raises.
    """
    dtype = values.dtype.name
    if dtype not in KINDS:
        raise EngineError('bad_output', f'tensor {name[:100]!r}: dtype {dtype} can not be sent')
    message = Tensor(name=name, dtype=dtype, shape=array.array('q', values.shape))
    if hand_over is not None and values.nbytes >= SHARED_FROM_BYTES:
        message.shm_key = hand_over.send(values)
    elif values.size:
        data = array.array('B')  # from a buffer it is one copy; the setter would look at every item of a list
        data.frombytes(np.ascontiguousarray(values, KINDS[dtype]).reshape(-1).view(np.uint8).data)
        message.data = data
    return message


def to_tensors(outputs: Mapping[str, NumpyArray], *, hand_over: HandOver | None = None) -> list[Tensor]:
    """Write the tensors of an answer; the arguments are those of `to_tensor`."""
    return [to_tensor(name, values, hand_over=hand_over) for name, values in outputs.items()]


def to_shared_tensor(name: str, values: NumpyArray, segment: Segment, offset: int = 0) -> Tensor:
    """Write an array into a segment that this process owns, and a message that points at it.

    The segment must stay unchanged until the request is answered, and may then be written anew.

    Args:
        name: of the tensor.
        values: of a dtype in `KINDS`.
        segment: made by `Segment.create`.
        offset: of the first byte in the segment.

    Raises:
        EngineError: `bad_input` when the array reaches beyond the segment.
    """
    segment.array(values.dtype.str, values.shape, offset)[...] = values
    return Tensor(
        name=name,
        dtype=values.dtype.name,
        shape=array.array('q', values.shape),
        byte_offset=offset,
        shm_key=segment.key,
    )


def _check_layout(
    where: str, kind: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...], max_bytes: int
) -> None:
    """Refuse what no array in C order can have; sizes are Python integers, so nothing overflows."""
    if len(shape) > MAX_AXES or any(size < 0 for size in shape):
        raise EngineError(
            'bad_input', f'{where}: shape must be up to {MAX_AXES} sizes of at least 0, got {list(shape)[:8]}'
        )
    if strides and len(strides) != len(shape):
        raise EngineError('bad_input', f'{where}: {len(strides)} strides for {len(shape)} axes')
    packed = extent = kind.itemsize
    for axis in reversed(range(len(shape))):
        if (length := max(1, shape[axis])) == 1:  # an empty array is as bounded as one with a row in it
            continue
        step = strides[axis] if strides else packed
        if step < packed:
            raise EngineError(
                'bad_input', f'{where}: strides {list(strides)[:8]} overlap, run backwards or are not in C order'
            )
        extent += (length - 1) * step
        packed = length * step
    if extent > max_bytes:
        raise EngineError('too_large', f'{where}: {extent} bytes, {max_bytes} are left of what is allowed')


def _view(
    where: str, data: Any, kind: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> NumpyArray:
    """An array in C order on a message's own bytes."""
    buffer = memoryview(data)
    if offset > len(buffer):
        raise EngineError('bad_input', f'{where}: byte_offset {offset} lies behind its {len(buffer)} bytes of data')
    try:
        found: NumpyArray = np.ndarray(shape, kind, buffer, offset, strides or None)
    except (TypeError, ValueError):
        raise EngineError(
            'bad_input', f'{where}: {kind.name} {list(shape)[:8]} needs more than its {len(buffer)} bytes of data'
        ) from None
    if not strides and len(buffer) - offset != found.nbytes:
        raise EngineError(
            'bad_input',
            f'{where}: {kind.name} {list(shape)[:8]} are {found.nbytes} bytes, but {len(buffer) - offset} came',
        )
    return found
