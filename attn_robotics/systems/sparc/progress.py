"""Who goes first, from each robot's own account of its way to its goal.

PIBT orders robots by the steps since they were last on their goals, equal ones at random. Here equal ones go by the
path length from where they got their goal, longest first: the last arrival decides when a fleet is done, so those that
need longest should lose least. The account also tells who is stuck, for `rescue`. All of it are quantities that a robot
knows of itself, and that others can follow from its announced cells and goals.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

LONGEST = 1 << 16  # above any path length, so that lengths fit between two whole priorities


class Progress:
    """Account of N robots on their way; starts anew when their number changes.

    Attributes:
        goals: (N,) int32 flat goals.
        length: (N,) int64 path length from where the goal was given.
        nearest: (N,) int64 least path length since then, or since the goal was left.
        stuck: (N,) int64 steps since that was reached; 0 on the goal.
    """

    def __init__(self) -> None:
        self._resize(0)

    def update(self, cells: NDArray[np.int32], goals: NDArray[np.int32], distances: NDArray[np.int16]) -> None:
        """Take the state before a decision: flat cells (N,), flat goals (N,), path distances (N, H * W)."""
        if len(self.goals) != len(cells):
            self._resize(len(cells))
        _update(cells, goals, distances, self.goals, self.length, self.nearest, self.stuck)

    def after(self, cells: NDArray[np.int32], goals: NDArray[np.int32], distances: NDArray[np.int16]) -> Progress:
        """What `update` would make of this account, which stays as it is."""
        later = Progress()
        later.goals, later.length = self.goals.copy(), self.length.copy()
        later.nearest, later.stuck = self.nearest.copy(), self.stuck.copy()
        later.update(cells, goals, distances)
        return later

    def longest_first(self, priorities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Put path lengths between whole priorities; (N,) steps waited plus a fraction that breaks the last ties."""
        waited = np.floor(priorities)
        return waited + (self.length + (priorities - waited)) / LONGEST

    def _resize(self, robots: int) -> None:
        self.goals = np.full(robots, -1, np.int32)
        self.length, self.nearest, self.stuck = (np.zeros(robots, np.int64) for _ in range(3))


@njit(cache=True, nogil=True)
def _update(
    cells: NDArray[np.int32],
    goals: NDArray[np.int32],
    distances: NDArray[np.int16],
    last_goals: NDArray[np.int32],
    length: NDArray[np.int64],
    nearest: NDArray[np.int64],
    stuck: NDArray[np.int64],
) -> None:
    for robot in range(cells.shape[0]):
        left = np.int64(distances[robot, cells[robot]])
        if goals[robot] != last_goals[robot]:
            length[robot] = left
            nearest[robot] = LONGEST
            last_goals[robot] = goals[robot]
        stuck[robot] += 1
        if left < nearest[robot] or cells[robot] == goals[robot]:
            stuck[robot] = 0
            # A robot that was pushed off its goal has to find back first: that counts as a way of its own.
            nearest[robot] = LONGEST if cells[robot] == goals[robot] else left
