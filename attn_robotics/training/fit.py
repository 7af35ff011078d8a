"""The loop that trains replicas on stacked data: cosine rate, clipping, progress, curves, checkpoints, resuming."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from attn_robotics.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from attn_robotics.training.curves import Curves
from attn_robotics.training.loop import TimeBudget, cosine_rate
from attn_robotics.training.replicas import Replicas, clip_each

SAVE_EVERY = 5  # epochs


@dataclass(frozen=True)
class Run:
    """One training run of R replicas.

    Attributes:
        name: shown beside the progress bar.
        out: folder for checkpoint, curves.csv and curves.png.
        facts: JSON values that make the run what it is; resuming wants the same ones.
        epochs: passes over the data.
        batch: rows of every replica in an update.
        seed: of the order and of dropout.
        seconds: save and leave after this long.
        resume: go on from the checkpoint in `out`.
        quiet: no progress bar.
        clip: longest gradient of a replica.
    """

    name: str
    out: Path
    facts: Mapping[str, Any]
    epochs: int
    batch: int
    seed: int = 0
    seconds: float = 1e9
    resume: bool = False
    quiet: bool = False
    clip: float = 1.0


def fit(
    run: Run,
    replicas: Replicas,
    optimiser: torch.optim.Optimizer,
    loss: Callable[..., Tensor],
    data: Sequence[Tensor],
    after_update: Callable[[], None] | None = None,
) -> bool:
    """Train; the optimiser's rates are the peaks of a cosine that ends at zero.

    Args:
        run: see `Run`.
        replicas: on the device of the data.
        optimiser: of the replicas' parameters.
        loss: of (network, *rows of data), a number a replica.
        data: tensors (R, N, ...).
        after_update: called after every update, such as to project parameters.

    Returns:
        Whether all epochs are done; if not, the time was over or Ctrl-C came, and `resume` goes on.

    Raises:
        CheckpointError: nothing fitting to resume from.
    """
    rows = data[0].shape[1]
    batches = max(1, rows // run.batch)
    total = run.epochs * batches
    peaks = [group['lr'] for group in optimiser.param_groups]
    rng = np.random.default_rng([run.seed, 7])
    torch.manual_seed(run.seed)
    curves = Curves(run.out / 'curves.csv')
    step, spent = 0, 0.0
    if run.resume:
        step, before = load_checkpoint(run.out, replicas, optimiser, {'order': rng})
        if {name: before.get(name) for name in run.facts} != dict(run.facts):
            raise CheckpointError(
                f'{run.out} was trained with other settings; start without --resume or use another --out'
            )
        spent = float(before['seconds'])
    else:
        curves.rows.clear()
    with TimeBudget(run.seconds, spent) as budget, tqdm(
        total=total, initial=step, desc=run.name, unit='update', disable=run.quiet, mininterval=0.5
    ) as bar:  # fmt: skip

        def save() -> None:
            facts = {**run.facts, 'seconds': budget.total}
            save_checkpoint(run.out, replicas, optimiser, step=step, facts=facts, generators={'order': rng})
            curves.write()

        while step < total and not budget.is_over:
            order = torch.from_numpy(rng.permutation(rows)).to(data[0].device)
            replicas.train()
            sums = torch.zeros((), device=data[0].device)
            for chosen in order.split(run.batch)[:batches]:
                for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                    group['lr'] = cosine_rate(step / total, step, peak=peak, floor=0.0, warmup=20)
                losses = replicas(loss, *(part[:, chosen] for part in data))
                optimiser.zero_grad(set_to_none=True)
                losses.sum().backward()
                clip_each(replicas, run.clip)
                optimiser.step()
                if after_update is not None:
                    after_update()
                sums += losses.detach().mean()
                step += 1
                bar.update()
            epoch, mean = step // batches, float(sums) / batches
            curves.add({'epoch': epoch, 'loss': mean, 'seconds': budget.total})
            bar.set_postfix(loss=f'{mean:.4g}')
            if epoch % SAVE_EVERY == 0:
                save()
        save()
        curves.draw(run.out / 'curves.png', 'epoch', {f'{run.name}: loss, mean of {replicas.count} runs': ['loss']})
    return step >= total


def read_replica(folder: Path, network: nn.Module, replica: int, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Fill a network with one replica's values out of a checkpoint's tensors; see `checkpoint.read_network`.

    Raises:
        CheckpointError: it is of another network.
    """
    state = {name.removeprefix('values.').replace('/', '.'): rows[replica] for name, rows in tensors.items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f'{folder} belongs to another network: {error}') from None
    return network
