"""LaCAM: depth-first search over whole-fleet configurations, with PIBT as the generator of successors.

Source: Okumura, "LaCAM: Search-Based Algorithm for Quick Multi-Agent Pathfinding" (AAAI 2023) and "Improving LaCAM for
Scalable Eventually Optimal Multi-Agent Pathfinding" (IJCAI 2023). A configuration's successors are enumerated lazily:
each holds a growing tree of constraints "robot i goes to cell u", and PIBT moves everybody else. The search is
complete: given enough nodes it finds a solution where there is one.

`solve` is the expert and the upper bound among the baselines; `refinement.refine` shortens what it finds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attn_robotics.systems.sparc.distance_fields import distance_fields, neighbours
from attn_robotics.systems.sparc.pibt import (
    ACTIONS,
    NOBODY,
    UNDECIDED,
    distance_preferences,
    draw,
    draw_below,
    plan_moves,
    rank_actions,
    seed_state,
)

if TYPE_CHECKING:
    from attn_robotics.simulation.instances import Instance

SOLVED, EXHAUSTED, OUT_OF_NODES = 1, 0, -1


@njit(cache=True, nogil=True)
def _hash(cells: NDArray[np.int32]) -> np.uint64:
    """FNV-1a over a configuration."""
    word = np.uint64(14695981039346656037)
    for cell in cells:
        word = (word ^ np.uint64(cell + 1)) * np.uint64(1099511628211)
    word ^= word >> np.uint64(29)
    return word


@njit(cache=True, nogil=True)
def _find_slot(table: NDArray[np.int32], configurations: NDArray[np.int32], cells: NDArray[np.int32]) -> int:
    """Slot of a configuration in the hash table, or the free one where it belongs."""
    mask = np.uint64(table.shape[0] - 1)
    slot = _hash(cells) & mask
    while table[slot] >= 0:
        if np.array_equal(configurations[table[slot]], cells):
            break
        slot = (slot + np.uint64(1)) & mask
    return int(slot)


@njit(cache=True, nogil=True)
def _grown(array: NDArray[np.int32], rows: int) -> NDArray[np.int32]:
    """The array with room for at least `rows` rows."""
    if rows <= array.shape[0]:
        return array
    larger = np.empty((max(rows, 2 * array.shape[0]), array.shape[1]), array.dtype)
    larger[: array.shape[0]] = array
    return larger


@njit(cache=True, nogil=True)
def _write(constraint: NDArray[np.int32], before: int, robot: int, cell: int, depth: int) -> None:
    """Fill in a constraint that is last in its queue."""
    constraint[0] = before
    constraint[1] = robot
    constraint[2] = cell
    constraint[3] = depth
    constraint[4] = -1


@njit(cache=True, nogil=True)
def _is_enough(distances: NDArray[np.int16], cells: NDArray[np.int32], most_left: NDArray[np.int64]) -> bool:
    """Whether every robot has come near enough to its goal."""
    enough = True
    for robot in range(cells.shape[0]):
        enough &= distances[robot, cells[robot]] <= most_left[robot]
    return bool(enough)


@njit(cache=True, nogil=True)
def search(
    near: NDArray[np.int32],
    starts: NDArray[np.int32],
    goals: NDArray[np.int32],
    distances: NDArray[np.int16],
    swap: bool,
    allow_rotation: bool,
    seed: int,
    max_nodes: int,
    most_left: NDArray[np.int64],
) -> tuple[int, NDArray[np.int32]]:
    """Search, compiled.

    Args:
        near: (H * W, 5) neighbour table.
        starts: (N,) flat cells.
        goals: (N,) flat goals.
        distances: (N, H * W) path distances.
        swap: use the swap rule in the generator.
        allow_rotation: let rings advance.
        seed: of all random choices.
        max_nodes: successors to generate before giving up.
        most_left: (N,) path length that each robot may have left at the end; zeros to reach the goals.

    Returns:
        SOLVED, EXHAUSTED (there is no solution) or OUT_OF_NODES, and the path (T + 1, N), empty if not solved.
    """
    robots = starts.shape[0]
    state = seed_state(seed)
    owner = np.full(near.shape[0], NOBODY, np.int32)
    next_owner = np.full(near.shape[0], NOBODY, np.int32)
    order = np.empty((robots, ACTIONS), np.int8)
    counts = np.empty(robots, np.int8)
    preferences = np.empty((robots, ACTIONS), np.float32)
    target = np.empty(robots, np.int32)
    ways = np.empty(ACTIONS, np.int32)

    # Configurations found: cells, turn order, time each robot has waited, parent; and their queues of constraints.
    configurations = np.empty((1024, robots), np.int32)
    turns = np.empty((1024, robots), np.int32)
    waited = np.empty((1024, robots), np.int32)
    links = np.empty((1024, 3), np.int32)  # parent, head and tail of the queue
    # Constraints: the one before, robot, cell, depth, next in the queue.
    constraints = np.empty((4096, 5), np.int32)
    n_constraints = 0
    size = 4096
    while size < 4 * max_nodes:
        size *= 2
    table = np.full(size, -1, np.int32)
    stack = np.empty((1024, 1), np.int32)

    fraction = (np.argsort(np.argsort(np.array([np.float64(draw(state)) for _ in range(robots)]))) + 0.5) / robots
    configurations[0] = starts
    waited[0] = 0
    # At the root, robots with a long way ahead go first.
    far = np.array([distances[robot, starts[robot]] for robot in range(robots)])
    turns[0] = np.argsort(-(far + fraction))
    _write(constraints[0], -1, -1, -1, 0)
    n_constraints = 1
    links[0, 0], links[0, 1], links[0, 2] = -1, 0, 0
    table[_find_slot(table, configurations, starts)] = 0
    count = 1
    stack[0, 0] = 0
    depth = 1
    generated = 0
    found = 0 if _is_enough(distances, starts, most_left) else -1
    while depth > 0 and found < 0 and generated < max_nodes:
        node = stack[depth - 1, 0]
        constraint = links[node, 1]
        if constraint < 0:
            depth -= 1
            continue
        links[node, 1] = constraints[constraint, 4]
        cells = configurations[node]
        if constraints[constraint, 3] < robots:
            robot = turns[node, constraints[constraint, 3]]
            n_ways = 0
            for action in range(ACTIONS):
                if near[cells[robot], action] >= 0:
                    ways[n_ways] = near[cells[robot], action]
                    n_ways += 1
            constraints = _grown(constraints, n_constraints + n_ways)
            for last in range(n_ways - 1, -1, -1):
                pick = draw_below(state, last + 1)
                ways[last], ways[pick] = ways[pick], ways[last]
                _write(constraints[n_constraints], constraint, robot, ways[last], constraints[constraint, 3] + 1)
                if links[node, 1] < 0:
                    links[node, 1] = n_constraints
                else:
                    constraints[links[node, 2], 4] = n_constraints
                links[node, 2] = n_constraints
                n_constraints += 1

        generated += 1
        for robot in range(robots):
            owner[cells[robot]] = robot
        target[:] = UNDECIDED
        valid = True
        link = constraint
        while constraints[link, 0] >= 0:
            robot, cell = constraints[link, 1], constraints[link, 2]
            other = owner[cell]
            if next_owner[cell] != NOBODY or (other >= 0 and other != robot and target[other] == cells[robot]):
                valid = False
                break
            if not allow_rotation and other >= 0 and other != robot:
                current = other  # a ring among constrained robots
                while current >= 0 and current != robot and target[current] != UNDECIDED:
                    if target[current] == cells[current]:
                        break
                    current = owner[target[current]]
                if current == robot:
                    valid = False
                    break
            target[robot] = cell
            next_owner[cell] = robot
            link = constraints[link, 0]
        if valid:
            distance_preferences(near, cells, distances, preferences)
            rank_actions(near, cells, preferences, state, order, counts)
            turn = turns[node].astype(np.int64)
            valid = plan_moves(
                near,
                cells,
                goals,
                distances,
                turn,
                order,
                counts,
                owner,
                next_owner,
                target,
                swap,
                allow_rotation,
                False,
            )
        for robot in range(robots):
            owner[cells[robot]] = NOBODY
            if target[robot] != UNDECIDED:
                next_owner[target[robot]] = NOBODY
        if not valid:
            continue
        slot = _find_slot(table, configurations, target)
        known = table[slot]
        stack = _grown(stack, depth + 1)
        if known >= 0:
            # Going back to a known configuration continues its own constraints: that is what resolves livelocks.
            stack[depth, 0] = known
            depth += 1
            continue
        configurations = _grown(configurations, count + 1)
        turns = _grown(turns, count + 1)
        waited = _grown(waited, count + 1)
        links = _grown(links, count + 1)
        constraints = _grown(constraints, n_constraints + 1)
        configurations[count] = target
        for robot in range(robots):
            waited[count, robot] = 0 if target[robot] == goals[robot] else waited[node, robot] + 1
        turns[count] = np.argsort(-(waited[count] + fraction))
        _write(constraints[n_constraints], -1, -1, -1, 0)
        links[count, 0], links[count, 1], links[count, 2] = node, n_constraints, n_constraints
        n_constraints += 1
        table[slot] = count
        stack[depth, 0] = count
        depth += 1
        if _is_enough(distances, target, most_left):
            found = count
        count += 1
    if found < 0:
        return (EXHAUSTED if depth == 0 else OUT_OF_NODES), np.empty((0, robots), np.int32)
    length = 0
    node = found
    while node >= 0:
        length += 1
        node = links[node, 0]
    path = np.empty((length, robots), np.int32)
    node = found
    for step in range(length - 1, -1, -1):
        path[step] = configurations[node]
        node = links[node, 0]
    return SOLVED, path


def solve(
    instance: Instance,
    seed: int = 0,
    max_nodes: int = 20_000,
    *,
    distances: NDArray[np.int16] | None = None,
    swap: bool = True,
    allow_rotation: bool = True,
    partial: bool = False,
) -> NDArray[np.int16] | None:
    """Find a joint path; robots in different connected components are searched for apart.

    Args:
        instance: map, starts and goals.
        seed: of all random choices; the same seed finds the same path.
        max_nodes: successor configurations to generate in each component before giving up.
        distances: (N, H, W) path distances, computed when None.
        swap: use the swap rule in the generator.
        allow_rotation: let rings of robots advance together.
        partial: where a component has no solution, let its robots rest at their starts instead of giving up.

    Returns:
        (T + 1, N, 2) int16 rows and columns from starts to goals, or None.
    """
    width = instance.grid.shape[1]
    if distances is None:
        distances = distance_fields(instance.grid, instance.goals)
    near, fields = neighbours(instance.grid), distances.reshape(instance.robots, -1)
    starts = (instance.starts[:, 0] * width + instance.starts[:, 1]).astype(np.int32)
    goals = (instance.goals[:, 0] * width + instance.goals[:, 1]).astype(np.int32)
    from attn_robotics.simulation.instances import components  # SciPy, which robots need not load

    labels = components(instance.grid).reshape(-1)[starts]
    found: list[tuple[NDArray[np.intp], NDArray[np.int32]]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        inside = fields if len(members) == len(fields) else np.ascontiguousarray(fields[members])
        arrived = np.zeros(len(members), np.int64)
        _, path = search(near, starts[members], goals[members], inside, swap, allow_rotation, seed, max_nodes, arrived)
        if not len(path):
            if not partial:
                return None
            path = starts[None, members]
        found.append((members, path))
    length = max(len(path) for _, path in found)
    joint = np.empty((length, len(starts)), np.int32)
    for members, path in found:
        joint[: len(path), members] = path
        joint[len(path) :, members] = path[-1]
    return np.stack(np.divmod(joint, width), axis=-1).astype(np.int16)
