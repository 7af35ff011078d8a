"""The door speaks KServe v2: to a plain HTTP client, to our remote back end and to tritonclient."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from engine_world import Shelf, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attn_robotics.runtime import kserve
from attn_robotics.runtime.catalogue import Catalogue
from attn_robotics.runtime.door import Door
from attn_robotics.runtime.engine import Engine
from attn_robotics.runtime.errors import EngineError

Answer = tuple[int, dict[str, Any], bytes, http.client.HTTPMessage]


@pytest.fixture(scope='module')
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Door]]:
    shelf = Shelf(tmp_path_factory.mktemp('models'))
    shelf.put('m')
    shelf.put('sum', 'accumulate')
    shelf.put('half', inputs=[{'name': 'x', 'dtype': 'float16', 'shape': ['N', 4]}],
              outputs=[{'name': 'y', 'dtype': 'float16', 'shape': ['N', 4]}])  # fmt: skip
    with Engine(Catalogue(shelf.folder)) as engine:
        for name in ('m', 'sum', 'half'):
            engine.load(name).result(30)
        with Door(engine, max_body_bytes=1 << 16) as door:
            yield engine, door


@pytest.fixture
def door(served: tuple[Engine, Door]) -> Door:
    return served[1]


def call(door: Door, method: str, path: str, body: bytes = b'', **headers: str) -> Answer:
    connection = http.client.HTTPConnection(*door.address, timeout=30)
    connection.request(method, path, body, {name.replace('_', '-'): value for name, value in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    length = response.getheader(kserve.HEADER_LENGTH)
    text = content[: int(length)] if length else content
    is_json = 'json' in response.getheader('Content-Type', '') or length
    return response.status, json.loads(text) if is_json else {}, content, response.headers


def infer_json(door: Door, request: dict[str, Any], model: str = 'm') -> Answer:
    return call(door, 'POST', f'/v2/models/{model}/infer', json.dumps(request).encode())


X = {'name': 'x', 'datatype': 'FP32', 'shape': [1, 4], 'data': [1, 2.5, 3, 4]}


def test_server_and_model_can_be_asked_what_they_are(door: Door) -> None:
    for path in ('/v2/health/live', '/v2/health/ready', '/v2/models/m/ready', '/v2/models/m/versions/1/ready'):
        assert call(door, 'GET', path)[0] == 200
    assert call(door, 'GET', '/v2')[1]['name'] == 'attn_robotics'
    status, metadata, _, _ = call(door, 'GET', '/v2/models/m')
    assert status == 200
    assert metadata['versions'] == ['1']
    assert metadata['inputs'] == [{'name': 'x', 'datatype': 'FP32', 'shape': [-1, 4]}]
    assert call(door, 'GET', '/v2/models/m/config')[1]['max_batch_size'] == 8
    index = json.loads(call(door, 'POST', '/v2/repository/index', b'{}')[2])
    assert {item['name']: item['state'] for item in index} == {'half': 'READY', 'm': 'READY', 'sum': 'READY'}
    assert b'attn_runtime_requests_total{model="m"}' in call(door, 'GET', '/metrics')[2]


def test_json_in_and_json_out(door: Door) -> None:
    status, answer, _, _ = infer_json(door, {'id': 'seven', 'inputs': [X]})
    assert status == 200
    assert (answer['id'], answer['model_name'], answer['model_version']) == ('seven', 'm', '1')
    assert answer['outputs'] == [{'name': 'y', 'datatype': 'FP32', 'shape': [1, 4], 'data': [1.0, 2.5, 3.0, 4.0]}]


def test_nested_json_data_is_row_major(door: Door) -> None:
    nested = {**X, 'shape': [2, 4], 'data': [[1, 2, 3, 4], [5, 6, 7, 8]]}
    assert infer_json(door, {'inputs': [nested]})[1]['outputs'][0]['data'] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_binary_in_and_binary_out(door: Door) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    buffers, length = kserve.encode({'parameters': {'binary_data_output': True}}, 'inputs', {'x': x})
    status, answer, content, headers = call(
        door, 'POST', '/v2/models/m/infer', b''.join(buffers), Inference_Header_Content_Length=str(length)
    )
    assert status == 200
    assert answer['outputs'][0]['parameters'] == {'binary_data_size': 32}
    assert content[int(headers[kserve.HEADER_LENGTH]) :] == x.tobytes()


def test_a_connection_serves_many_requests_and_an_error_does_not_end_it(door: Door) -> None:
    connection = http.client.HTTPConnection(*door.address, timeout=30)
    for body, want in [(json.dumps({'inputs': [X]}), 200), ('{', 400), (json.dumps({'inputs': [X]}), 200)]:
        connection.request('POST', '/v2/models/m/infer', body)
        response = connection.getresponse()
        response.read()
        assert response.status == want
    connection.close()


@pytest.mark.parametrize(
    ('method', 'path', 'body', 'status'),
    [
        ('GET', '/', b'', 404),
        ('GET', '/v2/models/nobody', b'', 404),
        ('GET', '/v2/models/nobody/ready', b'', 404),
        ('GET', '/v2/models/m/versions/9', b'', 404),
        ('GET', '/v2/models/..%2f..%2fetc', b'', 404),
        ('POST', '/v2/models/nobody/infer', b'{}', 404),
        ('POST', '/v2/models/m/versions/9/infer', b'{}', 404),
        ('POST', '/v2/models/m/infer', b'', 400),
        ('POST', '/v2/models/m/infer', b'[]', 400),
        ('POST', '/v2/models/m/infer', b'{"inputs": 3}', 400),
        ('POST', '/v2/models/m/infer', b'\xff\xfe', 400),
        ('POST', '/v2/models/m/infer', b'[' * 60000, 400),
        ('POST', '/v2/models/m/infer', b'x' * (1 << 17), 413),
        ('POST', '/v2/models/m/unload', b'{}', 404),
        ('DELETE', '/v2/models/m', b'', 501),
    ],
)
def test_a_wrong_call_gets_its_status_and_one_line(
    door: Door, method: str, path: str, body: bytes, status: int
) -> None:
    got, answer, _, _ = call(door, method, path, body)
    assert got == status
    if got != 501:
        assert '\n' not in answer['error']


@pytest.mark.parametrize(
    'change',
    [
        {'name': 'z'},
        {'name': 3},
        {'datatype': 'FP64'},
        {'datatype': 'BYTES'},
        {'datatype': ['FP32']},
        {'shape': [4]},
        {'shape': [1, -4]},
        {'shape': [True, 4]},
        {'shape': [1 << 70, 4]},
        {'shape': [9, 4], 'data': [0] * 36},
        {'data': [1, 2, 3]},
        {'data': [1, 2, 3, 'four']},
        {'data': [1, 2, 3, None]},
        {'data': [1, 2, 3, 1e300]},
        {'data': 'abcd'},
        {'data': {}},
        {'parameters': 3},
        {'parameters': {'binary_data_size': 16}},
        {'parameters': {'shared_memory_region': 'r'}},
    ],
)
def test_a_wrong_tensor_is_refused(door: Door, change: dict[str, Any]) -> None:
    status, answer, _, _ = infer_json(door, {'inputs': [X | change]})
    assert status in (400, 413)
    assert '\n' not in answer['error']


@pytest.mark.parametrize(
    'change',
    [
        {'id': 3},
        {'inputs': [X, X]},
        {'outputs': [{'name': 'z'}]},
        {'outputs': 3},
        {'outputs': [3]},
        {'outputs': [{'name': 'y', 'parameters': {'classification': 2}}]},
        {'parameters': 3},
        {'parameters': {'priority': 256}},
        {'parameters': {'timeout': -1}},
        {'parameters': {'sequence_id': 1.5}},
        {'parameters': {'sequence_id': 5}},
        {'parameters': {'binary_data_output': 'yes'}},
    ],
)
def test_a_wrong_envelope_is_refused(door: Door, change: dict[str, Any]) -> None:
    assert infer_json(door, {'inputs': [X], **change})[0] == 400


@pytest.mark.parametrize('length', ['-1', '7.5', '99999', '9' * 30, 'x'])
def test_a_wrong_header_length_is_refused(door: Door, length: str) -> None:
    body = json.dumps({'inputs': [X]}).encode()
    assert call(door, 'POST', '/v2/models/m/infer', body, Inference_Header_Content_Length=length)[0] == 400


def test_bytes_behind_the_last_tensor_are_refused() -> None:
    buffers, length = kserve.encode({}, 'inputs', {'x': np.zeros((2, 4), np.float32)})
    with pytest.raises(EngineError, match='1 bytes follow'):
        kserve.decode(b''.join(buffers) + b'x', length, 'inputs')


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(-5, 300), st.integers(0, 250))
def test_any_bytes_are_decoded_or_refused_in_one_line(junk: bytes, length: int, place: int) -> None:
    buffers, header_length = kserve.encode({}, 'inputs', {'x': np.zeros((2, 4), np.float32)})
    body = bytearray(b''.join(buffers))
    body[place : place + len(junk)] = junk
    for header in (None, length, header_length):
        try:
            kserve.decode(bytes(body), header, 'inputs')
        except EngineError as error:
            assert error.reason == 'bad_input'
            assert '\n' not in str(error)


@pytest.mark.parametrize('dtype', kserve.DATATYPES.values())
@pytest.mark.parametrize('binary', [True, False])
def test_every_datatype_comes_back_as_it_went(dtype: str, binary: bool) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    for value in (array, array.T, array[:0], array[0, 0].reshape(())):
        names = frozenset() if binary else frozenset({'v'})
        buffers, length = kserve.encode({'id': 'i'}, 'outputs', {'v': value}, as_json=names)
        header, tensors = kserve.decode(b''.join(buffers), length, 'outputs')
        assert header['id'] == 'i'
        assert tensors['v'].dtype == value.dtype
        np.testing.assert_array_equal(tensors['v'], value)


def test_half_floats_travel_as_bytes_because_json_has_no_form_for_them(door: Door) -> None:
    x = np.full((1, 4), 0.5, np.float16)
    buffers, length = kserve.encode({}, 'inputs', {'x': x})
    _, _, content, headers = call(
        door, 'POST', '/v2/models/half/infer', b''.join(buffers), Inference_Header_Content_Length=str(length)
    )
    _, tensors = kserve.decode(content, int(headers[kserve.HEADER_LENGTH]), 'outputs')
    np.testing.assert_array_equal(tensors['y'], x)


def test_sequences_are_streams(door: Door) -> None:
    def add(value: float, **parameters: Any) -> float:
        x = {'name': 'x', 'datatype': 'FP32', 'shape': [1, 4], 'data': [value] * 4}
        answer = infer_json(door, {'inputs': [x], 'parameters': parameters}, 'sum')[1]
        return float(answer['outputs'][0]['data'][0])

    assert add(1, sequence_id=5, sequence_start=True) == 1
    assert add(2, sequence_id=5) == 3
    assert add(9, sequence_id='other') == 9
    assert add(3, sequence_id=5, sequence_end=True) == 6
    assert add(1, sequence_id=5) == 1


def test_chunked_and_compressed_bodies_are_refused_and_the_connection_ends(door: Door) -> None:
    for extra in ('Transfer-Encoding: chunked', 'Content-Encoding: gzip\r\nContent-Length: 3', 'Content-Length: x'):
        with socket.create_connection(door.address, 30) as plain:
            plain.sendall(f'POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n{extra}\r\n\r\nabc'.encode())
            answer = b''
            while chunk := plain.recv(4096):  # ends because the server closes
                answer += chunk
        assert answer.startswith(b'HTTP/1.1 400 ')


def test_more_connections_than_allowed_are_turned_away(served: tuple[Engine, Door]) -> None:
    with Door(served[0], max_connections=1) as door:
        first = http.client.HTTPConnection(*door.address, timeout=30)
        first.request('GET', '/v2')
        first.getresponse().read()
        with pytest.raises((http.client.HTTPException, OSError)):
            call(door, 'GET', '/v2')
        first.close()


# The remote back end against the door.


@pytest.fixture
def remote(shelf: Shelf, make_engine: Callable[..., Engine], door: Door) -> Engine:
    address = 'http://{}:{}'.format(*door.address)
    shelf.put('m', None, system=None, backend=address, device='auto')
    engine = make_engine()
    status = engine.load('m').result(30)
    assert (status.backend, status.device) == ('kserve', address)
    return engine


def test_a_model_behind_another_engine_answers_as_if_it_were_here(remote: Engine) -> None:
    futures = [remote.submit('m', rows(value)) for value in range(10)]
    for value, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(30).outputs['y'], rows(value)['x'])


def test_a_connection_that_the_server_closed_is_opened_anew(remote: Engine) -> None:
    remote.infer('m', rows(1))
    (connection,) = remote._residency.find('m').backend._unused  # type: ignore[attr-defined]
    connection.sock.shutdown(socket.SHUT_RDWR)
    np.testing.assert_array_equal(remote.infer('m', rows(2)).outputs['y'], rows(2)['x'])


def test_an_entry_with_other_tensors_than_the_servers_is_refused(shelf: Shelf, remote: Engine, door: Door) -> None:
    address = 'http://{}:{}'.format(*door.address)
    inputs = [{'name': 'x', 'dtype': 'float64', 'shape': ['N', 4]}]
    shelf.put('m', None, system=None, backend=address, inputs=inputs)
    with pytest.raises(EngineError, match='correct the entry') as caught:
        remote.load('m').result(30)
    assert caught.value.reason == 'bad_entry'


def test_a_server_that_goes_away_is_one_clear_error_a_request(
    shelf: Shelf, make_engine: Callable[..., Engine], served: tuple[Engine, Door]
) -> None:
    with Door(served[0]) as door:
        shelf.put('m', None, system=None, backend='http://{}:{}'.format(*door.address))
        engine = make_engine()
        engine.load('m').result(30)
    with pytest.raises(EngineError, match='is the server up') as caught:
        engine.infer('m', rows(1))
    assert caught.value.reason == 'backend'
    with pytest.raises(EngineError, match='is the server up'):
        engine.load('m').result(30)


# tritonclient, an independent implementation.


@pytest.fixture
def triton(door: Door) -> Iterator[Any]:
    http_client = pytest.importorskip('tritonclient.http', reason='tritonclient[http] is not installed')
    client = http_client.InferenceServerClient('{}:{}'.format(*door.address))
    yield client
    client.close()


def test_tritonclient_finds_server_and_model(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready('m')
    assert triton.is_model_ready('m', '1')
    assert not triton.is_model_ready('nobody')
    assert triton.get_server_metadata()['name'] == 'attn_robotics'
    assert triton.get_model_metadata('m')['inputs'][0]['shape'] == [-1, 4]
    assert triton.get_model_config('m')['max_batch_size'] == 8
    assert len(triton.get_model_repository_index()) == 3


@pytest.mark.parametrize('binary_in', [True, False])
@pytest.mark.parametrize('binary_out', [True, False])
def test_tritonclient_infers(triton: Any, binary_in: bool, binary_out: bool) -> None:
    import tritonclient.http as http_client

    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    given_ = http_client.InferInput('x', x.shape, 'FP32')
    given_.set_data_from_numpy(x, binary_data=binary_in)
    wanted = http_client.InferRequestedOutput('y', binary_data=binary_out)
    answer = triton.infer('m', [given_], outputs=[wanted], request_id='7', priority=3, timeout=10_000_000)
    np.testing.assert_array_equal(answer.as_numpy('y'), x)
    assert answer.get_response()['id'] == '7'
    np.testing.assert_array_equal(triton.infer('m', [given_]).as_numpy('y'), x)


def test_tritonclient_runs_sequences_and_sees_errors(triton: Any) -> None:
    import tritonclient.http as http_client

    x = http_client.InferInput('x', (1, 4), 'FP32')
    x.set_data_from_numpy(np.ones((1, 4), np.float32))
    totals = [
        triton.infer('sum', [x], sequence_id=42, sequence_start=i == 0, sequence_end=i == 2).as_numpy('y')[0, 0]
        for i in range(3)
    ]
    assert totals == [1, 2, 3]
    with pytest.raises(http_client.InferenceServerException, match='keeps state'):
        triton.infer('sum', [x])
