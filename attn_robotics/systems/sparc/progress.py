"""Who goes first and who gives way, from each robot's own account of its way to its goal.

PIBT orders robots by the steps since they were last on their goals, equal ones at random. Two rules on top, both of
quantities that a robot knows of itself and that neighbours can follow from its announced cells and goals:

- *Longest way first*: robots that have waited equally long go by the path length from where they got their goal. The
  last arrival decides when a fleet is done, so those that need longest should lose least.
- *Unrest*: a robot that has not come nearer its goal than ever before for a while is in a deadlock that path distance
  will not dissolve. It becomes restless (noise on its preferences), and for every other stretch of time it gives up
  the priority that its waiting has earned, so that those which it pushes against can push back.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LONGEST = 1 << 16  # above any path length, so that lengths fit between two whole priorities


class Progress:
    """Account of N robots on their way; starts anew when their number changes."""

    def __init__(self) -> None:
        self._goals = np.empty(0, np.int32)
        self._length = np.empty(0, np.int64)  # path length from where the goal was given
        self._nearest = np.empty(0, np.int64)  # least path length since
        self._stuck = np.empty(0, np.int64)  # steps since that was reached

    @property
    def nearest(self) -> NDArray[np.int64]:
        """(N,) least path length to the goal since it was given or last left."""
        return self._nearest

    @property
    def stuck(self) -> NDArray[np.int64]:
        """(N,) steps since each robot came nearer its goal than ever before; 0 on the goal."""
        return self._stuck

    def update(self, cells: NDArray[np.int32], goals: NDArray[np.int32], distances: NDArray[np.int16]) -> None:
        """Take the state before a decision: flat cells (N,), flat goals (N,), path distances (N, H, W)."""
        robots = len(cells)
        left = distances.reshape(robots, -1)[np.arange(robots), cells].astype(np.int64)
        if len(self._goals) != robots:
            self._goals = np.full(robots, -1, np.int32)
            self._length = self._nearest = self._stuck = np.zeros(robots, np.int64)
        is_new = goals != self._goals
        at_goal = cells == goals
        self._length = np.where(is_new, left, self._length)
        nearer = is_new | at_goal | (left < self._nearest)
        self._stuck = np.where(nearer, 0, self._stuck + 1)
        # A robot that was pushed off its goal has to find back first: that counts as a way of its own.
        self._nearest = np.where(at_goal, LONGEST, np.where(nearer, left, self._nearest))
        self._goals = goals.copy()

    def longest_first(self, priorities: NDArray[np.floating]) -> NDArray[np.float64]:
        """Put path lengths between whole priorities; (N,) steps waited plus a fraction that breaks the last ties."""
        waited = np.floor(priorities)
        return waited + (self._length + (priorities - waited)) / LONGEST

    def restless(self, patience: int) -> NDArray[np.bool_]:
        """(N,) robots without progress for more than `patience` steps."""
        restless: NDArray[np.bool_] = self._stuck > patience
        return restless

    def yields(self, patience: int) -> NDArray[np.bool_]:
        """(N,) restless robots whose turn it is to give up the priority of their waiting."""
        stretch = max(patience // 2, 1)
        yields: NDArray[np.bool_] = (self._stuck > patience) & ((self._stuck // stretch) % 2 == 1)
        return yields
