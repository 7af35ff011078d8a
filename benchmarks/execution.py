"""How much longer than the plan do wheels take? `python benchmarks/execution.py`.

The shipped fleet (network, shield, dependency graph, controller) drives the embedded simulator in one process, without
ROS: simulated seconds to the last arrival, simulated seconds a decision, contacts. Commands take hold one control
period after the poses that they were computed from. Results do not depend on how quick the machine is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from attn_robotics.simulation.embedded import EmbeddedSimulator
from attn_robotics.simulation.mjcf import Body
from attn_robotics.simulation.world import World
from attn_robotics.systems.sparc.fleet import Fleet
from attn_robotics.systems.sparc.motion import MotionLimits
from attn_robotics.systems.sparc.policy import SparcPolicy
from attn_robotics.systems.sparc.report import Row, conditions, table, write_json

PERIOD_S = 0.05  # of control
LIMIT_S = 900.0
FLEETS = ('8x20/0.15', '32x20/0.30', '128x40/0.30')


def drive(robots: int, size: int, density: float, seed: int, body: Body) -> tuple[float, int, int, bool]:
    """One run; returns simulated seconds, decisions, contact events and whether all arrived."""
    world = World.from_description(
        {'map': {'random': {'size': size, 'density': density}}, 'robots': robots, 'seed': seed}
    )
    simulator = EmbeddedSimulator(world, body=body)
    limits = MotionLimits.of(world.robot, latency_s=PERIOD_S)
    starts = world.instance.starts.astype(np.int32)
    fleet = Fleet(world.instance.grid, world.frame, world.names, starts, SparcPolicy.load(), limits)
    for robot, goal in enumerate(world.instance.goals.astype(np.int32)):
        fleet.set_goal(robot, goal)
    while simulator.time < LIMIT_S and not fleet.has_arrived:
        now_s = simulator.time
        for robot, pose in enumerate(simulator.poses().tolist()):
            fleet.observe(robot, (pose[0], pose[1], pose[2]), now_s)
        fleet.advance(now_s)
        if fleet.is_due(now_s):
            fleet.decide(now_s)
        linear, angular = fleet.velocities(PERIOD_S)
        simulator.step(PERIOD_S)
        simulator.command(linear, angular)
    return simulator.time, fleet.tick, simulator.contact_events, fleet.has_arrived


def measure(case: str, seeds: int, body: Body) -> list[Row]:
    """Rows of one fleet, such as `32x20/0.30`: robots, side of the map, density."""
    fleet, density = case.split('/')
    robots, size = map(int, fleet.split('x'))
    runs = [
        drive(robots, size, float(density), seed, body)
        for seed in tqdm(range(seeds), desc=case, disable=not sys.stderr.isatty())
    ]
    seconds, decisions, contacts, arrived = (np.array(column) for column in zip(*runs, strict=True))
    name = f'{body}/{case}'
    return [
        Row(f'makespan/{name}', float(seconds.mean()), 'simulated s', seeds),
        Row(f'decisions/{name}', float(decisions.mean()), '', seeds),
        Row(f'decision_interval/{name}', float((seconds / decisions).mean()), 'simulated s', seeds),
        Row(f'contacts/{name}', float(contacts.sum()), '', seeds),
        Row(f'arrived/{name}', float(arrived.mean()), '', seeds),
    ]


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description='Execution of plans on wheels, in simulated seconds.')
    parser.add_argument(
        '--fleets', nargs='+', default=list(FLEETS), help=f'robots x side / density ({" ".join(FLEETS)})'
    )
    parser.add_argument('--seeds', type=int, default=10, help='runs of each fleet, seeds 0 and on (default 10)')
    parser.add_argument('--body', choices=('disc', 'wheeled'), default='disc', help='of the robots (default disc)')
    parser.add_argument('--json', type=Path, help='write the rows here')
    args = parser.parse_args()
    rows = [row for case in args.fleets for row in measure(case, args.seeds, args.body)]
    print(table(('name', 'value', 'unit'), [(row.name, f'{row.value:.2f}', row.unit) for row in rows]))
    if args.json:
        where = conditions({'seeds': list(range(args.seeds)), 'control_period_s': PERIOD_S})
        write_json(args.json, ' '.join(['execution', *sys.argv[1:]]), rows, where)
    return 0


if __name__ == '__main__':
    sys.exit(main())
