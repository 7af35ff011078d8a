"""Which implementation of an operator runs, and why.

An operator has a definition (`naive`), often a Triton kernel (`fused`), sometimes a library kernel that is at its
roofline already (`library`). The choice depends on device, dtype and shape alone, never on values: no host
synchronisation, and it is the same inside a CUDA graph.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

PATHS = ('naive', 'fused', 'library')

# Kernels that agree with their definition under the interpreter but have not passed the benchmark's gate on a GPU yet.
# They run when forced; an entry goes when `benchmarks/attention.py` reports its rms_error as met.
UNPROVEN: dict[str, str] = {}
# What the gate ran with; other types run when forced, and by default once they are in the benchmark.
PROVEN_DTYPES = (torch.bfloat16,)


@dataclass(frozen=True)
class Decision:
    """The path one call took.

    Attributes:
        operator: name of the operator.
        path: one of `PATHS`.
        reason: one line for a person.
    """

    operator: str
    path: str
    reason: str


_forced: ContextVar[str | None] = ContextVar('forced_kernel_path', default=None)
_last: dict[str, Decision] = {}


@contextmanager
def forcing(path: str) -> Iterator[None]:
    """Use `path` for every operator called inside; a call that cannot raises ValueError with the obstacle.

    Under Triton's interpreter (TRITON_INTERPRET=1) 'fused' also accepts CPU tensors: that is how the tests run.
    """
    if path not in PATHS:
        raise ValueError(f'path must be one of {PATHS}, got {path!r}')
    token = _forced.set(path)
    try:
        yield
    finally:
        _forced.reset(token)


def last(operator: str) -> Decision | None:
    """The decision of the most recent call of `operator` in this process, or None before the first."""
    return _last.get(operator)


def choose(
    operator: str, tensor: Tensor, *, obstacle: str | None = None, library: str | None = None, optional: bool = False
) -> str:
    """Pick a path for one call and remember it.

    Args:
        operator: name under which `last` answers.
        tensor: the tensor whose device and dtype decide.
        obstacle: why the fused kernel cannot take this problem, or None.
        library: why a library kernel is faster for this shape, or None.
        optional: a forced kernel that cannot run is replaced, as for a gradient whose forward pass was forced.

    Returns:
        One of `PATHS`.

    Raises:
        ValueError: `forcing` asked for a path that this call cannot take.
    """
    blocked = obstacle or _device_obstacle(tensor)
    wanted = _forced.get()
    if wanted == 'fused' and blocked and not optional:
        raise ValueError(f'{operator}: the fused kernel cannot run: {blocked}')
    if wanted == 'library' and library is None:
        raise ValueError(f'{operator}: no library kernel computes this problem')
    if wanted and not (optional and blocked):
        decision = Decision(operator, wanted, 'forced')
    elif blocked:
        decision = Decision(operator, 'naive', blocked)
    elif operator in UNPROVEN:
        decision = Decision(operator, 'naive', f'kernel not proven on a GPU: {UNPROVEN[operator]}')
    elif tensor.is_cuda and tensor.dtype not in PROVEN_DTYPES:
        decision = Decision(operator, 'naive', f'kernel not proven on a GPU in {tensor.dtype}')
    elif library:
        decision = Decision(operator, 'library', library)
    elif tensor.device.type != 'cuda':
        decision = Decision(operator, 'naive', "Triton's interpreter is for tests; ask for it with forcing('fused')")
    else:
        decision = Decision(operator, 'fused', 'device, dtype and shape fit the kernel')
    _last[operator] = decision
    return decision.path


@cache
def has_triton() -> bool:
    """Whether Triton can be imported (asked without importing it)."""
    return importlib.util.find_spec('triton') is not None


def is_interpreting() -> bool:
    """Whether Triton's interpreter was asked for by the environment."""
    return os.environ.get('TRITON_INTERPRET') == '1'


def _device_obstacle(tensor: Tensor) -> str | None:
    if tensor.device.type != 'cuda' and not is_interpreting():
        return f'tensors are on {tensor.device.type}'
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f'{tensor.dtype} is for the definition only'
    if not has_triton():
        return 'triton is not installed'
    return None
