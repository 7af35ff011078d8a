"""The state of a model as a message."""

from __future__ import annotations

from attn_robotics.runtime.residency import ModelStatus
from attn_robotics_interfaces.msg import ModelStatus as ModelStatusMessage


def to_model_status(status: ModelStatus) -> ModelStatusMessage:
    """Write one model's status."""
    return ModelStatusMessage(
        name=status.name,
        version=status.version,
        system=status.system,
        backend=status.backend,
        device=status.device,
        state=int(status.state),
        reason=status.reason,
        stage=status.stage,
        progress=status.progress,
        memory_bytes=status.memory_bytes,
        requests=status.requests,
        dropped=status.dropped,
        queue_p50_ms=status.queue_p50_ms,
        compute_p50_ms=status.compute_p50_ms,
    )
