"""What the benchmarks of the runtime share: rows in the suite's schema, engines on changed entries, repetitions."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import tqdm

from attn_robotics.runtime.catalogue import Catalogue
from attn_robotics.runtime.engine import Engine
from attn_robotics.runtime.progress import load_with_bar

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / 'config' / 'models'


@dataclass
class Row:
    """One result, in the schema that every evaluation of the suite writes."""

    name: str
    value: float
    unit: str = ''
    n: int = 0
    ci95: list[float] | None = None
    reference: dict[str, float] = field(default_factory=dict)
    target: float | None = None
    met: bool | None = None


class Bench:
    """What the experiments share.

    Args:
        device: of the models.
        scale: multiplies every repetition count and duration.
        seed: of inputs and arrivals.
    """

    def __init__(self, device: str, scale: float, seed: int) -> None:
        self.device = device
        cuda = torch.cuda.is_available() if device == 'auto' else device.startswith('cuda')
        self.kind = 'cuda' if cuda else 'cpu'
        self.scale = scale
        self.rng = np.random.default_rng(seed)
        self.rows: list[Row] = []
        self.curves: dict[str, Any] = {}

    def repetitions(self, count: int) -> int:
        """A repetition count of the full run, scaled."""
        return max(3, int(count * self.scale))

    @contextmanager
    def engine(
        self, *, budget_bytes: int | None = None, later: Collection[str] = (), **entries: dict[str, Any]
    ) -> Iterator[Engine]:
        """An engine with changed examples: name of the new entry = {'like': example, changed keys...}.

        All are loaded but those that come `later`.
        """
        with tempfile.TemporaryDirectory() as folder:
            for name, changes in entries.items():
                entry = yaml.safe_load((MODELS / f'{changes["like"]}.yaml').read_text('utf-8'))
                entry |= {'name': name, 'device': self.device} | changes
                del entry['like']
                entry = {key: value for key, value in entry.items() if value is not None}
                (Path(folder) / f'{name}.yaml').write_text(yaml.safe_dump(entry), 'utf-8')
            with Engine(Catalogue(folder), budget_bytes=budget_bytes) as engine:
                for name in entries.keys() - set(later):
                    load_with_bar(engine, name)
                yield engine

    def add(self, row: Row, *, at_most: float | None = None, at_least: float | None = None) -> None:
        """Keep and print a result, held against its target."""
        row.target = at_most if at_most is not None else at_least
        if row.target is not None:
            row.met = row.value <= row.target if at_most is not None else row.value >= row.target
        self.rows.append(row)
        verdict = '' if row.met is None else f'  target {row.target:g}: {"met" if row.met else "MISSED"}'
        others = ''.join(f'  {name} {value:.4g}' for name, value in row.reference.items())
        tqdm.write(f'{row.name:<42} {row.value:>10.4g} {row.unit:<9} n={row.n}{others}{verdict}')

    def median(self, name: str, seconds: np.ndarray, unit: str, reference: dict[str, float], **target: float) -> None:
        """Keep the median of durations with a bootstrap interval."""
        factor = {'ms': 1e3, 'us': 1e6}[unit]
        draws = self.rng.choice(seconds, (200, len(seconds)))
        low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975]) * factor
        others = {'p99': float(np.quantile(seconds, 0.99)) * factor, **reference}
        value = float(np.median(seconds)) * factor
        self.add(Row(name, value, unit, len(seconds), [float(low), float(high)], others), **target)


def repeat(action: Callable[[], float], count: int, desc: str) -> np.ndarray:
    """Results of an action, after a tenth as many warm-up runs."""
    for _ in range(max(3, count // 10)):
        action()
    return np.array([action() for _ in tqdm(range(count), desc=desc, leave=False, disable=None)])


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def conditions(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=ROOT, capture_output=True, text=True, check=False)
    cuda = torch.cuda.is_available()
    return {
        'commit': commit.stdout.strip() or 'unknown',
        'python': platform.python_version(),
        'numpy': np.__version__,
        'torch': torch.__version__,
        'processor': platform.processor() or platform.machine(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'load_average': os.getloadavg()[0],
        'gpu': torch.cuda.get_device_name() if cuda else '',
        'device': arguments.device,
        'scale': arguments.scale,
        'seed': arguments.seed,
    }


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    temporary.write_bytes(content)
    temporary.replace(path)


def save_figure(figure: Any, path: Path) -> None:
    """Write a picture whole or not at all."""
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix('.') or 'png', dpi=120)
    write_atomically(path, buffer.getvalue())


def write_results(bench: Bench, path: Path, conditions: dict[str, Any]) -> None:
    """Write the rows in the suite's schema."""
    arguments = [Path(word).name if word.startswith('/') else word for word in sys.argv[1:]]
    command = ' '.join(['python', f'benchmarks/{Path(sys.argv[0]).name}', *arguments])
    results = {'schema': 1, 'command': command, 'conditions': conditions, 'rows': [asdict(row) for row in bench.rows]}
    write_atomically(path, json.dumps(results, indent=1).encode())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark of the runtime has."""
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:1 (default: auto)')
    parser.add_argument('--scale', type=float, default=1.0, help='multiplies repetitions and durations (default: 1)')
    parser.add_argument('--seed', type=int, default=0, help='of inputs and arrivals (default: 0)')
    parser.add_argument('--json', type=Path, help='write the results here')
