"""Experts to imitate, as rollouts from the start and as an answer for any visited state.

`pibt` and `pibt_swap` are local rules. `search` is LaCAM shortened by large neighbourhood search: its paths end about
30 % earlier than those of PIBT with swap on crowded maps, at about a hundred times the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attn_robotics.simulation.instances import Instance
from attn_robotics.systems.sparc.distance_fields import distance_fields, neighbours
from attn_robotics.systems.sparc.lacam import solve
from attn_robotics.systems.sparc.pibt import (
    ACTIONS,
    NOBODY,
    UNDECIDED,
    distance_preferences,
    plan_moves,
    rank_actions,
    seed_state,
)
from attn_robotics.systems.sparc.refinement import refine
from attn_robotics.systems.sparc.shield import Shield, ShieldConfig

METHODS = ('pibt', 'pibt_swap', 'search')


@njit(cache=True, nogil=True)
def roll_out(
    near: NDArray[np.int32],
    starts: NDArray[np.int32],
    goals: NDArray[np.int32],
    distances: NDArray[np.int16],
    fraction: NDArray[np.float64],
    waited: NDArray[np.float64],
    swap: bool,
    allow_rotation: bool,
    seed: int,
    paths: NDArray[np.int32],
) -> int:
    """Step PIBT until every robot is on its goal or the paths are full, compiled.

    Args:
        near: (H * W, 5) neighbour table.
        starts: (N,) flat cells.
        goals: (N,) flat goals.
        distances: (N, H * W) path distances.
        fraction: (N,) fixed part of the priorities.
        waited: (N,) steps since each robot was last on its goal; counted up.
        swap: use the swap rule.
        allow_rotation: let rings advance.
        seed: of the random ties.
        paths: (T + 1, N) flat cells, written.

    Returns:
        Number of steps taken.
    """
    robots = starts.shape[0]
    state = seed_state(seed)
    owner = np.full(near.shape[0], NOBODY, np.int32)
    next_owner = np.full(near.shape[0], NOBODY, np.int32)
    order = np.empty((robots, ACTIONS), np.int8)
    counts = np.empty(robots, np.int8)
    preferences = np.empty((robots, ACTIONS), np.float32)
    target = np.empty(robots, np.int32)
    cells = starts.copy()
    paths[0] = cells
    for step in range(paths.shape[0] - 1):
        if np.all(cells == goals):
            return step
        for robot in range(robots):
            owner[cells[robot]] = robot
        target[:] = UNDECIDED
        distance_preferences(near, cells, distances, preferences)
        rank_actions(near, cells, preferences, state, order, counts)
        turn = np.argsort(-(waited + fraction))
        plan_moves(
            near, cells, goals, distances, turn, order, counts, owner, next_owner, target, swap, allow_rotation, False
        )
        for robot in range(robots):
            owner[cells[robot]] = NOBODY
            next_owner[target[robot]] = NOBODY
            cells[robot] = target[robot]
            waited[robot] = 0 if cells[robot] == goals[robot] else waited[robot] + 1
        paths[step + 1] = cells
    return len(paths) - 1


def _wants_swap(method: str, known: Sequence[str]) -> bool:
    if method not in known:
        raise ValueError(f'expert must be one of {", ".join(known)}, got {method!r}')
    return method == 'pibt_swap'


def rollout(
    instance: Instance,
    *,
    method: str = 'pibt_swap',
    max_steps: int = 256,
    seed: int = 0,
    distances: NDArray[np.int16] | None = None,
    allow_rotation: bool = True,
    rounds: int = 300,
) -> NDArray[np.int16]:
    """Run an expert from start to finish.

    Args:
        instance: map, starts and goals.
        method: one of `METHODS`.
        max_steps: step limit.
        seed: of priorities and ties.
        distances: (N, H, W) path distances, computed when None.
        allow_rotation: let rings of robots advance together.
        rounds: of refinement, for 'search'.

    Returns:
        (T + 1, N, 2) int16 rows and columns; solved when the last entry equals the goals. A search that fails or ends
        later than the limit gives the start alone.
    """
    swap = _wants_swap(method, METHODS)
    width = instance.grid.shape[1]
    if distances is None:
        distances = distance_fields(instance.grid, instance.goals)
    robots = instance.robots
    if method == 'search':
        found = solve(instance, seed, distances=distances, allow_rotation=allow_rotation)
        if found is not None and allow_rotation:  # refinement knows nothing of rings
            found = refine(instance, found, rounds=rounds, seed=seed, distances=distances)
        return instance.starts[None].astype(np.int16) if found is None or len(found) > max_steps + 1 else found
    paths = np.empty((max_steps + 1, robots), np.int32)
    steps = roll_out(
        neighbours(instance.grid),
        (instance.starts[:, 0] * width + instance.starts[:, 1]).astype(np.int32),
        (instance.goals[:, 0] * width + instance.goals[:, 1]).astype(np.int32),
        distances.reshape(robots, -1),
        (np.random.default_rng(seed).permutation(robots) + 0.5) / max(robots, 1),
        np.zeros(robots),
        swap,
        allow_rotation,
        seed,
        paths,
    )
    return np.stack(np.divmod(paths[: steps + 1], width), axis=-1).astype(np.int16)


class Expert:
    """The expert's move for any state of one fleet, whoever brought it there (DAgger).

    Args:
        grid: (H, W) True where an obstacle stands.
        goals: (N, 2) rows and columns.
        method: 'pibt' or 'pibt_swap'.
        distances: (N, H, W) path distances, computed when None.
        allow_rotation: let rings of robots advance together.
        hindrance: steps per neighbour in whose way an action ends; 0 is the plain rule.
    """

    def __init__(
        self,
        grid: NDArray[np.bool_],
        goals: NDArray[np.integer],
        *,
        method: str = 'pibt_swap',
        distances: NDArray[np.int16] | None = None,
        allow_rotation: bool = True,
        hindrance: float = 0.0,
    ) -> None:
        self._grid = grid
        self.goals = np.array(goals, np.int32)
        self.distances = distance_fields(grid, goals) if distances is None else distances
        self._hindrance = hindrance
        swap = _wants_swap(method, METHODS[:2])
        self._shield = Shield(grid, ShieldConfig(swap=swap, allow_rotation=allow_rotation, only_if_wanted=False))

    def retarget(self, robots: NDArray[np.integer], goals: NDArray[np.integer]) -> None:
        """Give some robots (M,) new goals (M, 2)."""
        self.goals[robots] = goals
        self.distances = self.distances.copy()  # may be the caller's
        self.distances[robots] = distance_fields(self._grid, goals)

    def act(
        self,
        cells: NDArray[np.integer],
        priorities: NDArray[np.floating],
        *,
        rng: np.random.Generator,
        frozen: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int8]:
        """Choose the expert's joint move.

        Args:
            cells: (N, 2) rows and columns.
            priorities: (N,) as kept by `shield.Priorities`; with others the expert plays, but may livelock.
            rng: breaks ties.
            frozen: (N,) robots that must stay.

        Returns:
            (N,) int8 actions.
        """
        preferences = self._shield.steps_gained(cells, self.distances)
        if self._hindrance:
            preferences = preferences - self._hindrance * self._shield.hindered(cells, self.distances)
        return self._shield.resolve(
            cells,
            preferences,
            priorities,
            rng=rng,
            goals=self.goals,
            distances=self.distances,
            frozen=frozen,
        )


def rollout_many(
    instances: Sequence[Instance],
    *,
    method: str = 'pibt_swap',
    max_steps: int = 256,
    seeds: Sequence[int] | None = None,
    jobs: int = 1,
    rounds: int = 300,
) -> list[NDArray[np.int16]]:
    """Run `rollout` on many instances with threads (the compiled part holds no lock); order is kept.

    Args:
        instances: problems.
        method: one of `METHODS`.
        max_steps: step limit of each.
        seeds: one per instance, 0, 1, 2, ... when None.
        jobs: threads.
        rounds: of refinement, for 'search'.

    Returns:
        One (T + 1, N, 2) int16 array per instance.
    """
    chosen = range(len(instances)) if seeds is None else seeds

    def run(instance: Instance, seed: int) -> NDArray[np.int16]:
        return rollout(instance, method=method, max_steps=max_steps, seed=seed, rounds=rounds)

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(run, instances, chosen))
