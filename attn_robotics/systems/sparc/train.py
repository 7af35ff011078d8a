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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.imitation import Trainer
from attn_robotics.systems.sparc.reinforce import Reinforcer
from attn_robotics.systems.sparc.validation import print_table
from attn_robotics.systems.sparc.weights_card import WeightsError
from attn_robotics.systems.sparc.weights_file import read_weights
from attn_robotics.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    read_extra,
    read_facts,
    save_checkpoint,
    write_atomically,
)
from attn_robotics.training.curves import Curves
from attn_robotics.training.distributed import Group
from attn_robotics.training.loop import TimeBudget, cosine_rate

PANELS = {
    'imitation': ['loss', 'disagreement'],
    'bare': [f'bare/{n}' for n in (8, 32, 64, 128)],
    'shield': [f'shield/{n}' for n in (8, 32, 64, 128)],
}


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
        help='bc: the expert drives throughout; mappo: after --resume or --init',
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
    parser.add_argument('--updates', type=float, default=float('inf'), help='optimiser steps after which to stop')
    parser.add_argument('--init', type=Path, help='weights (safetensors) to start a new training from')
    parser.add_argument('--resume', type=Path, help='folder of a checkpoint to continue from, exactly')
    parser.add_argument('--save-every', type=float, default=60.0, help='seconds between checkpoints')
    parser.add_argument('--seeds', type=int, default=100, help='instances per row of the closing table, 0 for none')
    parser.add_argument('--table-seconds', type=float, default=120.0, help='time limit of the closing table')
    options = parser.parse_args(arguments)

    try:
        return _run(options)
    except (CheckpointError, WeightsError, ValueError) as error:
        print(f'train: {error}', file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    preset = {'default': SparcConfig, 'small': SparcConfig.small, 'paper': SparcConfig.paper}[options.preset]
    config = replace(preset(), **parse_settings(options.set))
    initial = None
    if options.resume:  # a checkpoint knows its network, and so do weights
        config = SparcConfig.from_dict(read_facts(options.resume)['config'])
    elif options.init:
        initial, _ = read_weights(options.init)
        config = initial.config
    torch.set_float32_matmul_precision('high')
    # Threads that return from compiled code must not wait 5 ms for the one that launches GPU work.
    sys.setswitchinterval(2e-4)
    group = Group(options.device)
    trainer = Trainer(
        config,
        rows=options.rows,
        window=options.window,
        seed=options.seed,
        device=group.device,
        threads=options.threads,
        peak_rate=options.rate,
        group=group,
    )
    if initial is not None:
        trainer.network.load_state_dict(initial.state_dict())
    spent, stage = (0.0, '') if options.resume is None else _resume(options.resume, trainer)
    learn = trainer.update
    if options.stage == 'mappo':
        learn = Reinforcer(trainer, begin=stage != 'mappo').update
    curves = Curves(options.out / 'curves.csv')
    before = spent if stage == options.stage else 0.0  # a new stage has a schedule of its own
    schedule = 60 * (options.schedule_minutes or options.minutes + before / 60)

    def save(budget: TimeBudget) -> None:
        worlds = group.gather(trainer.keep())
        if group.rank:
            return
        facts = {'seconds': budget.total, 'robot_steps': trainer.robot_steps, 'config': config.to_dict()}
        facts |= {'stage': options.stage, 'dagger': trainer.dagger, 'processes': group.size}
        save_checkpoint(
            options.out,
            trainer.network,
            trainer.optimiser,
            step=trainer.step,
            facts=facts,
            generators=trainer.generators(),
            extra=worlds,
        )
        curves.write()
        curves.draw(options.out / 'curves.png', 'seconds', PANELS)

    bar = tqdm(total=int(schedule), unit='s', mininterval=5, disable=group.rank > 0)
    with TimeBudget(60 * options.minutes, spent) as budget, bar:
        bar.update(int(before))
        saved = shown = budget.elapsed
        sums: list[tuple[float, float]] = []
        # The first process's clock decides for all of them.
        while group.from_first(float(budget.is_over or trainer.step >= options.updates)) < 1:
            progress = group.from_first((before + budget.elapsed) / schedule)
            if not trainer.dagger and options.stage == 'dagger' and progress >= options.bc_share:
                trainer.begin_dagger()
            rate = cosine_rate(progress, trainer.step, peak=options.rate, floor=options.rate * 0.02, warmup=200)
            sums.append(learn(rate))
            if budget.elapsed - shown >= 5:
                row = _row(trainer, budget, rate, sums)
                curves.add(row)
                sums = []
                bar.update(int(before + budget.elapsed) - bar.n)
                bar.set_postfix_str(
                    f'step {trainer.step} loss {row["loss"]:.4f} agree {1 - row["disagreement"]:.3f} '
                    f'{trainer.robot_steps / budget.total / 1e6:.2f} M robot-steps/s '
                    + ' '.join(f'{k} {row[k]:.2f}' for k in ('bare/128', 'shield/128', 'bare/8') if k in row),
                    refresh=False,
                )
                shown = budget.elapsed
            if group.from_first(float(budget.elapsed - saved >= options.save_every)) > 0:
                save(budget)
                saved = budget.elapsed
        save(budget)
    if options.seeds and group.rank == 0:
        trainer.network.eval()
        rows = print_table(trainer.network, group.device, options.seeds, options.threads, options.table_seconds)
        write_atomically(options.out / 'table.json', json.dumps(rows, indent=1))
    trainer.close()
    group.close()
    return 0


def _resume(folder: Path, trainer: Trainer) -> tuple[float, str]:
    """Go on from a checkpoint: returns seconds spent and the stage it was in."""
    facts = read_facts(folder)
    rank = trainer.group.rank if trainer.group else 0
    kept = {name.split('.', 1)[1]: x for name, x in read_extra(folder).items() if name.startswith(f'{rank}.')}
    try:
        trainer.restore(kept)
        generators = trainer.generators() if rank == 0 else {}
    except (KeyError, ValueError) as error:
        print(f'train: worlds are drawn anew: {error}', file=sys.stderr)
        generators = {}
    trainer.step, _ = load_checkpoint(folder, trainer.network, trainer.optimiser, generators)
    trainer.robot_steps, trainer.dagger = facts['robot_steps'], bool(facts.get('dagger')) and bool(kept)
    return float(facts['seconds']), str(facts.get('stage', ''))


def _row(trainer: Trainer, budget: TimeBudget, rate: float, sums: list[tuple[float, float]]) -> dict[str, float]:
    """One row of the curves; forgets all but the last 200 episodes of each kind."""
    loss, agreement = np.mean(sums, 0)
    trainer.solved = defaultdict(list, {name: values[-200:] for name, values in trainer.solved.items()})
    row = {'step': trainer.step, 'seconds': budget.total, 'robot_steps': trainer.robot_steps}
    row |= {'rate': rate, 'loss': float(loss), 'disagreement': float(1 - agreement)}
    return row | {name: float(np.mean(values)) for name, values in trainer.solved.items()}


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
