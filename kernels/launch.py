"""What every Triton launch of ours needs: sizes, inline instructions, and a device to launch on."""

# Triton's language only looks like Python: types inside kernels mean nothing to mypy.
# mypy: ignore-errors
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from attn_robotics.kernels.dispatch import is_interpreting

LOG2_E = 1.4426950408889634
# The interpreter cannot run inline PTX; the constant is folded at compile time.
APPROXIMATE = tl.constexpr(not is_interpreting())


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Launch on the tensor's GPU even when another one is current."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def starts_early(tensor: Tensor) -> bool:
    """Whether a kernel may be launched before the one it depends on has ended (compute capability 9 and later)."""
    return tensor.is_cuda and torch.cuda.get_device_capability(tensor.device)[0] >= 9


def power_of_two(size: int, low: int = 16) -> int:
    """The smallest power of two that holds `size` and that a matrix instruction accepts."""
    return max(low, triton.next_power_of_2(size))


def interpreter_product(dtype: torch.dtype) -> tl.constexpr:
    """The type in which the interpreter multiplies tiles of `dtype`: NumPy has no bfloat16."""
    low = dtype in (torch.float16, torch.bfloat16) and not is_interpreting()
    return tl.bfloat16 if low and dtype == torch.bfloat16 else tl.float16 if low else tl.float32


@triton.jit
def nearest(x, dtype: tl.constexpr):
    """float32 x as `dtype`, rounded to nearest as a GPU does: the interpreter cuts bfloat16 off."""
    if not APPROXIMATE and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def log2_positive(x):
    """Base-2 logarithm of x >= 1: one instruction, without the library's care for subnormals."""
    if APPROXIMATE:
        return tl.inline_asm_elementwise(
            'lg2.approx.ftz.f32 $0, $1;', '=f,f', [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.log2(x)


@triton.jit
def root(x):
    """Square root of x >= 0: one instruction."""
    if APPROXIMATE:
        return tl.inline_asm_elementwise(
            'sqrt.approx.ftz.f32 $0, $1;', '=f,f', [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.sqrt(x)


@triton.jit
def reciprocal(x):
    """1 / x for x of ordinary size: one instruction."""
    if APPROXIMATE:
        return tl.inline_asm_elementwise(
            'rcp.approx.ftz.f32 $0, $1;', '=f,f', [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return 1.0 / x
