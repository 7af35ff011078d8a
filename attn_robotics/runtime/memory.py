"""Giving memory back, and keeping Python's collector from holding up requests."""

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


def settle() -> None:
    """Tell the collector that what is there now will stay; for after a load.

    It would walk all of it at every full collection, and with torch loaded that holds up every thread of the process
    for 0.1 to 0.4 s, in the midst of requests and at every capture of a graph.
    """
    gc.collect()
    gc.freeze()


def give_back(ghost: Callable[[], object] = lambda: None) -> None:
    """Collect cycles and return freed memory to the system and to the CUDA driver.

    Args:
        ghost: a weak reference to what should be gone. If it lives on, in a cycle, all that was settled is walked too.
    """
    if ghost() is not None:
        gc.unfreeze()
        settle()
    else:
        gc.collect()
    if trim := _trim():
        trim(0)
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
