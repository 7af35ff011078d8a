"""Mixers side by side at equal size: `python -m attn_robotics.systems.pom_speech.study --help`.

Every mixer takes the attention's place in the same small Conformer, the feed-forward width makes up for its size, and
all see the same synthetic speech for the same number of updates. Runs share one device in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import numpy as np
import torch

from attn_robotics.systems.pom_speech.config import PomSpeechConfig
from attn_robotics.systems.pom_speech.data import Corpus
from attn_robotics.systems.pom_speech.model import SpeechEncoder
from attn_robotics.systems.pom_speech.scores import error_rates
from attn_robotics.systems.pom_speech.train import Feed, make_update, prepare, transcribe
from attn_robotics.training.checkpoint import write_atomically
from attn_robotics.training.loop import cosine_rate
from attn_robotics.training.results import Row, over_seeds, show, write_results

REFERENCE = PomSpeechConfig(width=96, layers=4, feed_forward=192, channels=16, memory_tokens=0)
SMALL = replace(REFERENCE, width=48, layers=2, feed_forward=96, channels=8)  # what two CPU cores can compare
METHODS: dict[str, dict[str, Any]] = {
    'none': {'mixer': 'none'},
    'summary': {'mixer': 'summary'},
    'pom_k1': {'degree': 1},
    'pom_k2': {'degree': 2},
    'pom_k3': {'degree': 3},
    'mha': {'mixer': 'mha'},
    'rope_mha': {'mixer': 'rope_mha'},
}
PACE = 30  # updates after which a run knows how fast it is
STARTS_S = 60.0  # to wait for the slowest run to start


def size_of(config: PomSpeechConfig) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in SpeechEncoder(config).parameters())


def matched(config: PomSpeechConfig, parameters: int) -> PomSpeechConfig:
    """The same with the feed-forward width that comes nearest to a number of parameters."""
    a, b = (size_of(replace(config, feed_forward=width)) for width in (8, 16))
    width = 8 + round((parameters - a) / ((b - a) / 8))
    if width < 8:
        raise ValueError(f'{config} alone has more than {parameters} parameters')
    return replace(config, feed_forward=width)


def run_one(folder: Path, method: str, seed: int, options: argparse.Namespace, barrier: Any, pace: Any) -> None:
    """Train one mixer and write `<method>-<seed>.json`."""
    path = folder / f'{method}-{seed}.json'
    torch.set_num_threads(1)
    device = torch.device(options.device)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    reference = SMALL if options.small else REFERENCE
    config = matched(replace(reference, **METHODS[method]), size_of(reference))
    corpus = Corpus(options.data)
    network = SpeechEncoder(config)
    prepare(network, corpus)
    network.to(device)
    feed, check = Feed(corpus, device), Feed(Corpus(options.validation), device)
    # The pace of all together is known only once all run; then all take the number of updates that the slowest can.
    total, start = PACE, 0.0
    update = make_update(
        network, feed, rng, lambda at: cosine_rate(at / total, at, peak=1.5e-3, floor=1e-6, warmup=150), whole_only=True
    )
    batches = enumerate(corpus.batches(options.batch, rng))
    losses = []
    begun = time.monotonic()
    for step, picked in batches:
        loss = update(step, picked)
        if step in (PACE // 2, PACE):
            _synchronise(device)
            _meet(barrier)
        if step == PACE // 2:
            start = time.monotonic()
        if step == PACE:
            with pace.get_lock():
                pace.value = max(pace.value, (time.monotonic() - start) / (PACE - PACE // 2))
            _meet(barrier)
            total = PACE + int(0.9 * (options.seconds - (time.time() - options.begun)) / pace.value)
            total = min(options.steps, total)
        if step % 50 == 0:
            losses.append((step, float(loss)))
        if step >= PACE and step + 1 >= total:
            break
    cer, wer = error_rates(check.corpus.texts, transcribe(network, check))
    facts = {
        'method': method, 'seed': seed, 'cer': cer, 'wer': wer, 'steps': total, 'parameters': size_of(config),
        'seconds': time.monotonic() - begun, 'losses': losses, 'utterances': len(check.corpus), 'batch': options.batch,
    }  # fmt: skip
    write_atomically(path, json.dumps(facts))
    print(f'{method} seed {seed}: CER {cer:.4f}, WER {wer:.4f} after {total} updates', flush=True)


def _meet(barrier: Any) -> None:
    """Wait for the other runs; one that failed must not end the rest."""
    with suppress(BrokenBarrierError):
        barrier.wait(STARTS_S)


def _synchronise(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize()


def summarise(folder: Path) -> list[Row]:
    """Mean error rates over seeds of every method."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob('*-[0-9]*.json')):
        facts = json.loads(path.read_text())
        found.setdefault(facts['method'], []).append(facts)
    rows = []
    for method in (name for name in METHODS if name in found):
        runs = found[method]
        for metric in ('cer', 'wer'):
            rows.append(over_seeds(f'{metric}/{method}/held_out', [run[metric] for run in runs]))
        rows.append(Row(f'parameters/{method}', runs[0]['parameters']))
        rows.append(Row(f'updates/{method}', min(run['steps'] for run in runs)))
    return rows


def draw(rows: Sequence[Row], path: Path) -> None:
    """Character error rates with their intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.name.startswith('cer/')]
    figure = Figure(figsize=(6, 3.2), layout='constrained')
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for index, row in enumerate(shown):
        low, high = row.ci95 or (row.value, row.value)
        error = [[row.value - max(0.0, low)], [high - row.value]]
        panel.errorbar(index, row.value, yerr=error, fmt='o', capsize=4, color='#204060')
    panel.set_xticks(range(len(shown)), [row.name.split('/')[1] for row in shown])
    panel.set_ylabel('CER, held-out sentences and voices')
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.set_title('mixers at equal size, mean and 95 % interval over seeds (synthetic speech)', fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    figure.savefig(partial, format='png', dpi=110)
    partial.replace(path)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, required=True, help='folder made by pom_speech.data')
    parser.add_argument('--validation', type=Path, required=True, help='folder with held-out speech')
    parser.add_argument('--out', type=Path, required=True, help='folder for one file a run')
    parser.add_argument('--json', type=Path, help='where the table goes; its picture goes beside it')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--steps', type=int, default=3000, help='updates of each run, at most')
    parser.add_argument('--seconds', type=float, default=3600.0, help='for all runs together, from now')
    parser.add_argument('--batch', type=int, default=48)
    parser.add_argument('--small', action='store_true', help='two layers of width 48, for two CPU cores')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    options = parser.parse_args(arguments)
    options.begun = time.time()
    options.out.mkdir(parents=True, exist_ok=True)
    context = get_context('spawn')
    runs = [(method, seed) for seed in options.seeds for method in options.methods]
    barrier, pace = context.Barrier(len(runs)), context.Value('d', 0.0)
    processes = [
        context.Process(target=run_one, args=(options.out, method, seed, options, barrier, pace))
        for method, seed in runs
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    rows = summarise(options.out)
    print(show(rows))
    if options.json:
        write_results(
            options.json,
            rows,
            'python -m attn_robotics.systems.pom_speech.study',
            options.seeds,
            batch=options.batch,
            small=options.small,
            device=options.device,
            torch=torch.__version__,
            data=json.loads((options.data / 'corpus.json').read_text()),
            validation=json.loads((options.validation / 'corpus.json').read_text()),
        )
        draw(rows, options.json.with_suffix('.png'))
    return int(any(process.exitcode for process in processes))


if __name__ == '__main__':
    raise SystemExit(main())
