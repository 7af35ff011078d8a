"""Kernels run under Triton's interpreter here; on a GPU, `TRITON_INTERPRET=0 pytest test/unit/kernels` compiles them.

Triton reads the switch when it is first imported, hence the order of this file.
"""

import os

os.environ.setdefault('TRITON_INTERPRET', '1')

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attn_robotics.kernels.dispatch import is_interpreting


@pytest.fixture(scope='session')
def device() -> str:
    if is_interpreting():
        return 'cpu'
    if not torch.cuda.is_available():
        pytest.skip('needs a CUDA device when the interpreter is off')
    return 'cuda'


@pytest.fixture
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """New buffers hold NaN, so that an element nobody wrote shows."""
    real = torch.empty

    def poisoned(*args, **kwargs):
        buffer = real(*args, **kwargs)
        return buffer.fill_(float('nan')) if buffer.is_floating_point() else buffer

    monkeypatch.setattr(torch, 'empty', poisoned)


def _rms(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth.double()).square().mean().sqrt())


@pytest.fixture
def as_accurate_as_torch() -> Callable[..., None]:
    """Assert that a result is at most twice as far from float64 as plain torch in the same precision."""

    def check(ours: Tensor, torch_low: Tensor, truth: Tensor, floor: float = 1e-6) -> None:
        assert ours.shape == truth.shape
        assert torch.isfinite(ours).all()
        error, allowed = _rms(ours, truth), 2 * _rms(torch_low, truth) + floor
        assert error <= allowed, f'{error:.2e} against {allowed:.2e} allowed'

    return check


def _double(value):
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


@pytest.fixture
def three_ways(as_accurate_as_torch):
    """Run an operator fused, in plain torch and in float64, compare values, and gradients of floating arguments."""
    from attn_robotics.kernels import dispatch

    def run(operator, *arguments, gradients: bool = True, **options):
        wide = {name: _double(value) for name, value in options.items()}
        found = []
        for path, values, extra in (
            ('fused', arguments, options),
            ('naive', arguments, options),
            ('naive', tuple(_double(x) for x in arguments), wide),
        ):
            leaves = [
                x.detach().clone().requires_grad_(gradients and x.is_floating_point()) if isinstance(x, Tensor) else x
                for x in values
            ]
            with dispatch.forcing(path):
                out = operator(*leaves, **extra)
            grads = []
            if gradients:
                torch.manual_seed(1)
                seed = torch.randn(out.shape, dtype=torch.float64, device=out.device).to(out.dtype)
                out.backward(seed)
                grads = [x.grad for x in leaves if isinstance(x, Tensor) and x.grad is not None]
            found.append((out.detach(), grads))
        ours, low, truth = found
        as_accurate_as_torch(ours[0], low[0], truth[0])
        for mine, theirs, true in zip(ours[1], low[1], truth[1], strict=True):
            as_accurate_as_torch(mine, theirs, true)
        return ours[0]

    return run
