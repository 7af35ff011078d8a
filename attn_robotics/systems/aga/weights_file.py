"""Turn a run of `train` into the weights that ship: `python -m attn_robotics.systems.aga.weights_file --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from attn_robotics.systems.aga.config import AgaConfig
from attn_robotics.systems.aga.data import ACTIONS
from attn_robotics.systems.aga.model import AgaNetwork, AgaStream
from attn_robotics.systems.aga.processor import WEIGHTS
from attn_robotics.training.checkpoint import CheckpointError, read_network
from attn_robotics.training.fit import read_replica
from attn_robotics.training.weights import write_weights

DATA = 'synthetic kitchens (systems/aga/data.py): 8 tasks of 10 out of 40 actions, 4 kitchens; no video, no people'


def ship(
    path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], case: int, seed: int, results: str
) -> dict[str, Any]:
    """Write one replica of a run as weights with a card.

    Args:
        path: safetensors file.
        tensors: of the run, as `checkpoint.read_network` gives them.
        facts: of the run.
        case: number of the case.
        seed: number of the seed.
        results: words about what it reaches.

    Returns:
        The card.
    """
    config = AgaConfig.from_dict(facts['config'])
    seeds = facts['seeds']
    network = AgaNetwork(config)
    read_replica(path, network, case * len(seeds) + seeds.index(seed), tensors)
    card = {
        'name': 'aga',
        'data': DATA,
        'recipe': {**facts['recipe'], 'case': list(facts['cases'][case])},
        'seed': seed,
        'results': results,
        'config': config.to_dict(),
        'labels': list(ACTIONS),
    }
    return write_weights(path, AgaStream(network), card)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('run', type=Path, help='folder of one variant of a training run')
    parser.add_argument('--case', type=int, default=0, help='which of the cases trained side by side')
    parser.add_argument('--seed', type=int, default=0, help='which of the seeds')
    parser.add_argument('--results', default='see README.md', help='words for the card')
    parser.add_argument('--out', type=Path, default=WEIGHTS, help='safetensors file to write')
    options = parser.parse_args(arguments)
    try:
        tensors, facts = read_network(options.run)
        card = ship(options.out, tensors, facts, options.case, options.seed, options.results)
    except (CheckpointError, ValueError, IndexError) as error:
        print(f'weights_file: {error}', file=sys.stderr)
        return 1
    print(f'wrote {options.out}; put sha256 {card["sha256"]} into config/models/aga.yaml')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
