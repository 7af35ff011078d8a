"""Synthetic kitchens: a grammar of cooking tasks, and features whose look changes from kitchen to kitchen.

Nothing here was filmed. Labels are words for a reader; features are random directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Labels = NDArray[np.int64]

# Eight tasks of ten actions each, forty actions in all; many are shared, so that only the past tells what comes next.
TASKS: tuple[tuple[str, ...], ...] = (
    (
        'open cupboard', 'take cup', 'close cupboard', 'fill kettle', 'boil water', 'take teabag', 'pour water',
        'take spoon', 'stir cup', 'set table',
    ),
    (
        'open cupboard', 'take cup', 'fill kettle', 'boil water', 'take coffee', 'pour water', 'open fridge',
        'take milk', 'pour milk', 'stir cup',
    ),
    (
        'open cupboard', 'take bowl', 'close cupboard', 'open drawer', 'take spoon', 'close drawer', 'open fridge',
        'take milk', 'close fridge', 'pour milk',
    ),
    (
        'take pot', 'fill pot', 'boil water', 'take pasta', 'put pasta', 'stir pot', 'take spoon', 'take plate',
        'open drawer', 'set table',
    ),
    (
        'take pan', 'heat pan', 'open fridge', 'take egg', 'close fridge', 'break egg', 'take spoon', 'take plate',
        'set table', 'wash pan',
    ),
    (
        'open drawer', 'take knife', 'open fridge', 'take tomato', 'close fridge', 'open tap', 'cut tomato',
        'take bowl', 'take spoon', 'set table',
    ),
    (
        'open drawer', 'take knife', 'close drawer', 'take bread', 'cut bread', 'open fridge', 'take cheese',
        'cut tomato', 'take plate', 'wipe board',
    ),
    (
        'open tap', 'wash pan', 'wash cup', 'wash plate', 'close tap', 'wipe board', 'open cupboard', 'take plate',
        'close cupboard', 'set table',
    ),
)  # fmt: skip
ACTIONS: tuple[str, ...] = tuple(dict.fromkeys(action for task in TASKS for action in task))
BACKGROUND = len(ACTIONS)  # number of the look that shows no action


@dataclass(frozen=True)
class Kitchens:
    """Looks of actions and of kitchens.

    A frame is the action's unit vector, plus a bias of the kitchen, plus an offset of the action in that kitchen, both
    of length `shift`, plus noise. A frame of background shows a vector of its own instead, the same for all actions.

    Attributes:
        seed: of everything.
        features: of a frame.
        shift: length of what differs between kitchens, in lengths of an action's vector.
        noise: standard deviation of every feature.
        distraction: probability that the next action has nothing to do with the task.
        switch: probability that a new task begins before the old one ends.
        background: probability that a frame shows background, whatever is done.
    """

    seed: int = 0
    features: int = 64
    shift: float = 0.5
    noise: float = 0.12
    distraction: float = 0.15
    switch: float = 0.04
    background: float = 0.0

    @cached_property
    def looks(self) -> Array:
        """(K + 1, features) unit vector of every action and of background."""
        return _directions(np.random.default_rng([self.seed, 0]), BACKGROUND + 1, self.features)

    def of_kitchen(self, kitchen: int) -> Array:
        """(K + 1, features) mean frames in one kitchen, background last; a number is always the same kitchen."""
        rng = np.random.default_rng([self.seed, 1, kitchen])
        bias = _directions(rng, 1, self.features)
        offsets = _directions(rng, BACKGROUND + 1, self.features)
        return self.looks + np.float32(self.shift) * (bias + offsets)

    def frames(self, labels: Labels, kitchens: Labels, rng: np.random.Generator) -> Array:
        """Show actions.

        Args:
            labels: (N, T) actions, or `BACKGROUND`.
            kitchens: (N,) in which kitchen each row is.
            rng: of the noise.

        Returns:
            (N, T, features) frames.
        """
        known, place = np.unique(kitchens, return_inverse=True)
        means = np.stack([self.of_kitchen(int(kitchen)) for kitchen in known])  # (kitchens, K + 1, features)
        noise = rng.standard_normal((*labels.shape, self.features), np.float32)
        return means[place[:, None], labels] + np.float32(self.noise) * noise

    def draw(self, count: int, steps: int, kitchens: range, seed: int) -> tuple[Array, Labels]:
        """Draw sequences.

        Args:
            count: of sequences N, dealt to the kitchens in turn.
            steps: T.
            kitchens: their numbers.
            seed: of these sequences.

        Returns:
            (N, T, features) frames and (N, T + 1) actions: what is to be anticipated at step t is action t + 1.
        """
        rng = np.random.default_rng([self.seed, 2, seed])
        labels = np.stack([_walk(rng, steps + 1, self.distraction, self.switch) for _ in range(count)])
        where = np.asarray(kitchens)[np.arange(count) % len(kitchens)]
        shown = np.where(self.hides(count, steps, seed), BACKGROUND, labels[:, :-1])
        return self.frames(shown, where, rng), labels

    def hides(self, count: int, steps: int, seed: int) -> NDArray[np.bool_]:
        """(N, T) which frames of `draw` with the same arguments show background."""
        hidden: NDArray[np.bool_] = np.random.default_rng([self.seed, 4, seed]).random((count, steps)) < self.background
        return hidden


_NUMBER = {action: number for number, action in enumerate(ACTIONS)}
STEPS = np.array([[_NUMBER[action] for action in task] for task in TASKS])


def word_groups(part: int) -> tuple[tuple[str, ...], Labels]:
    """Verbs (part 0) or nouns (part 1) of the actions: their words, and (K,) which of them each action has."""
    words = [action.split()[part] for action in ACTIONS]
    known = tuple(dict.fromkeys(words))
    return known, np.array([known.index(word) for word in words])


def adjacent_pairs() -> list[tuple[int, int]]:
    """Pairs (a, b) of action numbers where b follows a in a task."""
    return sorted({(int(a), int(b)) for task in STEPS for a, b in pairwise(task)})


def _walk(rng: np.random.Generator, steps: int, distraction: float, switch: float) -> Labels:
    """(steps,) actions of one walk; every action lasts one to three steps."""
    walk = _actions(rng, distraction, switch)
    found: list[int] = []
    while len(found) < steps:
        found += [next(walk)] * int(rng.integers(1, 4))
    return np.array(found[:steps])


def _actions(rng: np.random.Generator, distraction: float, switch: float) -> Iterator[int]:
    """Actions of one person, for ever."""
    task, place = int(rng.integers(len(STEPS))), int(rng.integers(5))
    while True:
        if place == len(STEPS[task]) or rng.random() < switch:
            task, place = int(rng.integers(len(STEPS))), 0
        if rng.random() < distraction:
            yield int(rng.integers(len(ACTIONS)))
        else:
            yield int(STEPS[task][place])
            place += 1


class Player:
    """One person who cooks for ever, frame by frame.

    Args:
        world: looks and habits.
        kitchen: number of the kitchen.
        seed: of what is cooked, and of the noise.
        step_s: time between frames [s]; every action lasts one to three seconds.
    """

    def __init__(self, world: Kitchens, kitchen: int, seed: int, step_s: float = 1.0) -> None:
        self._rng = np.random.default_rng([world.seed, 3, seed])
        self._walk = _actions(self._rng, world.distraction, world.switch)
        self._means = world.of_kitchen(kitchen)
        self._noise, self._background = np.float32(world.noise), world.background
        self._step_s = step_s
        self._action, self._left_s = next(self._walk), float(self._rng.integers(1, 4))

    def step(self) -> tuple[int, Array]:
        """What is done now, and the (features,) frame that shows it."""
        if self._left_s < self._step_s / 2:
            self._action, self._left_s = next(self._walk), self._left_s + float(self._rng.integers(1, 4))
        self._left_s -= self._step_s
        hidden = self._background > 0.0 and self._rng.random() < self._background
        mean = self._means[BACKGROUND if hidden else self._action]
        frame: Array = mean + self._noise * self._rng.standard_normal(mean.shape, np.float32)
        return self._action, frame


def _directions(rng: np.random.Generator, count: int, features: int) -> Array:
    drawn = rng.standard_normal((count, features))
    unit: Array = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit
