"""The KServe v2 inference protocol over HTTP: tensors to bytes and back, with the binary tensor extension.

Specification: Open Inference Protocol, "Inference Request/Response JSON Object"; binary tensors as Triton Inference
Server defines them: the JSON header's length stands in `Inference-Header-Content-Length`, raw little-endian tensors
follow it in the order of the header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attn_robotics.runtime.errors import EngineError, one_line

HEADER_LENGTH = 'Inference-Header-Content-Length'
DATATYPES = {
    'BOOL': 'bool', 'UINT8': 'uint8', 'UINT16': 'uint16', 'UINT32': 'uint32', 'UINT64': 'uint64', 'INT8': 'int8',
    'INT16': 'int16', 'INT32': 'int32', 'INT64': 'int64', 'FP16': 'float16', 'FP32': 'float32', 'FP64': 'float64',
}  # fmt: skip
NAMES = {dtype: datatype for datatype, dtype in DATATYPES.items()}
MAX_RANK = 32
NumpyArray = np.ndarray[Any, np.dtype[Any]]


def encode(
    header: Mapping[str, Any], key: str, tensors: Mapping[str, NumpyArray], *, as_json: frozenset[str] = frozenset()
) -> tuple[list[bytes | memoryview], int]:
    """Write a request or a response.

    Args:
        header: the JSON object's other members.
        key: `inputs` or `outputs`.
        tensors: by name.
        as_json: names whose values go into the JSON instead of the binary part (never float16).

    Returns:
        Buffers to send one after another, and the length of the first, which is the JSON header.
    """
    described: list[dict[str, Any]] = []
    buffers: list[bytes | memoryview] = []
    for name, array in tensors.items():
        entry: dict[str, Any] = {'name': name, 'datatype': NAMES[array.dtype.name], 'shape': list(array.shape)}
        if name in as_json and array.dtype != np.float16:
            entry['data'] = array.ravel().tolist()
        else:
            entry['parameters'] = {'binary_data_size': array.nbytes}
            buffers.append(memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data))
        described.append(entry)
    text = json.dumps({**header, key: described}, separators=(',', ':')).encode()
    return [text, *buffers], len(text)


def decode(
    body: bytes | bytearray | memoryview, header_length: int | None, key: str
) -> tuple[dict[str, Any], dict[str, NumpyArray]]:
    """Read a request or a response.

    Args:
        body: all of it.
        header_length: of the JSON, None when it is all JSON.
        key: `inputs` or `outputs`.

    Returns:
        The JSON object, and read-only arrays by name that share the body's memory.

    Raises:
        EngineError: `bad_input` for anything the protocol does not allow.
    """
    whole = memoryview(body)
    length = len(whole) if header_length is None else header_length
    if not 0 <= length <= len(whole):
        raise EngineError('bad_input', f'{HEADER_LENGTH} is {length}, the body has {len(whole)} bytes')
    try:
        header = json.loads(bytes(whole[:length]))
    except (ValueError, RecursionError) as error:
        raise EngineError('bad_input', f'the JSON header can not be read: {one_line(error, 150)}') from error
    if not isinstance(header, dict) or not isinstance(header.get(key), list):
        raise EngineError('bad_input', f"the JSON header must be an object with a list '{key}'")
    if not isinstance(header.get('parameters', {}), dict):
        raise EngineError('bad_input', 'parameters must be an object')
    tensors: dict[str, NumpyArray] = {}
    rest = whole[length:]
    for item in header[key]:
        name, array, used = _tensor(item, rest)
        if name in tensors:
            raise EngineError('bad_input', f'tensor {name[:100]!r} is given twice')
        tensors[name] = array
        rest = rest[used:]
    if len(rest):
        raise EngineError('bad_input', f'{len(rest)} bytes follow the last tensor')
    return header, tensors


def _tensor(item: object, rest: memoryview) -> tuple[str, NumpyArray, int]:
    """One tensor of a header and how many bytes of the binary part it took."""
    if not isinstance(item, dict) or not isinstance(item.get('name'), str):
        raise EngineError('bad_input', 'every tensor must be an object with a name')
    name, shape, parameters = item['name'], item.get('shape'), item.get('parameters', {})
    label = repr(name[:100])
    dtype = DATATYPES.get(item['datatype']) if isinstance(item.get('datatype'), str) else None
    if dtype is None:
        raise EngineError('bad_input', f'{label}: datatype must be one of {", ".join(DATATYPES)}')
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_RANK
        or not all(type(n) is int and 0 <= n < 1 << 62 for n in shape)
    ):
        raise EngineError('bad_input', f'{label}: shape must be a list of whole numbers')
    if not isinstance(parameters, dict):
        raise EngineError('bad_input', f'{label}: parameters must be an object')
    if 'shared_memory_region' in parameters:
        raise EngineError('bad_input', f'{label}: shared memory regions are not offered here; send the bytes')
    elements = math.prod(shape)  # of Python integers: no overflow
    size = parameters.get('binary_data_size')
    if size is not None:
        want = elements * np.dtype(dtype).itemsize
        if type(size) is not int or size != want or size > len(rest) or 'data' in item:
            got = f'{one_line(size, 30)} announced, {len(rest)} there'
            raise EngineError('bad_input', f'{label}: {want} bytes of binary data are needed, {got}')
        array = np.frombuffer(rest[:size], dtype) if size else np.empty(0, dtype)
        if dtype == 'bool' and size and array.view(np.uint8).max() > 1:
            raise EngineError('bad_input', f'{label}: a BOOL must be 0 or 1')
        return name, array.reshape(shape), size
    return name, _from_json(label, item.get('data'), dtype, elements).reshape(shape), 0


def _from_json(label: str, data: object, dtype: str, elements: int) -> NumpyArray:
    if not isinstance(data, list):
        raise EngineError('bad_input', f'{label}: data must be a list, or binary_data_size must be given')
    flat = _flatten(data)
    if len(flat) != elements:
        raise EngineError('bad_input', f'{label}: the shape needs {elements} values, data has {len(flat)}')
    kinds: tuple[type, ...] = (bool,) if dtype == 'bool' else (int, float) if dtype.startswith('float') else (int,)
    if not all(type(value) in kinds for value in flat):
        raise EngineError('bad_input', f'{label}: data must hold {dtype} values only')
    try:
        with np.errstate(over='ignore'):  # too large a float becomes infinite, which the model's check sees
            return np.array(flat, dtype)
    except (OverflowError, ValueError) as error:
        raise EngineError('bad_input', f'{label}: data does not fit {dtype}: {one_line(error, 100)}') from error


def _flatten(data: Sequence[Any]) -> list[Any]:
    """Row-major values of nested lists, without recursion."""
    flat = list(data)
    for _ in range(MAX_RANK):
        if not any(isinstance(value, list) for value in flat):
            return flat
        flat = [inner for value in flat for inner in (value if isinstance(value, list) else [value])]
    raise EngineError('bad_input', f'data is nested more than {MAX_RANK} deep')
