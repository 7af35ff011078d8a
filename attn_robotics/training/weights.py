"""Weights that ship: half-precision safetensors with a card of facts beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save
from torch import nn

from attn_robotics.training.checkpoint import write_atomically


def write_weights(path: Path, network: nn.Module, card: Mapping[str, Any]) -> dict[str, Any]:
    """Write weights and their card, weights first.

    Args:
        path: safetensors file; the card goes beside it as `.yaml`.
        network: what to store.
        card: facts about data, recipe, seed and results.

    Returns:
        The card as written, with size and checksum.
    """
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in network.state_dict().items()}
    data = save(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    partial.write_bytes(data)
    partial.replace(path)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    whole = {**card, 'parameters': parameters, 'sha256': hashlib.sha256(data).hexdigest()}
    write_atomically(path.with_suffix('.yaml'), yaml.safe_dump(whole, sort_keys=False, width=110))
    return whole
