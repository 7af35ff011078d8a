"""Weights with their card: `python -m attn_robotics.systems.pom_speech.weights_file --help`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.weights import load_into, read_verified
from attn_robotics.systems.pom_speech.config import PomSpeechConfig
from attn_robotics.systems.pom_speech.model import SpeechEncoder
from attn_robotics.training.checkpoint import read_extra, read_network
from attn_robotics.training.weights import write_weights

DEFAULT_WEIGHTS = Path(__file__).with_name('weights') / 'pom_speech.safetensors'


def ship(path: Path, network: SpeechEncoder, card: Mapping[str, Any]) -> dict[str, Any]:
    """Write half-precision weights and their card, which holds what `read_weights` needs; returns the card."""
    return write_weights(path, network, {**card, 'config': network.config.to_dict()})


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
    network.load_state_dict(read_extra(options.checkpoint) or tensors)  # the averaged ones where they are kept
    card = yaml.safe_load(options.card.read_text()) if options.card else {}
    card |= {'seed': facts['seed'], 'training_seconds': round(facts['seconds']), 'corpus': facts['data']}
    with torch.no_grad():
        written = ship(options.out, network, card)
    print(f'wrote {options.out} ({written["parameters"]} parameters, sha256 {written["sha256"]})')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
