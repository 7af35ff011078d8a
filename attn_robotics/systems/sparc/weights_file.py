"""Turn a checkpoint into the weights that ship: `python -m attn_robotics.systems.sparc.weights_file --help`."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save

from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.policy import DEFAULT_WEIGHTS, FORMAT
from attn_robotics.training.checkpoint import read_network, write_atomically


def write_weights(path: Path, network: SparcNetwork, card: Mapping[str, Any]) -> dict[str, Any]:
    """Write half-precision weights and their card, weights first.

    Args:
        path: safetensors file; the card goes beside it as `.yaml`.
        network: what to store.
        card: facts about data, recipe, seed and results.

    Returns:
        The card as written, with checksum, size and configuration.
    """
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in network.state_dict().items()}
    data = save(tensors, {'format': FORMAT, 'config': json.dumps(network.config.to_dict())})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    partial.write_bytes(data)
    partial.replace(path)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    whole = {
        **card,
        'parameters': parameters,
        'sha256': hashlib.sha256(data).hexdigest(),
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
    tensors, facts = read_network(options.checkpoint)
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
