"""The bookkeeping around CUDA graphs, with a stand-in for torch.cuda: which rows go where, what is copied, what stays.

What only a device can show (capture, streams, overlap) is in test_runtime_cuda.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from engine_world import entry_of, rows
from torch import Tensor

from attn_robotics.runtime.backends import graphs
from attn_robotics.runtime.backends.pytorch import TorchBackend
from attn_robotics.runtime.batching import ModelQueue
from attn_robotics.runtime.catalogue import ModelEntry, parse_entry
from attn_robotics.runtime.requests import Request


class FakeGraph:
    """Replays by running the function again."""

    def __init__(self, body: Callable[[], None]) -> None:
        self.replays = 0
        self.body = body
        body()

    def replay(self) -> None:
        self.replays += 1
        with torch.inference_mode():
            self.body()


class FakeStream:
    def wait_stream(self, other: object) -> None: ...
    def wait_event(self, event: object) -> None: ...
    def synchronize(self) -> None: ...


class FakeEvent:
    def __init__(self, enable_timing: bool, external: bool = False) -> None: ...
    def record(self) -> None: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, other: object) -> float:
        return 1.0


class FakeCuda:
    Event = FakeEvent

    @staticmethod
    def Stream(device: object, priority: int) -> FakeStream:
        return FakeStream()

    @staticmethod
    def graph_pool_handle() -> tuple[int, int]:
        return (0, 1)

    @staticmethod
    def current_stream(device: object) -> FakeStream:
        return FakeStream()

    @staticmethod
    def device(device: object) -> Any:
        return nullcontext()

    @staticmethod
    def stream(stream: object) -> Any:
        return nullcontext()


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


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch_on(stream: object, launch: Callable[[], None], done: object) -> float:
        launch()
        return time.perf_counter()

    monkeypatch.setattr(graphs, 'torch', FakeTorch())
    monkeypatch.setattr(graphs, 'capture', lambda body, stream, pools: FakeGraph(body))
    monkeypatch.setattr(graphs, 'launch_on', launch_on)
    monkeypatch.setattr(graphs, 'pool_bytes', lambda pools: 1000)
    monkeypatch.setattr(graphs, 'measure', lambda graph, stream: 1e-3)
    graphs.shared_stream.cache_clear()
    graphs.capture_stream.cache_clear()


@pytest.fixture(autouse=True)
def no_fakes_left() -> Iterator[None]:
    yield
    graphs.shared_stream.cache_clear()
    graphs.capture_stream.cache_clear()


@pytest.fixture
def lane() -> graphs.CudaLane:
    lane = graphs.CudaLane(entry_with_state(), forward, torch.device('cpu'), 0)
    for count in (1, 4, 8):  # 2 was not captured
        lane.capture(make(np.zeros(count)))
    return lane


@pytest.fixture
def stateless(monkeypatch: pytest.MonkeyPatch) -> graphs.CudaLane:
    entry = parse_entry(entry_of('m', 'identity'))
    lane = graphs.CudaLane(entry, lambda inputs: {'y': 10 * inputs['x']}, torch.device('cpu'), 0)
    for count in (1, 4, 8):
        lane.capture(make(np.zeros(count), stateless=True))
    return lane


def make(x: Any, total: Any = None, group: tuple[int, ...] = (), *, stateless: bool = False, **changes: Any) -> Request:
    inputs: dict[str, Any] = rows(*np.asarray(x).tolist())
    if not stateless:
        inputs['total'] = np.zeros_like(inputs['x']) if total is None else total
    now = time.perf_counter()
    request = Request(None, ModelQueue(8, 0, 8), inputs, len(inputs['x']), group, (0, now, 0), now, now)
    for name, value in changes.items():
        setattr(request, name, value)
    return request


def test_a_batch_replays_the_smallest_graph_that_holds_it_and_everybody_gets_their_rows(lane: graphs.CudaLane) -> None:
    first, second = make([1]), make([2, 3])
    executed = lane.execute([first, second])
    assert {key[1]: graph.inner.replays for key, graph in lane._graphs.items()} == {1: 0, 4: 1, 8: 0}
    for request, outputs in zip((first, second), executed.outputs, strict=True):
        np.testing.assert_array_equal(outputs['y'], 10 * request.inputs['x'])
        assert isinstance(outputs['y'], np.ndarray)
    assert executed.compute_s == pytest.approx(1e-3)
    assert executed.transfer_s == pytest.approx(2e-3)


def test_a_batch_replays_a_larger_graph_that_was_measured_as_clearly_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = iter((1e-3, 3e-3, 2e-3))
    monkeypatch.setattr(graphs, 'measure', lambda graph, stream: next(costs))
    lane = graphs.CudaLane(entry_with_state(), forward, torch.device('cpu'), 0)
    for count in (1, 4, 8):
        lane.capture(make(np.zeros(count)))
    for batch in ([1], [2, 3], [4, 5, 6, 7, 8]):
        executed = lane.execute([make([value]) for value in batch])
        assert [outputs['y'][0, 0] for outputs in executed.outputs] == [10 * value for value in batch]
    assert {key[1]: graph.inner.replays for key, graph in lane._graphs.items()} == {1: 1, 4: 0, 8: 2}


def test_a_cost_that_differs_by_noise_leaves_a_batch_with_the_smallest_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = iter((1e-3, 0.95e-3))
    monkeypatch.setattr(graphs, 'measure', lambda graph, stream: next(costs))
    lane = graphs.CudaLane(entry_with_state(), forward, torch.device('cpu'), 0)
    for count in (1, 4):
        lane.capture(make(np.zeros(count)))
    lane.execute([make([1])])
    assert {key[1]: graph.inner.replays for key, graph in lane._graphs.items()} == {1: 1, 4: 0}


def test_models_share_one_stream_to_serve_and_another_one_to_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch hands out few streams in turn: with one a model, a capture would meet the stream that serves the others.
    made: list[FakeStream] = []

    def stream(device: object, priority: int) -> FakeStream:
        made.append(FakeStream())
        return made[-1]

    monkeypatch.setattr(FakeCuda, 'Stream', staticmethod(stream))
    lanes = [graphs.CudaLane(entry_with_state(), forward, torch.device('cpu'), 0) for _ in range(40)]
    assert len(made) == 2
    assert all(lane._stream is made[0] and lane._capture_stream is made[1] for lane in lanes)


def test_what_was_launched_before_a_failure_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[bool] = []
    monkeypatch.setattr(FakeStream, 'synchronize', lambda self: waited.append(True))

    def broken(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise ValueError('broken')

    lane = graphs.CudaLane(entry_with_state(), broken, torch.device('cpu'), 0)
    with pytest.raises(ValueError, match='broken'):
        lane.execute([make([1])])
    assert waited


def test_weights_go_only_after_the_streams_that_read_them_are_done() -> None:
    order: list[str] = []

    class Lane:
        def settle(self) -> None:
            order.append('waited' if backend._module is not None else 'freed before')

        def close(self) -> None:
            order.append('closed')

    shelf_entry = parse_entry(entry_of('m', 'identity'))
    backend = TorchBackend(shelf_entry, lambda stage, done, total: None)
    backend._lanes[0] = Lane()  # type: ignore[assignment]
    backend.close()
    assert order == ['waited', 'closed']


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
    assert sum(graph.inner.replays for graph in lane._graphs.values()) == 0


def test_an_entry_without_batching_uses_whole_buffers() -> None:
    lane = graphs.CudaLane(entry_with_state(batch=None), forward, torch.device('cpu'), 0)
    lane.capture(make([0, 0, 0], group=(3,), rows=1))
    (graph,) = lane._graphs.values()
    outputs = lane.execute([make([1, 2, 3], group=(3,), rows=1)]).outputs[0]
    assert outputs['y'][:, 0].tolist() == [10, 20, 30]
    assert graph.inner.replays == 1  # type: ignore[attr-defined]


def replays(lane: graphs.CudaLane) -> dict[int, tuple[int, int]]:
    return {rows: (graph.whole.replays, graph.inner.replays) for (_, rows), graph in lane._graphs.items()}  # type: ignore[union-attr, attr-defined]


def test_requests_of_the_host_only_are_one_launch_with_the_copies_in_it(stateless: graphs.CudaLane) -> None:
    first, second = make([1], stateless=True), make([2, 3], stateless=True)
    executed = stateless.execute([first, second])
    assert replays(stateless) == {1: (0, 0), 4: (1, 0), 8: (0, 0)}
    answer = executed.outputs[1]['y']
    np.testing.assert_array_equal(answer, 10 * second.inputs['x'])
    np.testing.assert_array_equal(executed.outputs[0]['y'], 10 * first.inputs['x'])
    assert (executed.compute_s, executed.transfer_s) == (pytest.approx(1e-3), pytest.approx(2e-3))
    stateless.execute([make([7, 8, 9], stateless=True)])
    np.testing.assert_array_equal(answer, 10 * second.inputs['x'])  # nobody writes to what was given away


def test_one_request_that_brings_or_wants_device_tensors_takes_the_graph_without_copies(
    stateless: graphs.CudaLane,
) -> None:
    outputs = stateless.execute([make([1], stateless=True), make([2], stateless=True, on_device=True)]).outputs
    assert isinstance(outputs[0]['y'], np.ndarray) and isinstance(outputs[1]['y'], Tensor)
    brought = make([5], stateless=True)
    brought.inputs['x'] = torch.full((1, 4), 5.0)
    assert (stateless.execute([brought]).outputs[0]['y'] == 50).all()
    assert replays(stateless) == {1: (0, 1), 4: (0, 1), 8: (0, 0)}


def test_the_memory_of_a_lane_is_that_of_its_buffers_and_its_pool(stateless: graphs.CudaLane) -> None:
    assert stateless.memory_bytes == 4 * 4 * (1 + 4 + 8) + 1000


def large(lane: graphs.CudaLane, *values: float) -> np.ndarray[Any, Any]:
    answer: np.ndarray[Any, Any] = lane.execute([make(values, stateless=True)]).outputs[0]['y']
    return answer


@pytest.fixture
def large_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer counts as large; clients may keep two of four rows."""
    monkeypatch.setattr(graphs, 'LARGE_BYTES', 1)
    monkeypatch.setattr(graphs, 'MOST_PINNED_BYTES', 2 * 4 * 4 * 4)


def test_large_answers_are_the_clients_own_and_are_copied_where_they_keep_too_many(
    large_answers: None, stateless: graphs.CudaLane
) -> None:
    kept = [large(stateless, value, value, value) for value in range(10)]
    assert [float(answer[0, 0]) for answer in kept] == [10 * value for value in range(10)]
    assert len(stateless._given) == 2
    del kept[1:]
    more = large(stateless, 7, 7, 7)
    assert stateless._given_bytes() == kept[0].nbytes + more.nbytes
    (graph,) = (graph for (_, rows), graph in stateless._graphs.items() if rows == 4)
    assert not any(np.shares_memory(answer, graph.host_outputs['y']) for answer in (*kept, more))


def test_one_row_of_a_large_answer_keeps_its_memory(large_answers: None, stateless: graphs.CudaLane) -> None:
    outputs = stateless.execute([make([value], stateless=True) for value in (1, 2, 3)]).outputs
    row = outputs[2]['y'][0]
    del outputs
    assert stateless._given_bytes() == 3 * 4 * 4
    del row
    assert stateless._given_bytes() == 0


def test_a_large_answer_without_a_batch_dimension_is_whole(large_answers: None) -> None:
    entry = parse_entry(entry_of('m', 'identity', batch=None))
    lane = graphs.CudaLane(entry, lambda inputs: {'y': inputs['x'].sum()}, torch.device('cpu'), 0)
    lane.capture(make([0, 0], group=(2,), rows=1, stateless=True))
    answer = lane.execute([make([1, 2], group=(2,), rows=1, stateless=True)]).outputs[0]['y']
    assert answer.shape == () and answer == 12
