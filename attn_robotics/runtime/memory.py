"""Giving memory back."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from collections.abc import Callable


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim; freed weights otherwise stay with the process as holes in its heap."""
    if not sys.platform.startswith('linux'):
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
    return trim


def give_back() -> None:
    """Collect cycles and return freed memory to the system and to the CUDA driver."""
    gc.collect()
    if trim := _trim():
        trim(0)
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
