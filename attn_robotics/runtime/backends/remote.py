"""Models behind a server that speaks KServe v2, by the standard library's HTTP client.

The standard library was preferred to tritonclient: that one brings gevent, geventhttpclient, aiohttp and a pin on
ml-dtypes, its HTTP client must not be shared by threads, and it saves no code here, since the door needs the same
encoding. Connections are kept open, and scattered writes copy no tensor.
"""

from __future__ import annotations

import http.client
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from attn_robotics.runtime import kserve
from attn_robotics.runtime.backends.base import Executed, Step, gather, split
from attn_robotics.runtime.errors import EngineError, one_line

if TYPE_CHECKING:
    from attn_robotics.runtime.catalogue import ModelEntry
    from attn_robotics.runtime.requests import Request

MAX_ANSWER_BYTES = 1 << 30


class RemoteBackend:
    """One model of a KServe v2 server, which must know it by the entry's name and version.

    Args:
        entry: the catalogue's; `backend` is the server's address.
        step: told how far loading is.

    Raises:
        EngineError: `backend` when the server can't be reached or has not the model, `bad_entry` when its tensors are
            not the entry's.
    """

    workers = 4  # the network and the server's own batching want several requests under way
    note = ''
    memory_bytes = 0

    def __init__(self, entry: ModelEntry, step: Step) -> None:
        self.entry = entry
        self.device = entry.address
        self._host = entry.address.removeprefix('http://')
        self._path = f'/v2/models/{quote(entry.name)}/versions/{quote(entry.version)}'
        self._timeout_s = max(1.0, 4 * entry.deadline_s)
        self._unused: deque[http.client.HTTPConnection] = deque()  # open connections, safe for threads
        self._wanted = [{'name': s.name, 'parameters': {'binary_data': True}} for s in (*entry.outputs, *entry.state)]
        step('build', 0, 1)
        self._check_metadata()
        step('build', 1, 1)

    @property
    def ghost(self) -> Callable[[], object]:
        """Nothing: neither sessions nor connections hold cycles."""
        return lambda: None

    def execute(self, requests: Sequence[Request], lane: int) -> Executed:
        """Send requests as one; the whole round trip counts as compute."""
        start = time.perf_counter()
        inputs = {name: gather(requests, name) for name in requests[0].inputs}
        buffers, header_length = kserve.encode({'outputs': self._wanted}, 'inputs', inputs)
        headers = {'Content-Type': 'application/octet-stream', kserve.HEADER_LENGTH: str(header_length)}
        launched = time.perf_counter()
        body, length = self._call('POST', f'{self._path}/infer', buffers, headers)
        try:
            _, columns = kserve.decode(body, length, 'outputs')
        except EngineError as error:
            raise EngineError('backend', f'{self.device} gave a broken answer: {error}') from error
        names = {spec.name for spec in (*self.entry.outputs, *self.entry.state)}
        if columns.keys() != names:
            raise EngineError('bad_output', f'{self.device} answered {sorted(columns)}, asked for {sorted(names)}')
        computed = time.perf_counter()
        return Executed(split(self.entry, requests, columns), launched, launched - start, 0.0, computed - launched)

    def prepare(self, requests: Sequence[Request], lane: int) -> None:
        """Send a shape once."""
        self.execute(requests, lane)

    def close(self) -> None:
        """Close every connection."""
        while self._unused:
            self._unused.pop().close()

    def _check_metadata(self) -> None:
        """Compare the server's tensors with the entry's, where they have fixed sizes on both sides."""
        metadata = json.loads(self._call('GET', self._path, [], {})[0])
        for key, specs in (
            ('inputs', (*self.entry.inputs, *self.entry.state)),
            ('outputs', (*self.entry.outputs, *self.entry.state)),
        ):
            theirs = {item['name']: item for item in metadata.get(key, [])}
            for spec in specs:
                item = theirs.get(spec.name, {})
                shape = item.get('shape', [])
                same = len(shape) == len(spec.shape) and all(
                    int(size) == -1 or isinstance(want, str) or int(size) == want
                    for want, size in zip(spec.shape, shape, strict=True)
                )
                if item.get('datatype') != kserve.NAMES[spec.dtype] or not same:
                    raise EngineError(
                        'bad_entry', f'{self.entry.name}: {key} {spec.name!r} is {spec.dtype} {list(spec.shape)}; '
                        f'{self.device} has {one_line(item.get("datatype"), 20)} {shape}; correct the entry'
                    )  # fmt: skip

    def _call(
        self, method: str, path: str, buffers: list[bytes | memoryview], headers: dict[str, str]
    ) -> tuple[bytes, int | None]:
        """Send one HTTP request; body and JSON header length of the answer."""
        while True:
            try:
                connection, used = self._unused.pop(), True
            except IndexError:
                connection, used = http.client.HTTPConnection(self._host, timeout=self._timeout_s), False
            try:
                status, content, length = _exchange(connection, method, path, buffers, headers)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # A server may close an idle connection at any time; inference changes nothing there, so try another.
                if used and not isinstance(error, TimeoutError):
                    continue
                what = one_line(error) or type(error).__name__
                raise EngineError('backend', f'{self.device} can not be reached ({what}); is the server up?') from error
            break
        if len(content) > MAX_ANSWER_BYTES:
            connection.close()
            raise EngineError('backend', f'{self.device} answered more than {MAX_ANSWER_BYTES} bytes')
        self._unused.append(connection)
        if status != 200:
            try:
                reason = json.loads(content)['error']
            except (ValueError, KeyError, TypeError):
                reason = 'no reason given'
            raise EngineError('backend', f'{self.device} answered {status}: {one_line(reason, 250)}')
        return content, int(length) if length and length.isdecimal() else None


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    buffers: list[bytes | memoryview],
    headers: dict[str, str],
) -> tuple[int, bytes, str | None]:
    size = {'Content-Length': str(sum(len(buffer) for buffer in buffers))} if buffers else {}
    body: Any = iter(buffers) if buffers else None
    connection.request(method, path, body, {**headers, **size})
    response = connection.getresponse()
    return response.status, response.read(MAX_ANSWER_BYTES + 1), response.getheader(kserve.HEADER_LENGTH)
