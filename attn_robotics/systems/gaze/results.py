"""Result rows in the suite's JSON schema."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """One figure; `target` is met when value <= target if `below`, else when value >= target."""

    name: str
    value: float
    unit: str = ''
    n: int = 1
    target: float | None = None
    below: bool = False
    reference: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return math.isfinite(self.value) and (
            self.value <= self.target if self.below else self.value >= self.target
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """The row as the schema wants it; a value that is not finite becomes null."""
        value = float(self.value) if math.isfinite(self.value) else None
        entry: dict[str, Any] = {'name': self.name, 'value': value, 'unit': self.unit, 'n': self.n, 'ci95': None}
        entry |= {'reference': dict(self.reference), 'target': self.target, 'met': self.met}
        return entry


def machine() -> str:
    """Processor, how many of them this process may use, and system."""
    model = ''
    if (path := Path('/proc/cpuinfo')).is_file():
        model = next((line.split(':', 1)[1].strip() for line in path.open() if line.startswith('model name')), '')
    count = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f'{model or platform.machine()}, {count} processors, {platform.system()}'


def conditions(seeds: Sequence[int]) -> dict[str, Any]:
    """What a result depends on besides the code."""
    git = subprocess.run(
        ['git', 'rev-parse', '--short', 'HEAD'], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        'commit': git.stdout.strip() or None,
        'versions': {'python': sys.version.split()[0], 'numpy': np.__version__},
        'machine': machine(),
        'load': round(os.getloadavg()[0], 2),
        'seeds': list(seeds),
    }


def write_results(path: Path, rows: Sequence[Row], command: str, seeds: Sequence[int]) -> None:
    """Write rows with their conditions, atomically."""
    data = {'schema': 1, 'command': command, 'conditions': conditions(seeds), 'rows': [row.as_dict() for row in rows]}
    part = path.with_name(path.name + '.part')
    part.write_text(json.dumps(data, indent=1) + '\n', encoding='utf-8')
    part.replace(path)
