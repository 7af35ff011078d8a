"""Shorten a joint path: take a few robots out, plan them anew among the others, keep what is no worse.

Source: large neighbourhood search for path finding, Li et al., "Anytime Multi-Agent Path Finding via Large
Neighborhood Search" (IJCAI 2021). Neighbourhoods are robots that hold up the one with the longest detour, or that
cross one random cell. The weight on the last arrival makes labels that finish early rather than on average early.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attn_robotics.simulation.instances import Instance
from attn_robotics.systems.sparc.distance_fields import distance_fields, neighbours
from attn_robotics.systems.sparc.pibt import NOBODY, draw_below, seed_state
from attn_robotics.systems.sparc.spacetime import find_path, reserve


@njit(cache=True, nogil=True)
def _arrival(path: NDArray[np.int32]) -> int:
    """First step from which a path (T + 1,) stays where it ends."""
    step = len(path) - 1
    while step > 0 and path[step - 1] == path[step]:
        step -= 1
    return step


@njit(cache=True, nogil=True)
def improve(
    near: NDArray[np.int32],
    distances: NDArray[np.int16],
    paths: NDArray[np.int32],
    group_size: int,
    rounds: int,
    seed: int,
    came_from: NDArray[np.int32],
) -> int:
    """Improve joint paths in place, compiled.

    Args:
        near: (H * W, 5) neighbour table.
        distances: (N, H * W) path distances to the last cells.
        paths: (N, T + 1) flat cells, improved in place.
        group_size: robots planned anew per round.
        rounds: attempts.
        seed: of all random choices.
        came_from: (2, (T + 1) * H * W) workspace, zeros.

    Returns:
        Rounds that were kept.
    """
    robots, horizon = paths.shape
    state = seed_state(seed)
    taken = np.full((horizon, near.shape[0]), NOBODY, np.int32)
    arrivals = np.empty(robots, np.int64)
    for robot in range(robots):
        reserve(taken, paths[robot], robot)
        arrivals[robot] = _arrival(paths[robot])
    group = np.empty(group_size, np.int32)
    inside = np.zeros(robots, np.bool_)
    saved = np.empty((group_size, horizon), np.int32)
    fresh = np.empty(horizon, np.int32)
    stamp = 0
    kept = 0
    for turn in range(rounds):
        # Who leads the group: the last to arrive, the most delayed of three, or anyone, in rotation.
        leader = draw_below(state, robots)
        if turn % 3 == 0:
            last = draw_below(state, robots)
            for robot in range(robots):
                if arrivals[robot] > arrivals[leader] or (arrivals[robot] == arrivals[leader] and robot == last):
                    leader = robot
        elif turn % 3 == 1:
            for _ in range(2):
                rival = draw_below(state, robots)
                if arrivals[rival] - distances[rival, paths[rival, 0]] > (
                    arrivals[leader] - distances[leader, paths[leader, 0]]
                ):
                    leader = rival
        count = 1
        group[0] = leader
        inside[leader] = True
        # The others: whoever stands beside the leader's path, looked for at random steps.
        for _ in range(8 * group_size):
            if count == group_size:
                break
            step = draw_below(state, max(arrivals[leader], 1))
            place = paths[leader, step]
            for _ in range(draw_below(state, 4)):
                onward = near[place, draw_below(state, 4)]
                place = onward if onward >= 0 else place
            robot = taken[step, place]
            if robot >= 0 and not inside[robot]:
                inside[robot] = True
                group[count] = robot
                count += 1
        before = 0
        latest_before = arrivals.max()
        for member in range(count):
            robot = group[member]
            before += arrivals[robot]
            saved[member] = paths[robot]
            reserve(taken, paths[robot], NOBODY)
        for last in range(count - 1, 0, -1):
            pick = draw_below(state, last + 1)
            group[last], group[pick] = group[pick], group[last]
            for step in range(horizon):
                saved[last, step], saved[pick, step] = saved[pick, step], saved[last, step]
        after = 0
        planned = 0
        for member in range(count):
            robot = group[member]
            stamp += 1
            limit = min(latest_before, before - after)
            goal = saved[member, horizon - 1]
            arrival = find_path(near, taken, distances[robot], saved[member, 0], goal, limit, came_from, stamp, fresh)
            if arrival < 0:
                break
            after += arrival
            paths[robot] = fresh
            reserve(taken, fresh, robot)
            planned += 1
        if planned == count and after <= before:
            kept += 1
            for member in range(count):
                arrivals[group[member]] = _arrival(paths[group[member]])
        else:
            for member in range(planned):
                reserve(taken, paths[group[member]], NOBODY)
            for member in range(count):
                paths[group[member]] = saved[member]
                reserve(taken, saved[member], group[member])
        for member in range(count):
            inside[group[member]] = False
    return kept


def refine(
    instance: Instance,
    paths: NDArray[np.int16],
    *,
    rounds: int = 2000,
    group_size: int = 8,
    seed: int = 0,
    distances: NDArray[np.int16] | None = None,
) -> NDArray[np.int16]:
    """Shorten a solution; neither the sum of arrival times nor the last arrival ever grows.

    Args:
        instance: map, starts and goals.
        paths: (T + 1, N, 2) a solution, as from `lacam.solve` or `expert.rollout`.
        rounds: attempts.
        group_size: robots planned anew per attempt.
        seed: of all random choices.
        distances: (N, H, W) path distances, computed when None.

    Returns:
        (T' + 1, N, 2) int16 with T' <= T.
    """
    width = instance.grid.shape[1]
    if distances is None:
        distances = distance_fields(instance.grid, instance.goals)
    flat = np.ascontiguousarray((paths[..., 0].astype(np.int32) * width + paths[..., 1]).T)
    came_from = np.zeros((2, flat.shape[1] * instance.grid.size), np.int32)
    improve(
        neighbours(instance.grid),
        distances.reshape(instance.robots, -1),
        flat,
        min(group_size, instance.robots),
        rounds,
        seed,
        came_from,
    )
    moving = (flat != flat[:, -1:]).any(axis=0)
    length = int(np.flatnonzero(moving)[-1]) + 2 if moving.any() else 1
    return np.stack(np.divmod(flat[:, :length].T, width), axis=-1).astype(np.int16)
