"""Which samples to train on next: nonparametric teaching (AtteNT) as a sampler.

Source: AtteNT, arXiv 2602.20461. A model is taught fastest by the samples it gets most wrong; training alternates
between epochs on a chosen part of the data and epochs on all of it. Differences from the released code, which
divides by the padded length and whose temperature changes nothing: losses are standardised, the temperature divides
them before the noise is added, losses recorded while training are used again (no extra pass), and the largest losses
can be left out as label noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

STRATEGIES = ('none', 'random', 'hard', 'soft')
SHAPES = ('incremental', 'cosine', 'fixed')


@dataclass(frozen=True)
class TeachingPlan:
    """When a part of the data is enough, how large it is, and how it is chosen; defaults are the paper's best.

    Attributes:
        strategy: 'none' trains on everything, 'random' on a random part, 'hard' on the largest losses, 'soft' draws
            without replacement with probabilities that grow with the loss.
        cycles: alternations between a part and all of the data.
        ratio: share of the data at the first and at the last cycle, in (0, 1].
        ratio_shape: how the share moves between them, 'incremental', 'cosine' or 'fixed' (stays at the first).
        interval: epochs on the part in the first and in the last cycle.
        interval_shape: as `ratio_shape`.
        temperature: of 'soft', in standard deviations of the loss; small values approach 'hard'.
        outliers: share of the largest known losses never chosen by 'hard' and 'soft', as label noise.
    """

    strategy: str = 'soft'
    cycles: int = 10
    ratio: tuple[float, float] = (0.2, 0.8)
    ratio_shape: str = 'incremental'
    interval: tuple[int, int] = (5, 10)
    interval_shape: str = 'incremental'
    temperature: float = 0.5
    outliers: float = 0.005

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f'strategy must be one of {STRATEGIES}, got {self.strategy!r}')
        for name in ('ratio_shape', 'interval_shape'):
            if getattr(self, name) not in SHAPES:
                raise ValueError(f'{name} must be one of {SHAPES}, got {getattr(self, name)!r}')
        if not all(0.0 < share <= 1.0 for share in self.ratio):
            raise ValueError(f'ratio must lie in (0, 1], got {self.ratio}')
        if self.cycles < 1 or min(self.interval) < 1 or self.temperature <= 0.0 or not 0.0 <= self.outliers < 1.0:
            raise ValueError(
                f'cycles and interval must be at least 1, temperature positive, outliers in [0, 1); '
                f'got {self.cycles}, {self.interval}, {self.temperature}, {self.outliers}'
            )

    def share(self, cycle: int) -> float:
        """Part of the data that cycle `cycle` (from 0) trains on."""
        return self._between(*self.ratio, self.ratio_shape, cycle)

    def epochs(self, cycle: int) -> int:
        """Epochs that cycle `cycle` spends on the part."""
        return int(self._between(*self.interval, self.interval_shape, cycle))

    def _between(self, first: float, last: float, shape: str, cycle: int) -> float:
        progress = cycle / max(self.cycles - 1, 1)
        if shape == 'cosine':
            progress = (1.0 - math.cos(math.pi * progress)) / 2.0
        return first if shape == 'fixed' else first + (last - first) * progress


class TeachingSampler(Sampler[int]):
    """Yields the sample indices of one epoch, all of them or the chosen part, shuffled.

    Call `set_epoch` before every epoch and `update` with the losses that training computes anyway. Epoch 0 sees
    everything. The same seed, epoch and losses give the same choice on every rank.

    Args:
        size: number of samples.
        epochs: length of the training.
        plan: see `TeachingPlan`.
        seed: of choices and shuffles.
        rank: this process, below `world`.
        world: number of processes; each gets every world-th index, the last ones repeat so that all get as many.

    Raises:
        ValueError: sizes do not fit.
    """

    def __init__(
        self, size: int, epochs: int, plan: TeachingPlan | None = None, *, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        if size < 1 or epochs < 1 or not 0 <= rank < world:
            raise ValueError(f'size and epochs must be positive and rank below world, got {size}, {epochs}, {rank}')
        self.size, self.epochs, self.plan = size, epochs, plan or TeachingPlan()
        self.seed, self.rank, self.world = seed, rank, world
        self.epoch = 0
        self.losses: NDArray[np.float64] = np.full(size, np.nan)
        self.chosen: NDArray[np.int64] = np.arange(size)
        self.inclusion: NDArray[np.float64] = np.ones(size)

    def cycle_of(self, epoch: int) -> tuple[int, int] | None:
        """(cycle, epoch within it) while a part is trained on, None in epochs on everything."""
        length = (self.epochs - 1) // self.plan.cycles
        if self.plan.strategy == 'none' or epoch < 1 or length < 1:
            return None
        cycle, inside = divmod(epoch - 1, length)
        if cycle >= self.plan.cycles or inside >= self.plan.epochs(cycle):
            return None
        return cycle, inside

    def set_epoch(self, epoch: int) -> None:
        """Choose the samples of an epoch: anew when a part begins, and in every epoch under 'soft'."""
        self.epoch = epoch
        place = self.cycle_of(epoch)
        if place is None:
            self.chosen, self.inclusion = np.arange(self.size), np.ones(self.size)
        elif place[1] == 0 or self.plan.strategy == 'soft':
            count = max(1, int(self.size * self.plan.share(place[0])))
            self.chosen, self.inclusion = self._choose(count)

    def update(self, indices: Tensor, losses: Tensor) -> None:
        """Remember the losses of some samples: sums over valid tokens divided by their number, not by the padding.

        Raises:
            ValueError: an index or a loss that cannot be.
        """
        at, value = indices.detach().cpu().numpy(), losses.detach().to('cpu', torch.float64).numpy()
        if at.shape != value.shape or at.ndim != 1:
            raise ValueError(f'one loss a sample is needed, got {value.shape} for {at.shape}')
        if at.size and (at.min() < 0 or at.max() >= self.size):
            raise ValueError(f'sample {at.max() if at.max() >= self.size else at.min()} is outside 0..{self.size - 1}')
        if not np.isfinite(value).all():
            raise ValueError(f'loss of sample {at[~np.isfinite(value)][0]} is not finite')
        self.losses[at] = value

    def weights(self, indices: Tensor) -> Tensor:
        """(n,) float32 factors that make the chosen part stand for all samples: 1 / inclusion probability.

        Multiplied with the losses of this epoch's samples and summed, they estimate the sum over everything without
        bias ('random' and 'soft'; a 'hard' choice leaves samples out for certain and has no such factors).

        Raises:
            ValueError: under 'hard'.
        """
        if self.plan.strategy == 'hard' and self.cycle_of(self.epoch) is not None:
            raise ValueError("'hard' leaves samples out for certain; use 'soft' for weights")
        return torch.from_numpy(1.0 / self.inclusion[indices.cpu().numpy()]).to(torch.float32)

    def __len__(self) -> int:
        return -(-len(self.chosen) // self.world)

    def __iter__(self) -> Iterator[int]:
        order = self._generator(1).permutation(self.chosen)
        order = np.resize(order, len(self) * self.world)  # repeats from the beginning
        yield from order[self.rank :: self.world].tolist()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs; tensors and plain numbers."""
        return {
            'epoch': self.epoch,
            'losses': torch.from_numpy(self.losses.copy()),
            'chosen': torch.from_numpy(self.chosen.copy()),
            'inclusion': torch.from_numpy(self.inclusion.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: the state belongs to a data set of another size.
        """
        if len(state['losses']) != self.size:
            raise ValueError(f'state of {len(state["losses"])} samples, but the data set has {self.size}')
        self.epoch = int(state['epoch'])
        self.losses, self.chosen, self.inclusion = (state[k].numpy().copy() for k in ('losses', 'chosen', 'inclusion'))

    def _generator(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch, purpose))

    def _choose(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Indices, ascending, and every sample's probability to be among them (given the threshold under 'soft')."""
        generator, everything = self._generator(0), np.ones(self.size)
        if count >= self.size:
            return np.arange(self.size), everything
        if self.plan.strategy == 'random':
            return np.sort(generator.permutation(self.size)[:count]), everything * (count / self.size)
        known = np.isfinite(self.losses)
        spread = self.losses[known].std() if known.any() else 0.0
        centred = self.losses - (self.losses[known].mean() if known.any() else 0.0)
        score = centred / (spread if spread > 0.0 else 1.0) / self.plan.temperature
        score[~known] = score[known].max() if known.any() else 0.0  # never seen: as urgent as the worst
        dropped = int(self.plan.outliers * known.sum())
        if dropped and self.size - dropped > count:
            score[np.argsort(np.where(known, self.losses, -np.inf))[-dropped:]] = -np.inf
        if self.plan.strategy == 'hard':
            return np.sort(np.argsort(-score, kind='stable')[:count]), everything
        # Gumbel top-k draws without replacement; given the (k + 1)-th value each is in with the probability below
        # (Kool et al., ICML 2019, Eq. 7).
        noisy = score + generator.gumbel(size=self.size)
        order = np.argsort(-noisy, kind='stable')
        threshold = noisy[order[count]]
        inclusion = -np.expm1(-np.exp(np.minimum(score - threshold, 50.0)))
        return np.sort(order[:count]), np.maximum(inclusion, np.finfo(np.float64).tiny)
