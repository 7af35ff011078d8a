"""Kernels run under Triton's interpreter, which reads its switch when triton is first imported."""

import os

os.environ.setdefault('TRITON_INTERPRET', '1')

import pytest
import torch
from torch import Tensor


def rms_error(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth.double()).square().mean().sqrt())


@pytest.fixture
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """New buffers hold NaN, so that an element nobody wrote shows."""
    real = torch.empty

    def poisoned(*args, **kwargs):
        buffer = real(*args, **kwargs)
        return buffer.fill_(float('nan')) if buffer.is_floating_point() else buffer

    monkeypatch.setattr(torch, 'empty', poisoned)


@pytest.fixture
def as_accurate_as_torch():
    """Assert that a result is at most twice as far from float64 as plain torch in the same precision."""

    def check(ours: Tensor, torch_low: Tensor, truth: Tensor, floor: float = 1e-6) -> None:
        assert ours.shape == truth.shape
        assert torch.isfinite(ours).all()
        error, allowed = rms_error(ours, truth), 2 * rms_error(torch_low, truth) + floor
        assert error <= allowed, f'{error:.2e} against {allowed:.2e} allowed'

    return check
