"""What the network is compared with besides its own fusions `none`, `mean` and `softmax`."""

from __future__ import annotations

import torch
from torch import Tensor


def constant_velocity(positions: Tensor, horizon: int) -> Tensor:
    """Go on as in the last step.

    Args:
        positions: (B, V, T, 2) [m], T at least 2.
        horizon: steps to predict.

    Returns:
        (B, V, horizon, 2) [m].
    """
    last = positions[:, :, -1:]
    ahead = torch.arange(1, horizon + 1, device=positions.device, dtype=positions.dtype)
    return last + ahead[:, None] * (last - positions[:, :, -2:-1])
