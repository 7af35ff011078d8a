"""Train the encoder with CTC: `python -m attn_robotics.systems.pom_speech.train --help`.

A share of the updates (`--whole`, half) mixes whole utterances, the others mix them as streams of blocks of 4 to 32
tokens, so that one set of weights serves both. `--streams-first` leaves whole utterances out at the beginning, so that
letters follow their sounds. Ctrl-C saves; `--resume` goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import ctc_loss

from attn_robotics.attention.polynomial import PolynomialMixer
from attn_robotics.systems.pom_speech.config import MIXERS, PomSpeechConfig
from attn_robotics.systems.pom_speech.data import Corpus, from_bytes, is_finished
from attn_robotics.systems.pom_speech.graphed import GraphedUpdate
from attn_robotics.systems.pom_speech.model import SpeechEncoder
from attn_robotics.systems.pom_speech.processor import BANDS
from attn_robotics.systems.pom_speech.scores import error_rates
from attn_robotics.systems.pom_speech.text import BLANK, decode, encode
from attn_robotics.systems.pom_speech.weights_file import read_weights, ship
from attn_robotics.training.checkpoint import load_checkpoint, read_extra, read_facts, save_checkpoint
from attn_robotics.training.curves import Curves
from attn_robotics.training.loop import TimeBudget, cosine_rate

BLOCKS = (4, 8, 16, 32)  # tokens
WARM_UP = 200  # updates


class Feed:
    """A corpus on the device, and batches of it.

    Args:
        corpus: the utterances.
        device: where to.
    """

    def __init__(self, corpus: Corpus, device: torch.device) -> None:
        self.corpus = corpus
        self._tokens = torch.from_numpy(corpus.tokens).to(device)
        self._targets = [encode(text) for text in corpus.texts]

    def add(self, *folders: Path) -> None:
        """Take further sets in."""
        had = len(self.corpus.parts)
        self.corpus.add(*folders)
        fresh = [torch.from_numpy(part).to(self._tokens.device) for part in self.corpus.parts[had:]]
        self._tokens = torch.cat([self._tokens, *fresh])
        del fresh
        if self._tokens.device.type == 'cuda':
            torch.cuda.empty_cache()  # else every size that this buffer had stays reserved
        self._targets += [encode(text) for text in self.corpus.texts[len(self._targets) :]]

    def batch(self, picked: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor, list[int]]:
        """Features (B, N, 4, 80), keep (B, N) and the B lengths of the picked utterances."""
        lengths = self.corpus.lengths[picked]
        at = torch.arange(int(lengths.max()))
        keep = at < torch.from_numpy(lengths)[:, None]
        index = (torch.from_numpy(self.corpus.starts[picked])[:, None] + at).clamp(max=len(self._tokens) - 1)
        features = from_bytes(self._tokens[index.to(self._tokens.device, non_blocking=True)])
        return features, keep.to(self._tokens.device, non_blocking=True), lengths.tolist()

    def fill(self, tokens: Tensor, picked: np.ndarray[Any, Any]) -> None:
        """Write the picked utterances into (B, N, 4, 80) bytes on the device; what follows a short one is of others."""
        index = torch.from_numpy(self.corpus.starts[picked])[:, None] + torch.arange(tokens.shape[1])
        index = index.clamp(max=len(self._tokens) - 1).flatten().to(self._tokens.device, non_blocking=True)
        torch.index_select(self._tokens, 0, index, out=tokens.view(-1, *self._tokens.shape[1:]))

    def targets(self, picked: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        """All classes of the picked texts in one row, and the length of each."""
        rows = [self._targets[index] for index in picked]
        flat = torch.tensor([label for row in rows for label in row])
        return flat.to(self._tokens.device, non_blocking=True), torch.tensor([len(row) for row in rows])


def mask_some(features: Tensor, fill: Tensor, rng: np.random.Generator) -> Tensor:
    """Hide two runs of bands and two of tokens of a batch (SpecAugment, arXiv 1904.08779), and shift its level."""
    batch, count = features.shape[:2]
    features = features + torch.randn(batch, 1, 1, 1, device=features.device)
    bands, tokens = (torch.from_numpy(part).to(features.device) for part in draw_mask(batch, count, rng))
    return torch.where((bands[:, None] | tokens[:, :, None])[:, :, None], fill, features)


def draw_mask(batch: int, count: int, rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The bands (B, 80) and the tokens (B, N) that `mask_some` hides."""
    return _runs(rng, batch, BANDS, 12), _runs(rng, batch, count, 5)


def _runs(rng: np.random.Generator, rows: int, size: int, longest: int) -> NDArray[np.bool_]:
    """(rows, size): two runs of True a row, each shorter than `longest`."""
    start = rng.integers(size, size=(rows, 2, 1))
    at = np.arange(size)
    inside = (at >= start) & (at < start + rng.integers(longest, size=(rows, 2, 1)))
    found: NDArray[np.bool_] = np.any(inside, axis=1)
    return found


def loss_of(
    network: SpeechEncoder, feed: Feed, picked: np.ndarray[Any, Any], rng: np.random.Generator, *, whole: float
) -> Tensor:
    """CTC loss a character of one batch, augmented."""
    features, keep, lengths = feed.batch(picked)
    features = mask_some(features, network.feature_mean, rng)
    block = None if rng.random() < whole else int(BLOCKS[rng.integers(len(BLOCKS))])
    cuda = features.device.type == 'cuda'
    with torch.autocast(features.device.type, torch.bfloat16, enabled=cuda):
        log_probs = network.log_probs(features, keep, block)
    return ctc(log_probs, feed, picked, lengths)


def ctc(log_probs: Tensor, feed: Feed, picked: np.ndarray[Any, Any], lengths: list[int]) -> Tensor:
    """CTC loss a character of (B, N, 29) log-probabilities."""
    targets, sizes = feed.targets(picked)
    loss = ctc_loss(
        log_probs.transpose(0, 1),
        targets,
        torch.tensor(lengths),
        sizes,
        blank=BLANK,
        reduction='sum',
        zero_infinity=True,
    )
    return loss / int(sizes.sum())


@torch.no_grad()
def transcribe(network: SpeechEncoder, feed: Feed, block: int | None = None, size: int = 64) -> list[str]:
    """Greedy texts of a whole corpus, in its order."""
    was_training = network.training
    network.eval()
    order = np.argsort(feed.corpus.lengths, kind='stable')
    heard: dict[int, str] = {}
    for start in range(0, len(order), size):
        picked = order[start : start + size]
        features, keep, lengths = feed.batch(picked)
        log_probs = network.log_probs(features, keep, block).cpu().numpy()
        heard |= {int(i): decode(row[:n]) for i, row, n in zip(picked, log_probs, lengths, strict=True)}
    network.train(was_training)
    return [heard[index] for index in range(len(order))]


def prepare(network: SpeechEncoder, corpus: Corpus) -> None:
    """Give a network the statistics of its training set."""
    mean, deviation = corpus.statistics()
    network.feature_mean.copy_(torch.from_numpy(mean))
    network.feature_scale.copy_(torch.from_numpy(1.0 / np.maximum(deviation, 0.1)))


@torch.no_grad()
def quieten(network: SpeechEncoder, gain: float) -> None:
    """Let the norms that end fresh polynomial mixers begin with a gain: 1 adds as much as the tokens are."""
    for mixer in network.modules():
        if isinstance(mixer, PolynomialMixer) and isinstance(mixer.norm, nn.LayerNorm):
            mixer.norm.weight.fill_(gain)


class PlainUpdate:
    """Learns from one batch a call, launch by launch."""

    def __init__(
        self,
        network: SpeechEncoder,
        feed: Feed,
        rng: np.random.Generator,
        rate: Callable[[int], float],
        whole: float,
    ) -> None:
        self._network, self._feed, self._rng, self._rate, self.whole = network, feed, rng, rate, whole
        # The paper's betas.
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)

    def __call__(self, step: int, picked: np.ndarray[Any, Any]) -> Tensor:
        """One update; gives its loss, on the device."""
        for group in self.optimiser.param_groups:
            group['lr'] = self._rate(step)
        loss = loss_of(self._network, self._feed, picked, self._rng, whole=self.whole)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), 5.0)
        self.optimiser.step()
        return loss.detach()


def make_update(
    network: SpeechEncoder,
    feed: Feed,
    rng: np.random.Generator,
    rate: Callable[[int], float],
    *,
    whole: float = 0.5,
    graphs: bool = True,
) -> PlainUpdate | GraphedUpdate:
    """What learns from a batch.

    Args:
        network, feed: on one device.
        rng: of masks and block sizes.
        rate: learning rate by step.
        whole: share of updates that mix whole utterances, the others mix streams; what is returned keeps it as an
            attribute.
        graphs: on CUDA, capture updates as graphs.
    """
    network.train()
    if graphs and next(network.parameters()).device.type == 'cuda':
        loss = partial(_ctc_of, feed)
        return GraphedUpdate(network, feed, rate, loss, partial(draw_mask, rng=rng), whole=whole)
    return PlainUpdate(network, feed, rng, rate, whole)


def _ctc_of(feed: Feed, log_probs: Tensor, picked: np.ndarray[Any, Any], lengths: list[int]) -> Tensor:
    return ctc(log_probs, feed, picked, lengths)


class Average:
    """Exponentially averaged weights of a network that is being trained, as a network of its own.

    Args:
        network: whose weights, at first as they are.
        keep: share of the average that an update keeps, at most; early on it is less, so that the beginning fades.
    """

    def __init__(self, network: SpeechEncoder, keep: float) -> None:
        self.network = deepcopy(network).eval().requires_grad_(False)
        self._keep = keep
        self._to, self._from = list(self.network.parameters()), list(network.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update number `step`."""
        keep = min(self._keep, (1.0 + step) / (10.0 + step))
        torch._foreach_lerp_(self._to, self._from, 1.0 - keep)  # type: ignore[arg-type]


def train(options: argparse.Namespace) -> None:
    """Train as the command line says."""
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    sizes = {name: getattr(options, name) for name in ('width', 'layers', 'feed_forward', 'channels', 'dropout')}
    config = replace(
        PomSpeechConfig(mixer=options.mixer), **{name: size for name, size in sizes.items() if size is not None}
    )
    spent, first = 0.0, 0
    if options.resume:
        facts = read_facts(options.out)
        config = PomSpeechConfig.from_dict(facts['config'])
        if options.dropout is not None:
            config = replace(config, dropout=options.dropout)
    known = [folder for folder in options.data if is_finished(folder)] or options.data[:1]
    corpus, checks = Corpus(*known), Corpus(options.validation)
    network = SpeechEncoder(config)
    if options.start and not options.resume:
        network.load_state_dict(read_weights(options.start)[0].state_dict())
    prepare(network, corpus)
    if config.mixer == 'pom' and not options.start:
        quieten(network, options.mixer_gain)
    network.to(device)
    feed, check = Feed(corpus, device), Feed(checks, device)
    if options.resume:
        spent = float(facts['seconds'])
    whole = spent + 60.0 * options.minutes
    budget = TimeBudget(60.0 * options.minutes, spent)

    def rate(at: int) -> float:
        return cosine_rate(budget.total / whole, at, peak=options.rate, floor=1e-6, warmup=WARM_UP)

    def share() -> float:
        if config.mixer != 'pom':
            return 1.0
        return float(options.whole) if budget.total >= options.streams_first * whole else 0.0

    update = make_update(network, feed, rng, rate, whole=share(), graphs=options.graphs)
    if options.resume:
        first, _ = load_checkpoint(options.out, network, update.optimiser, {'data': rng})
    average = Average(network, options.average)
    if options.resume and (kept := read_extra(options.out)):
        average.network.load_state_dict(kept)
    curves = Curves(options.out / 'curves.csv')
    losses: list[Tensor] = []
    step = first
    with budget:
        looked = time.monotonic()
        batches = feed.corpus.batches(options.batch, rng)
        while True:
            update.whole = share()
            losses.append(update(step, next(batches)))
            average.update(step)
            step += 1
            if budget.is_over:
                break
            if time.monotonic() - looked >= options.look_s:
                _save(options, network, average, update.optimiser, step, budget.total, rng, feed)
                _look(average.network, check, curves, step, budget.total, losses)
                looked, losses = time.monotonic(), []
                if fresh := [folder for folder in options.data if folder not in known and is_finished(folder)]:
                    known += fresh
                    feed.add(*fresh)
                    batches = feed.corpus.batches(options.batch, rng)
                    print(f'{len(feed.corpus)} utterances from now on', flush=True)
    _save(options, network, average, update.optimiser, step, budget.total, rng, feed)
    _look(average.network, check, curves, step, budget.total, losses)
    curves.draw(
        options.out / 'curves.png', 'step', {'loss a character': ['loss'], 'held-out CER': ['cer', 'cer_320ms']}
    )


def _look(network: SpeechEncoder, check: Feed, curves: Curves, step: int, seconds: float, losses: list[Tensor]) -> None:
    """Measure on held-out speech, print one line, keep the curve."""
    row = {'step': step, 'seconds': seconds, 'loss': float(torch.stack(losses).mean()) if losses else float('nan')}
    said = check.corpus.texts
    row['cer'], row['wer'] = error_rates(said, transcribe(network, check))
    if network.config.mixer == 'pom':
        row['cer_320ms'], row['wer_320ms'] = error_rates(said, transcribe(network, check, block=8))
    print(' '.join(f'{name} {value:.4g}' for name, value in row.items()), flush=True)
    curves.add(row)
    curves.write()


def _save(
    options: argparse.Namespace,
    network: SpeechEncoder,
    average: Average,
    optimiser: torch.optim.Optimizer,
    step: int,
    seconds: float,
    rng: np.random.Generator,
    feed: Feed,
) -> None:
    facts = {
        'config': network.config.to_dict(),
        'seconds': seconds,
        'seed': options.seed,
        'batch': options.batch,
        'data': feed.corpus.about,
    }
    extra = average.network.state_dict()
    save_checkpoint(options.out, network, optimiser, step=step, facts=facts, generators={'data': rng}, extra=extra)
    if options.weights:
        card = {'name': 'pom_speech', 'updates': step, 'seed': options.seed, 'training_seconds': round(seconds)}
        ship(options.weights, average.network, card | {'corpus': facts['data']})


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--data', type=Path, nargs='+', required=True,
        help='folders made by pom_speech.data; those that are still being made join when they are whole',
    )  # fmt: skip
    parser.add_argument('--validation', type=Path, required=True, help='folder with held-out speech, a few hundred')
    parser.add_argument('--out', type=Path, required=True, help='folder for checkpoint and curves')
    parser.add_argument('--minutes', type=float, default=20.0, help='time budget of this run')
    parser.add_argument('--resume', action='store_true', help='go on from the checkpoint in --out')
    parser.add_argument(
        '--start', type=Path, help='begin with the weights of a safetensors file, such as pretrained ones'
    )
    parser.add_argument('--mixer', choices=MIXERS, default='pom')
    for name in ('width', 'layers', 'feed_forward', 'channels'):
        shown = f'{getattr(PomSpeechConfig(), name)} when left out'
        parser.add_argument(f'--{name.replace("_", "-")}', type=int, help=f'of the network, {shown}')
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--rate', type=float, default=1.5e-3, help='peak learning rate')
    parser.add_argument('--dropout', type=float)
    parser.add_argument(
        '--mixer-gain', type=float, default=1.0, help='of the norms that end fresh polynomial mixers (default 1)'
    )
    parser.add_argument('--whole', type=float, default=0.5, help='share of updates that are no streams (default 0.5)')
    parser.add_argument(
        '--streams-first', type=float, default=0.0, help='share of the time with streams alone, at the beginning'
    )
    parser.add_argument(
        '--average', type=float, default=0.999,
        help='what is looked at and written is an average of the weights; so much of it survives an update (0: none)',
    )  # fmt: skip
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--look-s', type=float, default=30.0, help='seconds between checkpoints with a look at held-out speech'
    )
    parser.add_argument('--weights', type=Path, help='also write half-precision weights there with every checkpoint')
    parser.add_argument('--no-graphs', dest='graphs', action='store_false', help='CUDA: launch kernel by kernel')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    train(parser.parse_args(arguments))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
