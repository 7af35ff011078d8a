"""Torch models on the CPU and on CUDA."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attn_robotics.runtime.backends.base import Executed, Step, is_out_of_memory, split
from attn_robotics.runtime.backends.graphs import CudaLane
from attn_robotics.runtime.catalogue import ModelEntry
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.registry import build_system
from attn_robotics.runtime.requests import Request
from attn_robotics.runtime.weights import load_into, read_verified


class TorchBackend:
    """A registered system's network.

    On CUDA every lane has a stream of its own (lane 0 of high priority), and the warmed-up shapes replay graphs.

    Args:
        entry: the catalogue's.
        step: told how far loading is.

    Raises:
        EngineError: see `open_backend`.
    """

    workers = 1

    def __init__(self, entry: ModelEntry, step: Step) -> None:
        self.entry = entry
        self.note = ''
        self._device = _resolve(entry)
        self.device = str(self._device)
        content = b''
        if entry.weights:
            content = read_verified(entry.weights, entry.sha256, lambda done, total: step('read', done, total))
        step('build', 0, 1)
        module = build_system(entry.system, entry.config).eval().requires_grad_(False)
        if entry.weights:
            load_into(module, content, entry.weights)
        self._precision = getattr(torch, entry.precision)
        self._module: nn.Module | None = module.to(self._device, self._precision)
        if self._device.type == 'cuda':
            torch.cuda.current_stream(self._device).synchronize()  # lanes read the weights in streams of their own
        self._dtypes = {spec.name: getattr(torch, spec.dtype) for spec in (*entry.outputs, *entry.state)}
        self._cast = [
            spec.name
            for spec in (*entry.inputs, *entry.state)
            if spec.dtype.startswith('float') and spec.dtype != entry.precision
        ]
        self._lanes: dict[int, CudaLane] = {}
        self._lanes_lock = threading.Lock()
        step('build', 1, 1)

    @property
    def memory_bytes(self) -> int:
        """Parameters, buffers and, on CUDA, the graphs' memory."""
        module = self._module
        held = [] if module is None else [*module.parameters(), *module.buffers()]
        return sum(tensor.nbytes for tensor in held) + sum(lane.memory_bytes for lane in self._lanes.values())

    @property
    def ghost(self) -> Callable[[], object]:
        """A weak reference to the module."""
        return (lambda: None) if self._module is None else weakref.ref(self._module)

    def execute(self, requests: Sequence[Request], lane: int) -> Executed:
        """Run requests in one launch."""
        if self._device.type == 'cuda':
            return self._cuda(lane).execute(requests)
        start = time.perf_counter()
        with torch.inference_mode():
            inputs = {name: _gather(requests, name) for name in requests[0].inputs}
            launched = time.perf_counter()
            outputs = self.forward(inputs)
            computed = time.perf_counter()
            # Neither a client's buffer nor a stream's state may come back as an answer that clients write to.
            seen = {tensor.untyped_storage().data_ptr() for tensor in inputs.values()}
            for name, tensor in outputs.items():
                if tensor.untyped_storage().data_ptr() in seen:
                    outputs[name] = tensor.clone()
                seen.add(outputs[name].untyped_storage().data_ptr())
            results = split(self.entry, requests, outputs)
        for request, result in zip(requests, results, strict=True):
            if not request.on_device:
                for name, tensor in result.items():
                    result[name] = tensor.numpy()
        columns = {name: tensor.numpy() for name, tensor in outputs.items()} if len(requests) > 1 else None
        return Executed(results, launched, launched - start, 0.0, computed - launched, columns)

    def prepare(self, requests: Sequence[Request], lane: int) -> None:
        """Run a shape once, or capture it on CUDA; a model that can't be captured runs without graphs and says so."""
        if self._device.type != 'cuda' or not self.entry.cuda_graphs or self.note:
            self.execute(requests, lane)
            return
        try:
            self._cuda(lane).capture(requests[0])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self.note = f'runs without CUDA graphs: {str(error).splitlines()[0][:200]}'
            self._cuda(lane).execute(requests)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the module in its precision; outputs have the entry's names and dtypes.

        Raises:
            EngineError: `bad_output`: an output is missing or unknown.
        """
        if self._module is None:
            raise EngineError('not_loaded', f'{self.entry.name} is closed')
        if self._cast:
            inputs = {n: tensor.to(self._precision) if n in self._cast else tensor for n, tensor in inputs.items()}
        result = self._module(**inputs)
        named = {next(iter(self._dtypes)): result} if isinstance(result, Tensor) else result
        if not isinstance(named, Mapping) or named.keys() != self._dtypes.keys():
            got = ', '.join(map(str, named)) if isinstance(named, Mapping) else type(named).__name__
            raise EngineError(
                'bad_output', f'{self.entry.name} must return {", ".join(self._dtypes)} by name, its module gave {got}'
            )
        return {n: t if (t := named[n]).dtype == dtype else t.to(dtype) for n, dtype in self._dtypes.items()}

    def close(self) -> None:
        """Drop the module and the graphs, once nothing that was launched reads them any more."""
        for lane in self._lanes.values():
            lane.settle()
        self._module = None
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()

    def _cuda(self, index: int) -> CudaLane:
        with self._lanes_lock:
            if index not in self._lanes:
                self._lanes[index] = CudaLane(self.entry, self.forward, self._device, -1 if index == 0 else 0)
            return self._lanes[index]


def _resolve(entry: ModelEntry) -> torch.device:
    name = entry.device
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    if name.startswith('cuda'):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(name.partition(':')[2] or 0)
        if index >= count:
            raise EngineError(
                'bad_entry', f'{entry.name}: device is {name}, but there are {count} CUDA devices; use auto'
            )
        return torch.device('cuda', index)
    return torch.device('cpu')


def _gather(requests: Sequence[Request], name: str) -> Tensor:
    """One input of all requests as one CPU tensor, without a copy where one request has it so."""
    for request in requests:
        if request.after is not None:
            request.after.synchronize()  # its inputs come from a device
    parts = [_tensor(request.inputs[name]) for request in requests]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _tensor(value: Any) -> Tensor:
    if isinstance(value, np.ndarray):
        # torch can not hold a read-only or reversed buffer, and messages arrive in read-only ones.
        return torch.from_numpy(value if value.flags.writeable and value.flags.c_contiguous else value.copy())
    tensor: Tensor = value.detach()
    return tensor if tensor.device.type == 'cpu' else tensor.cpu()
