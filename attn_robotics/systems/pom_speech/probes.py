"""What a mixer of averages can and can not do: `python -m attn_robotics.systems.pom_speech.probes --help`.

`order`: which of two marks came first? Whatever treats tokens as a set must guess. `recall`: pairs of key and value lie
before the query of one key; attention looks the pair up, an average of all pairs has to hold them all.
One mixer layer with a residual and a feed-forward layer, no convolution.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attn_robotics.attention.polynomial import PolynomialMixer
from attn_robotics.kernels.polynomial import features_of, gate_of
from attn_robotics.systems.pom_speech.baselines import AttentionMixer, SummaryMixer, rotate
from attn_robotics.training.results import over_seeds, show, write_results

WIDTH = 64
LENGTH = 24  # tokens of `order`
KEYS = 64  # of `recall`; as many values


class RotaryPolynomialMixer(nn.Module):
    """The polynomial mixer with positions: features are turned by their position before they are averaged.

    A reading token turns its gate by its own position; the product of the two, taken as complex numbers, depends on the
    distance alone. Our reconstruction of the general paper's rotary form (arXiv 2604.06129).
    """

    def __init__(self, width: int, degree: int, expansion: int) -> None:
        super().__init__()
        self.degree = degree
        features = degree * expansion * width
        self.project = nn.Linear(width, features)
        self.select = nn.Linear(width, features)
        self.aggregate = nn.Linear(features, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """(B, N, width) to the same."""
        mean = rotate(features_of(self.project(x), self.degree, None)).mean(1, keepdim=True)
        gate = rotate(gate_of(self.select(x), None))
        half = mean.shape[-1] // 2
        a, b, c, d = mean[..., :half], mean[..., half:], gate[..., :half], gate[..., half:]
        return self.norm(self.aggregate(torch.cat([a * c + b * d, b * c - a * d], -1))), None


MIXERS: dict[str, Callable[[], nn.Module]] = {
    'pom_k2': lambda: PolynomialMixer(WIDTH, degree=2, expansion=2),
    'rope_pom_k2': lambda: RotaryPolynomialMixer(WIDTH, 2, 2),
    'summary': lambda: SummaryMixer(WIDTH),
    'mha': lambda: AttentionMixer(WIDTH, 4, rotary=False),
    'rope_mha': lambda: AttentionMixer(WIDTH, 4, rotary=True),
}


class Probe(nn.Module):
    """Tokens in, one class out, read at the last token."""

    def __init__(self, mixer: str, features: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Linear(features, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.mixer = MIXERS[mixer]()
        self.head = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, classes)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, features) to (B, classes)."""
        x = self.embed(tokens)
        x = x + self.mixer(self.norm(x))[0]
        logits: Tensor = self.head(x[:, -1])
        return logits


def order_task(rng: np.random.Generator, batch: int) -> tuple[Tensor, Tensor]:
    """Noise with marks A and B at two places: (B, 24, 8) tokens, and 1 where A came first."""
    tokens = 0.3 * rng.standard_normal((batch, LENGTH, 8)).astype(np.float32)
    places = np.argsort(rng.random((batch, LENGTH - 1)), 1)[:, :2]
    rows = np.arange(batch)
    tokens[rows, places[:, 0], 0] += 3.0
    tokens[rows, places[:, 1], 1] += 3.0
    return torch.from_numpy(tokens), torch.from_numpy((places[:, 0] < places[:, 1]).astype(np.int64))


def recall_task(pairs: int) -> Callable[[np.random.Generator, int], tuple[Tensor, Tensor]]:
    """`pairs` tokens of a key and a value, then a key: (B, pairs + 1, 128) tokens, and the value that belongs to it."""

    def draw(rng: np.random.Generator, batch: int) -> tuple[Tensor, Tensor]:
        keys = np.argsort(rng.random((batch, KEYS)), 1)[:, :pairs]
        values = rng.integers(KEYS, size=(batch, pairs))
        asked = rng.integers(pairs, size=batch)
        rows = np.arange(batch)
        tokens = np.zeros((batch, pairs + 1, 2 * KEYS), np.float32)
        tokens[rows[:, None], np.arange(pairs), keys] = 1.0
        tokens[rows[:, None], np.arange(pairs), KEYS + values] = 1.0
        tokens[rows, pairs, keys[rows, asked]] = 1.0
        return torch.from_numpy(tokens), torch.from_numpy(values[rows, asked])

    return draw


TASKS: dict[str, tuple[Callable[[np.random.Generator, int], tuple[Tensor, Tensor]], int, int]] = {
    'order': (order_task, 8, 2),
    'recall_4': (recall_task(4), 2 * KEYS, KEYS),
    'recall_32': (recall_task(32), 2 * KEYS, KEYS),
}


def accuracy(mixer: str, task: str, seed: int, *, steps: int, batch: int = 128, device: str = 'cpu') -> float:
    """Train on fresh examples, then the share of 2048 fresh ones that are right."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    draw, features, classes = TASKS[task]
    network = Probe(mixer, features, classes).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        tokens, wanted = (tensor.to(device) for tensor in draw(rng, batch))
        loss = cross_entropy(network(tokens), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        tokens, wanted = (tensor.to(device) for tensor in draw(rng, 2048))
        return float((network(tokens).argmax(-1) == wanted).float().mean())


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--json', type=Path, help='where the table goes')
    parser.add_argument('--steps', type=int, default=3000)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--seconds', type=float, default=3600.0, help='stop after this time; what was done is reported')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    options = parser.parse_args(arguments)
    start = time.monotonic()
    found: dict[tuple[str, str], list[float]] = {}
    for seed in options.seeds:
        for task in TASKS:
            for mixer in MIXERS:
                if time.monotonic() - start < options.seconds:
                    value = accuracy(mixer, task, seed, steps=options.steps, device=options.device)
                    found.setdefault((task, mixer), []).append(value)
                    print(f'{task} {mixer} seed {seed}: {value:.3f}', flush=True)
    rows = [over_seeds(f'accuracy/{mixer}/{task}', values) for (task, mixer), values in found.items()]
    print(show(rows))
    if options.json:
        command = 'python -m attn_robotics.systems.pom_speech.probes'
        write_results(options.json, rows, command, options.seeds, steps=options.steps, device=options.device)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
