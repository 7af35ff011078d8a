"""Train the SPARC network by imitation: `python -m attn_robotics.systems.sparc.train --help`.

Behaviour cloning first (the expert drives), then DAgger: the policy drives under the rules it is used with, and the
expert says in every state what it would have done. The rollout is the training pass: fleets advance step by step, the
loss of a window of steps is sent back through the messages (truncated back-propagation), nothing is stored.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from attn_robotics.simulation.instances import Instance, random_instance
from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.data import EXPERT, ONE_WINNER, SHIELD, SHIELD_SWAP, FleetWorlds, TeamMix
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.processor import observe_batch
from attn_robotics.training.checkpoint import load_checkpoint, save_checkpoint
from attn_robotics.training.curves import Curves
from attn_robotics.training.loop import TimeBudget, cosine_rate

# How often a new episode is driven by each rule once the policy drives (DAgger).
DRIVERS = {EXPERT: 0.1, SHIELD: 0.35, ONE_WINNER: 0.45, SHIELD_SWAP: 0.1}
RULE_NAMES = {EXPERT: 'expert', SHIELD: 'shield', ONE_WINNER: 'bare', SHIELD_SWAP: 'shield_swap'}
STUCK_STEPS = 24  # a fleet that nobody moved in for so long is renewed: its state has been labelled often enough


def team_mix(rows: int) -> tuple[TeamMix, ...]:
    """The training distribution in `rows` rows of 128 slots: half of the robots in teams of 128."""
    shares = {64: 0.2, 32: 0.12, 16: 0.09, 8: 0.09}
    counts = {robots: max(1, round(rows * share)) for robots, share in shares.items()}
    dense = max(1, rows - sum(counts.values()))
    hard = max(1, dense * 2 // 3)
    mix = [TeamMix(128, hard, (36, 40), (0.24, 0.34))]
    if dense > hard:
        mix.append(TeamMix(128, dense - hard, (26, 40), (0.0, 0.3)))
    sides = {64: (20, 40), 32: (14, 40), 16: (10, 40), 8: (8, 40)}
    mix += [TeamMix(robots, count, sides[robots], (0.0, 0.35)) for robots, count in counts.items()]
    return tuple(mix)


@dataclass
class Lane:
    """One set of worlds with its tensors on the training device."""

    worlds: FleetWorlds
    device: torch.device

    def __post_init__(self) -> None:
        worlds, rows = self.worlds, self.worlds.rows
        side = worlds.canvas
        self.fleet = torch.from_numpy(worlds.fleet.reshape(rows, -1)).to(self.device)
        self.grids = torch.from_numpy(worlds.walls(np.arange(len(worlds.state.size)))).to(self.device)
        self.fields = torch.from_numpy(worlds.state.fields).to(self.device).view(rows, -1, side, side)
        self.temperature = torch.ones(worlds.robots, 1, device=self.device)
        self.message: Tensor | None = None
        self.labels: Future[NDArray[np.int64]] | None = None
        self.preferences: Tensor | None = None
        self.losses: list[Tensor] = []
        self.hits: list[Tensor] = []

    def observe(self, field_of_view: int) -> tuple[Tensor, Tensor, Tensor]:
        """Image, vector and cells (rows, slots, 2) of the current state, on the device."""
        worlds = self.worlds
        packed = np.concatenate(
            [
                worlds.places(worlds.state.cells),
                worlds.places(worlds.state.goals),
                worlds.state.history.reshape(worlds.rows, worlds.row_slots, -1),
            ],
            -1,
        )
        state = torch.from_numpy(packed).to(self.device)
        waited = torch.from_numpy(worlds.state.waited.astype(np.float32).reshape(worlds.rows, -1)).to(self.device)
        cells, goals, history = state[..., :2], state[..., 2:4], state[..., 4:]
        image, vector = observe_batch(self.grids, self.fleet, cells, goals, self.fields, waited, history, field_of_view)
        return image, vector, cells

    def refresh(self, fleets: NDArray[np.int64]) -> None:
        """Take over the maps of renewed fleets and forget their messages."""
        slots = np.flatnonzero(np.isin(self.worlds.fleet, fleets))
        index = torch.from_numpy(slots).to(self.device)
        self.grids[torch.from_numpy(fleets).to(self.device)] = torch.from_numpy(self.worlds.walls(fleets)).to(
            self.device
        )
        self.fields.flatten(0, 1)[index] = (
            torch.from_numpy(self.worlds.state.fields[slots]).to(self.device).view(-1, *self.fields.shape[2:])
        )
        if self.message is not None:
            keep = torch.ones(len(self.worlds.state.cells), 1, device=self.device)
            keep[index] = 0.0
            self.message = self.message * keep.view(*self.message.shape[:2], 1)


def forward(network: SparcNetwork, lane: Lane) -> Tensor:
    """One decision of all fleets of a lane: (A, 5) log-probabilities; moves the lane's messages on."""
    image, vector, cells = lane.observe(network.config.field_of_view)
    relation = network.neighbour_relation(cells, cells)
    relation = torch.where(lane.fleet[:, None] == lane.fleet[:, :, None], relation, -1)
    if lane.message is None:
        lane.message = network.empty_message(*lane.fleet.shape)
    with torch.autocast(lane.device.type, torch.bfloat16, enabled=lane.device.type == 'cuda'):
        output = network(image, vector, relation, lane.message)
    lane.message = output.message
    log_probs: Tensor = output.log_probs.flatten(0, 1)
    return log_probs


def gumbel_like(x: Tensor) -> Tensor:
    """Gumbel noise: the order of `log p + noise` is a draw without replacement from p."""
    return -torch.log(-torch.log(torch.rand_like(x).clamp(1e-10, 1 - 1e-7)))


class Trainer:
    """The training loop; see the module's words.

    Args:
        config: network.
        rows: rows of 128 robots per lane; two lanes take turns, so that CPU and GPU work at once.
        window: steps between updates, through which gradients flow.
        seed: of everything.
        device: torch device.
        threads: CPU threads for worlds and expert.
        peak_rate: highest learning rate.
    """

    def __init__(
        self,
        config: SparcConfig,
        *,
        rows: int,
        window: int,
        seed: int,
        device: torch.device,
        threads: int,
        peak_rate: float,
    ) -> None:
        if config.recurrent:
            raise ValueError('training keeps no LSTM state yet; set recurrent to False')
        torch.manual_seed(seed)
        self.network = SparcNetwork(config).to(device)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=peak_rate, betas=(0.9, 0.98), eps=1e-8, weight_decay=1e-4
        )
        self.window = window
        self.peak_rate = peak_rate
        self.device = device
        self.rng = np.random.default_rng(seed)
        self.lanes = [
            Lane(FleetWorlds(team_mix(rows), seed=seed + lane, threads=threads, history=config.history), device)
            for lane in range(2)
        ]
        self.step = 0
        self.robot_steps = 0
        self.dagger = False
        self.solved: dict[str, list[float]] = defaultdict(list)
        self._background = ThreadPoolExecutor(1)
        for lane in self.lanes:
            # Episodes in different phases from the first update on.
            lane.worlds.state.steps[:] = self.rng.integers(0, 128, len(lane.worlds.state.steps))

    def _start(self, lane: Lane) -> None:
        lane.labels = self._background.submit(lane.worlds.label)
        log_probs = forward(self.network, lane)
        noisy = log_probs.detach() + lane.temperature * gumbel_like(log_probs)
        lane.preferences = noisy
        lane.losses.append(log_probs)

    def _finish(self, lane: Lane) -> None:
        assert lane.labels is not None and lane.preferences is not None
        worlds = lane.worlds
        labels = lane.labels.result()
        target = torch.from_numpy(labels).to(self.device)
        log_probs = lane.losses.pop()
        lane.losses.append(-log_probs.gather(1, target[:, None]).mean())
        lane.hits.append((log_probs.detach().argmax(1) == target).float().mean())
        worlds.step(lane.preferences.cpu().numpy())
        done = worlds.state.arrived == worlds.state.size
        over = np.flatnonzero(done | (worlds.state.steps >= 256) | (worlds.state.idle >= STUCK_STEPS))
        if len(over):
            for fleet in over:
                name = f'{RULE_NAMES[int(worlds.state.rule[fleet])]}/{worlds.state.size[fleet]}'
                self.solved[name].append(float(done[fleet]))
            self._assign(lane, over)
            worlds.renew(over)
            lane.refresh(over)
        self.robot_steps += worlds.robots

    def _assign(self, lane: Lane, fleets: NDArray[np.int64]) -> None:
        rules = self.rng.choice(list(DRIVERS), p=list(DRIVERS.values()), size=len(fleets)) if self.dagger else EXPERT
        lane.worlds.state.rule[fleets] = rules
        # The shield is mostly used with the policy's own order, the bare rule always draws.
        cool = (lane.worlds.state.rule != ONE_WINNER) & (np.arange(len(lane.worlds.state.rule)) % 2 == 0)
        heat = np.where(cool, 0.1, 1.0).astype(np.float32)
        lane.temperature = torch.from_numpy(heat[lane.worlds.fleet][:, None]).to(self.device)

    def begin_dagger(self) -> None:
        """Let the policy drive from now on."""
        self.dagger = True
        for lane in self.lanes:
            self._assign(lane, np.arange(len(lane.worlds.state.rule)))

    def update(self, rate: float) -> tuple[float, float]:
        """One window of steps and one optimiser step; returns loss and agreement with the expert."""
        for lane in self.lanes:
            lane.message = None if lane.message is None else lane.message.detach()
            lane.losses, lane.hits = [], []
        first, second = self.lanes
        self._start(first)
        for index in range(self.window):
            self._start(second)
            self._finish(first)
            if index + 1 < self.window:
                self._start(first)
            self._finish(second)
        loss = torch.stack(first.losses + second.losses).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group['lr'] = rate
        self.optimiser.step()
        self.step += 1
        return float(loss.detach()), float(torch.stack(first.hits + second.hits).mean())


@lru_cache(maxsize=1024)
def _instance(side: int, density: float, robots: int, seed: int) -> Instance:
    return random_instance(side, density, robots, seed)


@torch.no_grad()
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
) -> tuple[float, float, float]:
    """Success rate on `random_instance` seeds, mean steps of the solved ones, mean share of robots on their goals."""
    per_row = max(1, 128 // robots)
    slots = per_row * robots
    rows = -(-seeds // per_row)
    mix = [TeamMix(robots, rows, (side, side), (0.0, 0.0))]
    worlds = FleetWorlds(
        mix, seed=first_seed, canvas=side, row_slots=slots, threads=threads, history=network.config.history
    )
    for fleet in range(len(worlds.state.size)):
        instance = _instance(side, density, robots, first_seed + fleet)
        worlds.load(fleet, instance.grid, instance.starts, instance.goals)
    worlds.state.rule[:] = rule
    lane = Lane(worlds, device)
    finished = np.full(len(worlds.state.size), -1)
    for step in range(1, steps + 1):
        if rule == EXPERT:
            worlds.label()
            worlds.step(np.zeros((worlds.robots, 5), np.float32))
        else:
            log_probs = forward(network, lane)
            noisy = log_probs + temperature * gumbel_like(log_probs) if temperature else log_probs
            wishes = noisy.float().cpu().numpy()
            worlds.step(wishes + np.float32(distance_weight) * worlds.steps_gained() if distance_weight else wishes)
        finished[(finished < 0) & (worlds.state.arrived == worlds.state.size)] = step
        if (finished[:seeds] >= 0).all():
            break
    worlds.close()
    solved = finished[:seeds] >= 0
    share = float((worlds.state.arrived / worlds.state.size)[:seeds].mean())
    return float(solved.mean()), float(finished[:seeds][solved].mean()) if solved.any() else float('nan'), share


# What the end of a training run prints: robots, side, density, rule, temperature, weight of the distance.
QUICK_TABLE = [
    (128, 40, 0.3, ONE_WINNER, 1.0, 0.0),
    (128, 40, 0.3, SHIELD, 1.0, 0.0),
    (8, 20, 0.15, ONE_WINNER, 1.0, 0.0),
    (8, 20, 0.15, SHIELD, 1.0, 0.0),
    (128, 40, 0.3, SHIELD, 0.5, 0.0),
    (128, 40, 0.3, SHIELD, 1.0, 0.5),
    (256, 40, 0.3, SHIELD, 1.0, 0.0),
    (128, 40, 0.3, ONE_WINNER, 0.7, 0.0),
    (64, 40, 0.3, ONE_WINNER, 1.0, 0.0),
    (128, 40, 0.3, SHIELD_SWAP, 0.5, 1.0),
    (256, 40, 0.3, ONE_WINNER, 1.0, 0.0),
    (128, 40, 0.15, ONE_WINNER, 1.0, 0.0),
    (128, 40, 0.0, ONE_WINNER, 1.0, 0.0),
    (128, 40, 0.3, EXPERT, 1.0, 0.0),
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


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('runs/sparc'), help='folder of checkpoints, curves, weights')
    parser.add_argument('--minutes', type=float, default=10.0, help='time budget of this run')
    parser.add_argument('--schedule-minutes', type=float, help='length of the whole schedule over all resumed runs')
    parser.add_argument('--stage', choices=('bc', 'dagger'), default='dagger', help='bc: the expert drives throughout')
    parser.add_argument('--bc-share', type=float, default=0.08, help='share of the schedule before the policy drives')
    parser.add_argument('--preset', choices=('default', 'small', 'paper'), default='default', help='network')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE', help='change a network setting')
    parser.add_argument('--rows', type=int, default=64, help='rows of 128 robots per lane (two lanes)')
    parser.add_argument('--window', type=int, default=4, help='steps per update, through which gradients flow')
    parser.add_argument('--rate', type=float, default=7e-4, help='peak learning rate')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--threads', type=int, default=2, help='CPU threads for worlds; more than a few wait for each other'
    )
    parser.add_argument('--resume', type=Path, help='folder of a checkpoint to continue from')
    parser.add_argument('--save-every', type=float, default=60.0, help='seconds between checkpoints')
    parser.add_argument('--seeds', type=int, default=100, help='instances per row of the closing table, 0 for none')
    parser.add_argument('--table-seconds', type=float, default=120.0, help='time limit of the closing table')
    parser.add_argument('--compile', action='store_true', help='torch.compile the network (CUDA)')
    options = parser.parse_args(arguments)

    preset = {'default': SparcConfig, 'small': SparcConfig.small, 'paper': SparcConfig.paper}[options.preset]
    config = replace(preset(), **_settings(options.set))
    device = torch.device(options.device)
    torch.set_float32_matmul_precision('high')
    # Threads that return from compiled code must not wait 5 ms for the one that launches GPU work.
    sys.setswitchinterval(2e-4)
    trainer = Trainer(
        config,
        rows=options.rows,
        window=options.window,
        seed=options.seed,
        device=device,
        threads=options.threads,
        peak_rate=options.rate,
    )
    spent = 0.0
    if options.resume:
        trainer.step, facts = load_checkpoint(
            options.resume, trainer.network, trainer.optimiser, {'trainer': trainer.rng}
        )
        spent = facts['seconds']
        trainer.robot_steps = facts['robot_steps']
    if options.compile:
        trainer.network.forward = torch.compile(trainer.network.forward)  # type: ignore[method-assign]
    options.out.mkdir(parents=True, exist_ok=True)
    curves = Curves(options.out / 'curves.csv')
    schedule = 60 * (options.schedule_minutes or options.minutes + spent / 60)

    def save(budget: TimeBudget) -> None:
        facts = {'seconds': budget.total, 'robot_steps': trainer.robot_steps, 'config': config.to_dict()}
        save_checkpoint(
            options.out,
            trainer.network,
            trainer.optimiser,
            step=trainer.step,
            facts=facts,
            generators={'trainer': trainer.rng},
        )
        curves.write()
        curves.draw(
            options.out / 'curves.png',
            'seconds',
            {
                'imitation': ['loss', 'disagreement'],
                'bare': [f'bare/{n}' for n in (8, 32, 64, 128)],
                'shield': [f'shield/{n}' for n in (8, 32, 64, 128)],
            },
        )

    with TimeBudget(60 * options.minutes, spent) as budget, tqdm(total=int(schedule), unit='s', mininterval=5) as bar:
        bar.update(int(spent))
        saved = shown = budget.elapsed
        sums: list[tuple[float, float]] = []
        while not budget.is_over:
            progress = budget.total / schedule
            if not trainer.dagger and options.stage == 'dagger' and progress >= options.bc_share:
                trainer.begin_dagger()
            rate = cosine_rate(progress, trainer.step, peak=options.rate, floor=options.rate * 0.02, warmup=200)
            sums.append(trainer.update(rate))
            if budget.elapsed - shown >= 5:
                loss, agreement = np.mean(sums, 0)
                row = {
                    'step': trainer.step, 'seconds': budget.total, 'robot_steps': trainer.robot_steps,
                    'rate': rate, 'loss': loss, 'disagreement': 1 - agreement,
                }  # fmt: skip
                row |= {name: float(np.mean(values[-200:])) for name, values in trainer.solved.items()}
                trainer.solved = defaultdict(list, {k: v[-200:] for k, v in trainer.solved.items()})
                curves.add(row)
                sums = []
                bar.update(int(budget.total) - bar.n)
                bar.set_postfix_str(
                    f'step {trainer.step} loss {loss:.4f} agree {agreement:.3f} '
                    f'{trainer.robot_steps / budget.total / 1e6:.2f} M robot-steps/s '
                    + ' '.join(f'{k} {row[k]:.2f}' for k in ('bare/128', 'shield/128', 'bare/8') if k in row)
                )
                shown = budget.elapsed
            if budget.elapsed - saved >= options.save_every:
                save(budget)
                saved = budget.elapsed
        save(budget)
    if options.seeds:
        trainer.network.eval()
        rows = print_table(trainer.network, device, options.seeds, options.threads, options.table_seconds)
        (options.out / 'table.json').write_text(json.dumps(rows, indent=1))
    for lane in trainer.lanes:
        lane.worlds.close()
    return 0


def _settings(pairs: list[str]) -> dict[str, Any]:
    """Parse NAME=VALUE pairs into the types of `SparcConfig`."""
    known = SparcConfig().to_dict()
    chosen: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition('=')
        if name not in known:
            raise SystemExit(f'--set: {name!r} is no SPARC setting; known: {", ".join(known)}')
        kind = type(known[name])
        chosen[name] = value.lower() in ('1', 'true', 'yes') if kind is bool else kind(value)
    return chosen


if __name__ == '__main__':
    raise SystemExit(main())
