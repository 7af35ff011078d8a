"""What only a CUDA device can show: captured graphs, streams, memory that really runs out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from engine_world import Shelf, rows
from torch import Tensor, nn

from attn_robotics.runtime.backends.graphs import MOST_PINNED_BYTES
from attn_robotics.runtime.engine import Engine, ModelState
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.registry import register_system

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]
MIB = 1 << 20


class Stubborn(nn.Module):
    """Looks at a value on the host, which no graph can capture."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.abs().max() >= 0)


@register_system('stubborn')
@dataclass(frozen=True)
class StubbornConfig:
    def build(self) -> nn.Module:
        return Stubborn()


class Disturbed(nn.Module):
    """Waits for the whole device while it is captured, as another thread might, as often as it is told."""

    left: ClassVar[int] = 0

    def forward(self, x: Tensor) -> Tensor:
        if Disturbed.left and torch.cuda.is_current_stream_capturing():
            Disturbed.left -= 1
            torch.cuda.synchronize()
        return x + 0


@register_system('disturbed')
@dataclass(frozen=True)
class DisturbedConfig:
    def build(self) -> nn.Module:
        return Disturbed()


class Plus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0


@register_system('plus')
@dataclass(frozen=True)
class PlusConfig:
    def build(self) -> nn.Module:
        return Plus()


class Slow(nn.Module):
    """Adds one, after so many products that a reader which does not wait would come too early."""

    def forward(self, x: Tensor) -> Tensor:
        ballast = torch.ones(2048, 2048, device=x.device)
        for _ in range(20):
            ballast = (ballast @ ballast) * (1 / 2048)
        return x + ballast[0, 0]


@register_system('slow')
@dataclass(frozen=True)
class SlowConfig:
    def build(self) -> nn.Module:
        return Slow()


class Hungry(nn.Module):
    """Needs a tensor of x[0, 0] MiB, and keeps `kept` MiB."""

    def __init__(self, kept: int) -> None:
        super().__init__()
        self.register_buffer('ballast', torch.zeros(kept * MIB, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.zeros(int(x[0, 0]) * MIB + 1, dtype=torch.uint8, device=x.device)[0]


@register_system('hungry')
@dataclass(frozen=True)
class HungryConfig:
    kept: int = 0

    def build(self) -> nn.Module:
        return Hungry(self.kept)


def put(shelf: Shelf, engine: Engine, name: str, system: str, **changes: Any) -> None:
    shelf.put(name, system, **{'device': 'cuda', **changes})
    engine.load(name).result(60)


@pytest.mark.parametrize('system', ['identity', 'accumulate'])
def test_a_cuda_device_gives_what_the_cpu_gives(shelf: Shelf, engine: Engine, system: str) -> None:
    put(shelf, engine, 'cpu', system, device='cpu')
    put(shelf, engine, 'gpu', system)
    assert engine.status('gpu').reason == ''  # captured
    stream = 's' if system == 'accumulate' else ''
    for count in (1, 3, 5, 8, 3):
        request = rows(*range(count))
        one, other = (
            engine.infer(name, request, stream=stream, reset=count == 1 or bool(stream)) for name in ('cpu', 'gpu')
        )
        np.testing.assert_array_equal(one.outputs['y'], other.outputs['y'])
    kept = engine.infer('gpu', {'x': torch.ones(2, 4, device='cuda')}, stream=stream, reset=True, on_device=True)
    assert kept.outputs['y'].is_cuda
    futures = [engine.submit('gpu', rows(i), stream=stream and f'{i}', priority=10 * i) for i in range(20)]
    for i, future in enumerate(futures):
        assert (future.result(60).outputs['y'] == i).all()


def test_a_transformer_by_graphs_agrees_with_the_cpu_at_every_batch_size(shelf: Shelf, engine: Engine) -> None:
    tensors = {
        key: [{'name': name, 'dtype': 'float32', 'shape': ['N', 'T', 64]}]
        for key, name in (('inputs', 'tokens'), ('outputs', 'encoded'))
    }
    changes = {**tensors, 'dims': {'N': [1, 8], 'T': [1, 16]}, 'warm_up': [{'T': 16}]}
    put(shelf, engine, 'cpu', 'small_transformer', device='cpu', **changes)
    put(shelf, engine, 'gpu', 'small_transformer', **changes)
    generator = np.random.default_rng(0)
    for count, length in ((1, 16), (3, 16), (8, 16), (2, 5)):
        request = {'tokens': generator.standard_normal((count, length, 64), np.float32)}
        one, other = (engine.infer(name, request).outputs['encoded'] for name in ('cpu', 'gpu'))
        np.testing.assert_allclose(one, other, atol=5e-3)  # TF32 may be on


def test_a_model_that_can_not_be_captured_runs_without_graphs_and_harms_no_other(shelf: Shelf, engine: Engine) -> None:
    put(shelf, engine, 'stubborn', 'stubborn')
    assert 'runs without CUDA graphs' in engine.status('stubborn').reason
    np.testing.assert_array_equal(engine.infer('stubborn', rows(1, 2)).outputs['y'], rows(1, 2)['x'])
    put(shelf, engine, 'next', 'identity')
    assert engine.status('next').reason == ''
    np.testing.assert_array_equal(engine.infer('next', rows(1, 2)).outputs['y'], rows(1, 2)['x'])


def test_after_a_failed_capture_numbers_are_drawn_and_memory_is_given_back(shelf: Shelf, engine: Engine) -> None:
    put(shelf, engine, 'warm', 'identity')  # what the libraries keep for themselves is there from here on
    before = torch.cuda.memory_reserved()
    put(shelf, engine, 'stubborn', 'stubborn')
    assert torch.randn(2, device='cuda').isfinite().all()
    large = torch.zeros(512 * MIB, dtype=torch.uint8, device='cuda')
    del large
    engine.unload('stubborn').result(60)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + 4 * MIB


def test_a_capture_that_somebody_disturbs_is_tried_again(shelf: Shelf, engine: Engine) -> None:
    Disturbed.left = 1
    put(shelf, engine, 'disturbed', 'disturbed')
    assert Disturbed.left == 0
    assert engine.status('disturbed').reason == ''
    np.testing.assert_array_equal(engine.infer('disturbed', rows(1, 2)).outputs['y'], rows(1, 2)['x'])


def test_device_tensors_are_read_after_their_writer_and_written_before_their_reader(
    shelf: Shelf, engine: Engine
) -> None:
    put(shelf, engine, 'slow', 'slow', inputs=[{'name': 'x', 'dtype': 'float32', 'shape': ['N', 4], 'finite': False}])
    mine = torch.cuda.Stream()
    with torch.cuda.stream(mine):
        x = torch.zeros(1, 4, device='cuda')
        weights = torch.ones(2048, 2048, device='cuda')
        for turn in range(5):
            for _ in range(20):
                weights = (weights @ weights) * (1 / 2048)
            x = x + weights[0, 0]  # still being computed when the request leaves
            ask = engine.infer if turn % 2 else lambda *a, **k: engine.submit(*a, **k).result(60)
            x = ask('slow', {'x': x}, on_device=True).outputs['y']
        np.testing.assert_allclose(x.cpu().numpy(), 10.0)


def test_an_answer_is_its_own_requests_also_while_the_device_is_busy(shelf: Shelf, engine: Engine) -> None:
    put(shelf, engine, 'slow', 'slow')
    busy = torch.ones(8192, 8192, device='cuda')
    other = torch.cuda.Stream()
    for value in range(12):
        with torch.cuda.stream(other):
            for _ in range(4):
                busy = (busy @ busy) * (1 / 8192)
        futures = [engine.submit('slow', rows(value + offset), priority=128 * (offset % 2)) for offset in range(3)]
        for offset, future in enumerate(futures):
            np.testing.assert_allclose(future.result(60).outputs['y'], value + offset + 1)


def test_state_stays_on_the_device_and_a_snapshot_brings_it_home(shelf: Shelf, engine: Engine) -> None:
    put(shelf, engine, 'm', 'accumulate')
    for value in (1, 2, 3):
        engine.infer('m', rows(value), stream='s')
    snapshot = engine.snapshot_stream('m', 's')
    np.testing.assert_array_equal(snapshot['total'], rows(6)['x'])
    engine.restore_stream('m', 'copy', snapshot)
    assert engine.infer('m', rows(1), stream='copy').outputs['y'][0, 0] == 7
    assert engine.infer('m', rows(1), stream='s').outputs['y'][0, 0] == 7


def test_versions_are_captured_and_replaced_under_load_without_a_failed_request(shelf: Shelf, engine: Engine) -> None:
    put(shelf, engine, 'm', 'plus')
    stop = threading.Event()
    failures: list[BaseException] = []

    def client(index: int) -> None:
        while not stop.is_set():
            try:
                priority = 128 * (index % 2)
                count = 1 + index
                outputs = engine.submit('m', rows(*range(count)), priority=priority).result(60).outputs
                np.testing.assert_array_equal(outputs['y'], rows(*range(count))['x'])
            except BaseException as error:
                failures.append(error)

    clients = [threading.Thread(target=client, args=(index,)) for index in range(4)]
    for thread in clients:
        thread.start()
    for version in range(2, 6):
        put(shelf, engine, 'm', 'plus', version=str(version))
        assert engine.status('m').reason == ''
    stop.set()
    for thread in clients:
        thread.join(60)
    assert not failures


def test_answers_stay_right_while_others_are_loaded(shelf: Shelf, engine: Engine) -> None:
    tensors = {
        key: [{'name': name, 'dtype': 'float32', 'shape': ['N', 'T', 256]}]
        for key, name in (('inputs', 'tokens'), ('outputs', 'encoded'))
    }
    changes = {**tensors, 'dims': {'N': [1, 2], 'T': [1, 64]}, 'config': {'width': 256}}
    put(shelf, engine, 'served', 'small_transformer', **changes)
    request = {'tokens': np.random.default_rng(0).standard_normal((2, 64, 256), np.float32)}
    first = engine.infer('served', request).outputs['encoded']
    loads = [
        threading.Thread(target=put, args=(shelf, engine, f'm{i}', 'small_transformer'), kwargs=changes)
        for i in range(3)
    ]
    for load in loads:
        load.start()
    asked = 0
    while any(load.is_alive() for load in loads) or asked < 20:
        np.testing.assert_array_equal(engine.infer('served', request).outputs['encoded'], first)
        asked += 1
    np.testing.assert_array_equal(engine.infer('m2', request).outputs['encoded'], first)


def test_answers_stay_right_over_more_captures_and_evictions_than_torch_has_streams(
    shelf: Shelf, engine: Engine
) -> None:
    put(shelf, engine, 'served', 'slow')
    stop = threading.Event()
    wrong: list[Any] = []

    def client() -> None:
        value = 0
        while not stop.is_set():
            value += 1
            answer = engine.infer('served', rows(value), deadline_s=60).outputs['y']
            if not (np.abs(answer - value - 1) < 1e-3).all():
                wrong.append(answer)

    thread = threading.Thread(target=client)
    thread.start()
    try:
        for turn in range(40):
            put(shelf, engine, 'passing', 'affine')
            assert engine.status('passing').reason == ''  # captured
            first = engine.infer('passing', rows(turn), deadline_s=60).outputs['y']
            np.testing.assert_array_equal(engine.infer('passing', rows(turn), deadline_s=60).outputs['y'], first)
            engine.unload('passing').result(60)
    finally:
        stop.set()
        thread.join()
    assert not wrong


def put_large(shelf: Shelf, engine: Engine, name: str, system: str = 'identity', **changes: Any) -> None:
    """A model whose answers of 1 MiB are handed out in pinned memory."""
    put(shelf, engine, name, system, **{'dims': {'N': [1, 65536]}, 'batch': None, 'warm_up': [{'N': 65536}], **changes})
    assert engine.status(name).reason == ''  # captured


def test_large_answers_that_clients_keep_are_not_overwritten_by_later_ones(shelf: Shelf, engine: Engine) -> None:
    put_large(shelf, engine, 'm')
    generator = np.random.default_rng(0)
    requests = [{'x': generator.standard_normal((65536, 4), np.float32)} for _ in range(100)]
    kept = [engine.infer('m', request, deadline_s=60).outputs['y'] for request in requests[:50]]
    futures = [engine.submit('m', request, deadline_s=60) for request in requests[50:]]  # more than may be pinned
    kept += [future.result(60).outputs['y'] for future in futures]
    for request, answer in zip(requests, kept, strict=True):
        np.testing.assert_array_equal(answer, request['x'])
        answer.fill(np.nan)  # it is the client's, who may write to it
    np.testing.assert_array_equal(engine.infer('m', requests[0]).outputs['y'], requests[0]['x'])
    engine.unload('m').result(60)
    assert np.isnan(kept[0]).all()


def test_large_answers_of_one_batch_stay_right_while_their_rows_are_kept(shelf: Shelf, engine: Engine) -> None:
    tensors = {
        key: [{'name': name, 'dtype': 'float32', 'shape': ['N', 65536]}]
        for key, name in (('inputs', 'x'), ('outputs', 'y'))
    }
    batch = {'dim': 'N', 'wait_ms': 50}
    put_large(shelf, engine, 'm', 'slow', **tensors, dims={'N': [1, 8]}, batch=batch, warm_up=None)
    futures = [engine.submit('m', {'x': np.full((1, 65536), value, np.float32)}, deadline_s=60) for value in range(40)]
    for value, future in enumerate(futures):
        np.testing.assert_allclose(future.result(60).outputs['y'], value + 1)
    assert max(future.result().rows for future in futures) > 1


def test_pinned_memory_of_large_answers_comes_back_when_clients_drop_them(shelf: Shelf, engine: Engine) -> None:
    put_large(shelf, engine, 'm')
    request = {'x': np.ones((65536, 4), np.float32)}

    probes: list[Tensor] = []  # kept, since dropped ones are not counted exactly

    def in_use() -> int:
        # The cache looks which blocks are free again when it has none of the size at hand, that is, when it takes one.
        stats = torch.cuda.host_memory_stats
        begin = stats()['allocated_bytes.current']
        while stats()['allocated_bytes.current'] == begin:
            probes.append(torch.empty(1 << 15, dtype=torch.uint8, pin_memory=True))
        # Blocks, since the cache counts the bytes of those that wait for a stream as active for ever.
        return int(stats()['active_requests.current']) - len(probes)

    before = in_use()
    owned: list[int] = []
    for _ in range(4):
        kept = [engine.infer('m', request, deadline_s=60).outputs['y'] for _ in range(80)]
        assert 50 < in_use() - before <= MOST_PINNED_BYTES // MIB + 1  # of one MiB each
        assert (kept[-1] == 1).all()
        kept.clear()
        torch.cuda.synchronize()
        assert in_use() <= before
        owned.append(int(torch.cuda.host_memory_stats()['allocated_bytes.current']) - sum(p.nbytes for p in probes))
    assert owned[-1] == owned[1]


def test_large_answers_stay_right_while_others_are_captured(shelf: Shelf, engine: Engine) -> None:
    put_large(shelf, engine, 'served', 'plus')
    loads = [threading.Thread(target=put_large, args=(shelf, engine, f'm{i}', 'slow')) for i in range(3)]
    for load in loads:
        load.start()
    asked = 0
    while any(load.is_alive() for load in loads) or asked < 20:
        asked += 1
        answer = engine.infer('served', {'x': np.full((65536, 4), asked, np.float32)}, deadline_s=60).outputs['y']
        assert (answer == asked).all()
    assert all(engine.status(f'm{i}').reason == '' for i in range(3))


@pytest.fixture
def almost_full() -> Iterator[Callable[[int], None]]:
    """Fill the device so that this many MiB are left."""
    held: list[Tensor] = []

    def fill(left: int) -> None:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        held.append(torch.empty(free - left * MIB, dtype=torch.uint8, device='cuda'))

    yield fill
    held.clear()
    torch.cuda.empty_cache()


def test_memory_that_runs_out_is_taken_from_idle_models_then_refused_and_others_go_on(
    shelf: Shelf, engine: Engine, almost_full: Callable[[int], None]
) -> None:
    put(shelf, engine, 'idle', 'hungry', config={'kept': 600}, cuda_graphs=False)
    put(shelf, engine, 'm', 'hungry', cuda_graphs=False)
    put(shelf, engine, 'other', 'identity')
    almost_full(300)
    assert engine.infer('m', rows(400)).outputs['y'][0, 0] == 400
    assert engine.status('idle').state == ModelState.UNLOADED
    assert 'ran out of memory' in engine.status('idle').reason
    almost_full(300)
    with pytest.raises(EngineError) as caught:
        engine.infer('m', rows(400))
    assert caught.value.reason == 'out_of_memory'
    assert engine.metrics()['m'].dropped == {'out_of_memory': 1}
    with pytest.raises(EngineError) as caught:
        engine.load('idle').result(60)
    assert caught.value.reason == 'out_of_memory'
    np.testing.assert_array_equal(engine.infer('other', rows(5)).outputs['y'], rows(5)['x'])
    assert engine.infer('m', rows(10)).outputs['y'][0, 0] == 10


def test_loading_and_unloading_gives_all_device_memory_back(shelf: Shelf, engine: Engine) -> None:
    held: list[int] = []
    for _ in range(6):
        put(shelf, engine, 'm', 'hungry', config={'kept': 50}, cuda_graphs=False)
        put(shelf, engine, 'graph', 'affine')
        engine.infer('graph', rows(1, 2))
        assert engine.memory_bytes('cuda:0') >= 50 * MIB
        engine.unload('m').result(60)
        engine.unload('graph').result(60)
        held.append(torch.cuda.memory_reserved())
    assert held[-1] == held[1]
    assert engine.memory_bytes('cuda:0') == 0
