"""Result rows in the suite's JSON schema, and the table beside them."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attn_robotics.training.checkpoint import write_atomically


@dataclass(frozen=True)
class Row:
    """One figure, `metric/method/case`, with its 95 % interval where there is one."""

    name: str
    value: float
    unit: str = ''
    n: int = 1
    ci95: tuple[float, float] | None = None
    reference: Mapping[str, float] = field(default_factory=dict)
    target: float | None = None
    met: bool | None = None

    def line(self) -> str:
        """One line of the table."""
        spread = f'  [{self.ci95[0]:.4g}, {self.ci95[1]:.4g}]' if self.ci95 else ''
        wanted = '' if self.target is None else f'  target {self.target:g}: {"met" if self.met else "MISSED"}'
        return f'{self.name:48} {self.value:10.4g} {self.unit:6} n={self.n}{spread}{wanted}'


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of a mean by Student's t, None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def write_results(path: Path, rows: Sequence[Row], command: str, conditions: Mapping[str, Any]) -> None:
    """Write rows with their conditions, atomically."""
    git = subprocess.run(
        ['git', 'rev-parse', '--short', 'HEAD'], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    about = {
        'commit': git.stdout.strip() or None,
        'versions': {'python': platform.python_version(), 'numpy': np.__version__, 'torch': torch.__version__},
        'machine': f'{platform.machine()} {platform.system()}',
        **conditions,
    }
    body = {'schema': 1, 'command': command, 'conditions': about, 'rows': [asdict(row) for row in rows]}
    write_atomically(path, json.dumps(body, indent=1) + '\n')
