"""Networks from weights, and weights from a checkpoint: `python -m attn_robotics.systems.sparc.weights_file --help`."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save

from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.export import graph_bytes
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.weights_card import DEFAULT_WEIGHTS, FORMAT, Weights, WeightsError, verify_weights
from attn_robotics.training.checkpoint import read_network as read_checkpoint
from attn_robotics.training.checkpoint import write_atomically
from attn_robotics.training.export import write_bytes


def read_network(weights: Weights) -> SparcNetwork:
    """Build the network of verified weights, in evaluation mode, float32 on the CPU.

    Raises:
        WeightsError: they do not fit the network.
    """
    network = SparcNetwork(weights.config)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(weights.path).items()})
    except RuntimeError as error:
        raise WeightsError(f'{weights.path} does not fit the network: {str(error).splitlines()[0]}') from None
    return network.eval()


def read_weights(path: Path | None = None) -> tuple[SparcNetwork, dict[str, Any]]:
    """Verify weights, those that ship when None, and build their network; it and the card. Raises WeightsError."""
    weights = verify_weights(path)
    return read_network(weights), weights.card


def write_weights(path: Path, network: SparcNetwork, card: Mapping[str, Any]) -> dict[str, Any]:
    """Write half-precision weights, their ONNX graph and their card, in this order.

    Args:
        path: safetensors file; graph and card go beside it as `.onnx` and `.yaml`.
        network: what to store.
        card: facts about data, recipe, seed and results.

    Returns:
        The card as written, with checksum, size and configuration.
    """
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in network.state_dict().items()}
    data = save(tensors, {'format': FORMAT, 'config': json.dumps(network.config.to_dict())})
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(data).hexdigest()
    write_bytes(path, data)
    if not network.config.recurrent:
        write_bytes(path.with_suffix('.onnx'), graph_bytes(network, path, digest))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    whole = {
        **card,
        'parameters': parameters,
        'sha256': digest,
        'config': network.config.to_dict(),
    }
    write_atomically(path.with_suffix('.yaml'), yaml.safe_dump(whole, sort_keys=False, width=110))
    return whole


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', type=Path, help='folder of a training run')
    parser.add_argument('--card', type=Path, help='YAML with facts about data, recipe, seed and results')
    parser.add_argument('--out', type=Path, default=DEFAULT_WEIGHTS, help='safetensors file to write')
    options = parser.parse_args(arguments)
    tensors, facts = read_checkpoint(options.checkpoint)
    network = SparcNetwork(SparcConfig.from_dict(facts['config']))
    network.load_state_dict(tensors)
    card = yaml.safe_load(options.card.read_text()) if options.card else {}
    card |= {'training_seconds': round(facts['seconds']), 'robot_steps': facts['robot_steps']}
    with torch.no_grad():
        written = write_weights(options.out, network, card)
    print(f'wrote {options.out} ({written["parameters"]} parameters, sha256 {written["sha256"]})')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
