"""Weights arrive whole, checked and as data; anything else is one clear refusal and nothing is loaded."""

from __future__ import annotations

import io
import pickle

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from engine_world import Shelf, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from attn_robotics.runtime.engine import Engine, ModelState
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.registry import build_system, register_system

GENERATOR = torch.Generator().manual_seed(0)
WEIGHT, BIAS = torch.randn(4, 4, generator=GENERATOR), torch.randn(4, generator=GENERATOR)


def affine_file(dtype: torch.dtype = torch.float32) -> bytes:
    return safetensors.torch.save({'layer.weight': WEIGHT.to(dtype), 'layer.bias': BIAS.to(dtype)})


def onnx_file(nodes: list[onnx.NodeProto], **initializers: np.ndarray) -> bytes:
    """An ONNX graph x (N, 4) -> y (N, 4)."""
    shape = ['N', 4]
    graph = helper.make_graph(
        nodes,
        'g',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info('y', TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    return bytes(model.SerializeToString())


def affine_onnx() -> bytes:
    node = helper.make_node('Gemm', ['x', 'w', 'b'], ['y'], transB=1)
    return onnx_file([node], w=WEIGHT.numpy(), b=BIAS.numpy())


def refusal(shelf: Shelf, engine: Engine, content: bytes, *, sha256: str = '', name: str = 'w.safetensors') -> str:
    digest = shelf.put_file(name, content)
    shelf.put('m', 'affine', weights=name, sha256=sha256 or digest)
    with pytest.raises(EngineError) as caught:
        engine.load('m').result(30)
    assert caught.value.reason == 'bad_weights'
    assert '\n' not in str(caught.value)
    assert name in str(caught.value)
    status = engine.status('m')
    assert status.state == ModelState.FAILED
    assert status.reason == str(caught.value)
    assert engine.memory_bytes('cpu') == 0
    return str(caught.value)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_safetensors_weights_are_used(shelf: Shelf, engine: Engine, dtype: torch.dtype) -> None:
    sha256 = shelf.put_file('w.safetensors', affine_file(dtype))
    shelf.put('m', 'affine', weights='w.safetensors', sha256=sha256)
    engine.load('m').result(30)
    x = rows(1, -2)['x']
    expected = x @ WEIGHT.to(dtype).float().numpy().T + BIAS.to(dtype).float().numpy()
    np.testing.assert_allclose(engine.infer('m', {'x': x}).outputs['y'], expected, rtol=1e-5, atol=1e-6)


def test_precision_changes_what_is_computed_in_but_not_the_dtypes_of_the_entry(shelf: Shelf, engine: Engine) -> None:
    sha256 = shelf.put_file('w.safetensors', affine_file())
    shelf.put('m', 'affine', weights='w.safetensors', sha256=sha256, precision='bfloat16')
    engine.load('m').result(30)
    x = rows(1, -2)['x']
    answer = engine.infer('m', {'x': x}).outputs['y']
    exact = x @ WEIGHT.numpy().T + BIAS.numpy()
    assert answer.dtype == np.float32
    assert 0 < np.abs(answer - exact).max() < 0.05


def test_another_checksum_is_refused(shelf: Shelf, engine: Engine) -> None:
    assert 'sha256' in refusal(shelf, engine, affine_file(), sha256=64 * '0')


def test_a_missing_file_is_refused(shelf: Shelf, engine: Engine) -> None:
    shelf.put('m', 'affine', weights='nowhere.safetensors', sha256=64 * '0')
    with pytest.raises(EngineError, match=r'can not read the weights .*nowhere') as caught:
        engine.load('m').result(30)
    assert caught.value.reason == 'bad_weights'


def test_pickles_are_refused_by_their_first_bytes_even_with_the_right_checksum(shelf: Shelf, engine: Engine) -> None:
    buffer = io.BytesIO()
    torch.save({'layer.weight': WEIGHT}, buffer)
    old = io.BytesIO()
    torch.save({'layer.weight': WEIGHT}, old, _use_new_zipfile_serialization=False)
    for content in (buffer.getvalue(), old.getvalue(), pickle.dumps({'a': 1})):
        assert 'is a pickle' in refusal(shelf, engine, content)


@pytest.mark.parametrize('keep', [0, 4, 8, 40, -1])
def test_a_half_written_file_is_refused(shelf: Shelf, engine: Engine, keep: int) -> None:
    assert 'not a whole safetensors file' in refusal(shelf, engine, affine_file()[:keep])


def test_weights_of_another_system_are_refused(shelf: Shelf, engine: Engine) -> None:
    for tensors in ({'other': WEIGHT}, {'layer.weight': WEIGHT[:2].clone(), 'layer.bias': BIAS}):
        assert 'does not fit the system' in refusal(shelf, engine, safetensors.torch.save(tensors))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 300), st.binary(min_size=1, max_size=16))
def test_bytes_changed_anywhere_are_refused_or_harmless_data(
    shelf: Shelf, engine: Engine, place: int, junk: bytes
) -> None:
    content = bytearray(affine_file())
    content[place : place + len(junk)] = junk
    sha256 = shelf.put_file('w.safetensors', bytes(content))
    shelf.put('m', 'affine', weights='w.safetensors', sha256=sha256)
    try:
        engine.load('m').result(30)
    except EngineError as error:
        assert error.reason in ('bad_weights', 'bad_entry', 'bad_output')


def test_an_onnx_file_gives_what_torch_gives(shelf: Shelf, engine: Engine) -> None:
    weights, sha256 = 'w.safetensors', shelf.put_file('w.safetensors', affine_file())
    shelf.put('torch_affine', 'affine', weights=weights, sha256=sha256)
    sha256 = shelf.put_file('w.onnx', affine_onnx())
    shelf.put('onnx_affine', None, backend='onnxruntime', system=None, weights='w.onnx', sha256=sha256)
    engine.load('torch_affine').result(30)
    assert engine.load('onnx_affine').result(30).backend == 'onnxruntime'
    x = rows(1, -2, 3)['x']
    one, other = (engine.infer(name, {'x': x}).outputs['y'] for name in ('torch_affine', 'onnx_affine'))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_an_onnx_answer_does_not_share_memory_with_its_request(shelf: Shelf, engine: Engine) -> None:
    sha256 = shelf.put_file('w.onnx', onnx_file([helper.make_node('Identity', ['x'], ['y'])]))
    shelf.put('m', None, backend='onnxruntime', system=None, weights='w.onnx', sha256=sha256)
    engine.load('m').result(30)
    request = rows(1)
    assert not np.shares_memory(engine.infer('m', request).outputs['y'], request['x'])


@pytest.mark.parametrize('content', [b'', b'not onnx', affine_onnx()[:40]])
def test_a_broken_onnx_file_is_refused(shelf: Shelf, engine: Engine, content: bytes) -> None:
    sha256 = shelf.put_file('w.onnx', content)
    shelf.put('m', None, backend='onnxruntime', system=None, weights='w.onnx', sha256=sha256)
    with pytest.raises(EngineError) as caught:
        engine.load('m').result(30)
    assert caught.value.reason == 'bad_weights'
    assert '\n' not in str(caught.value)


def test_an_onnx_graph_with_other_names_is_refused(shelf: Shelf, engine: Engine) -> None:
    sha256 = shelf.put_file('w.onnx', affine_onnx())
    inputs = [{'name': 'z', 'dtype': 'float32', 'shape': ['N', 4]}]
    shelf.put('m', None, backend='onnxruntime', system=None, weights='w.onnx', sha256=sha256, inputs=inputs)
    with pytest.raises(EngineError, match='the graph has x'):
        engine.load('m').result(30)


def test_a_system_is_named_configured_and_registered_rightly_or_refused() -> None:
    with pytest.raises(EngineError, match='nobody'):
        build_system('nobody', {})
    with pytest.raises(EngineError, match="no field 'depth'"):
        build_system('affine', {'depth': 1})
    with pytest.raises(EngineError, match='multiple of heads'):
        build_system('small_transformer', {'width': 10, 'heads': 3})
    with pytest.raises(TypeError, match='must be a dataclass'):
        register_system('wrong')(int)


def test_the_small_transformer_is_the_same_from_the_same_seed_and_leaves_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, other = (build_system('small_transformer', {'width': 16, 'heads': 2}) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    x = torch.ones(1, 3, 16)
    assert torch.equal(one(tokens=x), other(tokens=x))
