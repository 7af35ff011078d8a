"""Sequences of synthetic kitchens that are drawn anew for every epoch, on the device that trains on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attn_robotics.systems.aga.data import ACTIONS, BACKGROUND, STEPS, Kitchens

LONGEST = 3  # steps that an action lasts at most
_EVENTS = 5  # random numbers of an action: does a task begin, which one, is it a distraction, which one, how long


@dataclass(frozen=True)
class Sets:
    """Stacked data of R replicas; frames (R, N, T, features), labels (R, N, T + 1)."""

    frames: Tensor
    labels: Tensor

    @classmethod
    def draw(cls, worlds: Sequence[Kitchens], count: int, steps: int, kitchens: range, seed: int) -> Sets:
        """Draw the same part of every replica's world."""
        drawn = [world.draw(count, steps, kitchens, seed) for world in worlds]
        return cls(*(torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True)))

    def to(self, device: torch.device) -> Sets:
        """On another device."""
        return Sets(self.frames.to(device), self.labels.to(device))


class FreshSets:
    """Draws sequences of R worlds, distributed as those of `Kitchens.draw`, into the same tensors.

    Every world has random numbers of its own, from its seed and the epoch, whatever other worlds there are.

    Args:
        worlds: R of them.
        count: sequences N of each, dealt to the kitchens in turn.
        steps: T.
        kitchens: their numbers.
        device: where to.

    Attributes:
        sets: what was drawn last.
    """

    def __init__(
        self, worlds: Sequence[Kitchens], count: int, steps: int, kitchens: range, device: torch.device
    ) -> None:
        self._seeds = [world.seed for world in worlds]
        means = np.stack([np.stack([world.of_kitchen(kitchen) for kitchen in kitchens]) for world in worlds])
        self._means = torch.from_numpy(means).to(device)  # (R, kitchens, K + 1, features)
        self._kitchen = (torch.arange(count) % len(kitchens)).to(device)
        self._program = torch.from_numpy(STEPS).to(device)

        def of_worlds(name: str) -> Tensor:
            return torch.tensor([getattr(world, name) for world in worlds], device=device)[:, None]

        self._noise = of_worlds('noise')[..., None, None]
        self._distraction, self._switch = of_worlds('distraction'), of_worlds('switch')
        self._background = of_worlds('background')[..., None]
        rows = (len(worlds), count)
        self._events = torch.zeros(*rows, steps + 1, _EVENTS, device=device)
        self._begin, self._hide = torch.zeros(*rows, 2, device=device), torch.zeros(*rows, steps, device=device)
        self._generator = torch.Generator(device)
        frames = torch.zeros(*rows, steps, means.shape[-1], device=device)
        self.sets = Sets(frames, torch.zeros(*rows, steps + 1, dtype=torch.int64, device=device))

    def renew(self, epoch: int) -> None:
        """Draw the sequences of an epoch."""
        for index, seed in enumerate(self._seeds):
            mixed = np.random.SeedSequence([seed, 5, epoch]).generate_state(2, np.uint32)
            self._generator.manual_seed((int(mixed[0]) << 31) + int(mixed[1]))
            for numbers in (self._events, self._begin, self._hide):
                numbers[index].uniform_(generator=self._generator)
            self.sets.frames[index].normal_(generator=self._generator)
        labels = self._walk()
        self.sets.labels.copy_(labels)
        shown = torch.where(self._hide < self._background, BACKGROUND, labels[..., :-1])
        row = torch.arange(len(shown), device=shown.device)[:, None, None]
        self.sets.frames.mul_(self._noise).add_(self._means[row, self._kitchen[:, None], shown])

    def _walk(self) -> Tensor:
        """(R, N, T + 1) actions; see `data._walk`, which draws one by one."""
        tasks, length = self._program.shape
        task, place = _choice(self._begin[..., 0], tasks), _choice(self._begin[..., 1], 5)
        actions = []
        for begins, which, distracts, other, _ in (event.unbind(-1) for event in self._events.unbind(2)):
            begins = (begins < self._switch) | (place == length)
            task = torch.where(begins, _choice(which, tasks), task)
            place = torch.where(begins, 0, place)
            distracts = distracts < self._distraction
            planned = self._program[task, place]
            actions.append(torch.where(distracts, _choice(other, len(ACTIONS)), planned))
            place = place + (~distracts).long()
        ends = (1 + _choice(self._events[..., -1], LONGEST)).cumsum(-1)  # (R, N, T + 1) step at which each is over
        step = torch.arange(ends.shape[-1], device=ends.device).expand_as(ends).contiguous()
        return torch.stack(actions, -1).gather(-1, torch.searchsorted(ends, step, right=True))


def _choice(uniform: Tensor, count: int) -> Tensor:
    """Numbers from 0 to 1 as whole ones below `count`."""
    return (uniform * count).long().clamp(max=count - 1)
