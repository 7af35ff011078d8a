"""What the command lines of trainings by `fit` and of their evaluations have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from attn_robotics.training.checkpoint import CheckpointError
from attn_robotics.training.fit import Fit, fit
from attn_robotics.training.results import Row, show, write_results

Measured = tuple[list[Row], Sequence[int]]  # rows, and the seeds behind them


def training_parser(doc: str | None, *, seeds: int, epochs: int, out: Path) -> argparse.ArgumentParser:
    """A parser of what every training asks for, with its defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, default=seeds, help=f'how many seeds, 0 and up (default {seeds})')
    parser.add_argument('--epochs', type=int, default=epochs, help=f'default {epochs}')
    parser.add_argument('--out', type=Path, default=out, help='folder; every variant gets one below it')
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--seconds', type=float, default=1e9, help='save and leave after this long')
    parser.add_argument('--resume', action='store_true', help='go on from the checkpoint in --out')
    return parser


def find_device(parser: argparse.ArgumentParser, name: str) -> torch.device:
    """The device of that name; one that is not there ends the command with one line."""
    device = torch.device(name)
    if device.type == 'cuda' and not torch.cuda.is_available():
        parser.error(f'--device {name}: torch sees no GPU here; use cpu')
    return device


def run_fits(prepare: Callable[[], list[Fit]], seconds: float) -> int:
    """Prepare runs and train them side by side; returns the exit code: 3 when the time was over before the end."""
    try:
        fits = prepare()
    except CheckpointError as error:
        print(f'train: {error}', file=sys.stderr)
        return 1
    return 0 if fit(fits, seconds=seconds) else 3


def run_evaluation(
    doc: str | None,
    module: str,
    compare: Callable[[Path, torch.device, Path | None], Measured],
    measure_shipped: Callable[[torch.device, Path | None], Measured],
    arguments: list[str] | None,
) -> int:
    """Measure what a training left, or what ships, and show and write the rows; returns the exit code.

    Args:
        doc: description of the command.
        module: named in the results.
        compare: measures the runs in a folder, on a device; pictures go to a folder or nowhere.
        measure_shipped: the same of what ships.
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=Path, help='folder of train --out; what ships is measured when left out')
    parser.add_argument('--json', type=Path, help='write the rows here')
    parser.add_argument('--pictures', type=Path, help='folder for PNG files')
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    options = parser.parse_args(arguments)
    device = find_device(parser, options.device)
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
    try:
        if options.runs is not None:
            rows, seeds = compare(options.runs, device, options.pictures)
        else:
            rows, seeds = measure_shipped(device, options.pictures)
    except (CheckpointError, ValueError, OSError) as error:
        print(f'evaluate: {error}', file=sys.stderr)
        return 1
    print(show(rows))
    if options.json is not None:
        command = f'python -m {module}' + (f' --runs runs/{options.runs.name}' if options.runs else '')
        write_results(options.json, rows, command, list(seeds), torch=torch.__version__, device=options.device)
    return 0
