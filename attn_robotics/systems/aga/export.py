"""ONNX form of one step of N streams: `python -m attn_robotics.systems.aga.export --help`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from attn_robotics.systems.aga.model import STATE, AgaNetwork, AgaStream
from attn_robotics.systems.aga.processor import read_network
from attn_robotics.training.export import export_bytes, write_bytes

OUTPUTS = ('probabilities', 'best', 'best_probabilities', 'gate', 'attention', 'past', 'past_s')


def export_stream(network: AgaNetwork) -> bytes:
    """ONNX model with free N; new state `x` leaves as `x_out`."""
    config, count = network.config, 3
    examples = {
        'features': torch.zeros(count, config.features),
        'dt_s': torch.ones(count),
        'keys': torch.zeros(count, config.queue, config.width),
        'values': torch.zeros(count, config.queue, config.width),
        'classes': torch.zeros(count, config.queue, dtype=torch.int64),
        'ages_s': torch.zeros(count, config.queue),
        'average': torch.zeros(count, config.classes),
        'newest': torch.zeros(count, config.classes),
    }
    free = {name: {0: 'N'} for name in (*examples, *OUTPUTS, *(f'{name}_out' for name in STATE))}
    return export_bytes(AgaStream(network), examples, OUTPUTS, STATE, free)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('aga.onnx'), help='file to write')
    options = parser.parse_args(arguments)
    write_bytes(options.out, export_stream(read_network()))
    print(f'wrote {options.out}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
