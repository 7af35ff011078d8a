"""BEST-RQ pretraining, without labels: `python -m attn_robotics.systems.pom_speech.pretrain --help`.

Masked tokens must be told by the codes that a frozen random projection gives their features (arXiv 2202.01855). The
result is where `train.py --start` begins.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm

from attn_robotics.systems.pom_speech.config import PomSpeechConfig
from attn_robotics.systems.pom_speech.data import Corpus
from attn_robotics.systems.pom_speech.model import SpeechEncoder
from attn_robotics.systems.pom_speech.processor import BANDS, FRAMES_PER_TOKEN
from attn_robotics.systems.pom_speech.train import WARM_UP, Feed, prepare
from attn_robotics.systems.pom_speech.weights_file import ship
from attn_robotics.training.loop import TimeBudget, cosine_rate

START_PROBABILITY = 0.15  # of a frame; spans of one token each, so that 60 % of the tokens are masked
MASK_DEVIATION = 0.1  # of the noise in their place


class Quantizer(nn.Module):
    """Frozen projection of a token's four frames, and the nearest of frozen codes.

    Args:
        codes: how many; 8192 in the paper.
        width: of the projection.
        seed: of both.
    """

    projection: Tensor
    codes: Tensor

    def __init__(self, codes: int = 8192, width: int = 16, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = FRAMES_PER_TOKEN * BANDS
        bound = math.sqrt(6.0 / (size + width))  # Xavier's
        self.register_buffer('projection', (torch.rand(size, width, generator=generator) * 2 - 1) * bound)
        self.register_buffer('codes', normalize(torch.randn(codes, width, generator=generator), dim=-1))

    @torch.no_grad()
    def forward(self, normalised: Tensor) -> Tensor:
        """(B, N, 4, 80) normalised features, none of them masked, to (B, N) codes."""
        found: Tensor = (normalize(normalised.flatten(2) @ self.projection, dim=-1) @ self.codes.T).argmax(-1)
        return found


def draw_tokens(shortest: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens to mask in a whole batch, of the `shortest` that all its utterances have; sorted, at least one.

    The published rule: 15 % of the frames start a span of four frames at a multiple of four.
    """
    count = max(1, int(START_PROBABILITY * FRAMES_PER_TOKEN * shortest))
    return np.sort(rng.choice(shortest, count, replace=False))


def masked_loss(
    network: SpeechEncoder, head: nn.Linear, quantizer: Quantizer, features: Tensor, keep: Tensor, tokens: Tensor
) -> Tensor:
    """Cross-entropy of the codes of the masked tokens.

    Args:
        network: the encoder.
        head: to the codes.
        quantizer: makes the targets, from unmasked features.
        features: (B, N, 4, 80) log-mel.
        keep: (B, N), True for real tokens.
        tokens: what to mask, see `draw_tokens`.
    """
    targets = quantizer(network.normalise(features))[:, tokens]
    noise = MASK_DEVIATION * torch.randn_like(features[:, tokens])
    masked = features.index_copy(1, tokens, noise / network.feature_scale + network.feature_mean)
    return cross_entropy(head(network.encode(masked, keep)[:, tokens]).flatten(0, 1).float(), targets.flatten())


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--data', type=Path, required=True, help='folder made by pom_speech.data; its texts are not used'
    )
    parser.add_argument('--out', type=Path, required=True, help='safetensors file to write')
    parser.add_argument('--minutes', type=float, default=20.0, help='time budget; Ctrl-C ends it and writes as well')
    parser.add_argument('--codes', type=int, default=8192)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--rate', type=float, default=1e-3, help='peak learning rate')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    device = torch.device(options.device)
    corpus = Corpus(options.data)
    network = SpeechEncoder(PomSpeechConfig())
    prepare(network, corpus)
    head = nn.Linear(network.config.width, options.codes)
    parts = nn.ModuleList([network, head, Quantizer(options.codes, seed=options.seed)]).to(device).train()
    feed = Feed(corpus, device)
    optimiser = torch.optim.AdamW(parts.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.1)
    step, loss = 0, torch.zeros(())
    with TimeBudget(60.0 * options.minutes) as budget, tqdm(unit='update') as bar:
        for step, picked in enumerate(corpus.batches(options.batch, rng)):
            for group in optimiser.param_groups:
                group['lr'] = cosine_rate(
                    budget.elapsed / budget.seconds, step, peak=options.rate, floor=1e-6, warmup=WARM_UP
                )
            features, keep, lengths = feed.batch(picked)
            tokens = torch.from_numpy(draw_tokens(min(lengths), rng)).to(device)
            loss = masked_loss(network, head, parts[2], features, keep, tokens)  # type: ignore[arg-type]
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parts.parameters(), 10.0)
            optimiser.step()
            bar.update()
            if step % 50 == 0:
                bar.set_postfix(loss=f'{float(loss.detach()):.3f}')
            if budget.is_over:
                break
    ship(options.out, network, {'name': 'pom_speech_pretrained', 'updates': step + 1, 'seed': options.seed})
    guess = math.log(options.codes)
    print(f'wrote {options.out} after {step + 1} updates, loss {float(loss.detach()):.3f}; guessing gives {guess:.3f}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
