"""Checkpoints of a training run: tensors in safetensors shards, the rest in JSON, never pickle.

The index file is written last and atomically, and names its shards by step: an interrupted save leaves the one before
intact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint that can not be read; the message names the file and the fix."""


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    partial.write_text(text)
    partial.replace(path)


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    step: int,
    facts: Mapping[str, Any],
    generators: Mapping[str, np.random.Generator] | None = None,
    extra: Mapping[str, Tensor] | None = None,
    shard_bytes: int = 15 << 20,
) -> None:
    """Write everything that `load_checkpoint` needs to go on.

    Args:
        folder: where; older checkpoints in it are removed once the new one is complete.
        network: its parameters and buffers.
        optimiser: its per-parameter tensors (Adam's moments and step counts).
        step: updates made.
        facts: JSON values to keep, such as elapsed time and the configuration.
        generators: numpy generators to continue.
        shard_bytes: largest size of one tensor file; a single larger tensor gets a file of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f'network.{name}': tensor for name, tensor in network.state_dict().items()}
    for index, state in optimiser.state_dict()['state'].items():
        tensors |= {f'optimiser.{index}.{name}': torch.as_tensor(value) for name, value in state.items()}
    tensors['random.cpu'] = torch.get_rng_state()
    tensors |= {f'extra.{name}': tensor for name, tensor in (extra or {}).items()}
    if torch.cuda.is_available():
        tensors['random.cuda'] = torch.cuda.get_rng_state()
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if size > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = tensor.detach().cpu().contiguous()
        room -= size
    names = [f'step-{step}-{index}.safetensors' for index in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name)
    index_file = {
        'format': FORMAT,
        'step': step,
        'shards': names,
        'facts': dict(facts),
        'generators': {name: rng.bit_generator.state for name, rng in (generators or {}).items()},
    }
    write_atomically(folder / 'checkpoint.json', json.dumps(index_file, indent=1))
    for old in folder.glob('step-*.safetensors'):
        if old.name not in names:
            old.unlink()


def load_checkpoint(
    folder: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    generators: Mapping[str, np.random.Generator] | None = None,
) -> tuple[int, dict[str, Any]]:
    """Continue from a checkpoint: fills network, optimiser, random states; returns the step and the kept facts.

    Raises:
        CheckpointError: no complete checkpoint is there, or it belongs to another format or network.
    """
    index, tensors = _read(folder)
    try:
        network.load_state_dict(_below(tensors, 'network.'))
    except RuntimeError as error:
        raise CheckpointError(f'{folder} belongs to another network: {error}') from None
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below(tensors, 'optimiser.').items():
        number, key = name.split('.', 1)
        state.setdefault(int(number), {})[key] = tensor
    optimiser.load_state_dict({'state': state, 'param_groups': optimiser.state_dict()['param_groups']})
    torch.set_rng_state(tensors['random.cpu'])
    if 'random.cuda' in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors['random.cuda'])
    for name, rng in (generators or {}).items():
        rng.bit_generator.state = index['generators'][name]
    return int(index['step']), dict(index['facts'])


def read_network(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The network's tensors and the kept facts alone; raises CheckpointError as `load_checkpoint` does."""
    index, tensors = _read(folder)
    return _below(tensors, 'network.'), dict(index['facts'])


def read_extra(folder: Path) -> dict[str, Tensor]:
    """The tensors kept beside network and optimiser; raises CheckpointError as `load_checkpoint` does."""
    return _below(_read(folder)[1], 'extra.')


def read_facts(folder: Path) -> dict[str, Any]:
    """The kept facts of a checkpoint, without its tensors; raises CheckpointError as `load_checkpoint` does."""
    return dict(_index(folder)['facts'])


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    index = _index(folder)
    tensors: dict[str, Tensor] = {}
    for name in index['shards']:
        if not (folder / name).is_file():
            raise CheckpointError(f'{folder} names {name}, which is missing; restore it or start anew')
        tensors |= load_file(folder / name)
    return index, tensors


def _index(folder: Path) -> dict[str, Any]:
    index_path = folder / 'checkpoint.json'
    if not index_path.is_file():
        raise CheckpointError(f'no checkpoint in {folder}; start without --resume')
    index = json.loads(index_path.read_text())
    if index.get('format') != FORMAT:
        raise CheckpointError(f'{index_path} has format {index.get("format")}, this version reads {FORMAT}')
    return dict(index)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
