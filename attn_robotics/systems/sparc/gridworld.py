"""The grid world, plainly: one fleet, one step at a time. `gridworld_torch` must agree with it step for step.

Rules (sections named after the paper's environment): all robots move at once, one cell a step; two robots may neither
share a cell nor change places; following into a cell that is being left is fine. Wishes that collide are refused as in
`conflicts.all_stay`. Arrived robots stay in the world.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attn_robotics.simulation.instances import Instance, validate
from attn_robotics.systems.sparc.actions import MOVES, STAY
from attn_robotics.systems.sparc.conflicts import all_stay
from attn_robotics.systems.sparc.distance_fields import neighbours
from attn_robotics.systems.sparc.pibt import NOBODY


@dataclass(frozen=True)
class Rewards:
    """What a step is worth; defaults are the paper's table."""

    move: float = -0.3
    stay_off_goal: float = -0.3
    on_goal: float = 0.0  # staying on it or reaching it
    collision: float = -2.0  # a refused move, in place of the others
    blocking: float = -1.0  # added for resting on the own goal in somebody's way
    # A resting robot blocks when its leaving opens a path or shortens one by more than this [steps] (SCRIMP).
    blocking_detour: int = 10
    field_of_view: int = 3  # cells, odd: who is looked at for blocking


@dataclass(frozen=True)
class Step:
    """What one step did to N robots."""

    cells: NDArray[np.int32]  # (N, 2) rows and columns after it
    moved: NDArray[np.int8]  # (N,) executed actions
    rewards: NDArray[np.float32]  # (N,)
    refused: NDArray[np.bool_]  # (N,) whose wish collided
    on_goal: NDArray[np.bool_]  # (N,)
    blocking: NDArray[np.bool_]  # (N,) who rests on its goal in somebody's way
    solved: bool  # every robot on its goal
    done: bool  # solved, or out of steps


@njit(cache=True, nogil=True)
def _path_length(
    near: NDArray[np.int32], wall: NDArray[np.bool_], start: int, goal: int, seen: NDArray[np.int32], mark: int
) -> int:
    """Shortest path around walls, -1 when there is none; `seen` (H * W,) holds marks of earlier searches."""
    queue = np.empty(near.shape[0], np.int32)
    queue[0] = start
    seen[start] = mark
    head, tail, length = 0, 1, 0
    while head < tail:
        level = tail
        while head < level:
            cell = queue[head]
            head += 1
            if cell == goal:
                return length
            for action in range(4):
                other = near[cell, action]
                if other >= 0 and seen[other] != mark and not wall[other]:
                    seen[other] = mark
                    queue[tail] = other
                    tail += 1
        length += 1
    return -1


@njit(cache=True, nogil=True)
def find_blocking(
    near: NDArray[np.int32],
    width: int,
    cells: NDArray[np.int32],
    goals: NDArray[np.int32],
    reach: int,
    detour: int,
) -> NDArray[np.bool_]:
    """Find robots that rest on their goal in another's way.

    Robot i blocks robot j, off its goal and within `reach` rows and columns of i, when j's shortest path around the
    robots that i sees, i included, is missing or more than `detour` steps longer than without i.

    Args:
        near: (H * W, 5) neighbour table.
        width: columns of the map.
        cells: (N,) flat cells.
        goals: (N,) flat goals.
        reach: rows and columns seen to each side.
        detour: steps that are still no blocking.

    Returns:
        (N,) who blocks.
    """
    robots = cells.shape[0]
    blocking = np.zeros(robots, np.bool_)
    wall = np.zeros(near.shape[0], np.bool_)
    seen = np.zeros(near.shape[0], np.int32)
    mark = 0
    for resting in range(robots):
        if cells[resting] != goals[resting]:
            continue
        row, column = cells[resting] // width, cells[resting] % width
        for robot in range(robots):
            if abs(cells[robot] // width - row) <= reach and abs(cells[robot] % width - column) <= reach:
                wall[cells[robot]] = True
        for robot in range(robots):
            if not wall[cells[robot]] or cells[robot] == goals[robot]:
                continue
            # A goal somebody stands on right now may be free later: it is no wall for the robot bound for it.
            was_wall = wall[goals[robot]]
            wall[goals[robot]] = False
            mark += 1
            around = _path_length(near, wall, cells[robot], goals[robot], seen, mark)
            wall[cells[resting]] = False
            mark += 1
            through = _path_length(near, wall, cells[robot], goals[robot], seen, mark)
            wall[cells[resting]] = True
            wall[goals[robot]] = was_wall
            if through >= 0 and (around < 0 or around > through + detour):
                blocking[resting] = True
                break
        for robot in range(robots):
            wall[cells[robot]] = False
    return blocking


class GridWorld:
    """One fleet on one map.

    Args:
        instance: map, starts and goals.
        max_steps: the episode ends after so many steps.
        rewards: what a step is worth.
        blocking: look for blocking robots (a search per pair of neighbours; SCRIMP leaves it out from 32 robots on).

    Attributes:
        cells: (N, 2) int32 rows and columns.
        goals: (N, 2) int32 rows and columns.
        steps: steps taken.
    """

    def __init__(
        self,
        instance: Instance,
        *,
        max_steps: int = 256,
        rewards: Rewards | None = None,
        blocking: bool = True,
    ) -> None:
        self.instance = instance
        self.max_steps = max_steps
        self.rewards = rewards or Rewards()
        self._looks_for_blocking = blocking
        self._near = neighbours(instance.grid)
        self._owner = np.full(instance.grid.size, NOBODY, np.int32)
        self.reset()

    def reset(self) -> NDArray[np.int32]:
        """Put every robot on its start; returns the cells (N, 2)."""
        self.cells = self.instance.starts.astype(np.int32)
        self.goals = self.instance.goals.astype(np.int32)
        self.steps = 0
        return self.cells

    def set_goals(self, goals: NDArray[np.integer]) -> None:
        """Give new goals (N, 2) in mid-run; raises WorldError for one that can not be reached."""
        validate(self.instance.grid, self.cells, goals)
        self.goals = goals.astype(np.int32)

    def step(self, actions: NDArray[np.integer]) -> Step:
        """Move every robot.

        Args:
            actions: (N,) wishes, in the order of `actions.NAMES`.

        Returns:
            What happened.
        """
        if actions.shape != (len(self.cells),):
            raise ValueError(f'actions must be ({len(self.cells)},), got {actions.shape}')
        if ((actions < 0) | (actions > STAY)).any():
            robot = int(((actions < 0) | (actions > STAY)).argmax())
            raise ValueError(f'action of robot {robot} must be 0..4, got {actions[robot]}')
        width = self.instance.grid.shape[1]
        moved = actions.astype(np.int8)
        flat = self.cells[:, 0] * np.int32(width) + self.cells[:, 1]
        refused = all_stay(self._near, flat, moved, self._owner)
        self.cells = self.cells + MOVES[moved]
        self.steps += 1
        on_goal = (self.cells == self.goals).all(axis=1)
        worth = self.rewards
        rewards = np.where(on_goal, worth.on_goal, np.where(moved == STAY, worth.stay_off_goal, worth.move))
        rewards = np.where(refused, worth.collision, rewards)
        blocking = np.zeros(len(self.cells), np.bool_)
        if self._looks_for_blocking:
            flat = self.cells[:, 0] * np.int32(width) + self.cells[:, 1]
            flat_goals = self.goals[:, 0] * np.int32(width) + self.goals[:, 1]
            blocking = find_blocking(
                self._near, width, flat, flat_goals, worth.field_of_view // 2, worth.blocking_detour
            )
            rewards = rewards + np.where(blocking, worth.blocking, 0.0)
        solved = bool(on_goal.all())
        return Step(
            cells=self.cells,
            moved=moved,
            rewards=rewards.astype(np.float32),
            refused=refused,
            on_goal=on_goal,
            blocking=blocking,
            solved=solved,
            done=solved or self.steps >= self.max_steps,
        )


def count_conflicts(grid: NDArray[np.bool_], before: NDArray[np.integer], after: NDArray[np.integer]) -> int:
    """Count what may never happen in an executed step, independently of every rule above.

    Args:
        grid: (H, W) True where an obstacle stands.
        before: (N, 2) rows and columns before the step.
        after: (N, 2) rows and columns after it.

    Returns:
        Robots off the map, in obstacles or moved by more than a cell, plus pairs sharing a cell or changing places.
    """
    height, width = grid.shape
    inside = ((after >= 0) & (after < (height, width))).all(axis=1)
    clipped = after.clip(0, (height - 1, width - 1))
    broken = int((~inside | grid[clipped[:, 0], clipped[:, 1]]).sum())
    broken += int((np.abs(after - before).sum(axis=1) > 1).sum())
    left, entered = before @ (width, 1), after @ (width, 1)
    _, crowd = np.unique(entered, return_counts=True)
    broken += int((crowd * (crowd - 1) // 2).sum())
    moved = left != entered
    edges = left[moved].astype(np.int64) * grid.size + entered[moved]
    backward = entered[moved].astype(np.int64) * grid.size + left[moved]
    return broken + int(np.isin(edges, backward).sum()) // 2
