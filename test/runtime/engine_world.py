"""Small systems and entries to try the engine with."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from attn_robotics.runtime.registry import register_system


class Gate(nn.Module):
    """Answers y = scale * x once it is opened; says what it was asked."""

    opened: ClassVar[threading.Event] = threading.Event()
    entered: ClassVar[threading.Semaphore] = threading.Semaphore(0)
    batches: ClassVar[list[list[float]]] = []

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        Gate.batches.append(x[:, 0].tolist())
        Gate.entered.release()
        assert Gate.opened.wait(30)
        return self.scale * x


@register_system('gate')
@dataclass(frozen=True)
class GateConfig:
    scale: float = 1.0

    def build(self) -> nn.Module:
        return Gate(self.scale)


class Accumulate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ballast = nn.Parameter(torch.zeros(64))  # 256 bytes, for the budget

    def forward(self, x: Tensor, total: Tensor) -> dict[str, Tensor]:
        total = total + x
        return {'y': total, 'total': total}


@register_system('accumulate')
@dataclass(frozen=True)
class AccumulateConfig:
    def build(self) -> nn.Module:
        return Accumulate()


class Cyclic(nn.Module):
    """Refers to itself, so that only the collector can remove it."""

    def __init__(self) -> None:
        super().__init__()
        self.around = [self.forward]

    def forward(self, x: Tensor) -> Tensor:
        return x + 0


@register_system('cyclic')
@dataclass(frozen=True)
class CyclicConfig:
    def build(self) -> nn.Module:
        return Cyclic()


class Fragile(nn.Module):
    """Fails for rows of 13, runs out of memory for rows of 99 as often as it is told."""

    out_of_memory: ClassVar[int] = 0

    def forward(self, x: Tensor) -> Tensor:
        if (x == 99).any() and Fragile.out_of_memory:
            Fragile.out_of_memory -= 1
            raise torch.OutOfMemoryError('CUDA out of memory (pretended)')
        if (x == 13).any():
            raise ValueError('thirteen')
        return torch.where(x == 14, torch.nan, x)


@register_system('fragile')
@dataclass(frozen=True)
class FragileConfig:
    def build(self) -> nn.Module:
        return Fragile()


class Affine(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


@register_system('affine')
@dataclass(frozen=True)
class AffineConfig:
    width: int = 4

    def build(self) -> nn.Module:
        return Affine(self.width)


def entry_of(name: str, system: str | None = 'identity', /, **changes: Any) -> dict[str, Any]:
    """An entry for one of the systems above: x (N, 4) in, y (N, 4) out, batched up to 8 rows."""
    entry: dict[str, Any] = {
        'name': name, 'version': '1', 'backend': 'torch', 'system': system, 'device': 'cpu', 'dims': {'N': [1, 8]},
        'inputs': [{'name': 'x', 'dtype': 'float32', 'shape': ['N', 4]}],
        'outputs': [{'name': 'y', 'dtype': 'float32', 'shape': ['N', 4]}],
        'batch': {'dim': 'N'}, 'deadline_ms': 60000,
    }  # fmt: skip
    if system == 'accumulate':
        entry['state'] = [{'name': 'total', 'dtype': 'float32', 'shape': ['N', 4]}]
    entry.update(changes)
    return {key: value for key, value in entry.items() if value is not None}


def rows(*values: float) -> dict[str, np.ndarray[Any, Any]]:
    """A request with one row of equal numbers a value."""
    return {'x': np.repeat(np.array(values, np.float32)[:, None], 4, axis=1)}


class Shelf:
    """A catalogue folder to write entries into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, system: str | None = 'identity', /, **changes: Any) -> None:
        (self.folder / f'{name}.yaml').write_text(yaml.safe_dump(entry_of(name, system, **changes)))

    def put_file(self, name: str, content: bytes) -> str:
        """Write a weights file and return its sha256."""
        (self.folder / name).write_bytes(content)
        return hashlib.sha256(content).hexdigest()


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now
