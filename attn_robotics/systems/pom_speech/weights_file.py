"""Weights with their card: `python -m attn_robotics.systems.pom_speech.weights_file --help`."""

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

from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.weights import load_into, read_verified
from attn_robotics.systems.pom_speech.config import PomSpeechConfig
from attn_robotics.systems.pom_speech.model import SpeechEncoder
from attn_robotics.training.checkpoint import read_network, write_atomically

FORMAT = 'pom_speech 1'
DEFAULT_WEIGHTS = Path(__file__).with_name('weights') / 'pom_speech.safetensors'


def write_weights(path: Path, network: SpeechEncoder, card: Mapping[str, Any]) -> dict[str, Any]:
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
    whole = {
        **card,
        'parameters': sum(parameter.numel() for parameter in network.parameters()),
        'sha256': hashlib.sha256(data).hexdigest(),
        'config': network.config.to_dict(),
    }
    write_atomically(path.with_suffix('.yaml'), yaml.safe_dump(whole, sort_keys=False, width=110))
    return whole


def read_weights(path: Path = DEFAULT_WEIGHTS) -> tuple[SpeechEncoder, dict[str, Any]]:
    """The network, ready to be asked, and its card.

    Raises:
        EngineError: `bad_weights`: missing, damaged, or not of this version.
    """
    try:
        card = yaml.safe_load(path.with_suffix('.yaml').read_text())
        config = PomSpeechConfig.from_dict(card['config'])
    except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        raise EngineError('bad_weights', f'{path.with_suffix(".yaml")} is no card of such weights: {error}') from error
    network = SpeechEncoder(config)
    load_into(network, read_verified(path, str(card['sha256'])), path)
    return network.eval().requires_grad_(False), card


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description='Turn a checkpoint into the weights that ship.')
    parser.add_argument('checkpoint', type=Path, help='folder of a training run')
    parser.add_argument('--card', type=Path, help='YAML with facts about data, recipe and results')
    parser.add_argument('--out', type=Path, default=DEFAULT_WEIGHTS, help='safetensors file to write')
    options = parser.parse_args(arguments)
    tensors, facts = read_network(options.checkpoint)
    network = SpeechEncoder(PomSpeechConfig.from_dict(facts['config']))
    network.load_state_dict(tensors)
    card = yaml.safe_load(options.card.read_text()) if options.card else {}
    card |= {'seed': facts['seed'], 'training_seconds': round(facts['seconds']), 'corpus': facts['data']}
    with torch.no_grad():
        written = write_weights(options.out, network, card)
    print(f'wrote {options.out} ({written["parameters"]} parameters, sha256 {written["sha256"]})')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
