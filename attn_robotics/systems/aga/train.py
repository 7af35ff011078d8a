"""Train AGA and its baselines: `python -m attn_robotics.systems.aga.train --help`.

All seeds of all variants in all worlds are trained side by side in one program, on sequences that are drawn anew for
every epoch. Ctrl-C saves and leaves; `--resume` goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from attn_robotics.systems.aga.baselines import VARIANTS, build_variant
from attn_robotics.systems.aga.config import AgaConfig
from attn_robotics.systems.aga.data import Kitchens
from attn_robotics.systems.aga.fresh import FreshSets, Sets
from attn_robotics.systems.aga.processor import mean_top5_recall
from attn_robotics.training.commands import find_device, run_fits, training_parser
from attn_robotics.training.fit import Fit, Run
from attn_robotics.training.replicas import Replicas

TRAIN_KITCHENS, TEST_KITCHENS = range(4), range(100, 108)
VALIDATION, TEST = 1, 2  # seeds of the sequences
Case = tuple[float, ...]  # shift, noise and background of `Kitchens`; what is left out is not there


@dataclass(frozen=True)
class Recipe:
    """How it is trained."""

    sequences: int = 1500  # of an epoch, drawn anew each time
    steps: int = 20
    epochs: int = 100
    batch: int = 50
    rate: float = 1.5e-3
    weight_decay: float = 1e-2
    held_out: int = 2000  # sequences of validation and of test each


def loss_of(network: nn.Module, frames: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every step against the next step's action, plus that of the last step (AGA, loss)."""
    logits = network(frames)
    every = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    return every + functional.cross_entropy(logits[:, -1], labels[:, -1])


def worlds_of(seeds: Sequence[int], cases: Sequence[Case]) -> list[Kitchens]:
    """The world of every replica, cases outside, seeds inside."""
    whole = [(*case, 0.0)[:3] for case in cases]
    return [
        Kitchens(seed=seed, shift=shift, noise=noise, background=background)
        for shift, noise, background in whole
        for seed in seeds
    ]


def last_logits(replicas: Replicas, sets: Sets, chunk: int = 500) -> NDArray[np.float32]:
    """(R, N, K) logits of the last step of every sequence."""
    replicas.eval()
    with torch.no_grad():
        parts = [
            replicas(lambda network, rows: network(rows)[:, -1], rows)
            for rows in sets.frames.split(chunk, 1)
        ]  # fmt: skip
    found: NDArray[np.float32] = torch.cat(parts, 1).cpu().numpy()
    return found


def recalls(replicas: Replicas, sets: Sets) -> list[float]:
    """Mean top-5 recall of the last step, one number a replica [%]."""
    logits, labels = last_logits(replicas, sets), sets.labels[:, :, -1].cpu().numpy()
    return [100.0 * mean_top5_recall(scores, truth) for scores, truth in zip(logits, labels, strict=True)]


def build_replicas(variant: str, config: AgaConfig, seeds: Sequence[int], cases: Sequence[Case]) -> Replicas:
    """Fresh networks, one a world of `worlds_of`."""
    networks = []
    for _ in cases:
        for seed in seeds:
            torch.manual_seed(seed)
            networks.append(build_variant(variant, config))
    return Replicas(networks)


def prepare(
    variant: str,
    out: Path,
    *,
    seeds: Sequence[int],
    cases: Sequence[Case] = ((Kitchens.shift, Kitchens.noise),),
    config: AgaConfig | None = None,
    recipe: Recipe | None = None,
    device: torch.device | None = None,
    resume: bool = False,
) -> Fit:
    """One variant in every world, ready to be trained; leaves a checkpoint, curves.csv and curves.png in `out`.

    Raises:
        CheckpointError: nothing fitting to resume from.
    """
    config, recipe, device = config or AgaConfig(), recipe or Recipe(), device or torch.device('cpu')
    worlds = [replace(world, features=config.features) for world in worlds_of(seeds, cases)]
    fresh = FreshSets(worlds, recipe.sequences, recipe.steps, TRAIN_KITCHENS, device)
    replicas = build_replicas(variant, config, seeds, cases).to(device)
    optimiser = torch.optim.AdamW(replicas.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay)
    facts = {
        'variant': variant, 'seeds': list(seeds), 'cases': [list(case) for case in cases], 'config': config.to_dict(),
        'recipe': asdict(recipe),
    }  # fmt: skip
    run = Run(variant, out, facts, recipe.epochs, recipe.batch, seed=seeds[0], resume=resume)
    return Fit(run, replicas, optimiser, loss_of, (fresh.sets.frames, fresh.sets.labels), renew=fresh.renew)


def _case(text: str) -> Case:
    case = tuple(float(part) for part in text.split(':'))
    if len(case) not in (2, 3):
        raise ValueError(text)
    return case


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 3 when the time was over before the end."""
    parser = training_parser(__doc__, seeds=6, epochs=Recipe.epochs, out=Path('runs/aga'))
    parser.add_argument('--variant', nargs='+', choices=VARIANTS, default=['aga'], help='what to train')
    parser.add_argument(
        '--cases', type=_case, nargs='+', default=[(Kitchens.shift, Kitchens.noise)],
        metavar='SHIFT:NOISE[:BACKGROUND]',
        help=f'worlds to train on, side by side (default {Kitchens.shift}:{Kitchens.noise})',
    )  # fmt: skip
    options = parser.parse_args(arguments)
    device = find_device(parser, options.device)
    return run_fits(
        lambda: [
            prepare(
                variant,
                options.out / variant,
                seeds=range(options.seeds),
                cases=options.cases,
                recipe=replace(Recipe(), epochs=options.epochs),
                device=device,
                resume=options.resume,
            )
            for variant in options.variant
        ],
        options.seconds,
    )


if __name__ == '__main__':
    raise SystemExit(main())
