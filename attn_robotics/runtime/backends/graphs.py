"""CUDA: one stream a lane, and a captured graph with static buffers for every warmed-up shape.

Arrays of clients are written straight into the pinned rows of their batch, so that a batch costs one copy a tensor
each way and one graph launch. A batch smaller than its bucket leaves old rows behind its own; rows are independent by
the entry's word, and nobody reads theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attn_robotics.runtime.backends.base import Executed, spans, split
from attn_robotics.runtime.catalogue import ModelEntry
from attn_robotics.runtime.requests import Request

Forward = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class CudaLane:
    """One stream of one model; one batch at a time.

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
        self._stream = torch.cuda.Stream(device, priority=priority)
        # Graphs of one lane never overlap, so they may share intermediate memory; those of two lanes may not.
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: dict[tuple[tuple[int, ...], int], _Graph] = {}
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        self._buckets = entry.batching.buckets if entry.batching else (1,)
        self._kept = {spec.name for spec in entry.state}
        self.memory_bytes = 0

    def capture(self, request: Request) -> None:
        """Capture the shape of a request; run during warm-up, never under load."""
        before = torch.cuda.memory_reserved(self._device)
        with torch.cuda.device(self._device), torch.inference_mode():
            graph = _Graph(request, self._forward, self._device, self._stream, self._pool, bool(self.entry.batching))
        self._graphs[request.group, request.rows] = graph
        # Workspaces and intermediates live in the pool; static buffers may come from memory reserved earlier.
        self.memory_bytes += max(graph.buffer_bytes, torch.cuda.memory_reserved(self._device) - before)

    def execute(self, requests: Sequence[Request]) -> Executed:
        """Run requests by the smallest graph that holds them, or without one where none was captured."""
        start = time.perf_counter()
        rows = sum([request.rows for request in requests])
        upload, compute, download, end = self._events
        # The stream's context also makes its device the current one.
        with torch.cuda.stream(self._stream), torch.inference_mode():
            for request in requests:
                if request.after is not None:
                    self._stream.wait_event(request.after)
            graph = self._find(requests[0].group, rows)
            if graph is not None:
                graph.stage(requests)
            gathered = time.perf_counter()
            upload.record()
            if graph is not None:
                graph.upload(requests, rows)
            else:
                inputs = {name: self._to_device(requests, name) for name in requests[0].inputs}
            compute.record()
            launched = time.perf_counter()
            if graph is not None:
                graph.graph.replay()
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
        first, second, third = (a.elapsed_time(b) / 1e3 for a, b in zip(self._events, self._events[1:], strict=False))
        return Executed(results, launched, gathered - start, first + third, second)

    def close(self) -> None:
        """Drop the graphs and their memory."""
        self._stream.synchronize()
        self._graphs.clear()
        self.memory_bytes = 0

    def _find(self, group: tuple[int, ...], rows: int) -> _Graph | None:
        for size in self._buckets:
            if size >= rows and (graph := self._graphs.get((group, size))) is not None:
                return graph
        return None

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
    """One captured shape with its static device buffers and pinned host buffers."""

    def __init__(
        self,
        example: Request,
        forward: Forward,
        device: torch.device,
        stream: torch.cuda.Stream,
        pool: Any,
        batched: bool,
    ) -> None:
        self._batched = batched
        self._inputs = {name: _as_tensor(value).to(device, copy=True) for name, value in example.inputs.items()}
        self._pinned = {n: torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for n, t in self._inputs.items()}
        self._host_inputs = {name: tensor.numpy() for name, tensor in self._pinned.items()}
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose algorithms and allocate workspaces before the capture
                forward(self._inputs)
        stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: other lanes go on working while this one captures.
        with torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode='thread_local'):
            self.outputs = forward(self._inputs)
        self._pinned_outputs = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            for name, tensor in self.outputs.items()
        }
        self.host_outputs = {name: tensor.numpy() for name, tensor in self._pinned_outputs.items()}
        self.buffer_bytes = sum(t.nbytes for t in (*self._inputs.values(), *self.outputs.values()))

    def part(self, buffer: Any, first: int, last: int) -> Any:
        """The rows of one request; everything where requests are not batched."""
        return buffer[first:last] if self._batched else buffer

    def stage(self, requests: Sequence[Request]) -> None:
        """Write the clients' numpy arrays into pinned memory."""
        for request, first, last in spans(requests):
            for name, host in self._host_inputs.items():
                value = request.inputs[name]
                if isinstance(value, np.ndarray):
                    self.part(host, first, last)[...] = value

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
