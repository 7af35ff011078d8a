"""Result rows in the suite's JSON schema."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attn_robotics.training.checkpoint import write_atomically

# Two-sided 97.5 % points of Student's t by degrees of freedom: the intervals of a handful of seeds.
_T = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True)
class Row:
    """One figure, often a mean over seeds.

    Attributes:
        name: `metric/method/case`, stable once published.
        value: the figure.
        unit: of value, target and interval.
        n: what it is a mean of.
        ci95: its 95 % interval, None where there is none.
        target: what it should reach, None without one.
        below: a target is reached from above (value <= target) instead of from below.
        reference: other figures to compare with.
    """

    name: str
    value: float
    unit: str = ''
    n: int = 1
    ci95: tuple[float, float] | None = None
    target: float | None = None
    below: bool = False
    reference: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        if not math.isfinite(self.value):
            return False
        return self.value <= self.target if self.below else self.value >= self.target

    def as_dict(self) -> dict[str, Any]:
        """The row as the schema wants it; a value that is not finite becomes null."""
        return {
            'name': self.name,
            'value': float(self.value) if math.isfinite(self.value) else None,
            'unit': self.unit,
            'n': self.n,
            'ci95': None if self.ci95 is None else list(self.ci95),
            'reference': dict(self.reference),
            'target': self.target,
            'met': self.met,
        }


def over_seeds(name: str, values: Sequence[float], unit: str = '', **more: Any) -> Row:
    """Mean over seeds with Student's 95 % interval; further arguments are those of `Row`."""
    mean = float(np.mean(values))
    interval = None
    if len(values) > 1:
        spread = _T.get(len(values) - 1, 1.96) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
        interval = (mean - spread, mean + spread)
    return Row(name, mean, unit, len(values), interval, **more)


def show(rows: Sequence[Row]) -> str:
    """The rows as a table for a terminal."""
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        interval = '' if row.ci95 is None else f'  [{row.ci95[0]:.4g}, {row.ci95[1]:.4g}]'
        verdict = ''
        if row.target is not None:
            verdict = f'  {"met" if row.met else "NOT met"}: {"at most" if row.below else "at least"} {row.target:.4g}'
        lines.append(f'{row.name:{width}}  {row.value:10.4g} {row.unit:4} n={row.n}{interval}{verdict}')
    return '\n'.join(lines)


def write_results(path: Path, rows: Sequence[Row], command: str, seeds: Sequence[int], **conditions: Any) -> None:
    """Write rows with their conditions, atomically; conditions: more of them, such as the device."""
    git = subprocess.run(
        ['git', 'rev-parse', '--short', 'HEAD'], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    where = {
        'commit': git.stdout.strip() or None,
        'versions': {'python': sys.version.split()[0], 'numpy': np.__version__},
        'machine': f'{platform.machine()} {platform.system()}',
        'seeds': list(seeds),
        **conditions,
    }
    body = {'schema': 1, 'command': command, 'conditions': where, 'rows': [row.as_dict() for row in rows]}
    write_atomically(path, json.dumps(body, indent=1) + '\n')
