"""What communication is worth: RMHA, content-only attention and no communication, trained side by side.

All networks of one table see the same number of updates, the same learning rates and worlds drawn from the same seeds;
they differ in the communication alone. They share the devices: each has a thread and a stream of its own, so that the
small kernels of one fill the gaps of the others. Ctrl-C ends the training early; weights and table are still made.

In the folder that `--out` names: the networks, `weights/` with those of the first seed as `evaluate --suite ablation`
takes them, `table.json` with every run, and `ablation.json` with success rates, gains and their intervals.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from attn_robotics.simulation.instances import Instance
from attn_robotics.systems.sparc import suites
from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.fleet_rules import ONE_WINNER, SHIELD
from attn_robotics.systems.sparc.imitation import Trainer
from attn_robotics.systems.sparc.report import Row, conditions, mean_interval, wilson, write_json
from attn_robotics.systems.sparc.train import parse_settings
from attn_robotics.systems.sparc.validation import RULE_NAMES, run_instances
from attn_robotics.systems.sparc.weights_file import write_weights
from attn_robotics.training.checkpoint import write_atomically
from attn_robotics.training.curves import Curves
from attn_robotics.training.loop import cosine_rate

# The published input (a field of view of 3, scalar distances, radius 40) or what ships, at half the width each.
FAMILIES = {
    'paper': SparcConfig(field_of_view=3, relation='distance', mask_radius=40, width=128, layers=2, feed_forward=256),
    'shipping': SparcConfig(width=128, layers=2, feed_forward=256),
}
VARIANTS: dict[str, dict[str, Any]] = {
    'rmha': {},
    'content_only': {'content_only': True},
    'no_comm': {'mask_radius': 0},  # the same network, memory and size, hearing nobody but itself
    'rmha_near': {'mask_radius': 7},
    'content_only_near': {'content_only': True, 'mask_radius': 7},
}
# Robots, obstacles, rule: the frozen sets that the closing table uses, most wanted first.
CASES = ((128, 0.3, ONE_WINNER), (64, 0.3, ONE_WINNER), (128, 0.3, SHIELD), (128, 0.15, ONE_WINNER))
BC_SHARE = 0.08


class Run:
    """One network of the table."""

    def __init__(
        self, variant: str, seed: int, config: SparcConfig, options: argparse.Namespace, device: torch.device
    ) -> None:
        self.name = f'{variant}-{seed}'
        self.variant, self.seed, self.threads = variant, seed, options.threads
        self.trainer = Trainer(
            replace(config, **VARIANTS[variant]),
            rows=options.rows,
            window=options.window,
            seed=seed,
            device=device,
            threads=options.threads,
            peak_rate=options.rate,
            lanes=1,
        )
        self.losses: list[tuple[float, float]] = []


class Together:
    """Moves all runs on in step: chunks of updates under one learning rate, the clock read between chunks."""

    def __init__(self, runs: list[Run], options: argparse.Namespace) -> None:
        self.runs, self.options = runs, options
        self.progress, self.updates, self.stopped = 0.0, 0, False
        self._begin = time.monotonic()
        self.seconds = 0.0  # spent in training
        self.curves = Curves(options.out / 'curves.csv')
        self._bar = tqdm(total=int(options.seconds), unit='s', mininterval=5)
        self._barrier = threading.Barrier(len(runs), self._between)

    def _between(self) -> None:
        elapsed = time.monotonic() - self._begin
        self.progress = 1.0 if self.stopped else min(elapsed / self.options.seconds, 1.0)
        self.updates += self.options.chunk
        row: dict[str, float] = {'step': self.updates, 'seconds': elapsed}
        row['robot_steps'] = self.runs[0].trainer.robot_steps
        for run in self.runs:
            loss, agreement = np.mean(run.losses[-self.options.chunk :], 0)
            row |= {f'{run.name}/loss': loss, f'{run.name}/disagreement': 1 - agreement}
            for name in ('bare/64', 'bare/128', 'shield/128'):
                if run.trainer.solved.get(name):
                    row[f'{run.name}/{name}'] = float(np.mean(run.trainer.solved[name][-100:]))
        self.curves.add(row)
        self._bar.update(int(elapsed) - self._bar.n)
        words = f'{self.updates} updates, {row["robot_steps"] / 1e6:.1f} M robot-steps each'
        self._bar.set_postfix_str(words, refresh=False)

    def settle(self) -> None:
        """First updates one network after the other: graphs are captured while nothing else runs."""
        for run in self.runs:
            for _ in range(5):
                run.losses.append(run.trainer.update(self.options.rate / 200))

    def train(self, run: Run) -> None:
        """One network's part, in a thread of its own."""
        trainer = run.trainer
        try:
            while self.progress < 1.0:
                if not trainer.dagger and self.progress >= BC_SHARE:
                    trainer.begin_dagger()
                peak = self.options.rate
                rate = cosine_rate(self.progress, self.updates, peak=peak, floor=0.02 * peak, warmup=200)
                run.losses += [trainer.update(rate) for _ in range(self.options.chunk)]
                self._barrier.wait()
        except threading.BrokenBarrierError:
            return
        except BaseException:
            self._barrier.abort()
            raise

    def run(self) -> None:
        """Train all of them."""
        self.settle()
        self._begin = time.monotonic()
        with ThreadPoolExecutor(len(self.runs)) as pool:
            running = [pool.submit(self.train, run) for run in self.runs]
            try:
                wait(running)
            except KeyboardInterrupt:  # weights and table are made all the same
                self.stopped = True
            for done in running:
                done.result()
        self.seconds = time.monotonic() - self._begin
        self._bar.close()
        self.curves.write()


def frozen_instances(robots: int, density: float, count: int) -> list[Instance]:
    """The first instances of a frozen set that ships."""
    frozen = suites.shipped(robots, 40, density)
    if frozen is None:
        raise ValueError(f'no frozen set of {robots} robots at {density:.2f} ships')
    return [frozen.instance(int(seed)) for seed in frozen.seeds[:count]]


def evaluate(run: Run, count: int, cases: tuple[tuple[int, float, int], ...]) -> list[dict[str, Any]]:
    """Play the frozen instances with one network; one row a case."""
    rows = []
    for robots, density, rule in cases:
        with run.trainer.on_stream():
            finished, arrived = run_instances(
                run.trainer.network,
                run.trainer.device,
                frozen_instances(robots, density, count),
                rule=rule,
                seed=run.seed,
                threads=run.threads,
            )
        solved = finished >= 0
        rows.append(
            {
                'variant': run.variant,
                'seed': run.seed,
                'robots': robots,
                'density': density,
                'rule': RULE_NAMES[rule],
                'success': float(solved.mean()),
                'instances': count,
                'steps': float(finished[solved].mean()) if solved.any() else None,
                'on_goal': float(arrived.mean()),
                'finished': finished.tolist(),
            }
        )
        print(f'{run.name:>16} {robots:4d} {density:.2f} {RULE_NAMES[rule]:>7} {solved.mean():.2f}', flush=True)
    return rows


def make_rows(rows: list[dict[str, Any]]) -> list[Row]:
    """Success rates and gains in the suite's common schema, named as `evaluate` names them.

    A rate's interval is Wilson's over all runs. A gain's is normal, over instances: the mean over training seeds of
    what one network solves and the other does not.
    """
    found = []
    for robots, density, rule in dict.fromkeys((row['robots'], row['density'], row['rule']) for row in rows):
        case, tail = f'{robots}x40/{density:.2f}', '' if rule == RULE_NAMES[ONE_WINNER] else f'_{rule}'
        solved: dict[str, NDArray[np.bool_]] = {}
        for variant in VARIANTS:
            same = (robots, density, rule, variant)
            chosen = [r for r in rows if (r['robots'], r['density'], r['rule'], r['variant']) == same]
            if not chosen:
                continue
            runs = solved[variant] = np.array([row['finished'] for row in chosen]) >= 0  # (seeds, instances)
            name = f'success_rate/{variant}{tail}/{case}'
            found.append(Row(name, float(runs.mean()), '', runs.size, wilson(int(runs.sum()), runs.size)))
            for row, run in zip(chosen, runs, strict=True):
                interval = wilson(int(run.sum()), len(run))
                found.append(Row(f'{name}/seed{row["seed"]}', float(run.mean()), '', len(run), interval))
            steps = np.concatenate([[x for x in row['finished'] if x >= 0] for row in chosen]).tolist()
            mean = float(np.mean(steps)) if steps else None
            found.append(Row(f'mean_steps/{variant}{tail}/{case}', mean, 'steps', len(steps), mean_interval(steps)))
        for better, worse in (('rmha', 'content_only'), ('content_only', 'no_comm')):
            if better in solved and worse in solved and solved[better].shape == solved[worse].shape:
                gains = (solved[better].astype(float) - solved[worse]).mean(0).tolist()
                name = f'success_gain/{better}{tail}-{worse}{tail}/{case}'
                found.append(Row(name, float(np.mean(gains)), '', len(gains), mean_interval(gains)))
    return found


def summarise(rows: list[dict[str, Any]]) -> str:
    """Mean success over training seeds, one line a case and rule."""
    lines = []
    for robots, density, rule in dict.fromkeys((row['robots'], row['density'], row['rule']) for row in rows):
        parts = []
        for variant in VARIANTS:
            case = (variant, robots, density, rule)
            chosen = [r for r in rows if (r['variant'], r['robots'], r['density'], r['rule']) == case]
            if chosen:
                solved = sum(round(r['success'] * r['instances']) for r in chosen)
                low, high = wilson(solved, sum(r['instances'] for r in chosen))
                each = ' '.join(f'{100 * r["success"]:.0f}' for r in chosen)
                mean = np.mean([r['success'] for r in chosen])
                parts.append(f'{variant} {100 * mean:.1f} [{100 * low:.0f}..{100 * high:.0f}] ({each})')
        lines.append(f'{robots:4d} robots {100 * density:.0f} % {rule:>7}: ' + ', '.join(parts))
    return '\n'.join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw success by variant, one panel a case: bars for all seeds with their 95 % interval, dots for each seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys((row['robots'], row['density'], row['rule']) for row in rows))
    variants = list(dict.fromkeys(row['variant'] for row in rows))
    figure = Figure(figsize=(2.6 * len(cases) + 0.6, 3.2), layout='constrained')
    FigureCanvasAgg(figure)
    for panel, case in zip(figure.subplots(1, len(cases), squeeze=False, sharey=True)[0], cases, strict=True):
        for place, variant in enumerate(variants):
            chosen = [r for r in rows if (r['robots'], r['density'], r['rule'], r['variant']) == (*case, variant)]
            if not chosen:
                continue
            solved, count = (
                sum(round(r['success'] * r['instances']) for r in chosen),
                sum(r['instances'] for r in chosen),
            )
            low, high = wilson(solved, count)
            rate = solved / count
            panel.bar(place, 100 * rate, color=f'C{place}', alpha=0.5)
            panel.errorbar(place, 100 * rate, [[100 * (rate - low)], [100 * (high - rate)]], color='black', capsize=3)
            panel.plot(
                [place] * len(chosen), [100 * r['success'] for r in chosen], 'o', color=f'C{place}', markersize=4
            )
        panel.set_xticks(range(len(variants)), [name.replace('_', ' ') for name in variants], rotation=20, fontsize=8)
        panel.set_title(f'{case[0]} robots, {100 * case[1]:.0f} %, {case[2]}', fontsize=9)
        panel.grid(axis='y', alpha=0.3)
    figure.supylabel('all robots arrived [%]', fontsize=9)
    partial = path.with_name(path.name + '.partial')
    figure.savefig(partial, format='png', dpi=110)
    partial.replace(path)


def _card(run: Run, options: argparse.Namespace, rows: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """What stands beside a network's weights."""
    card = {
        'name': f'sparc ablation, {run.variant}',
        'variant': run.variant,
        'data': f'synthetic, as for what ships, {options.rows} rows of 128 robots',
        'recipe': f'imitation, then DAgger, windows of {options.window} steps, AdamW, rate {options.rate:g}, cosine',
        'seed': run.seed,
        'updates': run.trainer.step,
        'robot_steps': run.trainer.robot_steps,
    }
    if rows:
        card['results'] = '; '.join(
            f'{row["robots"]} robots 40x40 at {100 * row["density"]:.0f} %, {row["rule"]}: {row["success"]:.2f} of the '
            f'first {row["instances"]} frozen instances'
            for row in rows
        )
    return card


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('runs/ablation'), help='folder of weights, curves, table')
    parser.add_argument('--family', choices=FAMILIES, default='shipping', help='what all networks see')
    parser.add_argument('--seeds', type=int, default=3, help='training seeds of each variant')
    parser.add_argument('--seconds', type=float, default=360.0, help='training time')
    parser.add_argument('--variants', nargs='+', choices=VARIANTS, default=['rmha', 'content_only', 'no_comm'])
    parser.add_argument('--rows', type=int, default=16, help='rows of 128 robots')
    parser.add_argument('--window', type=int, default=4, help='steps per update, through which gradients flow')
    parser.add_argument('--chunk', type=int, default=20, help='updates between looks at the clock')
    parser.add_argument('--rate', type=float, default=7e-4, help='peak learning rate')
    parser.add_argument('--instances', type=int, default=100, help='of each frozen set in the closing table')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of each network')
    parser.add_argument(
        '--devices',
        type=lambda text: [torch.device(name) for name in text.split(',')],
        default=[torch.device('cuda' if torch.cuda.is_available() else 'cpu')],
        help='comma-separated torch devices that the networks are dealt out to, like cuda:0,cuda:1',
    )
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE', help='change a network setting')
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision('high')
    sys.setswitchinterval(2e-4)
    config = replace(FAMILIES[options.family], **parse_settings(options.set))
    wanted = [(variant, seed) for seed in range(options.seeds) for variant in options.variants]
    runs = [
        Run(variant, seed, config, options, options.devices[index % len(options.devices)])
        for index, (variant, seed) in enumerate(wanted)
    ]
    together = Together(runs, options)
    together.run()
    for run in runs:
        run.trainer.network.eval()
        write_weights(options.out / f'{run.name}.safetensors', run.trainer.network, _card(run, options))
    rows: list[dict[str, Any]] = []
    hardware = [torch.cuda.get_device_name(d) if d.type == 'cuda' else d.type for d in options.devices]
    where = {
        'family': options.family, 'device': ', '.join(hardware), 'torch': torch.__version__,
        'training_seconds': round(together.seconds), 'updates': runs[0].trainer.step,
        'robot_steps': runs[0].trainer.robot_steps, 'training_seeds': options.seeds,
        'instances': f'first {options.instances} of each frozen set',
        'ci95': 'rates: Wilson over all runs; gains: over instances, paired, mean of the training seeds',
    }  # fmt: skip
    command = ' '.join(['ablation', *(sys.argv[1:] if arguments is None else arguments)])
    for case in CASES:
        with ThreadPoolExecutor(len(runs)) as pool:
            for part in pool.map(lambda run: evaluate(run, options.instances, (case,)), runs):  # noqa: B023
                rows += part
        write_json(options.out / 'ablation.json', command, make_rows(rows), conditions(where))
        facts = {'family': options.family, 'config': config.to_dict(), 'updates': runs[0].trainer.step}
        facts |= {'seconds': options.seconds, 'robot_steps': runs[0].trainer.robot_steps, 'rows': rows}
        write_atomically(options.out / 'table.json', json.dumps(facts))
    for run in runs:
        if run.seed == 0:
            path = options.out / 'weights' / f'{run.variant}.safetensors'
            results = [row for row in rows if (row['variant'], row['seed']) == (run.variant, run.seed)]
            write_weights(path, run.trainer.network, _card(run, options, results))
    print(summarise(rows))
    draw(rows, options.out / 'table.png')
    for run in runs:
        run.trainer.close()
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
