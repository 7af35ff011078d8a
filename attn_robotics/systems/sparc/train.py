"""Train the SPARC network: `python -m attn_robotics.systems.sparc.train --help`.

Behaviour cloning first (the expert drives), then DAgger: the policy drives under the rules it is used with, and the
expert says in every state what it would have done. Fleets advance a window of steps; the window is decided
again with gradients, and its loss is sent back through the messages (truncated back-propagation). Both are captured as
CUDA graphs, since they would otherwise be bound by launching small kernels. MAPPO
(`reinforce`) goes on from there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.data import EXPERT, ONE_WINNER, SHIELD, SHIELD_SWAP, FleetWorlds, TeamMix
from attn_robotics.systems.sparc.lanes import Lane, Window
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.reinforce import Reinforcer
from attn_robotics.systems.sparc.validation import RULE_NAMES, print_table
from attn_robotics.training.checkpoint import CheckpointError, load_checkpoint, read_facts, save_checkpoint
from attn_robotics.training.curves import Curves
from attn_robotics.training.graphs import Replayed
from attn_robotics.training.loop import TimeBudget, cosine_rate

# How often a new episode is driven by each rule once the policy drives (DAgger).
DRIVERS = {EXPERT: 0.1, SHIELD: 0.35, ONE_WINNER: 0.45, SHIELD_SWAP: 0.1}
EPISODE_STEPS = 256
STUCK_STEPS = 24  # a fleet that nobody moved in for so long is renewed: its state has been labelled often enough


def team_mix(rows: int) -> tuple[TeamMix, ...]:
    """The training distribution in `rows` rows of 128 slots: half of the robots in teams of 128."""
    shares = {64: 0.2, 32: 0.12, 16: 0.09, 8: 0.09}
    counts = {robots: max(1, round(rows * share)) for robots, share in shares.items()}
    dense = max(1, rows - sum(counts.values()))
    hard = max(1, dense * 2 // 3)
    crowded = hard // 3
    mix = [TeamMix(128, hard - crowded, (36, 40), (0.24, 0.34))]
    if crowded:  # as dense as 256 robots on 40 x 40
        mix.append(TeamMix(128, crowded, (28, 35), (0.2, 0.32)))
    if dense > hard:
        mix.append(TeamMix(128, dense - hard, (26, 40), (0.0, 0.3)))
    sides = {64: (20, 40), 32: (14, 40), 16: (10, 40), 8: (8, 40)}
    mix += [TeamMix(robots, count, sides[robots], (0.0, 0.35)) for robots, count in counts.items()]
    return tuple(mix)


class Trainer:
    """The training loop; see the module's words.

    Args:
        config: network.
        rows: rows of 128 robots per lane.
        window: steps between updates, through which gradients flow.
        seed: of everything.
        device: torch device.
        threads: CPU threads for worlds and expert.
        peak_rate: highest learning rate.
        lanes: sets of worlds that are played at the same time, so that CPU and GPU both have work.
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
        lanes: int = 2,
    ) -> None:
        if config.recurrent:
            raise ValueError('training keeps no LSTM state yet; set recurrent to False')
        torch.manual_seed(seed)
        self.network = SparcNetwork(config).to(device)
        on_gpu = device.type == 'cuda'
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=torch.tensor(peak_rate, device=device) if on_gpu else peak_rate,  # a captured graph reads it anew
            betas=(0.9, 0.98),
            eps=1e-8,
            weight_decay=1e-4,
            fused=on_gpu,
            capturable=on_gpu,
        )
        self.window = window
        self.peak_rate = peak_rate
        self.device = device
        self.rng = np.random.default_rng(seed)
        self.lanes = [
            Lane(FleetWorlds(team_mix(rows), seed=seed + lane, threads=threads, history=config.history), device)
            for lane in range(lanes)
        ]
        self.step = 0
        self.robot_steps = 0
        self.dagger = False
        self.drivers = DRIVERS
        self.solved: dict[str, list[float]] = defaultdict(list)
        # Everything of one training happens on one stream, so that several trainings can share a GPU.
        self._stream = torch.cuda.Stream(device) if on_gpu else None
        self._pool = ThreadPoolExecutor(lanes)
        self._learn = Replayed(self._learn_once, device)
        self._figures = torch.zeros(3, device=device)
        for lane in self.lanes:
            # Episodes in different phases from the first update on.
            lane.worlds.state.steps[:] = self.rng.integers(0, 128, len(lane.worlds.state.steps))
        self.windows = [Window(self.network, lane, window, seed + index) for index, lane in enumerate(self.lanes)]
        if on_gpu:
            torch.cuda.synchronize(device)  # what was made on the default stream is used on another

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Work on this training's stream inside."""
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            yield

    def _play(self, window: Window) -> None:
        with self.on_stream():
            window.play()

    def _learn_once(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        # One block of mixed precision: weights are cast once a window, not once a step.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == 'cuda'):
            figures = torch.stack([torch.stack(window.replay()) for window in self.windows]).mean(0)
        (figures[0] + figures[2]).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self._figures.copy_(figures.detach())

    def renew(self, lane: Lane, solved: NDArray[np.bool_] | None = None) -> None:
        """Book the fleets whose episodes are over, and give them new problems; solved: (F,), read off when None."""
        state = lane.worlds.state
        done = state.arrived == state.size if solved is None else solved
        over = np.flatnonzero(done | (state.steps >= EPISODE_STEPS) | (state.idle >= STUCK_STEPS))
        if len(over):
            for fleet in over:
                self.solved[f'{RULE_NAMES[int(state.rule[fleet])]}/{state.size[fleet]}'].append(float(done[fleet]))
            self._assign(lane, over)
            lane.worlds.renew(over)
            lane.refresh(over)

    def _assign(self, lane: Lane, fleets: NDArray[np.int64]) -> None:
        rules, shares = list(self.drivers), list(self.drivers.values())
        drawn = self.rng.choice(rules, p=shares, size=len(fleets)) if self.dagger else EXPERT
        lane.worlds.state.rule[fleets] = drawn
        # The shield is mostly used with the policy's own order, the bare rule always draws.
        cool = (lane.worlds.state.rule != ONE_WINNER) & (np.arange(len(lane.worlds.state.rule)) % 2 == 0)
        heat = np.where(cool, 0.1, 1.0).astype(np.float32)
        lane.temperature.copy_(torch.from_numpy(heat[lane.worlds.fleet][:, None]))

    def begin_dagger(self) -> None:
        """Let the policy drive from now on."""
        self.dagger = True
        with self.on_stream():
            for lane in self.lanes:
                self._assign(lane, np.arange(len(lane.worlds.state.rule)))

    def update(self, rate: float) -> tuple[float, float]:
        """One window of steps and one optimiser step; returns loss and agreement with the expert."""
        # Nothing else may use the stream while graphs are captured.
        alone = len(self.windows) == 1 or not all(window.is_settled for window in self.windows)
        if alone:
            for window in self.windows:
                self._play(window)
        else:
            list(self._pool.map(self._play, self.windows))
        with self.on_stream():
            self._set_rate(rate)
            self._learn()
            for window in self.windows:
                self.robot_steps += self.window * window.lane.worlds.robots
                self.renew(window.lane, window.solved)
            loss, agreement, _ = self._figures.tolist()
        self.step += 1
        return loss, agreement

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()
        for lane in self.lanes:
            lane.worlds.close()

    def _set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            if isinstance(group['lr'], Tensor):
                group['lr'].fill_(rate)
            else:
                group['lr'] = rate

    def descend(self, loss: Tensor, rate: float) -> None:
        """One optimiser step with clipped gradients."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._set_rate(rate)
        self.optimiser.step()
        self.step += 1


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('runs/sparc'), help='folder of checkpoints, curves, weights')
    parser.add_argument('--minutes', type=float, default=10.0, help='time budget of this run')
    parser.add_argument('--schedule-minutes', type=float, help='length of the whole schedule over all resumed runs')
    parser.add_argument(
        '--stage',
        choices=('bc', 'dagger', 'mappo'),
        default='dagger',
        help='bc: the expert drives throughout; mappo: after --resume',
    )
    parser.add_argument('--bc-share', type=float, default=0.08, help='share of the schedule before the policy drives')
    parser.add_argument(
        '--preset',
        choices=('default', 'small', 'paper'),
        default='default',
        help='network; a resumed run keeps its own',
    )
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE', help='change a network setting')
    parser.add_argument('--rows', type=int, default=64, help='rows of 128 robots per lane (two lanes)')
    parser.add_argument('--window', type=int, default=4, help='steps per update, through which gradients flow')
    parser.add_argument('--rate', type=float, default=7e-4, help='peak learning rate; about 1e-4 for mappo')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--threads', type=int, default=2, help='CPU threads for worlds; more than a few wait for each other'
    )
    parser.add_argument('--resume', type=Path, help='folder of a checkpoint to continue from')
    parser.add_argument('--save-every', type=float, default=60.0, help='seconds between checkpoints')
    parser.add_argument('--seeds', type=int, default=100, help='instances per row of the closing table, 0 for none')
    parser.add_argument('--table-seconds', type=float, default=120.0, help='time limit of the closing table')
    options = parser.parse_args(arguments)

    try:
        return _run(options)
    except (CheckpointError, ValueError) as error:
        print(f'train: {error}', file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    preset = {'default': SparcConfig, 'small': SparcConfig.small, 'paper': SparcConfig.paper}[options.preset]
    config = replace(preset(), **parse_settings(options.set))
    if options.resume:  # a checkpoint knows its network
        config = SparcConfig.from_dict(read_facts(options.resume)['config'])
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
    learn = trainer.update
    if options.stage == 'mappo':
        learn = Reinforcer(trainer).update
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
            sums.append(learn(rate))
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
    trainer.close()
    return 0


def parse_settings(pairs: list[str]) -> dict[str, Any]:
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
