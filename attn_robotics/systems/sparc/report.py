"""Results of an evaluation: intervals, targets, the table and the JSON rows."""

from __future__ import annotations

import json
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# What to reach; `mean_steps` and latencies [ms] at most, `conflicts` exactly, everything else at least.
TARGETS: dict[str, float] = {
    'success_rate/shipped/8x20/0.15': 0.95,
    'success_rate/rmha/128x40/0.00': 1.0,
    'success_rate/rmha/128x40/0.15': 0.97,
    'success_rate/rmha/128x40/0.30': 0.85,
    'success_rate/rmha_shield/128x40/0.30': 0.95,
    'success_rate/shipped/128x40/0.30': 0.97,
    'mean_steps/shipped/128x40/0.30': 95.0,
    'success_rate/shipped/256x40/0.30': 0.9,
    'success_rate_solvable/shipped/1024x113/0.30': 0.97,
    'latency_p50/decision_cuda/128x40/0.30': 0.7,
    'latency_p99/decision_cuda/128x40/0.30': 1.5,
    'latency_p50/decision_cuda/1024x113/0.30': 2.5,
    'latency_p99/decision_cuda/1024x113/0.30': 5.0,
    'latency_p99/decision_onnxruntime/128x40/0.30': 25.0,
    'latency_p99/shield_swap/1024x113/0.30': 1.0,
    'success_loss/bad_radio/32x20/0.30': 0.03,
    'success_gain/rmha-content_only/64x40/0.30': 0.15,
    'success_gain/rmha-content_only/128x40/0.30': 0.15,
    'success_gain/content_only-no_comm/64x40/0.30': 0.05,
    'success_gain/content_only-no_comm/128x40/0.30': 0.05,
}

WRITTEN = ('--json', '--figure', '--keep')  # options that name a file to write


@dataclass(frozen=True)
class Row:
    """One number, in the suite's common schema."""

    name: str
    value: float | None
    unit: str
    n: int
    ci95: tuple[float, float] | None = None
    reference: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The row with its target and whether it is met."""
        row = asdict(self)
        target = 0.0 if self.name.startswith('conflicts/') else TARGETS.get(self.name)
        if target is not None:
            met = None
            if self.value is not None:
                at_most = self.name.startswith(('mean_steps/', 'conflicts/', 'latency_', 'success_loss/'))
                met = self.value <= target if at_most else self.value >= target
            row |= {'target': target, 'met': met}
        return row


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion (JASA 1927); (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    z = 1.959963984540054
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Normal 95 % interval of a mean, None for fewer than two values."""
    if len(values) < 2:
        return None
    spread = 1.959963984540054 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)) - spread, float(np.mean(values)) + spread


def conditions(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Where and with what the numbers were made."""
    git = subprocess.run(
        ['git', 'describe', '--always', '--dirty'],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        'commit': git.stdout.strip() or 'unknown',
        'python': platform.python_version(),
        'numpy': np.__version__,
        'machine': f'{platform.machine()} {platform.system()}',
        **extra,
    }


def plain_command(command: str) -> str:
    """A command without the folders that results were written to, and without those of absolute paths."""
    words = command.split(' ')
    for index, word in enumerate(words):
        name, joined, value = word.partition('=')
        if (index and words[index - 1] in WRITTEN) or Path(word).is_absolute():
            words[index] = Path(word).name
        elif joined and (name in WRITTEN or Path(value).is_absolute()):
            words[index] = f'{name}={Path(value).name}'
    return ' '.join(words)


def write_json(path: Path, command: str, rows: Sequence[Row], where: Mapping[str, Any]) -> None:
    """Write the rows atomically, with the command that made them (`plain_command`)."""
    body = {
        'schema': 1,
        'command': plain_command(command),
        'conditions': dict(where),
        'rows': [row.as_json() for row in rows],
    }
    partial = path.with_name(path.name + '.partial')
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(body, indent=1) + '\n', encoding='utf-8')
    partial.replace(path)


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first flush left and the others flush right."""
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]

    def put(line: Sequence[str]) -> str:
        cells = [
            text.ljust(w) if not i else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths, strict=True))
        ]
        return '  '.join(cells).rstrip()

    return '\n'.join([put(header), '  '.join('-' * width for width in widths), *map(put, lines)])
