"""Mixers side by side at equal size: `python -m attn_robotics.systems.pom_speech.study --help`.

Every mixer takes the attention's place in the same small Conformer, the feed-forward width makes up for its size, and
all see the same synthetic speech for the same number of updates. Run after run is trained, all mixers of a seed before
the next seed; what is done is kept, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attn_robotics.systems.pom_speech.config import PomSpeechConfig
from attn_robotics.systems.pom_speech.data import Corpus
from attn_robotics.systems.pom_speech.model import SpeechEncoder
from attn_robotics.systems.pom_speech.scores import error_rates
from attn_robotics.systems.pom_speech.train import Feed, make_update, prepare, transcribe
from attn_robotics.training.checkpoint import load_checkpoint, save_checkpoint, write_atomically
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
PACE = 40  # updates that tell how fast a mixer learns, after as many that warm up
MARGIN = 0.85  # of the time that the plan uses
SAVE_S = 20.0  # between checkpoints of a run


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


@dataclass
class Study:
    """What all runs of a process share.

    Attributes:
        options: of the command line.
        feed, check: training and held-out speech, on the device.
    """

    options: argparse.Namespace
    feed: Feed
    check: Feed

    @classmethod
    def open(cls, options: argparse.Namespace) -> Study:
        """Load the speech."""
        torch.set_num_threads(1)
        device = torch.device(options.device)
        return cls(options, Feed(Corpus(options.data), device), Feed(Corpus(options.validation), device))

    def start(self, method: str, seed: int, steps: int) -> tuple[SpeechEncoder, Any, np.random.Generator]:
        """A fresh network, what teaches it, and its random numbers."""
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        reference = SMALL if self.options.small else REFERENCE
        network = SpeechEncoder(matched(replace(reference, **METHODS[method]), size_of(reference)))
        prepare(network, self.feed.corpus)
        network.to(self.options.device)

        def rate(at: int) -> float:
            return cosine_rate(at / steps, at, peak=1.5e-3, floor=1e-6, warmup=150)

        return network, make_update(network, self.feed, rng, rate, whole=1.0), rng

    def pace(self, method: str) -> float:
        """Seconds an update, beside whatever else runs now."""
        count: int = min(PACE, self.options.steps)
        _, update, rng = self.start(method, 0, count)
        batches = self.feed.corpus.batches(self.options.batch, rng)
        begun = 0.0
        for step in range(2 * count):
            if step == count:
                _synchronise(self.options.device)
                begun = time.monotonic()
            update(min(step, count), next(batches))
        _synchronise(self.options.device)
        return (time.monotonic() - begun) / count

    def run(self, method: str, seed: int, steps: int) -> bool:
        """Train one mixer, or go on with it, and write `<method>-<seed>.json`; False when the time was over."""
        path = self.options.out / f'{method}-{seed}.json'
        if path.exists():
            return True
        folder = path.with_suffix('')
        network, update, rng = self.start(method, seed, steps)
        first, spent, losses = 0, 0.0, []
        if (folder / 'checkpoint.json').exists():
            first, facts = load_checkpoint(folder, network, update.optimiser, {'data': rng})
            spent, losses = float(facts['seconds']), facts['losses']
        begun = saved = time.monotonic()
        step = first
        batches = self.feed.corpus.batches(self.options.batch, rng)
        while step < steps:
            loss = update(step, next(batches))
            if step % 50 == 0:
                losses.append((step, float(loss)))
            step += 1
            is_late = time.time() > self.options.end
            if is_late or time.monotonic() - saved > SAVE_S:
                facts = {'seconds': spent + time.monotonic() - begun, 'losses': losses}
                save_checkpoint(
                    folder, network, update.optimiser, step=step, facts=facts, generators={'data': rng}
                )  # fmt: skip
                saved = time.monotonic()
            if is_late and step < steps:
                return False
        said = self.check.corpus.texts
        cer, wer = error_rates(said, transcribe(network, self.check))
        facts = {
            'method': method, 'seed': seed, 'cer': cer, 'wer': wer, 'steps': steps,
            'parameters': size_of(network.config), 'seconds': spent + time.monotonic() - begun, 'losses': losses,
            'utterances': len(said), 'batch': self.options.batch,
        }  # fmt: skip
        write_atomically(path, json.dumps(facts))
        print(f'{method} seed {seed}: CER {cer:.4f}, WER {wer:.4f} after {steps} updates', flush=True)
        return True


_study: Study | None = None  # of this process


def _open(options: argparse.Namespace) -> None:
    global _study
    _study = Study.open(options)


def _pace(method: str) -> float:
    assert _study is not None
    return _study.pace(method)


def _run(run: tuple[str, int, int]) -> bool:
    assert _study is not None
    try:
        return _study.run(*run)
    except RuntimeError as error:  # one run that fails must not end the others
        print(f'{run[0]} seed {run[1]}: {error}', file=sys.stderr)
        return False


def plan_steps(options: argparse.Namespace, paces: Sequence[float]) -> int:
    """Updates of each run, so that all end in time: the same for all, and for whoever goes on later."""
    left = options.end - time.time()
    of_all = sum(paces) * len(options.seeds) / options.jobs
    steps: int = max(1, min(options.steps, int(MARGIN * left / max(of_all, 1e-6))))
    return steps


def _synchronise(device: str) -> None:
    if torch.device(device).type == 'cuda':
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


@torch.no_grad()
def fresh_rows(check: Feed, seeds: Sequence[int], count: int = 24, tokens: int = 40) -> list[Row]:
    """What mixers add to tokens of size 1 before any training, mean over layers.

    How large it is (root mean square), how far it differs between the first tokens of an utterance, and, averaged over
    them, between utterances.
    """
    rows = []
    features, keep, _ = check.batch(np.arange(min(count, len(check.corpus))))
    for method in METHODS:
        found = []
        for seed in seeds:
            torch.manual_seed(seed)
            network = SpeechEncoder(matched(replace(REFERENCE, **METHODS[method]), size_of(REFERENCE))).eval()
            prepare(network, check.corpus)
            added: list[torch.Tensor] = []
            hooks = [
                mixer.register_forward_hook(lambda *call, added=added: added.append(call[2][0]))
                for name, mixer in network.named_modules()
                if name.endswith('.mixer')
            ]
            network.log_probs(features, keep)
            assert len(added) == len(hooks)
            mixed = torch.stack(added)[:, :, :tokens]  # (layers, B, tokens, width)
            of_utterance = mixed.mean(2, keepdim=True)
            parts = (mixed, mixed - of_utterance, of_utterance - of_utterance.mean(1, keepdim=True))
            found.append([float(part.square().mean((1, 2, 3)).sqrt().mean()) for part in parts])
        for index, name in enumerate(('size', 'between_tokens', 'between_utterances')):
            rows.append(over_seeds(f'fresh/{method}/{name}', [values[index] for values in found]))
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
    panel.set_ylabel('CER, held-out speech')
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    panel.set_title('mixers at equal size, mean and 95 % interval over seeds (synthetic speech)', fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    figure.savefig(partial, format='png', dpi=110)
    partial.replace(path)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 3 when the time was over before the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, help='folder made by pom_speech.data')
    parser.add_argument('--validation', type=Path, required=True, help='folder with held-out speech')
    parser.add_argument('--out', type=Path, help='folder for one file a run')
    parser.add_argument('--fresh', action='store_true', help='train nothing: look at what untrained mixers give')
    parser.add_argument('--json', type=Path, help='where the table goes; its picture goes beside it')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--steps', type=int, default=3000, help='updates of each run, at most')
    parser.add_argument(
        '--seconds', type=float, default=3600.0,
        help='for all runs together, from now; the first call makes fewer updates when --steps would take longer',
    )  # fmt: skip
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time, each in a process of its own')
    parser.add_argument('--batch', type=int, default=48)
    parser.add_argument('--small', action='store_true', help='two layers of width 48, for two CPU cores')
    parser.add_argument('--no-graphs', dest='graphs', action='store_false', help='CUDA: launch kernel by kernel')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    options = parser.parse_args(arguments)
    if options.fresh:
        torch.set_num_threads(1)
        rows = fresh_rows(Feed(Corpus(options.validation), torch.device('cpu')), options.seeds)
        print(show(rows))
        if options.json:
            about = json.loads((options.validation / 'corpus.json').read_text())
            command = 'python -m attn_robotics.systems.pom_speech.study --fresh'
            write_results(options.json, rows, command, options.seeds, torch=torch.__version__, validation=about)
        return 0
    if options.data is None or options.out is None:
        parser.error('--data and --out are needed to train')
    options.end = time.time() + options.seconds
    options.out.mkdir(parents=True, exist_ok=True)
    plan = options.out / 'plan.json'
    with get_context('spawn').Pool(options.jobs, _open, (options,)) as pool:
        if not plan.exists():
            paces = pool.map(_pace, options.methods, chunksize=1)
            facts = {'steps': plan_steps(options, paces), 'batch': options.batch, 'small': options.small}
            write_atomically(plan, json.dumps(facts | {'pace_s': dict(zip(options.methods, paces, strict=True))}))
        facts = json.loads(plan.read_text())
        if (facts['batch'], facts['small']) != (options.batch, options.small):
            parser.error(f'{options.out} holds runs with --batch {facts["batch"]}; use another --out')
        runs = [(method, seed, facts['steps']) for seed in options.seeds for method in options.methods]
        is_whole = all(pool.map(_run, runs, chunksize=1))
    rows = summarise(options.out)
    if rows:
        print(show(rows))
    if options.json and rows:
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
    return 0 if is_whole else 3


if __name__ == '__main__':
    raise SystemExit(main())
