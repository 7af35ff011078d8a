"""ONNX form with the state as inputs and outputs: `python -m attn_robotics.systems.pom_speech.export --help`."""

from __future__ import annotations

import argparse
import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from attn_robotics.paths import find_config
from attn_robotics.runtime.catalogue import Catalogue
from attn_robotics.systems.pom_speech.model import SpeechEncoder, state_shapes
from attn_robotics.systems.pom_speech.processor import BANDS, FRAMES_PER_TOKEN
from attn_robotics.systems.pom_speech.weights_file import DEFAULT_WEIGHTS, read_weights
from attn_robotics.training.checkpoint import write_atomically

OUTPUTS = ('tokens', 'log_probs', 'gates')


class _Positional(nn.Module):
    """The encoder with inputs and outputs in a fixed order."""

    def __init__(self, network: SpeechEncoder) -> None:
        super().__init__()
        self.network = network
        self.names = list(state_shapes(network.config))

    def forward(self, features: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        answers = self.network(features, **dict(zip(self.names, state, strict=True)))
        return tuple(answers[name] for name in (*OUTPUTS, *self.names))


def export_bytes(network: SpeechEncoder) -> bytes:
    """ONNX model with free N (streams) and T (tokens); a new state leaves it as `<name>_out`."""
    streams = 2
    names = list(state_shapes(network.config))
    examples = (torch.zeros(streams, 3, FRAMES_PER_TOKEN, BANDS), *network.open_state(streams).values())
    free: dict[str, dict[int, str]] = {name: {0: 'N'} for name in (*names, *(f'{name}_out' for name in names))}
    free |= {name: {0: 'N', 1: 'T'} for name in ('features', *OUTPUTS)}
    target: Any = io.BytesIO()
    with warnings.catch_warnings():
        # The tracing exporter needs torch alone; its successor would add a dependency.
        warnings.simplefilter('ignore')
        torch.onnx.export(
            _Positional(network).cpu().eval(),
            examples,
            target,
            input_names=['features', *names],
            output_names=[*OUTPUTS, *(f'{name}_out' for name in names)],
            dynamic_axes=free,
            opset_version=18,
            dynamo=False,
        )
    content: bytes = target.getvalue()
    return content


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
