"""ONNX form with the state as inputs and outputs: `python -m attn_robotics.systems.pom_speech.export --help`."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch
import yaml

from attn_robotics.paths import find_config
from attn_robotics.runtime.catalogue import Catalogue
from attn_robotics.systems.pom_speech.model import SpeechEncoder
from attn_robotics.systems.pom_speech.processor import BANDS, FRAMES_PER_TOKEN
from attn_robotics.systems.pom_speech.weights_file import DEFAULT_WEIGHTS, read_weights
from attn_robotics.training import export
from attn_robotics.training.checkpoint import write_atomically

OUTPUTS = ('tokens', 'log_probs', 'gates')


def export_bytes(network: SpeechEncoder) -> bytes:
    """ONNX model with free N (streams) and T (tokens); a new state leaves it as `<name>_out`."""
    streams = 2
    state = network.open_state(streams)
    examples = {'features': torch.zeros(streams, 3, FRAMES_PER_TOKEN, BANDS), **state}
    axes: dict[str, dict[int, str]] = {name: {0: 'N'} for name in (*state, *(f'{name}_out' for name in state))}
    axes |= {name: {0: 'N', 1: 'T'} for name in ('features', *OUTPUTS)}
    return export.export_bytes(network, examples, OUTPUTS, list(state), axes)


def write_entry(folder: Path, network: SpeechEncoder) -> Path:
    """Write `pom_speech_onnx.onnx` and the shipped entry made to fit it; returns the entry's path."""
    content = export_bytes(network)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'pom_speech_onnx.onnx'
    partial = path.with_name(path.name + '.partial')
    partial.write_bytes(content)
    partial.replace(path)
    entry = yaml.safe_load(find_config('models/pom_speech.yaml').read_text())
    for torch_only in ('system', 'config'):
        del entry[torch_only]
    entry |= {
        'name': path.stem,
        'backend': 'onnxruntime',
        'weights': path.name,
        'sha256': hashlib.sha256(content).hexdigest(),
    }
    write_atomically(path.with_suffix('.yaml'), yaml.safe_dump(entry, sort_keys=False, width=110))
    Catalogue(folder).entry(path.stem)  # refuses what the engine would refuse
    return path.with_suffix('.yaml')


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--weights', type=Path, default=DEFAULT_WEIGHTS, help='safetensors file')
    parser.add_argument('--out', type=Path, default=Path('models'), help='folder for model and entry')
    options = parser.parse_args(arguments)
    entry = write_entry(options.out, read_weights(options.weights)[0])
    print(f'wrote {entry}; serve it with: ros2 launch attn_robotics attention_runtime.launch.py models:={options.out}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
