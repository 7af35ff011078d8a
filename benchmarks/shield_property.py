"""Throw random policies at the shield and judge every joint move; the claim is a million joint steps (`--steps`).

Maps, fleets, preferences (smooth, tied, infinite, adversarial), priorities, frozen robots and options are drawn anew
all the time; half of the fleets take the decision that ships, with its searches for a way out. The judge shares no
code with the shield. One conflict ends the run with exit code 1 and its seed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.gridworld import count_conflicts
from attn_robotics.systems.sparc.jobs import Kept, run_jobs
from attn_robotics.systems.sparc.report import Row, conditions, write_json
from attn_robotics.systems.sparc.shield import Shield, ShieldConfig

STEPS_PER_FLEET = 50


@dataclass(frozen=True)
class Verdict:
    """What was seen of one fleet."""

    moves: int  # robot moves decided
    conflicts: int


def check_fleet(seed: int, steps: int) -> Verdict:
    """Walk one random fleet."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 14, 2)
    grid = rng.random(shape) < rng.choice([0.0, 0.15, 0.3, 0.45])
    grid[0, 0] = False
    free = np.argwhere(~grid).astype(np.int32)
    robots = int(rng.integers(1, len(free) + 1))
    cells, goals = rng.permutation(free)[:robots], rng.permutation(free)[:robots]
    distances = distance_fields(grid, goals)
    ships = bool(rng.integers(2))
    config = ShieldConfig(
        swap=ships or bool(rng.integers(2)),
        allow_rotation=bool(rng.integers(2)),
        rescue_after=int(rng.integers(1, 8)),
        distance_weight=float(rng.choice([0.0, 1.0, 5.0])),
        confidence=float(rng.choice([0.0, 0.4, 1.0])),
    )
    shield = Shield(grid, config)
    frozen = rng.random(robots) < rng.choice([0.0, 0.2])
    conflicts = 0
    for _ in range(steps):
        kind = rng.integers(4)
        preferences = rng.normal(size=(robots, 5))
        if kind == 1:
            preferences = preferences.round()
        elif kind == 2:
            preferences = np.where(preferences > 0, np.inf, -np.inf)
        elif kind == 3:  # everybody insists on one direction
            preferences[:, rng.integers(4)] += 100
        priorities = 10 * rng.random(robots)
        if ships:
            actions = shield.decide(cells, preferences, priorities, goals, distances, rng=rng, frozen=frozen)
        else:
            actions = shield.resolve(
                cells, preferences, priorities, rng=rng, goals=goals, distances=distances, frozen=frozen
            )
        after = cells + MOVES[actions]
        conflicts += count_conflicts(grid, cells, after) + int((after != cells)[frozen].any())
        cells = after
    return Verdict(robots * steps, conflicts)


def _check(seed: int) -> Verdict:
    return check_fleet(seed, STEPS_PER_FLEET)


def main() -> int:
    """Run the check; returns the exit code."""
    parser = argparse.ArgumentParser(description='Judge the shield on random joint steps.')
    parser.add_argument('--steps', type=int, default=20_000, help='joint steps (default 20000; the claim: 1000000)')
    parser.add_argument('--seed', type=int, default=0, help='of the first fleet')
    parser.add_argument('--jobs', type=int, default=1, help='processes (default 1)')
    parser.add_argument('--keep', type=Path, help='keep finished runs here, and go on from those that are there')
    parser.add_argument('--json', type=Path, help='write the rows here')
    args = parser.parse_args()
    fleets = -(-args.steps // STEPS_PER_FLEET)
    seeds, moves = range(args.seed, args.seed + fleets), 0
    kept = Kept(args.keep, str, Verdict)
    outcomes = tqdm(
        run_jobs(_check, seeds, args.jobs, kept), total=fleets, unit='fleet', disable=not sys.stderr.isatty()
    )
    for seed, seen in zip(seeds, outcomes, strict=True):
        moves += seen.moves
        if seen.conflicts:
            print(f'shield_property: {seen.conflicts} conflicts with seed {seed}', file=sys.stderr)
            return 1
    steps = fleets * STEPS_PER_FLEET
    print(f'{steps} joint steps, {moves} robot moves: 0 conflicts')
    if args.json:
        rows = [Row('conflicts/shield/random', 0.0, '', steps)]
        write_json(args.json, ' '.join(['shield_property', *sys.argv[1:]]), rows, conditions({'seeds': [args.seed]}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
