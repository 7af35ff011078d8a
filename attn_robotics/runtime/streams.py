"""State that a model keeps between the requests of one client.

A stream's requests run one after another in the order of arrival; its state changes only when a request succeeds.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from attn_robotics.runtime.errors import EngineError

if TYPE_CHECKING:
    from attn_robotics.runtime.catalogue import ModelEntry
    from attn_robotics.runtime.requests import Request

MAX_WAITING = 16  # requests of one stream behind the running one
MAX_ID = 200  # characters


@dataclass(slots=True, eq=False)
class Stream:
    """One stream: its state (None before the first answer) and its requests in line."""

    key: str
    used: float
    state: dict[str, Any] | None = None
    busy: bool = False
    waiting: deque[Request] = field(default_factory=deque)


class StreamStore:
    """The streams of one model.

    Args:
        entry: says what the state looks like, how long it lives and how many there may be.
        clock: gives seconds; replaced in tests.
    """

    def __init__(self, entry: ModelEntry, clock: Callable[[], float]) -> None:
        self.entry = entry
        self._clock = clock
        self._lock = threading.Lock()
        self._streams: OrderedDict[str, Stream] = OrderedDict()  # least recently used first
        self.expired = 0

    def __len__(self) -> int:
        self.sweep()
        return len(self._streams)

    def fits(self, entry: ModelEntry) -> bool:
        """Whether another version of the model can go on with these states."""
        same = (entry.state, entry.system, entry.batching is None)
        return same == (self.entry.state, self.entry.system, self.entry.batching is None)

    def sweep(self) -> None:
        """Forget streams unused for longer than their time to live."""
        oldest = self._clock() - self.entry.stream_ttl_s
        with self._lock:
            # Ordered by last use, so the first young one ends the search; a busy one is young in effect.
            while self._streams and (first := next(iter(self._streams.values()))).used < oldest:
                if first.busy:
                    first.used = self._clock()
                    self._streams.move_to_end(first.key)
                    continue
                del self._streams[first.key]
                self.expired += 1

    def enter(self, key: str, request: Request) -> bool:
        """Put a request in its stream's line.

        Returns:
            True when it is first in line and may go to the scheduler now.

        Raises:
            EngineError: `bad_stream` for a bad id or too many streams, `queue_full` for too long a line.
        """
        if len(key) > MAX_ID:
            raise EngineError('bad_stream', f'stream ids have at most {MAX_ID} characters, got {len(key)}')
        self.sweep()
        with self._lock:
            stream = self._open(key)
            if len(stream.waiting) >= MAX_WAITING:
                raise EngineError('queue_full', f'stream {key!r} has {MAX_WAITING} requests in line; send slower')
            request.stream = stream
            if stream.busy:
                stream.waiting.append(request)
                return False
            stream.busy = True
            return True

    def leave(self, stream: Stream) -> Request | None:
        """End a request's turn; the next in line, if any, has its turn now."""
        with self._lock:
            if stream.waiting:
                return stream.waiting.popleft()
            stream.busy = False
            return None

    def state(self, request: Request) -> dict[str, Any]:
        """The state to run a request with: the stream's, or zeros.

        Raises:
            EngineError: `bad_input` when the request's sizes are not those that the stream began with.
        """
        stream, bound = request.stream, self._bound(request)
        if stream is None or stream.state is None or request.reset:
            return {spec.name: np.zeros(spec.sizes(bound), spec.numpy) for spec in self.entry.state}
        for spec in self.entry.state:
            if tuple(stream.state[spec.name].shape) != spec.sizes(bound):
                raise EngineError(
                    'bad_input',
                    f'stream {stream.key!r} began with {spec.name} of {list(stream.state[spec.name].shape)}, this '
                    f'request needs {list(spec.sizes(bound))}; reset the stream or keep its sizes',
                )
        return stream.state

    def commit(self, request: Request, state: dict[str, Any]) -> None:
        """Keep the state that a request left behind."""
        if request.stream is not None:
            request.stream.state = state

    def snapshot(self, key: str) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """A stream's state as numpy arrays of their own.

        Raises:
            EngineError: `bad_stream` for an unknown or stateless one.
        """
        self.sweep()
        with self._lock:
            stream = self._streams.get(key)
            state = stream.state if stream else None
        if state is None:
            raise EngineError('bad_stream', f'{self.entry.name} has no state of stream {key[:MAX_ID]!r}')
        return {
            name: np.array(value.cpu().numpy() if hasattr(value, 'cpu') else value) for name, value in state.items()
        }

    def restore(self, key: str, state: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> None:
        """Give a stream the state of a snapshot.

        Raises:
            EngineError: `bad_stream`: other names, dtypes or shapes than the entry's, or the stream is at work.
        """
        if state.keys() != {spec.name for spec in self.entry.state}:
            raise EngineError('bad_stream', f'{self.entry.name} keeps {", ".join(s.name for s in self.entry.state)}')
        for spec in self.entry.state:
            value = state[spec.name]
            fits = len(value.shape) == len(spec.shape) and all(
                want == size if isinstance(want, int) else self.entry.dims[want][0] <= size <= self.entry.dims[want][1]
                for want, size in zip(spec.shape, value.shape, strict=True)
            )
            if value.dtype != spec.numpy or not fits:
                raise EngineError(
                    'bad_stream',
                    f'{spec.name} must be {spec.dtype} {list(spec.shape)}, got {value.dtype} {list(value.shape)}',
                )
        self.sweep()
        with self._lock:
            stream = self._open(key)
            if stream.busy:
                raise EngineError('bad_stream', f'stream {key!r} has requests under way; restore it after them')
            stream.state = {name: np.array(value) for name, value in state.items()}

    def drop(self, key: str) -> bool:
        """Forget a stream; False when there is none. Requests under way end on the old state."""
        with self._lock:
            return self._streams.pop(key, None) is not None

    def _open(self, key: str) -> Stream:
        stream = self._streams.get(key)
        if stream is None:
            if len(self._streams) >= self.entry.stream_limit:
                raise EngineError(
                    'bad_stream', f'{self.entry.name} keeps {self.entry.stream_limit} streams already; end one or wait'
                )
            stream = self._streams[key] = Stream(key, 0.0)
        stream.used = self._clock()
        self._streams.move_to_end(key)
        return stream

    def _bound(self, request: Request) -> dict[str, int]:
        names = sorted(set(self.entry.dims) - ({self.entry.batching.dim} if self.entry.batching else set()))
        bound = dict(zip(names, request.group, strict=True))
        return bound | ({self.entry.batching.dim: request.rows} if self.entry.batching else {})
