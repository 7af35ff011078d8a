"""The door: an HTTP server that lets any KServe v2 client use the engine.

Off unless asked for, on the loopback interface unless told otherwise, without authentication: to let others in, put it
behind a proxy that checks them. Bodies, headers, connections and times are bounded.

Triton's extensions offered: binary tensors, sequences (`sequence_id`, `sequence_start`, `sequence_end`: our streams),
`priority`, `timeout` [us], the repository index, and Prometheus metrics at /metrics.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from typing import Any
from urllib.parse import unquote

from attn_robotics import __version__
from attn_robotics.runtime import kserve
from attn_robotics.runtime.catalogue import ModelEntry, TensorSpec
from attn_robotics.runtime.engine import Engine, ModelState
from attn_robotics.runtime.errors import EngineError, Reason

log = logging.getLogger(__name__)

STATUS: dict[Reason, int] = {
    'unknown_model': 404, 'not_loaded': 404, 'bad_input': 400, 'bad_stream': 400, 'too_large': 413,
    'queue_full': 429, 'overload': 429, 'displaced': 429, 'expired': 504, 'cancelled': 499,
    'out_of_memory': 503, 'stopped': 503,
}  # fmt: skip
_MODEL = re.compile(
    r'/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>ready|infer|config|stats))?'
)


class Door:
    """The server; it answers from construction to `close`.

    Args:
        engine: whose models to offer.
        host: address to listen on.
        port: 0 for any free one.
        max_body_bytes: largest request.
        max_connections: more are turned away.
        idle_s: after which a silent connection is closed [s].
    """

    def __init__(
        self,
        engine: Engine,
        host: str = '127.0.0.1',
        port: int = 0,
        *,
        max_body_bytes: int = 64 << 20,
        max_connections: int = 64,
        idle_s: float = 30.0,
    ) -> None:
        self._server = _Server(engine, (host, port), max_body_bytes, max_connections, idle_s)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name='door', daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Stop listening and end open connections."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.end_connections()

    def __enter__(self) -> Door:
        """Close on leaving."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self, engine: Engine, address: tuple[str, int], max_body_bytes: int, max_connections: int, idle_s: float
    ) -> None:
        self.engine = engine
        self.max_body_bytes = max_body_bytes
        self.idle_s = idle_s
        self._free = threading.BoundedSemaphore(max_connections)
        self._open: set[socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._open.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.discard(request)
            self._free.release()

    def end_connections(self) -> None:
        for connection in list(self._open):
            self.shutdown_request(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug('connection of %s failed', client_address, exc_info=True)  # a client that went away, mostly


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server_version = f'attn_robotics/{__version__}'
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.idle_s)

    def do_GET(self) -> None:
        """Answer health, metadata and metrics."""
        self._guard(self._get)

    def do_POST(self) -> None:
        """Answer inference and the repository index."""
        self._guard(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Log quietly."""
        log.debug(format, *args)

    def _guard(self, answer: Any) -> None:
        try:
            body = self._body()
            answer(self.path.partition('?')[0], body)
        except EngineError as error:
            self._send_json(STATUS.get(error.reason, 500), {'error': str(error)})
        except OSError:
            self.close_connection = True
        except Exception as error:
            log.exception('the door failed')
            self._send_json(500, {'error': f'{type(error).__name__}'})

    def _body(self) -> bytes:
        """Read the body; where that is refused the connection ends, since its rest would read as a request."""
        length = self.headers.get('Content-Length', '0')
        problem: tuple[Reason, str] | None = None
        if 'Transfer-Encoding' in self.headers or not length.isdecimal():
            problem = ('bad_input', 'send the body with a Content-Length')
        elif self.headers.get('Content-Encoding', 'identity') != 'identity':
            problem = ('bad_input', 'compressed bodies are not accepted')
        elif len(length) > 18 or int(length) > self.server.max_body_bytes:
            problem = (
                'too_large',
                f'the body has {length[:20]} bytes, at most {self.server.max_body_bytes} are accepted',
            )
        if problem:
            self.close_connection = True
            raise EngineError(*problem)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            raise EngineError('bad_input', f'the body ended after {len(body)} of {length} bytes')
        return body

    def _get(self, path: str, body: bytes) -> None:
        engine = self.server.engine
        if path in ('/v2/health/live', '/v2/health/ready'):
            self._send_json(200, {path.rsplit('/', 1)[1]: True})
        elif path == '/v2':
            extensions = ['binary_tensor_data', 'sequence', 'model_repository']
            self._send_json(200, {'name': 'attn_robotics', 'version': __version__, 'extensions': extensions})
        elif path == '/metrics':
            self._send(200, 'text/plain; version=0.0.4; charset=utf-8', [engine.prometheus().encode()])
        else:
            entry, verb = self._model(path)
            if verb is None:
                self._send_json(200, _metadata(entry))
            elif verb == 'ready':
                self._send_json(200, {'name': entry.name, 'ready': True})
            elif verb == 'config':
                self._send_json(200, _config(entry))
            else:
                raise EngineError('unknown_model', f'{path[:100]} is not offered with GET')

    def _post(self, path: str, body: bytes) -> None:
        if path == '/v2/repository/index':
            states = {ModelState.READY: 'READY', ModelState.LOADING: 'LOADING'}
            index = [
                {'name': s.name, 'version': s.version, 'state': states.get(s.state, 'UNAVAILABLE'), 'reason': s.reason}
                for s in self.server.engine.list_models()
            ]
            self._send_json(200, index)
            return
        entry, verb = self._model(path)
        if verb != 'infer':
            raise EngineError('unknown_model', f'{path[:100]} is not offered with POST')
        self._infer(entry, body)

    def _model(self, path: str) -> tuple[ModelEntry, str | None]:
        match = _MODEL.fullmatch(path)
        if match is None:
            raise EngineError('unknown_model', f'there is nothing at {path[:100]}; models are at /v2/models/NAME')
        entry = self.server.engine.entry(unquote(match['model']))
        version = unquote(match['version'] or entry.version)
        if version != entry.version:
            raise EngineError('not_loaded', f'{entry.name} is loaded in version {entry.version}, not {version[:50]!r}')
        return entry, match['verb']

    def _infer(self, entry: ModelEntry, body: bytes) -> None:
        length = self.headers.get(kserve.HEADER_LENGTH)
        if length is not None and (not length.isdecimal() or len(length) > 18):
            raise EngineError('bad_input', f'{kserve.HEADER_LENGTH} must be a whole number')
        header, inputs = kserve.decode(body, None if length is None else int(length), 'inputs')
        identifier = header.get('id', '')
        if not isinstance(identifier, str):
            raise EngineError('bad_input', 'id must be text')
        parameters = header.get('parameters', {})
        wanted = _wanted(entry, header)
        stream, start, end = _sequence(parameters)
        engine = self.server.engine
        # Not infer: a model on the CPU would give each of these passing threads a pool of its own.
        future = engine.submit(
            entry.name,
            inputs,
            deadline_s=_whole(parameters, 'timeout', 1 << 40) / 1e6 or None,
            priority=_whole(parameters, 'priority', 255),
            stream=stream,
            reset=start,
        )
        reply = future.result()
        if end:
            engine.drop_stream(entry.name, stream)
        outputs = {name: reply.outputs[name] for name in wanted}
        as_json = frozenset(name for name, binary in wanted.items() if not binary)
        answer = {
            'model_name': entry.name,
            'model_version': reply.version,
            **({'id': identifier} if identifier else {}),
        }
        buffers, header_length = kserve.encode(answer, 'outputs', outputs, as_json=as_json)
        if len(buffers) > 1:
            self._send(200, 'application/octet-stream', buffers, {kserve.HEADER_LENGTH: str(header_length)})
        else:
            self._send(200, 'application/json', buffers)

    def _send_json(self, status: int, content: object) -> None:
        self._send(status, 'application/json', [json.dumps(content).encode()])

    def _send(
        self,
        status: int,
        kind: str,
        buffers: list[bytes | memoryview] | list[bytes],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(sum(len(buffer) for buffer in buffers)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        for buffer in buffers:
            self.wfile.write(buffer)
        self.wfile.flush()


def _whole(parameters: Mapping[str, Any], name: str, high: int) -> int:
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value <= high:
        raise EngineError('bad_input', f'parameter {name} must be a whole number from 0 to {high}')
    return value


def _sequence(parameters: Mapping[str, Any]) -> tuple[str, bool, bool]:
    """Stream id, reset and end from the sequence parameters; 0 and '' mean none."""
    identifier = parameters.get('sequence_id', '')
    flags = [parameters.get(name, False) for name in ('sequence_start', 'sequence_end')]
    if type(identifier) not in (int, str) or not all(type(flag) is bool for flag in flags):
        raise EngineError(
            'bad_input', 'sequence_id must be a number or text, sequence_start and sequence_end true or false'
        )
    return (str(identifier) if identifier else ''), flags[0], flags[1]


def _wanted(entry: ModelEntry, header: Mapping[str, Any]) -> dict[str, bool]:
    """Outputs asked for, all when none are named, and whether each shall be binary."""
    default = header.get('parameters', {}).get('binary_data_output', False)
    known = {spec.name for spec in entry.outputs}
    asked = header.get('outputs', [{'name': spec.name} for spec in entry.outputs])
    if not isinstance(asked, list) or type(default) is not bool:
        raise EngineError('bad_input', 'outputs must be a list, binary_data_output true or false')
    halves = {spec.name for spec in entry.outputs if spec.dtype == 'float16'}  # have no JSON form
    wanted: dict[str, bool] = {}
    for item in asked:
        name = item.get('name') if isinstance(item, dict) else None
        if not isinstance(name, str) or name not in known:
            raise EngineError(
                'bad_input', f'{entry.name} gives {", ".join(sorted(known))}, asked for {str(name)[:100]!r}'
            )
        parameters = item.get('parameters', {})
        binary = parameters.get('binary_data', default) if isinstance(parameters, dict) else None
        if type(binary) is not bool or 'classification' in parameters:
            raise EngineError(
                'bad_input', f'output {name}: binary_data must be true or false, and it is the only parameter'
            )
        wanted[name] = binary or name in halves
    return wanted


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in spec.shape]
    return {'name': spec.name, 'datatype': kserve.NAMES[spec.dtype], 'shape': shape}


def _metadata(entry: ModelEntry) -> dict[str, Any]:
    return {
        'name': entry.name,
        'versions': [entry.version],
        'platform': entry.backend,
        'inputs': [_tensor(spec) for spec in entry.inputs],
        'outputs': [_tensor(spec) for spec in entry.outputs],
    }


def _config(entry: ModelEntry) -> dict[str, Any]:
    """What Triton's clients ask before they batch: shapes here are without the batch axis."""
    return {
        'name': entry.name,
        'platform': entry.backend,
        'max_batch_size': entry.max_rows if entry.batching else 0,
        'input': [_config_tensor(spec, entry) for spec in entry.inputs],
        'output': [_config_tensor(spec, entry) for spec in entry.outputs],
    }


def _config_tensor(spec: TensorSpec, entry: ModelEntry) -> dict[str, Any]:
    shape = spec.shape[1:] if entry.batching else spec.shape
    return {
        'name': spec.name,
        'data_type': f'TYPE_{kserve.NAMES[spec.dtype]}',
        'dims': [size if isinstance(size, int) else -1 for size in shape],
    }
