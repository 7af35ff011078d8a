"""Repeated GPU work as a CUDA graph: one launch in place of thousands."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch


class Replayed:
    """Runs a function of static tensors: plainly at first, on a GPU as a captured graph from then on.

    The function reads and writes tensors that live outside of it, at fixed places, and takes its random numbers from
    them. Graphs that are to run at the same time must be captured on streams of their own, since libraries keep one
    workspace a stream.

    Args:
        work: the function; runs under the current stream, which must not be the default one while it is captured.
        device: where it works; on a CPU nothing is ever captured.
        plain_calls: calls before the capture, in which libraries and kernels set themselves up; -1 for no capture.
    """

    def __init__(self, work: Callable[[], None], device: torch.device, plain_calls: int = 3) -> None:
        self._work = work
        self._left = plain_calls if device.type == 'cuda' else -1
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def is_settled(self) -> bool:
        """Whether later calls do nothing but run: the graph is there, or there will be none."""
        return self._graph is not None or self._left < 0

    def __call__(self) -> None:
        """Run once."""
        if self._graph is not None:
            self._graph.replay()
            return
        if self._left != 0:
            self._work()
            self._left -= self._left > 0
            return
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on allocating and launching.
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode='thread_local'):
                self._work()
        except RuntimeError as error:
            warnings.warn(f'no CUDA graph, every kernel is launched by itself: {error}', stacklevel=2)
            self._left = -1
            self._work()
            return
        self._graph = graph
        graph.replay()
