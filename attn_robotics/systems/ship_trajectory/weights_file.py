"""Turn a run of `train` into the weights that ship; `--help` says how."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attn_robotics.systems.ship_trajectory.config import ShipConfig
from attn_robotics.systems.ship_trajectory.data import Traffic
from attn_robotics.systems.ship_trajectory.model import ShipNetwork, ShipService
from attn_robotics.systems.ship_trajectory.plausibility import run
from attn_robotics.systems.ship_trajectory.processor import WEIGHTS
from attn_robotics.systems.ship_trajectory.train import INPUTS, VALIDATION, stack_scenes
from attn_robotics.training.checkpoint import CheckpointError, read_network
from attn_robotics.training.fit import read_replica
from attn_robotics.training.weights import write_weights

DATA = 'synthetic river traffic (systems/ship_trajectory/data.py): 4 vessels a scene, no AIS record'


def held_out_spread(network: ShipNetwork, traffic: Traffic, seed: int, scenes: int = 1000) -> Tensor:
    """(horizon, 2) root mean square error along and across the present heading, on scenes of their own [unit_m]."""
    config = network.config
    _, data = stack_scenes(traffic, config, scenes, [VALIDATION + seed], hidden_fairways=False)
    inputs = {name: part[0].numpy() for name, part in zip(INPUTS, data[:-1], strict=True)}
    error = run(network, inputs).paths.numpy() - data[-1][0].numpy()
    cos, sin = np.cos(inputs['headings'])[..., None], np.sin(inputs['headings'])[..., None]
    along = cos * error[..., 0] + sin * error[..., 1]
    across = cos * error[..., 1] - sin * error[..., 0]
    spread = np.sqrt(np.mean(np.stack([along, across], -1) ** 2, axis=(0, 1)))
    return torch.from_numpy(spread / config.unit_m).float()


def ship(
    path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], seed: int, results: str
) -> dict[str, Any]:
    """Write one replica of a run as weights with a card.

    Args:
        path: safetensors file.
        tensors: of the run, as `checkpoint.read_network` gives them.
        facts: of the run.
        seed: which one.
        results: words about what it reaches.

    Returns:
        The card.
    """
    config = ShipConfig.from_dict(facts['config'])
    network = ShipNetwork(config)
    read_replica(path, network, facts['seeds'].index(seed), tensors)
    service = ShipService(network.eval())
    traffic = Traffic(**{**facts['traffic'], 'speed_m_s': tuple(facts['traffic']['speed_m_s'])})
    service.spread.data.copy_(held_out_spread(network, traffic, seed))
    card = {
        'name': 'ship_trajectory',
        'data': DATA,
        'traffic': {**asdict(traffic), 'speed_m_s': list(traffic.speed_m_s)},
        'recipe': dict(facts['recipe']),
        'seed': seed,
        'results': results,
        'config': config.to_dict(),
    }
    return write_weights(path, service, card)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('run', type=Path, help='folder of one fusion of a training run')
    parser.add_argument('--seed', type=int, default=0, help='which of the seeds')
    parser.add_argument('--results', default='see README.md', help='words for the card')
    parser.add_argument('--out', type=Path, default=WEIGHTS, help='safetensors file to write')
    options = parser.parse_args(arguments)
    try:
        tensors, facts = read_network(options.run)
        card = ship(options.out, tensors, facts, options.seed, options.results)
    except (CheckpointError, ValueError) as error:
        print(f'weights_file: {error}', file=sys.stderr)
        return 1
    print(f'wrote {options.out}; put sha256 {card["sha256"]} into config/models/ship_trajectory.yaml')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
