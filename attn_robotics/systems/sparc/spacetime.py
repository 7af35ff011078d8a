"""Space-time A*: one robot's shortest path among others whose paths are fixed, compiled.

A joint path is kept as a table of who stands where: `taken` (T + 1, H * W), NOBODY where nobody does.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attn_robotics.systems.sparc.pibt import ACTIONS, NOBODY


@njit(cache=True, nogil=True)
def reserve(taken: NDArray[np.int32], path: NDArray[np.int32], robot: int) -> None:
    """Enter a path (T + 1,) into the table, or take it out with NOBODY for the robot."""
    for step in range(path.shape[0]):
        taken[step, path[step]] = robot


@njit(cache=True, nogil=True)
def find_path(
    near: NDArray[np.int32],
    taken: NDArray[np.int32],
    distance: NDArray[np.int16],
    start: int,
    goal: int,
    latest: int,
    came_from: NDArray[np.int32],
    stamp: int,
    path: NDArray[np.int32],
) -> int:
    """Find a path that reaches the goal soonest and can stay there.

    Args:
        near: (H * W, 5) neighbour table.
        taken: (T + 1, H * W) who stands where, the robot itself left out.
        distance: (H * W,) path distance to the goal.
        start: flat cell, free at step 0.
        goal: flat cell.
        latest: step by which the goal must be reached, at most T.
        came_from: (2, (T + 1) * H * W) workspace: stamp of the last visit, and the action taken.
        stamp: larger than in every earlier call on this workspace.
        path: (T + 1,) written when a path is found, at rest on the goal after its end.

    Returns:
        Step at which the robot comes to rest on its goal, -1 when there is no such path.
    """
    cells = near.shape[0]
    free_from = 0  # the goal is free for good after this step
    for step in range(taken.shape[0] - 1, -1, -1):
        if taken[step, goal] != NOBODY:
            free_from = step + 1
            break
    if free_from > latest or distance[start] > latest:
        return -1
    # One bucket per total length, each a stack: states of one bucket that are farther along come out first.
    heads = np.full(latest + 2, -1, np.int32)
    capacity = 4096
    states = np.empty((capacity, 2), np.int32)  # state, next in its bucket
    states[0, 0], states[0, 1] = start, -1
    count = 1
    first = max(int(distance[start]), free_from)
    heads[first] = 0
    came_from[0, start] = stamp
    end = -1
    bucket = first
    while bucket <= latest:
        if heads[bucket] < 0:
            bucket += 1
            continue
        entry = heads[bucket]
        heads[bucket] = states[entry, 1]
        state = states[entry, 0]
        step, cell = state // cells, state % cells
        if cell == goal and step >= free_from:
            end = state
            break
        if step == latest:
            continue
        for action in range(ACTIONS):
            reached = near[cell, action]
            if reached < 0 or taken[step + 1, reached] != NOBODY:
                continue
            crossing = taken[step, reached]
            if crossing != NOBODY and taken[step + 1, cell] == crossing:
                continue
            total = max(step + 1 + int(distance[reached]), free_from)
            following = (step + 1) * cells + reached
            if total > latest or came_from[0, following] == stamp:
                continue
            came_from[0, following] = stamp
            came_from[1, following] = cell
            if count == capacity:
                larger = np.empty((2 * capacity, 2), np.int32)
                larger[:capacity] = states
                states = larger
                capacity *= 2
            states[count, 0], states[count, 1] = following, heads[total]
            heads[total] = count
            count += 1
            bucket = min(bucket, total)
    if end < 0:
        return -1
    arrival = end // cells
    path[arrival:] = goal
    for step in range(arrival, 0, -1):
        path[step - 1] = came_from[1, step * cells + path[step]]
    return int(arrival)
