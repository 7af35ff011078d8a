"""ONNX models on ONNX Runtime, CPU or CUDA provider."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from attn_robotics.runtime.backends.base import Executed, Step, gather, is_out_of_memory, split
from attn_robotics.runtime.errors import EngineError, one_line
from attn_robotics.runtime.weights import read_verified

if TYPE_CHECKING:
    from attn_robotics.runtime.catalogue import ModelEntry
    from attn_robotics.runtime.requests import Request


class OnnxBackend:
    """An ONNX file in one session, which all lanes share.

    Args:
        entry: the catalogue's; its inputs, outputs and state are the graph's, by name. A new state `x` leaves the
            graph as `x_out`, since no two values of a graph share a name.
        step: told how far loading is.

    Raises:
        EngineError: see `open_backend`.
    """

    workers = 1
    note = ''

    def __init__(self, entry: ModelEntry, step: Step) -> None:
        import onnxruntime as ort

        assert entry.weights is not None  # the catalogue requires it
        self.entry = entry
        available = ort.get_available_providers()
        wanted = entry.device
        if wanted == 'auto':
            wanted = 'cuda' if 'CUDAExecutionProvider' in available else 'cpu'
        if wanted.startswith('cuda') and 'CUDAExecutionProvider' not in available:
            raise EngineError(
                'bad_entry', f'{entry.name}: this onnxruntime has no CUDA provider; install onnxruntime-gpu or use cpu'
            )
        index = int(wanted.partition(':')[2] or 0)
        self.device = 'cpu' if wanted == 'cpu' else f'cuda:{index}'
        provider: Any = 'CPUExecutionProvider' if wanted == 'cpu' else ('CUDAExecutionProvider', {'device_id': index})
        content = read_verified(entry.weights, entry.sha256, lambda done, total: step('read', done, total))
        self.memory_bytes = len(content)
        step('build', 0, 1)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # failures come back as exceptions; no second copy on stderr
        options.enable_cpu_mem_arena = False  # an arena never gives back what the largest batch once took
        try:
            # From bytes: a graph that names files beside itself finds none.
            self._session: Any = ort.InferenceSession(content, options, providers=[provider])
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(one_line(error)) from error
            message = f'{entry.weights} is not a whole ONNX model: {one_line(error, 200)}'
            raise EngineError('bad_weights', message) from error
        if self.device != 'cpu' and 'CUDAExecutionProvider' not in self._session.get_providers():
            raise EngineError('backend', f'{entry.name}: the CUDA provider failed to start; are its libraries there?')
        states = [spec.name for spec in entry.state]
        outputs = [spec.name for spec in entry.outputs]
        self._outputs = [*outputs, *states]
        self._asked = [*outputs, *(f'{name}_out' for name in states)]
        for what, listed, nodes in (
            ('inputs', [*(spec.name for spec in entry.inputs), *states], self._session.get_inputs()),
            ('outputs', self._asked, self._session.get_outputs()),
        ):
            names, known = set(listed), {node.name for node in nodes}
            if names - known or (what == 'inputs' and known - names):
                raise EngineError(
                    'bad_entry',
                    f'{entry.name}: {what} are {", ".join(sorted(names))}; the graph has {", ".join(sorted(known))}',
                )
        step('build', 1, 1)

    @property
    def ghost(self) -> Callable[[], object]:
        """Nothing: neither sessions nor connections hold cycles."""
        return lambda: None

    def execute(self, requests: Sequence[Request], lane: int) -> Executed:
        """Run requests in one launch; copies to a CUDA provider count as compute."""
        start = time.perf_counter()
        feed = {name: gather(requests, name) for name in requests[0].inputs}
        launched = time.perf_counter()
        columns = dict(zip(self._outputs, self._session.run(self._asked, feed), strict=True))
        computed = time.perf_counter()
        # A graph may pass an input through; ONNX Runtime hands out arrays of its own, so nothing aliases.
        return Executed(split(self.entry, requests, columns), launched, launched - start, 0.0, computed - launched)

    def prepare(self, requests: Sequence[Request], lane: int) -> None:
        """Run a shape once."""
        self.execute(requests, lane)

    def close(self) -> None:
        """Drop the session."""
        self._session = None
