"""Methods to compare with, behind one protocol: given the cells, which joint action comes next?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attn_robotics.simulation.instances import Instance
from attn_robotics.systems.sparc.actions import MOVES, STAY
from attn_robotics.systems.sparc.distance_fields import distance_fields, neighbours
from attn_robotics.systems.sparc.expert import Expert
from attn_robotics.systems.sparc.lacam import solve
from attn_robotics.systems.sparc.pibt import NOBODY, draw, draw_below, seed_state
from attn_robotics.systems.sparc.refinement import refine
from attn_robotics.systems.sparc.shield import Priorities, Shield
from attn_robotics.systems.sparc.spacetime import find_path, reserve


class Method(Protocol):
    """Something that moves a fleet."""

    # Whether its joint actions never collide, so that the evaluation may insist on it.
    conflict_free: bool

    def reset(self, instance: Instance, seed: int) -> None:
        """Start a new episode; the same seed gives the same actions."""

    def act(self, cells: NDArray[np.int32]) -> NDArray[np.int8]:
        """Choose (N,) int8 actions for robots on cells (N, 2); called once a step, in order."""


class Pibt:
    """PIBT by path distance, with or without the swap rule and the hindrance tie-break: the best purely local rules."""

    conflict_free = True

    def __init__(self, *, swap: bool, hindrance: float = 0.0) -> None:
        self._method = 'pibt_swap' if swap else 'pibt'
        self._hindrance = hindrance

    def reset(self, instance: Instance, seed: int) -> None:
        """Compute path distances and draw priorities."""
        self._expert = Expert(instance.grid, instance.goals, method=self._method, hindrance=self._hindrance)
        self._priorities = Priorities(instance.robots, seed)
        self._rng = np.random.default_rng(seed)

    def retarget(self, robots: NDArray[np.integer], goals: NDArray[np.integer]) -> None:
        """Give some robots (M,) new goals (M, 2) in mid-run."""
        self._expert.retarget(robots, goals)

    def act(self, cells: NDArray[np.int32]) -> NDArray[np.int8]:
        """Step the rule."""
        actions = self._expert.act(cells, self._priorities.values, rng=self._rng)
        self._priorities.update((cells + MOVES[actions] == self._expert.goals).all(axis=1))
        return actions


class ShieldAlone:
    """The shield that ships, told nothing by a policy: what its rules alone are worth."""

    conflict_free = True

    def reset(self, instance: Instance, seed: int) -> None:
        """Compute path distances and draw priorities."""
        self._grid, self._goals = instance.grid, instance.goals.copy()
        self._distances = distance_fields(instance.grid, instance.goals)
        self._shield = Shield(instance.grid)
        self._priorities = Priorities(instance.robots, seed)
        self._rng = np.random.default_rng(seed)
        # Nobody is sure of anything, so that everybody goes by the path.
        self._log_probs = np.full((instance.robots, len(MOVES)), -np.log(len(MOVES)), np.float32)

    def retarget(self, robots: NDArray[np.integer], goals: NDArray[np.integer]) -> None:
        """Give some robots (M,) new goals (M, 2) in mid-run."""
        self._goals[robots], self._distances[robots] = goals, distance_fields(self._grid, goals)

    def act(self, cells: NDArray[np.int32]) -> NDArray[np.int8]:
        """Step the rules."""
        actions = self._shield.decide(
            cells, self._log_probs, self._priorities.values, self._goals, self._distances, rng=self._rng
        )
        self._shield.prepare()
        self._priorities.update((cells + MOVES[actions] == self._goals).all(axis=1))
        return actions


class Planned:
    """A planner whose joint path is replayed; robots rest where it ends, or at their starts when there is none.

    Args:
        plan: instance and seed -> (T + 1, N, 2) path, or None.
    """

    conflict_free = True

    def __init__(self, plan: Callable[[Instance, int], NDArray[np.int16] | None]) -> None:
        self._plan = plan

    def reset(self, instance: Instance, seed: int) -> None:
        """Plan the whole episode."""
        path = self._plan(instance, seed)
        self._path = instance.starts[None] if path is None else path.astype(np.int32)
        self._step = 0

    def act(self, cells: NDArray[np.int32]) -> NDArray[np.int8]:
        """Replay the next step."""
        if not np.array_equal(cells, self._path[min(self._step, len(self._path) - 1)]):
            raise RuntimeError(
                'the fleet left the planned path; a replayed plan needs a world that executes every move'
            )
        self._step += 1
        moves = self._path[min(self._step, len(self._path) - 1)] - cells
        actions: NDArray[np.int8] = (moves[:, None] == MOVES).all(axis=2).argmax(axis=1).astype(np.int8)
        return actions


@njit(cache=True, nogil=True)
def _plan_in_turn(
    near: NDArray[np.int32],
    starts: NDArray[np.int32],
    goals: NDArray[np.int32],
    distances: NDArray[np.int16],
    order: NDArray[np.int64],
    standing: NDArray[np.bool_],
    paths: NDArray[np.int32],
) -> NDArray[np.bool_]:
    """Plan robots one after the other around those before; `standing` ones never move. Returns who found no path."""
    robots, horizon = paths.shape
    taken = np.full((horizon, near.shape[0]), NOBODY, np.int32)
    came_from = np.zeros((2, horizon * near.shape[0]), np.int32)
    lost = np.zeros(robots, np.bool_)
    for robot in range(robots):
        paths[robot] = starts[robot]
        if standing[robot]:
            reserve(taken, paths[robot], robot)
    for position in range(robots):
        robot = order[position]
        if standing[robot]:
            continue
        if taken[0, starts[robot]] != NOBODY:
            lost[robot] = True
            continue
        arrival = find_path(
            near,
            taken,
            distances[robot],
            starts[robot],
            goals[robot],
            horizon - 1,
            came_from,
            position + 1,
            paths[robot],
        )
        if arrival < 0:
            lost[robot] = True
        else:
            reserve(taken, paths[robot], robot)
    return lost


def plan_prioritised(
    instance: Instance, seed: int, *, max_steps: int = 256, orders: int = 5
) -> NDArray[np.int16] | None:
    """Prioritised space-time A* (cooperative A*): robots with a long way first, then random orders.

    Args:
        instance: map, starts and goals.
        seed: of the random orders.
        max_steps: horizon.
        orders: how many orders to try.

    Returns:
        (max_steps + 1, N, 2) int16. When no order works, robots without a path stand at their starts and the others
        plan around them; None when even that leaves robots without a path.
    """
    rng = np.random.default_rng(seed)
    robots, width = instance.robots, instance.grid.shape[1]
    near, fields = neighbours(instance.grid), distance_fields(instance.grid, instance.goals).reshape(robots, -1)
    starts = (instance.starts[:, 0] * width + instance.starts[:, 1]).astype(np.int32)
    goals = (instance.goals[:, 0] * width + instance.goals[:, 1]).astype(np.int32)
    paths = np.empty((robots, max_steps + 1), np.int32)
    standing = np.zeros(robots, np.bool_)
    order = np.argsort(-fields[np.arange(robots), starts].astype(np.int64), kind='stable')
    best_order, fewest = order, robots + 1
    for _ in range(orders):
        lost = _plan_in_turn(near, starts, goals, fields, order, standing, paths)
        if lost.sum() < fewest:
            best_order, fewest, fallen = order, int(lost.sum()), lost
        if not fewest:
            break
        order = rng.permutation(robots)
    while fewest:
        standing |= fallen
        if standing.all():
            return None
        fallen = _plan_in_turn(near, starts, goals, fields, best_order, standing, paths)
        fewest = int(fallen.sum())
    return np.stack(np.divmod(paths.T, width), axis=-1).astype(np.int16)


@njit(cache=True, nogil=True)
def _follow(
    near: NDArray[np.int32],
    cells: NDArray[np.int32],
    goals: NDArray[np.int32],
    paths: NDArray[np.int32],
    lengths: NDArray[np.int32],
    seed: int,
    target: NDArray[np.int32],
) -> None:
    """One step of independent A*: follow the own path, wait before others, or plan anew around those beside.

    Paths (N, H * W) hold the cells still to visit, last one next; `lengths` (N,) counts them. A robot enters only
    cells that are empty now and that nobody claimed before it, in random order, so nothing collides.
    """
    robots = cells.shape[0]
    state = seed_state(seed)
    owner = np.full(near.shape[0], NOBODY, np.int32)
    claimed = np.zeros(near.shape[0], np.bool_)
    came_from = np.empty(near.shape[0], np.int32)
    queue = np.empty(near.shape[0], np.int32)
    for robot in range(robots):
        owner[cells[robot]] = robot
    order = np.argsort(np.array([np.float64(draw(state)) for _ in range(robots)]))
    for robot in order:
        here = cells[robot]
        target[robot] = here
        if here == goals[robot]:
            continue
        ahead = paths[robot, lengths[robot] - 1] if lengths[robot] else here
        if lengths[robot] == 0 or (owner[ahead] != NOBODY and draw_below(state, 2) == 0):
            came_from[:] = -1
            came_from[here] = here
            queue[0] = here
            head, tail = 0, 1
            while head < tail and came_from[goals[robot]] < 0:
                cell = queue[head]
                head += 1
                for action in range(4):
                    other = near[cell, action]
                    if other >= 0 and came_from[other] < 0 and not (cell == here and owner[other] != NOBODY):
                        came_from[other] = cell
                        queue[tail] = other
                        tail += 1
            if came_from[goals[robot]] >= 0:
                lengths[robot] = 0
                cell = goals[robot]
                while cell != here:
                    paths[robot, lengths[robot]] = cell
                    lengths[robot] += 1
                    cell = came_from[cell]
                ahead = paths[robot, lengths[robot] - 1]
        if ahead != here and owner[ahead] == NOBODY and not claimed[ahead]:
            claimed[ahead] = True
            target[robot] = ahead
            lengths[robot] -= 1


class IndependentAStar:
    """Each robot plans alone, waits when another is in its way, and half of the time plans anew around those beside."""

    conflict_free = True

    def reset(self, instance: Instance, seed: int) -> None:
        """Forget all paths."""
        self._near = neighbours(instance.grid)
        self._width = instance.grid.shape[1]
        self._goals = (instance.goals[:, 0] * self._width + instance.goals[:, 1]).astype(np.int32)
        self._paths = np.empty((instance.robots, instance.grid.size), np.int32)
        self._lengths = np.zeros(instance.robots, np.int32)
        self._rng = np.random.default_rng(seed)

    def act(self, cells: NDArray[np.int32]) -> NDArray[np.int8]:
        """Follow, wait or plan anew."""
        flat = (cells[:, 0] * self._width + cells[:, 1]).astype(np.int32)
        target = np.empty_like(flat)
        seed = int(self._rng.integers(1 << 62))
        _follow(self._near, flat, self._goals, self._paths, self._lengths, seed, target)
        actions: NDArray[np.int8] = (self._near[flat] == target[:, None]).argmax(axis=1).astype(np.int8)
        actions[flat == target] = STAY
        return actions


def _plan_lacam(instance: Instance, seed: int, *, rounds: int = 0) -> NDArray[np.int16] | None:
    path = solve(instance, seed, partial=True)
    return path if path is None or not rounds else refine(instance, path, rounds=rounds, seed=seed)


# Name -> constructor taking the step limit.
BASELINES: dict[str, Callable[[int], Method]] = {
    'independent': lambda max_steps: IndependentAStar(),
    'prioritised': lambda max_steps: Planned(
        lambda instance, seed: plan_prioritised(instance, seed, max_steps=max_steps)
    ),
    'pibt': lambda max_steps: Pibt(swap=False),
    'pibt_swap': lambda max_steps: Pibt(swap=True),
    'pibt_swap_hindrance': lambda max_steps: Pibt(swap=True, hindrance=0.1),
    'shield_only': lambda max_steps: ShieldAlone(),
    'lacam': lambda max_steps: Planned(_plan_lacam),
    'lacam_refined': lambda max_steps: Planned(lambda instance, seed: _plan_lacam(instance, seed, rounds=1000)),
}
