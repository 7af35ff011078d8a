"""What every back end offers the engine, and what those on the CPU share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from attn_robotics.runtime.errors import EngineError

if TYPE_CHECKING:
    from attn_robotics.runtime.catalogue import ModelEntry
    from attn_robotics.runtime.requests import Request


@dataclass(frozen=True)
class Progress:
    """How far a load is.

    Attributes:
        model: its name.
        stage: `read`, `build` or `warm up`.
        done: of `total` units (bytes or shapes).
        total: 0 where unknown.
    """

    model: str
    stage: str
    done: int
    total: int


Step = Callable[[str, int, int], None]
"""Called with stage, done and total while a model loads."""


@dataclass(slots=True)
class Executed:
    """What a launch gave.

    Attributes:
        outputs: one dictionary a request, outputs and new state by name, never sharing memory with an input.
        launched: moment of the launch on `time.perf_counter` [s].
        batch_s: gathering the inputs [s].
        transfer_s: copies to and from the device [s].
        compute_s: the model [s].
        columns: outputs of the whole batch as numpy arrays, where they are in one piece; to be checked in one go.
    """

    outputs: list[dict[str, Any]]
    launched: float
    batch_s: float
    transfer_s: float
    compute_s: float
    columns: Mapping[str, Any] | None = None


class Backend(Protocol):
    """One loaded model. `execute` is called from several lanes at once, with a lane index each."""

    device: str
    workers: int
    """Launches that make sense side by side in one lane."""
    note: str
    """Something the operator should know, or empty."""

    @property
    def memory_bytes(self) -> int:
        """Weights and static buffers on the device."""
        ...

    @property
    def ghost(self) -> Callable[[], object]:
        """A weak reference to what holds the memory, to see whether `close` was enough."""
        ...

    def execute(self, requests: Sequence[Request], lane: int) -> Executed:
        """Run checked requests of one group in one launch; state tensors are among their inputs."""
        ...

    def prepare(self, requests: Sequence[Request], lane: int) -> None:
        """Make a shape fast (warm-up); may compile, capture and allocate."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


def gather(requests: Sequence[Request], name: str) -> np.ndarray[Any, np.dtype[Any]]:
    """One input of all requests as one C-contiguous numpy array, without a copy where one request has it so."""
    for request in requests:
        if request.after is not None:
            request.after.synchronize()  # its inputs come from a device
    if len(requests) == 1:
        return np.ascontiguousarray(_on_host(requests[0].inputs[name]))
    return np.concatenate([_on_host(request.inputs[name]) for request in requests])


def _on_host(value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    array: np.ndarray[Any, np.dtype[Any]] = value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
    return array


def spans(requests: Sequence[Request]) -> Iterator[tuple[Request, int, int]]:
    """Each request with its first row in the batch and the row after its last."""
    start = 0
    for request in requests:
        yield request, start, start + request.rows
        start += request.rows


def split(entry: ModelEntry, requests: Sequence[Request], columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Give each request its rows of a batch's outputs.

    Raises:
        EngineError: `bad_output`: the model did not keep the rows apart.
    """
    if len(requests) == 1:
        return [columns]
    rows = sum(request.rows for request in requests)
    for name, column in columns.items():
        if len(column) != rows:
            raise EngineError('bad_output', f'{entry.name}: {name} has {len(column)} rows for a batch of {rows}')
    return [{name: column[a:b] for name, column in columns.items()} for _, a, b in spans(requests)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of numpy, torch or ONNX Runtime means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == 'OutOfMemoryError':
        return True
    text = str(error).lower()
    return not isinstance(error, EngineError) and any(
        sign in text
        for sign in (
            'out of memory',
            "can't allocate memory",
            'failed to allocate memory',
            'bad allocation',
            'bad_alloc',
        )
    )
