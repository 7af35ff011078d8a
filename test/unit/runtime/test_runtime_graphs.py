"""The bookkeeping around CUDA graphs, with a stand-in for torch.cuda: which rows go where, what is copied, what stays.

What only a device can show (capture, streams, overlap) is in test_runtime_cuda.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from engine_world import entry_of, rows
from torch import Tensor

from attn_robotics.runtime.backends import graphs
from attn_robotics.runtime.batching import ModelQueue
from attn_robotics.runtime.catalogue import ModelEntry, parse_entry
from attn_robotics.runtime.requests import Request


class FakeGraph:
    """Replays by running the function again and copying into the captured outputs."""

    def __init__(self) -> None:
        self.replays = 0
        self.owner: Any = None

    def replay(self) -> None:
        self.replays += 1
        for name, value in forward(self.owner._inputs).items():
            self.owner.outputs[name].copy_(value)


class FakeStream:
    def wait_stream(self, other: object) -> None: ...
    def wait_event(self, event: object) -> None: ...
    def synchronize(self) -> None: ...


class FakeEvent:
    def __init__(self, enable_timing: bool) -> None: ...
    def record(self) -> None: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, other: object) -> float:
        return 1.0


class FakeCuda:
    Event = FakeEvent
    CUDAGraph = FakeGraph

    @staticmethod
    def Stream(device: object, priority: int) -> FakeStream:
        return FakeStream()

    @staticmethod
    def graph_pool_handle() -> tuple[int, int]:
        return (0, 1)

    @staticmethod
    def memory_reserved(device: object) -> int:
        return 0

    @staticmethod
    def current_stream(device: object) -> FakeStream:
        return FakeStream()

    @staticmethod
    def device(device: object) -> Any:
        return nullcontext()

    @staticmethod
    def stream(stream: object) -> Any:
        return nullcontext()

    @staticmethod
    @contextmanager
    def graph(graph: object, pool: object, stream: object, capture_error_mode: str) -> Any:
        assert capture_error_mode == 'thread_local'
        yield


class FakeTorch:
    cuda = FakeCuda

    @staticmethod
    def empty(*shape: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        return torch.full(*shape, torch.nan, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def forward(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    total = inputs['total'] + inputs['x']
    return {'y': 10 * total, 'total': total}


def entry_with_state(**changes: Any) -> ModelEntry:
    return parse_entry(entry_of('m', 'accumulate', **changes))


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> graphs.CudaLane:
    monkeypatch.setattr(graphs, 'torch', FakeTorch())
    lane = graphs.CudaLane(entry_with_state(), forward, torch.device('cpu'), 0)
    for count in (1, 4, 8):  # 2 was not captured
        lane.capture(make(np.zeros(count)))
    for graph in lane._graphs.values():
        graph.graph.owner = graph
    return lane


def make(x: Any, total: Any = None, group: tuple[int, ...] = (), **changes: Any) -> Request:
    inputs: dict[str, Any] = rows(*np.asarray(x).tolist())
    inputs['total'] = np.zeros_like(inputs['x']) if total is None else total
    now = time.perf_counter()
    request = Request(None, ModelQueue(8, 0, 8), inputs, len(inputs['x']), group, (0, now, 0), now, now)
    for name, value in changes.items():
        setattr(request, name, value)
    return request


def test_a_batch_replays_the_smallest_graph_that_holds_it_and_everybody_gets_their_rows(lane: graphs.CudaLane) -> None:
    first, second = make([1]), make([2, 3])
    executed = lane.execute([first, second])
    assert {key[1]: graph.graph.replays for key, graph in lane._graphs.items()} == {1: 0, 4: 1, 8: 0}
    for request, outputs in zip((first, second), executed.outputs, strict=True):
        np.testing.assert_array_equal(outputs['y'], 10 * request.inputs['x'])
        assert isinstance(outputs['y'], np.ndarray)
    assert executed.compute_s == pytest.approx(1e-3)
    assert executed.transfer_s == pytest.approx(2e-3)


def test_an_answer_outlives_the_next_batch_in_the_same_buffers(lane: graphs.CudaLane) -> None:
    answer = lane.execute([make([5])]).outputs[0]
    lane.execute([make([7])])
    assert (answer['y'] == 50).all()
    assert (answer['total'] == 5).all()


def test_state_stays_on_the_device_and_comes_back_beside_that_of_new_streams(lane: graphs.CudaLane) -> None:
    state = lane.execute([make([5])]).outputs[0]['total']
    assert isinstance(state, Tensor)
    executed = lane.execute([make([1], state), make([2]), make([3], state)])
    assert [float(outputs['y'][0, 0]) for outputs in executed.outputs] == [60, 20, 80]
    assert (state == 5).all()


def test_outputs_stay_on_the_device_for_those_who_ask_only(lane: graphs.CudaLane) -> None:
    kept, fetched = lane.execute([make([1], on_device=True), make([2])]).outputs
    assert isinstance(kept['y'], Tensor)
    assert isinstance(fetched['y'], np.ndarray)
    lane.execute([make([9]), make([9])])
    assert (kept['y'] == 10).all()


def test_shapes_that_were_not_captured_run_without_a_graph(lane: graphs.CudaLane) -> None:
    state = torch.ones(1, 4)
    executed = lane.execute([make([1], state, (7,)), make([2], group=(7,))])
    assert [float(outputs['y'][0, 0]) for outputs in executed.outputs] == [20, 20]
    assert isinstance(executed.outputs[0]['total'], Tensor)
    assert sum(graph.graph.replays for graph in lane._graphs.values()) == 0


def test_an_entry_without_batching_uses_whole_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, 'torch', FakeTorch())
    lane = graphs.CudaLane(entry_with_state(batch=None), forward, torch.device('cpu'), 0)
    lane.capture(make([0, 0, 0], group=(3,), rows=1))
    (graph,) = lane._graphs.values()
    graph.graph.owner = graph
    outputs = lane.execute([make([1, 2, 3], group=(3,), rows=1)]).outputs[0]
    assert outputs['y'][:, 0].tolist() == [10, 20, 30]
    assert graph.graph.replays == 1
