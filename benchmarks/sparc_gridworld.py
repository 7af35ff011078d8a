"""Agent-steps per second of the batched grid world, with and without observations: `--device cuda` on a GPU."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attn_robotics.simulation.instances import random_instance
from attn_robotics.systems.sparc.gridworld_torch import BatchedGridWorld, distance_fields
from attn_robotics.systems.sparc.report import Row, conditions, table, write_json

DRAWN = 64  # different maps, repeated over the fleets


def measure(run: Callable[[], None], steps: int, agents: int, device: torch.device) -> float:
    """Million agent-steps per second after a warm-up of a tenth."""
    for _ in range(max(steps // 10, 3)):
        run()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    for _ in range(steps):
        run()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return steps * agents / (time.perf_counter() - begin) / 1e6


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description='Throughput of the batched grid world.')
    parser.add_argument('--device', default='cpu', help='torch device (default cpu)')
    parser.add_argument('--fleets', type=int, default=1024, help='fleets at once (default 1024; a GPU wants 16384)')
    parser.add_argument('--robots', type=int, default=8, help='robots of a fleet (default 8)')
    parser.add_argument('--size', type=int, default=20, help='side of the maps (default 20)')
    parser.add_argument('--density', type=float, default=0.3, help='obstacle probability (default 0.3)')
    parser.add_argument('--steps', type=int, default=50, help='timed steps (default 50)')
    parser.add_argument('--json', type=Path, help='write the rows here')
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == 'cuda' and not torch.cuda.is_available():
        print('sparc_gridworld: no CUDA device here; run with --device cpu', file=sys.stderr)
        return 2
    drawn = [random_instance(args.size, args.density, args.robots, seed) for seed in range(DRAWN)]

    def spread(name: str) -> Tensor:
        stacked = torch.as_tensor(np.stack([getattr(instance, name) for instance in drawn]), device=device)
        return stacked.repeat(-(-args.fleets // DRAWN), 1, 1)[: args.fleets].clone()

    world = BatchedGridWorld(spread('grid'), spread('starts'), spread('goals'))
    agents = args.fleets * args.robots
    wishes = [torch.randint(0, 5, (args.fleets, args.robots), device=device) for _ in range(8)]
    turn = 0

    def step() -> None:
        nonlocal turn
        world.step(wishes[turn % len(wishes)])
        turn += 1

    case = f'{args.fleets}x{args.robots}x{args.size}/{args.density:.2f}'
    unit = 'M agent-steps/s'
    rows = [Row(f'throughput/gridworld_{device.type}/{case}', measure(step, args.steps, agents, device), unit, 1)]
    try:
        from attn_robotics.systems.sparc.processor_torch import observe_batch
    except ImportError as error:
        print(f'without observations: {error}', file=sys.stderr)
    else:
        distances = distance_fields(world.grids, world.goals)
        fleet = torch.arange(args.fleets, device=device)[:, None].expand(-1, args.robots)
        waited = torch.zeros(args.fleets, args.robots, device=device)
        history = torch.zeros(args.fleets, args.robots, 4, dtype=torch.int64, device=device)

        def step_and_observe() -> None:
            step()
            observe_batch(world.grids, fleet, world.cells, world.goals, distances, waited, history, 3)

        rate = measure(step_and_observe, args.steps, agents, device)
        rows.append(Row(f'throughput/gridworld_observed_{device.type}/{case}', rate, unit, 1))
    print(table(('name', 'value', 'unit'), [(row.name, f'{row.value:.2f}', row.unit) for row in rows]))
    if args.json:
        name = torch.cuda.get_device_name(device) if device.type == 'cuda' else f'{torch.get_num_threads()} threads'
        where = conditions({'device': name, 'torch': torch.__version__})
        write_json(args.json, ' '.join(['sparc_gridworld', *sys.argv[1:]]), rows, where)
    return 0


if __name__ == '__main__':
    sys.exit(main())
