"""The loop that trains replicas on stacked data: cosine rate, clipping, progress, curves, checkpoints, resuming.

Several runs may go side by side: on a GPU every update is a captured graph on a stream of its own, so that the small
kernels of one run fill what the others leave idle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from attn_robotics.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from attn_robotics.training.curves import Curves
from attn_robotics.training.graphs import Replayed
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
        seed: of the order and of dropout; on a GPU, runs side by side share its random numbers, so that the dropout of
            one depends on its company.
        resume: go on from the checkpoint in `out`.
        clip: longest gradient of a replica.
    """

    name: str
    out: Path
    facts: Mapping[str, Any]
    epochs: int
    batch: int
    seed: int = 0
    resume: bool = False
    clip: float = 1.0


class Fit:
    """A run with all that it trains.

    Args:
        run: see `Run`.
        replicas: on the device of the data.
        optimiser: of the replicas' parameters; its rates are the peaks of a cosine that ends at zero.
        loss: of (network, *rows of data), a number a replica.
        data: tensors (R, N, ...).
        after_update: called after every update, such as to project parameters.
        renew: called with the number of an epoch before it begins, to write new data into `data`.

    Raises:
        CheckpointError: nothing fitting to resume from.
    """

    def __init__(
        self,
        run: Run,
        replicas: Replicas,
        optimiser: torch.optim.Optimizer,
        loss: Callable[..., Tensor],
        data: Sequence[Tensor],
        *,
        after_update: Callable[[], None] | None = None,
        renew: Callable[[int], None] | None = None,
    ) -> None:
        self.run = run
        self._replicas, self._optimiser, self._loss, self._data = replicas, optimiser, loss, data
        self._after_update, self._renew = after_update, renew
        self._device = data[0].device
        rows = data[0].shape[1]
        batch = min(run.batch, rows)
        self.batches = rows // batch
        self.total = run.epochs * self.batches
        self._order = np.random.default_rng([run.seed, 7])
        torch.manual_seed(run.seed)
        self._curves = Curves(run.out / 'curves.csv')
        self.step, self._spent = 0, 0.0
        peaks = [float(group['lr']) for group in optimiser.param_groups]
        if run.resume:
            self.step, before = load_checkpoint(run.out, replicas, optimiser, {'order': self._order})
            if {name: before.get(name) for name in run.facts} != dict(run.facts):
                raise CheckpointError(
                    f'{run.out} was trained with other settings; start without --resume or use another --out'
                )
            self._spent = float(before['seconds'])
        else:
            self._curves.rows.clear()
        self._peaks = peaks
        self._chosen = torch.zeros(batch, dtype=torch.int64, device=self._device)
        self._sum = torch.zeros((), device=self._device)
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == 'cuda':
            self._stream = torch.cuda.Stream(self._device)
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            for group in optimiser.param_groups:  # rates that a captured graph can read
                group.update(capturable=True, lr=torch.zeros((), device=self._device))
        self._update = Replayed(self._learn, self._device)

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done."""
        return self.step >= self.total

    def _here(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def epoch(self) -> Iterator[None]:
        """One pass over the data, an update a turn."""
        with self._here():
            if self._renew is not None:
                self._renew(self.step // self.batches)
            order = torch.from_numpy(self._order.permutation(self._data[0].shape[1])).to(self._device)
            self._sum.zero_()
        self._replicas.train()
        for chosen in order.split(len(self._chosen))[: self.batches]:
            with self._here():
                for group, peak in zip(self._optimiser.param_groups, self._peaks, strict=True):
                    rate = cosine_rate(self.step / self.total, self.step, peak=peak, floor=0.0, warmup=20)
                    if isinstance(group['lr'], Tensor):
                        group['lr'].fill_(rate)
                    else:
                        group['lr'] = rate
                self._chosen.copy_(chosen)
                self._update()
            self.step += 1
            yield

    def _learn(self) -> None:
        losses = self._replicas(self._loss, *(part.index_select(1, self._chosen) for part in self._data))
        self._optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        clip_each(self._replicas, self.run.clip)
        self._optimiser.step()
        if self._after_update is not None:
            self._after_update()
        self._sum.add_(losses.detach().mean())

    def note(self, elapsed: float) -> float:
        """Add an epoch to the curves and give its mean loss; `elapsed` are the seconds of this call of `fit`."""
        with self._here():
            mean = float(self._sum) / self.batches
        self._curves.add({'epoch': self.step // self.batches, 'loss': mean, 'seconds': self._spent + elapsed})
        return mean

    def save(self, elapsed: float) -> None:
        """Write the checkpoint and the curves."""
        with self._here():
            facts = {**self.run.facts, 'seconds': self._spent + elapsed}
            save_checkpoint(
                self.run.out, self._replicas, self._optimiser, step=self.step, facts=facts,
                generators={'order': self._order},
            )  # fmt: skip
        self._curves.write()

    def draw(self) -> None:
        """Draw the curves."""
        title = f'{self.run.name}: loss, mean of {self._replicas.count} runs'
        self._curves.draw(self.run.out / 'curves.png', 'epoch', {title: ['loss']})


def fit(fits: Sequence[Fit], *, seconds: float = 1e9, quiet: bool = False) -> bool:
    """Train runs side by side, epoch by epoch.

    Args:
        fits: of one device.
        seconds: save and leave after this long.
        quiet: no progress bar.

    Returns:
        Whether all epochs are done; if not, the time was over or Ctrl-C came, and `resume` goes on.
    """
    todo = sum(one.total - one.step for one in fits)
    name = ', '.join(one.run.name for one in fits)
    with TimeBudget(seconds) as budget, tqdm(
        total=todo, desc=name, unit='update', disable=quiet, mininterval=0.5
    ) as bar:  # fmt: skip
        left, epochs = [one for one in fits if not one.is_done], 0
        while left and not budget.is_over:
            turns = [one.epoch() for one in left]
            while turns:
                turns = [turn for turn in turns if next(turn, StopIteration) is not StopIteration]
                bar.update(len(turns))
            means = [one.note(budget.elapsed) for one in left]
            bar.set_postfix(loss=f'{np.mean(means):.4g}')
            epochs += 1
            if epochs % SAVE_EVERY == 0:
                for one in left:
                    one.save(budget.elapsed)
            left = [one for one in left if not one.is_done]
        for one in fits:
            one.save(budget.elapsed)
            one.draw()
    return not left


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
