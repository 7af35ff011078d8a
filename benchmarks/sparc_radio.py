"""Robots that plan for themselves over a bad radio: `python benchmarks/sparc_radio.py --jobs 8`.

Runs the robots' own code (`systems.sparc.robot`) without ROS: in every tick each robot hears what the radio brought,
computes, and sends; wheels are ideal and take a tick for a cell. The same instances run once with a perfect radio and
once with loss and delay. Loss can not change a decision, because a step waits for everybody's note; it costs time, so
the limit counts ticks: what a perfect radio would need for `--steps` decisions.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from attn_robotics.simulation.faults import Faults, LossyChannel
from attn_robotics.simulation.grid import GridFrame
from attn_robotics.simulation.instances import random_instance
from attn_robotics.systems.sparc.gridworld import count_conflicts
from attn_robotics.systems.sparc.jobs import Kept, run_jobs
from attn_robotics.systems.sparc.note import Note
from attn_robotics.systems.sparc.policy import SparcPolicy
from attn_robotics.systems.sparc.report import Row, conditions, mean_interval, table, wilson, write_json
from attn_robotics.systems.sparc.robot import RobotAgent, RobotConfig
from attn_robotics.systems.sparc.weights_card import verify_weights

TICK_S = 0.1


@dataclass(frozen=True)
class Radio:
    """A fault model."""

    name: str
    loss: float
    delay_ticks: int


@dataclass(frozen=True)
class Run:
    """How one fleet fared."""

    solved: bool
    ticks: int
    steps: int  # decision steps
    bytes_per_tick: float  # sent by each robot
    conflicts: int  # executed; must be 0


@cache
def _loaded() -> SparcPolicy:
    return SparcPolicy.load(threads=1)


def run(robots: int, size: int, density: float, seed: int, radio: Radio, max_ticks: int) -> Run:
    """Let one fleet drive until everybody stands on the goal or time is up."""
    instance = random_instance(size, density, robots, seed)
    frame = GridFrame(size, size)
    names = tuple(f'robot_{index}' for index in range(robots))
    config = RobotConfig(shortest_s=0.0, lost_s=1e6, start_s=1e6, seed=seed)
    agents = [RobotAgent(name, names, instance.grid, frame, _loaded().twin(), config=config) for name in names]
    for agent, goal in zip(agents, instance.goals.tolist(), strict=True):
        agent.set_goal((goal[0], goal[1]))
    faults = Faults(message_loss=radio.loss, message_delay_s=radio.delay_ticks * TICK_S, seed=seed)
    ears: list[LossyChannel[Note]] = [LossyChannel(faults, index) for index in range(robots)]
    cells, sent, conflicts = instance.starts.copy(), 0, 0
    for tick in range(max_ticks):
        now_s = tick * TICK_S
        before = cells.copy()
        for index, agent in enumerate(agents):
            for note in ears[index].pop_due(now_s + 1e-6):
                agent.receive(note, now_s)
            x, y = frame.to_xy(cells[index])
            agent.pose = (float(x), float(y), 0.0)
            agent.advance(now_s, now_s)
            cells[index] = agent.next_cell or cells[index]
        conflicts += count_conflicts(instance.grid, before, cells)
        for index, agent in enumerate(agents):
            for note in agent.outgoing():
                sent += note.size_bytes
                for other in range(robots):
                    if other != index:
                        ears[other].push(note, now_s)
            agent.prepare()
        if all(agent.has_arrived for agent in agents) and (cells == instance.goals).all():
            break
    solved = bool((cells == instance.goals).all())
    steps = max(agent.step for agent in agents)
    return Run(solved, tick + 1, steps, sent / robots / (tick + 1), conflicts)


def _job(job: tuple[int, int, float, int, Radio, int]) -> Run:
    return run(*job)


def main() -> int:
    """Run the study; returns the exit code."""
    parser = argparse.ArgumentParser(description='Decentralised robots over a perfect and over a bad radio.')
    parser.add_argument('--robots', type=int, default=32, help='robots (default 32)')
    parser.add_argument('--size', type=int, default=20, help='side of the map (default 20)')
    parser.add_argument('--density', type=float, default=0.3, help='obstacle probability (default 0.3)')
    parser.add_argument('--seeds', type=int, default=100, help='instances 0..N-1 (default 100)')
    parser.add_argument('--loss', type=float, default=0.1, help='share of lost messages (default 0.1)')
    parser.add_argument('--delay', type=int, default=1, help='extra delay in ticks (default 1)')
    parser.add_argument('--steps', type=int, default=256, help='decisions within which to arrive (default 256)')
    parser.add_argument('--jobs', type=int, default=1, help='processes (default 1)')
    parser.add_argument('--keep', type=Path, help='keep finished runs here, and go on from those that are there')
    parser.add_argument('--json', type=Path, help='write the rows here')
    args = parser.parse_args()
    verify_weights()
    radios = (Radio('perfect_radio', 0.0, 0), Radio('bad_radio', args.loss, args.delay))
    # A note arrives in the tick after it was sent, and wheels take one more to free a cell.
    max_ticks = 2 * args.steps
    work = [
        (args.robots, args.size, args.density, seed, radio, max_ticks) for seed in range(args.seeds) for radio in radios
    ]
    runs: dict[str, list[Run]] = {radio.name: [] for radio in radios}
    try:
        outcomes = tqdm(
            run_jobs(_job, work, args.jobs, Kept(args.keep, repr, Run)),
            total=len(work),
            disable=not sys.stderr.isatty(),
        )
        for job, outcome in zip(work, outcomes, strict=True):
            runs[job[4].name].append(outcome)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    case, rows = f'{args.robots}x{args.size}/{args.density:.2f}', list[Row]()
    for name, done in runs.items():
        solved = [one for one in done if one.solved]
        share = len(solved) / len(done)
        rows.append(Row(f'success_rate/{name}/{case}', share, '', len(done), wilson(len(solved), len(done))))
        for what, unit, values in (
            ('ticks', 'ticks', [float(one.ticks) for one in solved]),
            ('steps', 'decisions', [float(one.steps) for one in solved]),
            ('bytes_per_tick', 'B per robot and tick', [one.bytes_per_tick for one in done]),
        ):
            mean = float(np.mean(values)) if values else None
            rows.append(Row(f'{what}/{name}/{case}', mean, unit, len(values), mean_interval(values)))
        rows.append(Row(f'conflicts/{name}/{case}', float(sum(one.conflicts for one in done)), '', len(done)))
    perfect, bad = (float(np.mean([one.solved for one in runs[radio.name]])) for radio in radios)
    rows.append(Row(f'success_loss/bad_radio/{case}', perfect - bad, '', args.seeds))
    print(table(('name', 'value', 'unit'), [(row.name, f'{row.value or 0:.3f}', row.unit) for row in rows]))
    if args.json:
        where = {'seeds': f'0..{args.seeds - 1}', 'loss': args.loss, 'delay_ticks': args.delay, 'max_ticks': max_ticks}
        write_json(args.json, ' '.join(['sparc_radio', *sys.argv[1:]]), rows, conditions(where))
    return 0


if __name__ == '__main__':
    sys.exit(main())
