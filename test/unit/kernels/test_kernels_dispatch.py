import subprocess
import sys

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


def test_forcing_ends_with_its_block():
    q = torch.randn(1, 1, 2, 16)
    with dispatch.forcing('fused'):
        neighbour_set_attention(q, q, q)
        assert dispatch.last('neighbour_set').path == 'fused'
    neighbour_set_attention(q, q, q)
    assert dispatch.last('neighbour_set').path == 'naive'


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
