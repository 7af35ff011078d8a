"""Time the perception models through the engine, one request after another: `python benchmarks/perception.py --help`.

A request includes checking, gathering, the model and, on CUDA, both copies. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from attn_robotics.paths import config_folders
from attn_robotics.runtime.catalogue import Catalogue
from attn_robotics.runtime.engine import Engine
from attn_robotics.systems.aga.data import Kitchens
from attn_robotics.systems.ship_trajectory.config import ShipConfig
from attn_robotics.systems.ship_trajectory.data import Traffic, draw_scenes
from attn_robotics.systems.ship_trajectory.processor import inputs_of_scenes
from attn_robotics.training.results import Row, show, write_results

Arrays = dict[str, np.ndarray]


def time_requests(ask: Callable[[int], object], count: int) -> np.ndarray:
    """(count,) milliseconds of a request each, after a tenth as many to warm up."""
    for number in range(max(5, count // 10)):
        ask(number)
    spent = []
    for number in range(count):
        start = time.perf_counter()
        ask(number)
        spent.append(1e3 * (time.perf_counter() - start))
    return np.array(spent)


def rows_of(name: str, spent: np.ndarray, target: float | None) -> list[Row]:
    """p50, held against its target, and p99."""
    p50, p99 = np.percentile(spent, [50, 99])
    return [
        Row(f'p50/{name}', float(p50), 'ms', len(spent), target=target, below=True),
        Row(f'p99/{name}', float(p99), 'ms', len(spent)),
    ]


def main() -> int:
    """Time everything; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--requests', type=int, default=500, help='of each kind (default 500)')
    parser.add_argument('--threads', type=int, default=1, help='of torch (default 1)')
    parser.add_argument('--json', type=Path, help='write the rows here')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    frames = Kitchens().draw(64, 20, range(100, 108), 0)[0]
    rows = []
    folders = [folder / 'models' for folder in config_folders()]
    with Engine(Catalogue(*folders)) as engine:
        devices = {engine.load(model).result().device for model in ('aga', 'ship_trajectory')}
        device = ', '.join(sorted(devices))
        is_gpu = device.startswith('cuda')
        for streams in (1, 16, 64):

            def step(number: int, streams: int = streams) -> object:
                inputs = {'features': frames[:streams, number % 20], 'dt_s': np.ones(streams, np.float32)}
                return engine.infer('aga', inputs, stream=f'{streams} streams', deadline_s=60.0)

            target = (0.3 if is_gpu else 5.0) if streams == 1 else None
            rows += rows_of(f'aga/{streams} streams', time_requests(step, options.requests), target)
        for vessels in (4, 16, 50):
            scenes = draw_scenes(Traffic(vessels=vessels), 1, 21, 0)
            inputs, _ = inputs_of_scenes(scenes, ShipConfig())

            def predict(number: int, inputs: Arrays = inputs) -> object:
                return engine.infer('ship_trajectory', inputs, deadline_s=60.0)

            target = (2.0 if is_gpu else 10.0) if vessels == 50 else None
            rows += rows_of(f'ship_trajectory/{vessels} vessels', time_requests(predict, options.requests), target)
    print(f'{device}, {options.threads} threads')
    print(show(rows))
    if options.json is not None:
        where = {'device': device, 'threads': options.threads, 'torch': torch.__version__}
        write_results(options.json, rows, 'python benchmarks/perception.py', [0], **where)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
