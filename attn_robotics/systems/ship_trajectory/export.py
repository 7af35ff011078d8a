"""ONNX form of the predictor: `python -m attn_robotics.systems.ship_trajectory.export --help`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from attn_robotics.systems.ship_trajectory.model import ShipService
from attn_robotics.systems.ship_trajectory.processor import INPUTS, read_service
from attn_robotics.training.export import export_bytes, write_bytes

OUTPUTS = ('paths', 'deviation', 'influence', 'radius', 'distance', 'neighbour', 'domain')


def export_service(service: ShipService) -> bytes:
    """ONNX model with free B and V."""
    config, scenes, vessels = service.network.config, 2, 3
    examples = {
        'positions': torch.randn(scenes, vessels, config.history + 1, 2),
        'headings': torch.zeros(scenes, vessels),
        'sizes': torch.zeros(scenes, vessels, 2),
        'fairway': torch.zeros(scenes, vessels, config.history, 3),
        'present': torch.ones(scenes, vessels, dtype=torch.bool),
    }
    axes = {name: {0: 'B', 1: 'V'} for name in (*INPUTS, *OUTPUTS)}
    for name in ('influence', 'radius', 'distance'):
        axes[name] = {0: 'B', 1: 'V', 2: 'V'}
    axes['domain'] = {0: 'B'}
    return export_bytes(service, examples, OUTPUTS, (), axes)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('ship_trajectory.onnx'), help='file to write')
    options = parser.parse_args(arguments)
    write_bytes(options.out, export_service(read_service()))
    print(f'wrote {options.out}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
