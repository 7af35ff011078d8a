"""Quick success rates during training, on the training device; `evaluate` is the measure that counts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attn_robotics.simulation.instances import Instance, random_instance
from attn_robotics.systems.sparc import suites
from attn_robotics.systems.sparc.data import FleetWorlds, TeamMix
from attn_robotics.systems.sparc.fleet_rules import EXPERT, ONE_WINNER, SHIELD, SHIELD_SWAP
from attn_robotics.systems.sparc.lanes import Lane, decide
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.training.graphs import Replayed

RULE_NAMES = {EXPERT: 'expert', SHIELD: 'shield', ONE_WINNER: 'bare', SHIELD_SWAP: 'shield_swap'}
_CAPTURE = Lock()  # one graph is captured at a time


@lru_cache(maxsize=1024)
def _instance(side: int, density: float, robots: int, seed: int) -> Instance:
    return random_instance(side, density, robots, seed)


class Wishes:
    """Noisy preferences of all fleets of a lane, step by step; on a GPU from the fourth step on as one graph.

    Args:
        network: decides.
        lane: worlds.
        temperature: of the Gumbel noise.
        seed: of the noise.
    """

    def __init__(self, network: SparcNetwork, lane: Lane, temperature: float, seed: int) -> None:
        self._network, self._lane, self._temperature = network, lane, temperature
        self._state, self._waited = lane.pack()
        self._message = network.empty_message(*lane.fleet.shape).clone()
        self._uniform = torch.full((lane.worlds.robots, 5), 0.5, device=lane.device)
        self._wishes = torch.zeros(lane.worlds.robots, 5, device=lane.device)
        self._generator = torch.Generator(lane.device).manual_seed(seed)
        self._decide = Replayed(self._decide_once, lane.device)

    def _decide_once(self) -> None:
        output = decide(self._network, self._lane, self._state, self._waited, self._message)
        noise = -torch.log(-torch.log(self._uniform.clamp(1e-10, 1 - 1e-7)))
        self._wishes.copy_(output.log_probs.flatten(0, 1) + self._temperature * noise)
        self._message.copy_(output.message)

    def __call__(self) -> NDArray[np.float32]:
        """Decide once in the worlds' current state: (A, 5)."""
        state, waited = self._lane.pack()
        self._state.copy_(state)
        self._waited.copy_(waited)
        if self._temperature:
            self._uniform.uniform_(generator=self._generator)
        with nullcontext() if self._decide.is_settled else _CAPTURE:
            self._decide()
        wishes: NDArray[np.float32] = self._wishes.cpu().numpy()
        return wishes


@torch.no_grad()
def run_instances(
    network: SparcNetwork,
    device: torch.device,
    instances: Sequence[Instance],
    *,
    rule: int,
    temperature: float = 1.0,
    distance_weight: float = 0.0,
    steps: int = 256,
    seed: int = 0,
    threads: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Play all instances (one team size, square maps of one side) at once by one rule of `data`.

    Returns:
        (K,) steps until every robot stood on its goal, -1 where that never happened; (K,) share of robots on their
        goals when the run ended.
    """
    robots, side = instances[0].robots, len(instances[0].grid)
    per_row = max(1, 128 // robots)
    rows = -(-len(instances) // per_row)
    mix = [TeamMix(robots, rows, (side, side), (0.0, 0.0))]
    worlds = FleetWorlds(
        mix, seed=seed, canvas=side, row_slots=per_row * robots, threads=threads, history=network.config.history
    )
    for fleet, instance in enumerate(instances):
        worlds.load(fleet, instance.grid, instance.starts, instance.goals)
    worlds.state.rule[:] = rule
    stream = torch.cuda.Stream(device) if device.type == 'cuda' else None
    if stream:
        stream.wait_stream(torch.cuda.current_stream(device))
    finished = np.full(len(worlds.state.size), -1)
    with nullcontext() if stream is None else torch.cuda.stream(stream):
        wish = None if rule == EXPERT else Wishes(network, Lane(worlds, device), temperature, seed)
        for step in range(1, steps + 1):
            if wish is None:
                worlds.label()
                worlds.step(np.zeros((worlds.robots, 5), np.float32))
            else:
                wishes = wish()
                worlds.step(wishes + np.float32(distance_weight) * worlds.steps_gained() if distance_weight else wishes)
            finished[(finished < 0) & (worlds.state.arrived == worlds.state.size)] = step
            if (finished[: len(instances)] >= 0).all():
                break
    worlds.close()
    arrived = worlds.state.arrived / worlds.state.size
    return finished[: len(instances)], arrived[: len(instances)]


def validate(
    network: SparcNetwork,
    device: torch.device,
    *,
    robots: int,
    side: int,
    density: float,
    rule: int,
    temperature: float,
    distance_weight: float = 0.0,
    seeds: int = 100,
    first_seed: int = 0,
    steps: int = 256,
    threads: int = 1,
    drawn: bool = True,
) -> tuple[float, float, float]:
    """Success rate, mean steps of the solved ones, mean share of robots on their goals.

    The instances are `random_instance` seeds, or those of the frozen set that ships where `drawn` is off.
    """
    frozen = None if drawn else suites.shipped(robots, side, density)
    if frozen is None:
        instances = [_instance(side, density, robots, first_seed + index) for index in range(seeds)]
    else:
        instances = [frozen.instance(int(seed)) for seed in frozen.seeds[:seeds]]
    finished, arrived = run_instances(
        network,
        device,
        instances,
        rule=rule,
        temperature=temperature,
        distance_weight=distance_weight,
        steps=steps,
        seed=first_seed,
        threads=threads,
    )
    solved = finished >= 0
    mean_steps = float(finished[solved].mean()) if solved.any() else float('nan')
    return float(solved.mean()), mean_steps, float(arrived.mean())


# What the end of a training run prints: robots, side, density, rule, temperature, weight of the distance.
QUICK_TABLE = [
    (128, 40, 0.3, ONE_WINNER, 1.0, 0.0),
    (128, 40, 0.3, SHIELD, 1.0, 0.0),
    (256, 40, 0.3, SHIELD, 1.0, 0.0),
    (128, 40, 0.3, SHIELD_SWAP, 1.0, 1.0),
    (256, 40, 0.3, SHIELD_SWAP, 1.0, 1.0),
    (128, 40, 0.3, EXPERT, 1.0, 0.0),
    (256, 40, 0.3, EXPERT, 1.0, 0.0),
    (128, 40, 0.15, ONE_WINNER, 1.0, 0.0),
    (128, 40, 0.0, ONE_WINNER, 1.0, 0.0),
    (64, 40, 0.3, ONE_WINNER, 1.0, 0.0),
    (256, 40, 0.3, ONE_WINNER, 1.0, 0.0),
    (128, 40, 0.3, SHIELD, 0.5, 0.0),
    (8, 20, 0.15, ONE_WINNER, 1.0, 0.0),
]


def print_table(network: SparcNetwork, device: torch.device, seeds: int, threads: int, limit_s: float) -> list[Any]:
    """Validate along `QUICK_TABLE` until the time is up; returns the printed rows."""
    start = time.monotonic()
    rows = []
    for robots, side, density, rule, temperature, weight in QUICK_TABLE:
        if time.monotonic() - start > limit_s:
            break
        rate, mean_steps, share = validate(
            network,
            device,
            robots=robots,
            side=side,
            density=density,
            rule=rule,
            temperature=temperature,
            distance_weight=weight,
            seeds=seeds,
            threads=threads,
            drawn=False,
        )
        case = {'robots': robots, 'side': side, 'density': density, 'rule': RULE_NAMES[rule]}
        case |= {'temperature': temperature, 'distance_weight': weight}
        rows.append(case | {'success': rate, 'steps': mean_steps, 'arrived': share, 'n': seeds})
        print(
            f'{robots:4d} robots {side}x{side} {density:.2f} {RULE_NAMES[rule]:>11} T={temperature:.1f} '
            f'w={weight:.1f}: success {rate:.2f}, steps {mean_steps:.0f}, on goal {share:.3f}  '
            f'[{time.monotonic() - start:.0f} s]',
            flush=True,
        )
    return rows
