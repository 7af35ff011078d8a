import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.neighbour_set import neighbour_set_attention


def test_the_path_taken_and_its_reason_can_be_asked_for():
    q = torch.randn(1, 1, 2, 16)
    neighbour_set_attention(q, q, q)
    decision = dispatch.last('neighbour_set')
    assert decision is not None and decision.path == 'naive' and decision.reason


def test_a_forced_path_that_cannot_run_names_the_obstacle():
    q = torch.randn(1, 1, 200, 16)
    with dispatch.forcing('fused'), pytest.raises(ValueError, match='200 x 16 exceed'):
        neighbour_set_attention(q, q, q)
    with pytest.raises(ValueError, match='path must be one of'), dispatch.forcing('fast'):
        pass


@pytest.mark.parametrize('forced', ['fused', 'naive'])
def test_forcing_ends_with_its_block(device, forced):
    q = torch.randn(1, 1, 2, 16, device=device)
    neighbour_set_attention(q, q, q)
    chosen = dispatch.last('neighbour_set').path
    assert device != 'cpu' or chosen == 'naive'
    with dispatch.forcing(forced):
        neighbour_set_attention(q, q, q)
        assert dispatch.last('neighbour_set').path == forced
    neighbour_set_attention(q, q, q)
    assert dispatch.last('neighbour_set').path == chosen


def test_a_kernel_no_gpu_has_proven_runs_only_when_forced(monkeypatch):
    tensor = torch.zeros(1)
    monkeypatch.setattr(dispatch, '_device_obstacle', lambda _: None)
    monkeypatch.setitem(dispatch.UNPROVEN, 'probe', 'nobody has looked')
    assert dispatch.choose('probe', tensor) == 'naive' and 'nobody has looked' in dispatch.last('probe').reason
    with dispatch.forcing('fused'):
        assert dispatch.choose('probe', tensor) == 'fused'
        assert dispatch.choose('probe', tensor, obstacle='too wide', optional=True) == 'naive'


def test_float64_is_left_to_the_definition():
    assert dispatch.choose('probe', torch.zeros(1, dtype=torch.float64)) == 'naive'


def test_operators_import_without_triton():
    code = (
        'import sys, importlib, pkgutil, attn_robotics.kernels as k\n'
        'for m in pkgutil.iter_modules(k.__path__):\n'
        "    if m.name != 'launch': importlib.import_module('attn_robotics.kernels.' + m.name)\n"
        "assert 'triton' not in sys.modules, 'triton was imported'\n"
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def on_gpu(dtype):
    """What `choose` looks at, as a tensor on a GPU has it."""
    return SimpleNamespace(is_cuda=True, device=SimpleNamespace(type='cuda'), dtype=dtype)


@pytest.mark.parametrize(
    ('dtype', 'options', 'path', 'words'),
    [
        (torch.bfloat16, {}, 'fused', 'fit the kernel'),
        (torch.float16, {}, 'naive', 'torch.float16'),
        (torch.float32, {}, 'naive', 'torch.float32'),
        (torch.float64, {}, 'naive', 'for the definition only'),
        (torch.bfloat16, {'obstacle': 'too wide'}, 'naive', 'too wide'),
        (torch.bfloat16, {'library': 'long sequences'}, 'library', 'long sequences'),
        (torch.bfloat16, {'library': 'long sequences', 'obstacle': 'too wide'}, 'naive', 'too wide'),
    ],
    ids=str,
)
def test_on_a_gpu_the_kernel_runs_where_it_is_proven_and_no_library_is_faster(dtype, options, path, words):
    assert dispatch.choose('probe', on_gpu(dtype), **options) == path
    decision = dispatch.last('probe')
    assert (decision.operator, decision.path) == ('probe', path) and words in decision.reason


def test_a_library_that_does_not_exist_can_not_be_forced():
    with dispatch.forcing('library'):
        with pytest.raises(ValueError, match='no library kernel'):
            dispatch.choose('probe', on_gpu(torch.bfloat16))
        assert dispatch.choose('probe', on_gpu(torch.bfloat16), library='long sequences') == 'library'


def test_without_triton_everything_is_the_definition(monkeypatch):
    monkeypatch.setattr(dispatch, 'has_triton', lambda: False)
    assert dispatch.choose('probe', on_gpu(torch.bfloat16)) == 'naive'
    assert 'triton is not installed' in dispatch.last('probe').reason


def test_what_is_not_proven_names_an_operator_that_exists():
    text = '\n'.join(path.read_text() for path in (Path(__file__).parents[3] / 'kernels').glob('*/__init__.py'))
    assert all(f"dispatch.choose('{operator}'" in text for operator in dispatch.UNPROVEN)
