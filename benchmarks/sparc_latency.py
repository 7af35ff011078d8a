"""Latency of SPARC's decision, part by part, on this machine: `python benchmarks/sparc_latency.py`.

The shield is timed along real episodes (random maps at 30 % obstacles, PIBT with swap driving), because crowds make
longer chains than random cells do. The joint decision, from cells to shielded actions, is timed along the episodes that
it drives itself: `--parts decision`, on a GPU with `--device cuda`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from attn_robotics.simulation.instances import random_instance
from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.expert import rollout
from attn_robotics.systems.sparc.report import Row, conditions, table, write_json
from attn_robotics.systems.sparc.shield import Priorities, Shield, ShieldConfig

PARTS = ('decision', 'policy', 'shield_of_decision', 'search_ahead')
FLEETS = ((8, 20), (128, 40), (1024, 113))
WARM_UP = 10


def percentiles(name: str, case: str, seconds: list[float]) -> list[Row]:
    """Rows of the median and the 99th percentile in milliseconds, warm-up left out."""
    timed = 1e3 * np.array(seconds[WARM_UP:])
    return [Row(f'latency_p{q}/{name}/{case}', float(np.percentile(timed, q)), 'ms', len(timed)) for q in (50, 99)]


def time_shield(robots: int, size: int, steps: int) -> list[Row]:
    """Time the shield alone (without and with the swap rule) and the shipped decision around it."""
    case = f'{robots}x{size}/0.30'
    instance = random_instance(size, 0.3, robots, 0)
    distances = distance_fields(instance.grid, instance.goals)
    shield, rng = Shield(instance.grid, ShieldConfig()), np.random.default_rng(0)
    priorities, cells = Priorities(robots, 0), instance.starts
    spent: dict[str, list[float]] = {'shield': [], 'shield_swap': [], 'shipped_decision': [], 'search_ahead': []}
    for _ in tqdm(range(steps + WARM_UP), desc=f'shield {case}', disable=not sys.stderr.isatty()):
        log_probs = np.log(rng.dirichlet(np.full(5, 0.3), robots) + 1e-9)
        for name, swap in (('shield', False), ('shield_swap', True)):
            begin = time.perf_counter()
            shield.resolve(
                cells, log_probs, priorities.values, rng=rng, goals=instance.goals, distances=distances, swap=swap
            )
            spent[name].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        shield.decide(cells, log_probs, priorities.values, instance.goals, distances, rng=rng)
        middle = time.perf_counter()
        shield.prepare()
        spent['shipped_decision'].append(middle - begin)
        spent['search_ahead'].append(time.perf_counter() - middle)
        gained = shield.steps_gained(cells, distances)
        actions = shield.resolve(cells, gained, priorities.values, rng=rng, goals=instance.goals, distances=distances)
        cells = cells + MOVES[actions]
        priorities.update((cells == instance.goals).all(axis=1))
    return [row for name, seconds in spent.items() for row in percentiles(name, case, seconds)]


def time_decision(robots: int, size: int, steps: int, device: str, backend: str) -> list[Row]:
    """Time the joint decision of a fleet, observation to shielded actions, and its parts.

    The search for ways out of deadlocks is made when the actions are out, so it is timed beside the decision.
    """
    from attn_robotics.systems.sparc.policy import SparcPolicy

    policy = SparcPolicy.load(device=device, backend=backend)
    where = 'onnxruntime' if policy.decider.backend == 'onnxruntime' else device.split(':')[0]
    case = f'{robots}x{size}/0.30'
    spent: dict[str, list[float]] = {f'{part}_{where}': [] for part in PARTS}
    seed = 0
    while len(spent[f'decision_{where}']) < steps + WARM_UP:
        instance = random_instance(size, 0.3, robots, seed)
        distances = distance_fields(instance.grid, instance.goals)
        shield, rng, cells = Shield(instance.grid), np.random.default_rng(seed), instance.starts
        policy.reset(instance.grid, instance.goals, distances, seed=seed)
        actions = None
        for _ in tqdm(range(256), desc=f'decision {where} {case}', disable=not sys.stderr.isatty()):
            begin = time.perf_counter()
            log_probs = policy.step(
                cells,
                actions,
                meanwhile=lambda: shield.look(cells, instance.goals, distances, policy.priorities),  # noqa: B023
            )
            middle = time.perf_counter()
            actions = shield.decide(cells, log_probs, policy.priorities, instance.goals, distances, rng=rng)
            end = time.perf_counter()
            shield.prepare()
            spent[f'search_ahead_{where}'].append(time.perf_counter() - end)
            spent[f'decision_{where}'].append(end - begin)
            spent[f'policy_{where}'].append(middle - begin)
            spent[f'shield_of_decision_{where}'].append(end - middle)
            cells = cells + MOVES[actions]
            if (cells == instance.goals).all() or len(spent[f'decision_{where}']) >= steps + WARM_UP:
                break
        seed += 1
    return [row for name, seconds in spent.items() for row in percentiles(name, case, seconds)]


def time_stages(robots: int, size: int, steps: int, device: str) -> list[Row]:
    """Time the parts of the policy's decision on a GPU, each captured by itself, launch and wait included."""
    import torch

    from attn_robotics.systems.sparc.policy import SparcPolicy

    instance = random_instance(size, 0.3, robots, 0)
    policy = SparcPolicy.load(device=device)
    policy.reset(instance.grid, instance.goals)
    policy.step(instance.starts)
    captured, rows = policy.captured, list[Row]()
    if captured is None:
        raise ValueError(f'stages are timed on a GPU, not on {device}')
    stream = torch.cuda.Stream()
    graphs = []  # all are kept: each reads what the graph before it holds
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(3):
            for stage in captured.stages().values():
                stage()
        stream.synchronize()
        for name, stage in captured.stages().items():
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                stage()
            graphs.append(graph)
            seconds = []
            for _ in range(steps + WARM_UP):
                begin = time.perf_counter()
                graph.replay()
                stream.synchronize()
                seconds.append(time.perf_counter() - begin)
            rows += percentiles(f'{name}_cuda', f'{robots}x{size}/0.30', seconds)
    return rows


def time_experts() -> list[Row]:
    """Agent-steps per second and core of the experts that label training data."""
    rows = []
    instances = [random_instance(40, 0.3, 128, seed) for seed in range(10)]
    fields = [distance_fields(instance.grid, instance.goals) for instance in instances]
    for method in ('pibt', 'pibt_swap', 'search'):
        rollout(instances[0], method=method, distances=fields[0])
        begin, moves = time.perf_counter(), 0
        for seed, (instance, field) in enumerate(zip(instances, fields, strict=True)):
            moves += (len(rollout(instance, method=method, seed=seed, distances=field)) - 1) * instance.robots
        rate = moves / (time.perf_counter() - begin)
        rows.append(Row(f'throughput/{method}/128x40/0.30', rate / 1e6, 'M agent-steps/s/core', len(instances)))
    return rows


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description='Latency of the parts of a SPARC decision on this machine.')
    parser.add_argument(
        '--parts',
        default='shield,experts',
        help='comma-separated: shield, experts, decision, stages (default shield,experts)',
    )
    parser.add_argument('--device', default='cpu', help='of the decision (default cpu)')
    parser.add_argument('--backend', choices=('auto', 'torch', 'onnxruntime'), default='auto', help='of the decision')
    parser.add_argument('--robots', help='comma-separated: only these of 8, 128 and 1024')
    parser.add_argument('--steps', type=int, default=500, help='timed decisions of each kind (default 500)')
    parser.add_argument('--json', type=Path, help='write the rows here')
    args = parser.parse_args()
    parts = args.parts.split(',')
    if unknown := set(parts) - {'shield', 'experts', 'decision', 'stages'}:
        known = 'shield, experts, decision and stages'
        print(f'sparc_latency: no part {sorted(unknown)[0]!r}; there are {known}', file=sys.stderr)
        return 2
    wanted = [int(count) for count in args.robots.split(',')] if args.robots else [robots for robots, _ in FLEETS]
    fleets = [(robots, size) for robots, size in FLEETS if robots in wanted]
    rows: list[Row] = []
    if 'shield' in parts:
        for robots, size in fleets:
            rows += time_shield(robots, size, args.steps)
    for robots, size in fleets:
        for part in ('decision', 'stages'):
            if part not in parts:
                continue
            try:
                if part == 'decision':
                    rows += time_decision(robots, size, args.steps, args.device, args.backend)
                else:
                    rows += time_stages(robots, size, args.steps, args.device)
            except ValueError as error:
                print(f'sparc_latency: {error}', file=sys.stderr)
                return 2
    if 'experts' in parts:
        rows += time_experts()
    print(table(('name', 'value', 'unit'), [(row.name, f'{row.value:.3f}', row.unit) for row in rows]))
    if args.json:
        where = {'seeds': [0], 'cpus': len(os.sched_getaffinity(0)), 'device': args.device}
        if args.device.startswith('cuda'):
            import torch

            where |= {'device': torch.cuda.get_device_name(args.device), 'torch': torch.__version__}
        write_json(args.json, ' '.join(['sparc_latency', *sys.argv[1:]]), rows, conditions(where))
    return 0


if __name__ == '__main__':
    sys.exit(main())
