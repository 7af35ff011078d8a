"""The network as the attention runtime runs it: the weights' own names, one decision a request, outputs by name."""

from __future__ import annotations

from torch import Tensor

from attn_robotics.systems.sparc.export import OUTPUTS, decide
from attn_robotics.systems.sparc.model import SparcNetwork


class ServedNetwork(SparcNetwork):
    """One decision of Q robots from K messages, with the names of `config/models/sparc.yaml`."""

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Decide; inputs and outputs are those of `export.Decision`."""
        return dict(zip(OUTPUTS, decide(self, **inputs), strict=True))
