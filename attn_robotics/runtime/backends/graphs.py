"""CUDA: one stream a lane, and captured graphs with static buffers for every warmed-up shape.

Arrays of clients are written straight into the pinned rows of their batch; the graph then copies them to the device,
computes and copies the answer back, so that a batch costs one launch, whatever it holds. Large answers are copied
behind the graph instead, into pinned memory that the clients get and keep: the graph's own would have to be copied once
more. Requests that bring tensors of the device, ask for some, or keep state there use a second graph without the
copies. A batch smaller than its bucket leaves old rows behind its own; rows are independent by the entry's word, and
nobody reads theirs.
"""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attn_robotics.runtime.backends.base import Executed, spans, split
from attn_robotics.runtime.catalogue import ModelEntry
from attn_robotics.runtime.requests import Request

CLEARLY = 1.1  # a larger batch is taken where it costs less by this factor: below, it may be noise
LARGE_BYTES = 256 << 10  # of answers: from here on a copy by the host costs more than a transfer of its own
# Clients may keep their answers as long as they like. Beyond this they get copies, in memory that can be paged.
MOST_PINNED_BYTES = 64 << 20
_CAPTURING = threading.Lock()  # the streams of captures are shared by all models and engines
Forward = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class CudaLane:
    """What one model does in one stream; one batch at a time.

    Args:
        entry: the model's.
        forward: runs the network on tensors of the device.
        device: a CUDA device.
        priority: of the stream; lower goes first.
    """

    def __init__(self, entry: ModelEntry, forward: Forward, device: torch.device, priority: int) -> None:
        self.entry = entry
        self._forward = forward
        self._device = device
        self._stream = shared_stream(device, priority)
        self._capture_stream = capture_stream(device, priority)
        # Graphs of one lane never overlap, so they may share intermediate memory; those of two lanes may not.
        self._pools = [torch.cuda.graph_pool_handle()]  # the last is in use, others broke with a failed capture
        self._graphs: dict[tuple[tuple[int, ...], int], _Graph] = {}
        self._chosen: dict[tuple[tuple[int, ...], int], _Graph | None] = {}  # by group and rows of a batch
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        self._buckets = entry.batching.buckets if entry.batching else (1,)
        self._kept = {spec.name for spec in entry.state}
        self._given: list[weakref.ref[np.ndarray[Any, np.dtype[Any]]]] = []  # pinned answers in clients' hands
        self.memory_bytes = 0

    def capture(self, request: Request) -> None:
        """Capture the shape of a request; run during warm-up, never under load.

        Raises:
            RuntimeError: the network can't be captured; torch.OutOfMemoryError where it does not fit.
        """
        with _CAPTURING, torch.cuda.device(self._device), torch.inference_mode():
            try:
                graph = _Graph(self.entry, request, self._forward, self._device, self._capture_stream, self._pools)
                graph.cost_s = measure(graph.whole or graph.inner, self._capture_stream)
            finally:
                self._capture_stream.synchronize()  # also after a failure nothing may be left that reads the weights
        self._graphs[request.group, request.rows] = graph
        self._chosen.clear()
        buffers = sum(graph.buffer_bytes for graph in self._graphs.values())
        self.memory_bytes = buffers + pool_bytes(self._pools)

    def execute(self, requests: Sequence[Request]) -> Executed:
        """Run requests by the cheapest graph that holds them, or without one where none was captured."""
        start = time.perf_counter()
        rows = requests[0].rows if len(requests) == 1 else sum([request.rows for request in requests])
        graph = self._find(requests[0].group, rows)
        try:
            if graph is None or graph.whole is None or not graph.stage(requests, rows):
                return self._execute_apart(requests, rows, graph, start)
            return self._execute_whole(requests, rows, graph, start)
        except BaseException:
            # What was launched before the failure still reads weights, buffers and the client's tensors.
            self._stream.synchronize()
            raise

    def _execute_whole(self, requests: Sequence[Request], rows: int, graph: _Graph, start: float) -> Executed:
        """Run requests whose inputs are staged and whose answers go to the host."""
        done = self._events[3]
        is_given = graph.is_large and self._given_bytes() + graph.answer_bytes <= MOST_PINNED_BYTES
        answers = graph.answers(rows, own=is_given) if graph.is_large else {}
        launched = launch_on(self._stream, functools.partial(graph.replay_whole, answers), done)
        done.synchronize()
        if is_given:
            columns = {name: tensor.numpy() for name, tensor in answers.items()}
            self._given += map(weakref.ref, columns.values())
        else:
            columns = graph.fetch(rows)
        upload, compute, download = graph.times(done)
        if len(requests) == 1:
            outputs = [dict(columns)]
        else:
            outputs = [{name: column[a:b] for name, column in columns.items()} for _, a, b in spans(requests)]
        return Executed(outputs, launched, launched - start, upload + download, compute, columns)

    def _given_bytes(self) -> int:
        """Bytes of pinned answers that clients have not dropped yet."""
        alive = [(ref, column) for ref in self._given if (column := ref()) is not None]
        self._given = [ref for ref, _ in alive]
        return sum(column.nbytes for _, column in alive)

    def _execute_apart(self, requests: Sequence[Request], rows: int, graph: _Graph | None, start: float) -> Executed:
        """Run requests with copies of their own before and after."""
        upload, compute, download, end = self._events
        # The stream's context also makes its device the current one.
        with torch.cuda.stream(self._stream), torch.inference_mode():
            for request in requests:
                if request.after is not None:
                    self._stream.wait_event(request.after)
            if graph is not None:
                graph.stage(requests, rows)
            gathered = time.perf_counter()
            upload.record()
            if graph is not None:
                graph.upload(requests, rows)
            else:
                inputs = {name: self._to_device(requests, name) for name in requests[0].inputs}
            compute.record()
            launched = time.perf_counter()
            if graph is not None:
                graph.inner.replay()
            else:
                columns = self._forward(inputs)
            download.record()
            if graph is not None:
                graph.download(rows)
                results = [self._own(graph, request, first, last) for request, first, last in spans(requests)]
            else:
                results = self._split_eager(requests, inputs, columns)
            end.record()
            end.synchronize()
            if graph is not None:
                self._fetch(graph, requests, results)
        first, second, third = (a.elapsed_time(b) / 1e3 for a, b in pairwise(self._events))
        return Executed(results, launched, gathered - start, first + third, second)

    def settle(self) -> None:
        """Wait for everything that was launched; nothing may be freed before."""
        self._stream.synchronize()

    def close(self) -> None:
        """Drop the graphs and their memory."""
        self.settle()
        self._graphs.clear()
        self._chosen.clear()
        self.memory_bytes = 0

    def _find(self, group: tuple[int, ...], rows: int) -> _Graph | None:
        try:
            return self._chosen[group, rows]
        except KeyError:
            pass
        # A larger batch can be the faster one, where the smaller one suits the device badly.
        fitting = [graph for size in self._buckets if size >= rows and (graph := self._graphs.get((group, size)))]
        best = min(fitting, key=lambda graph: graph.cost_s) if fitting else None
        if best is not None and fitting[0].cost_s <= CLEARLY * best.cost_s:
            best = fitting[0]
        if fitting:  # the shapes that were captured are few, those that clients may send are not
            self._chosen[group, rows] = best
        return best

    def _own(self, graph: _Graph, request: Request, first: int, last: int) -> dict[str, Any]:
        """Copies of the static outputs for what stays on the device: state, and outputs asked for there."""
        result: dict[str, Any] = {}
        for name, buffer in graph.outputs.items():
            if request.on_device or name in self._kept:
                result[name] = graph.part(buffer, first, last).clone()
                if request.client_stream is not None:
                    result[name].record_stream(request.client_stream)
        return result

    @staticmethod
    def _fetch(graph: _Graph, requests: Sequence[Request], results: list[dict[str, Any]]) -> None:
        """Copy the rest out of pinned memory, which the next batch will overwrite."""
        for (_, first, last), result in zip(spans(requests), results, strict=True):
            for name, array in graph.host_outputs.items():
                if name not in result:
                    result[name] = graph.part(array, first, last).copy()

    def _to_device(self, requests: Sequence[Request], name: str) -> Tensor:
        parts = [_as_tensor(request.inputs[name]).to(self._device) for request in requests]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _split_eager(
        self, requests: Sequence[Request], inputs: Mapping[str, Tensor], columns: Mapping[str, Tensor]
    ) -> list[dict[str, Any]]:
        # An output may be a view of an input or of another; a client's tensor must not come back as an answer.
        seen = {tensor.untyped_storage().data_ptr() for tensor in inputs.values()}
        apart: dict[str, Any] = {}
        for name, tensor in columns.items():
            apart[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in seen else tensor
            seen.add(apart[name].untyped_storage().data_ptr())
        results = split(self.entry, requests, apart)
        for request, result in zip(requests, results, strict=True):
            for name, tensor in result.items():
                if not request.on_device and name not in self._kept:
                    result[name] = tensor.cpu().numpy()
                elif request.client_stream is not None:
                    tensor.record_stream(request.client_stream)
        return results


class _Graph:
    """One captured shape with its static device buffers and pinned host buffers.

    Attributes:
        inner: from static inputs to static outputs.
        whole: the same with the copies from and to the host; None for models that keep state on the device.
        outputs: static, of `inner`, on the device.
        host_outputs: pinned.
        answer_bytes: of all outputs.
        is_large: whether `whole` leaves its answers on the device, to be copied behind it.
        buffer_bytes: of the static inputs; all else is in the lane's pool.
        cost_s: of one replay on an otherwise idle device [s].
    """

    cost_s = 0.0

    def __init__(
        self,
        entry: ModelEntry,
        example: Request,
        forward: Forward,
        device: torch.device,
        stream: torch.cuda.Stream,
        pools: list[Any],
    ) -> None:
        self._batched = bool(entry.batching)
        self._inputs = {name: _as_tensor(value).to(device, copy=True) for name, value in example.inputs.items()}
        self._pinned = {n: torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for n, t in self._inputs.items()}
        self._host_inputs = {name: tensor.numpy() for name, tensor in self._pinned.items()}
        self.buffer_bytes = sum(tensor.nbytes for tensor in self._inputs.values())
        self.outputs: dict[str, Tensor] = {}
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose algorithms and allocate workspaces before the capture
                self.outputs = forward(self._inputs)
        stream.synchronize()
        self._pinned_outputs = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            for name, tensor in self.outputs.items()
        }
        self.host_outputs = {name: tensor.numpy() for name, tensor in self._pinned_outputs.items()}
        self.answer_bytes = sum(tensor.nbytes for tensor in self.outputs.values())
        self.is_large = self.answer_bytes >= LARGE_BYTES
        self._events = [torch.cuda.Event(enable_timing=True, external=True) for _ in range(3)]
        self._whole_outputs: dict[str, Tensor] = {}

        def inner() -> None:
            self.outputs = forward(self._inputs)

        def whole() -> None:
            before, uploaded, computed = self._events
            before.record()
            for name, buffer in self._inputs.items():
                buffer.copy_(self._pinned[name], non_blocking=True)
            uploaded.record()
            self._whole_outputs = forward(self._inputs)
            computed.record()
            if not self.is_large:
                for name, tensor in self._whole_outputs.items():
                    self._pinned_outputs[name].copy_(tensor, non_blocking=True)

        self.inner = capture(inner, stream, pools)
        self.whole = None if entry.state else capture(whole, stream, pools)

    def part(self, buffer: Any, first: int, last: int) -> Any:
        """The rows of one request; everything where requests are not batched."""
        return buffer[first:last] if self._batched else buffer

    def stage(self, requests: Sequence[Request], rows: int) -> bool:
        """Write the clients' numpy arrays into pinned memory; whether `whole` can do the rest."""
        is_all = True
        for name, host in self._host_inputs.items():
            values = [request.inputs[name] for request in requests]
            if len(values) > 1 and all([isinstance(value, np.ndarray) for value in values]):
                np.concatenate(values, out=host[:rows])
                continue
            first = 0
            for request, value in zip(requests, values, strict=True):
                if isinstance(value, np.ndarray):
                    self.part(host, first, first + request.rows)[...] = value
                else:
                    is_all = False
                first += request.rows
        return is_all and not any([request.on_device for request in requests])

    def answers(self, rows: int, *, own: bool) -> dict[str, Tensor]:
        """Pinned memory for the large answers of one batch: its own, or the graph's, which the next batch overwrites.

        The own comes from torch's cache. It returns there, and so to another batch, once nobody holds an array on it.
        """
        if not own:
            return {name: self.part(pinned, 0, rows) for name, pinned in self._pinned_outputs.items()}
        shapes = {n: (rows, *t.shape[1:]) if self._batched else t.shape for n, t in self._pinned_outputs.items()}
        return {
            name: torch.empty(shapes[name], dtype=pinned.dtype, pin_memory=True)
            for name, pinned in self._pinned_outputs.items()
        }

    def replay_whole(self, answers: Mapping[str, Tensor]) -> None:
        """Launch `whole`, and behind it the copies of large answers."""
        assert self.whole is not None
        self.whole.replay()
        if not answers:
            return
        with torch.inference_mode():  # as the buffers were made
            for name, answer in answers.items():
                found = self._whole_outputs[name]
                answer.copy_(found[: len(answer)] if self._batched else found, non_blocking=True)

    def fetch(self, rows: int) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Copy answers out of pinned memory, which the next batch will overwrite."""
        return {name: self.part(array, 0, rows).copy() for name, array in self.host_outputs.items()}

    def times(self, done: torch.cuda.Event) -> list[float]:
        """Upload, computation and download of the last replay of `whole`, with an event behind all of it [s]."""
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise((*self._events, done))]

    def upload(self, requests: Sequence[Request], rows: int) -> None:
        """Enqueue the copies into the static inputs: one a tensor where all of it is in pinned memory."""
        for name, buffer in self._inputs.items():
            values = [request.inputs[name] for request in requests]
            if all([isinstance(value, np.ndarray) for value in values]):
                self.part(buffer, 0, rows).copy_(self.part(self._pinned[name], 0, rows), non_blocking=True)
                continue
            for value, (_, first, last) in zip(values, spans(requests), strict=True):
                on_host = isinstance(value, np.ndarray)
                source = self.part(self._pinned[name], first, last) if on_host else value
                self.part(buffer, first, last).copy_(source, non_blocking=True)

    def download(self, rows: int) -> None:
        """Enqueue the copies out of the static outputs."""
        for name, buffer in self.outputs.items():
            self.part(self._pinned_outputs[name], 0, rows).copy_(self.part(buffer, 0, rows), non_blocking=True)


def _as_tensor(value: Any) -> Tensor:
    # torch can not hold a read-only or reversed buffer, and messages arrive in read-only ones.
    tensor: Tensor = torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value.detach()
    return tensor


@functools.cache
def capture_stream(device: torch.device, priority: int) -> torch.cuda.Stream:
    """The stream on which graphs are captured, and nothing else ever runs.

    One for all models: torch hands out 32 streams in turn, so that a stream for every model would, after some loads, be
    the one on which others launch, and a capture would swallow their work.
    """
    shared_stream(device, priority)  # taken first, so that the two differ
    return torch.cuda.Stream(device, priority=priority)


@functools.cache
def shared_stream(device: torch.device, priority: int) -> torch.cuda.Stream:
    """One stream for all models; with each stream torch keeps workspaces of 32 MiB and more for good."""
    return torch.cuda.Stream(device, priority=priority)


def measure(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> float:
    """Seconds that a replay takes at best."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    found: list[float] = []
    with torch.cuda.stream(stream):
        for _ in range(5):
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            found.append(float(start.elapsed_time(end)) / 1e3)
    return min(found)


def launch_on(stream: torch.cuda.Stream, launch: Callable[[], None], done: torch.cuda.Event) -> float:
    """Launch on a stream, whatever the thread's own is, with an event behind it; when it was launched [s].

    By torch's internal calls: its context manager takes five times as long as the launch.
    """
    index = stream.device_index
    device = torch._C._cuda_getDevice()
    before, on, kind = torch._C._cuda_getCurrentStream(index)
    torch._C._cuda_setStream(stream.stream_id, index, stream.device_type)
    try:
        launched = time.perf_counter()
        launch()
        done.record(stream)
    finally:
        torch._C._cuda_setStream(before, on, kind)
        if device != index:
            torch._C._cuda_setDevice(device)
    return launched


def capture(body: Callable[[], None], stream: torch.cuda.Stream, pools: list[Any]) -> torch.cuda.CUDAGraph:
    """Capture what a function launches, in a second try where the first one failed.

    A `torch.cuda.synchronize()` anywhere in the process ends a capture, so one failure says little.

    Args:
        body: launches it.
        stream: to capture.
        pools: for its memory, the last one; a failure adds a new one.

    Raises:
        RuntimeError: it can't be captured.
    """
    before = torch.cuda.current_stream(stream.device)
    for is_last in (False, True):
        graph = torch.cuda.CUDAGraph()
        # So that the graph's workspaces are made in its own pool, where they stay valid and go with it. Those of the
        # stream would be kept for good, and be written to by whoever captures next.
        torch._C._cuda_clearCublasWorkspaces()
        try:
            # thread_local: other lanes go on working while this one captures.
            with torch.cuda.graph(graph, pool=pools[-1], stream=stream, capture_error_mode='thread_local'):
                body()
        except RuntimeError as error:
            torch.cuda.set_stream(before)
            _mend(stream, pools[-1])
            pools.append(torch.cuda.graph_pool_handle())
            if is_last or isinstance(error, torch.OutOfMemoryError):
                raise
        else:
            break
        finally:
            torch._C._cuda_clearCublasWorkspaces()
    return graph


def _mend(stream: torch.cuda.Stream, pool: Any) -> None:
    """Put right what torch (2.11, 2.13) leaves after a failed capture.

    The allocator takes the capture for one under way, and returns no memory any more; the random generator does so too,
    and refuses to draw, until a capture ends well.
    """
    with suppress(RuntimeError):  # the capture did end, and only what was captured failed
        torch._C._cuda_endAllocateToPool(stream.device_index, pool)
        torch._C._cuda_releasePool(stream.device_index, pool)
    with (
        suppress(RuntimeError),
        torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream, capture_error_mode='thread_local'),
    ):
        torch.zeros(1, device=stream.device)


def pool_bytes(pools: Sequence[Any]) -> int:
    """Device memory that graph pools hold."""
    ours = {tuple(pool) for pool in pools}
    segments = torch.cuda.memory_snapshot()
    return sum(segment['total_size'] for segment in segments if tuple(segment['segment_pool_id']) in ours)
