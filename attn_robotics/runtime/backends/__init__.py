"""What runs a model: torch, ONNX Runtime, or a server that speaks KServe v2."""

from __future__ import annotations

from attn_robotics.runtime.backends.base import Backend, Executed, Progress, Step
from attn_robotics.runtime.catalogue import ModelEntry

__all__ = ['Backend', 'Executed', 'Progress', 'Step', 'open_backend']


def open_backend(entry: ModelEntry, step: Step) -> Backend:
    """Load a model's weights and make it ready to warm up; heavy imports happen here.

    Args:
        entry: the catalogue's.
        step: told what is being done and how far it is.

    Raises:
        EngineError: `bad_weights`, `bad_entry`, `backend` or `out_of_memory`.
    """
    if entry.backend == 'torch':
        from attn_robotics.runtime.backends.pytorch import TorchBackend

        return TorchBackend(entry, step)
    if entry.backend == 'onnxruntime':
        from attn_robotics.runtime.backends.onnx import OnnxBackend

        return OnnxBackend(entry, step)
    from attn_robotics.runtime.backends.remote import RemoteBackend

    return RemoteBackend(entry, step)
