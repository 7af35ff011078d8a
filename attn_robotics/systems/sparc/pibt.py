"""One joint move by priority inheritance with backtracking (PIBT), compiled.

Sources: Okumura et al., "Priority Inheritance with Backtracking for Iterative Multi-agent Path Finding" (AIJ 2022);
the swap rule of Okumura, "Improving LaCAM for Scalable Eventually Optimal Multi-Agent Pathfinding" (IJCAI 2023);
any preference order in place of distances: Veerapaneni et al., "Improving Learnt Local MAPF Policies with Heuristic
Search" (CS-PIBT, ICAPS 2024).

Cells are flat indices into the (H * W, 5) table of `distance_fields.neighbours`. Robots in play form chains: each
claims a next cell, and whoever stands there inherits the turn. The chain is walked with an explicit stack, so that
1024 robots in one corridor can not overflow anything.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

ACTIONS = 5
NOBODY = -1
UNDECIDED = -1

Int = NDArray[np.int32]


@njit(cache=True, nogil=True)
def draw(state: NDArray[np.uint64]) -> np.uint64:
    """Next random word (xorshift64*); `state` is (1,) uint64, not zero."""
    word = state[0]
    word ^= word >> np.uint64(12)
    word ^= word << np.uint64(25)
    word ^= word >> np.uint64(27)
    state[0] = word
    result: np.uint64 = word * np.uint64(2685821657736338717)
    return result


@njit(cache=True, nogil=True)
def draw_below(state: NDArray[np.uint64], bound: int) -> int:
    """Random integer in 0..bound-1."""
    return int(np.int64(draw(state) >> np.uint64(1)) % bound)


@njit(cache=True, nogil=True)
def seed_state(seed: int) -> NDArray[np.uint64]:
    """Random state of any integer seed, mixed by splitmix64 so that neighbouring seeds differ."""
    word = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    state = np.empty(1, np.uint64)
    state[0] = word | np.uint64(1)
    return state


@njit(cache=True, nogil=True)
def distance_preferences(
    near: NDArray[np.int32],
    cells: NDArray[np.int32],
    distances: NDArray[np.int16],
    preferences: NDArray[np.float32],
) -> None:
    """Prefer actions by the path distance they leave: preferences (N, 5) written, larger is better."""
    for robot in range(cells.shape[0]):
        for action in range(ACTIONS):
            reached = near[cells[robot], action]
            preferences[robot, action] = -np.inf if reached < 0 else -np.float32(distances[robot, reached])


@njit(cache=True, nogil=True)
def count_hindered(
    near: Int, cells: Int, distances: NDArray[np.int16], owner: Int, hindered: NDArray[np.float32]
) -> None:
    """Count the neighbours in whose way each action would put a robot.

    A neighbour is hindered by an action that ends, other than on its own cell, nearer its goal than it is itself.
    Source: "hindrance" of Okumura and Nagai, "Lightweight and Effective Preference Construction in PIBT" (SoCS 2025).

    Args:
        near: (H * W, 5) neighbour table.
        cells: (N,) flat cells.
        distances: (N, H * W) path distances.
        owner: (H * W,) workspace, NOBODY everywhere; given back so.
        hindered: (N, 5) written.
    """
    robots = cells.shape[0]
    for robot in range(robots):
        owner[cells[robot]] = robot
    hindered[:] = 0
    for robot in range(robots):
        for side in range(ACTIONS - 1):
            beside = near[cells[robot], side]
            if beside < 0 or owner[beside] == NOBODY:
                continue
            other = owner[beside]
            for action in range(ACTIONS):
                reached = near[cells[robot], action]
                if reached >= 0 and reached != beside and distances[other, reached] < distances[other, beside]:
                    hindered[robot, action] += 1
    for robot in range(robots):
        owner[cells[robot]] = NOBODY


@njit(cache=True, nogil=True)
def measure_way(
    near: Int, cells: Int, distances: NDArray[np.int16], hindered: NDArray[np.float32], hindrance: float
) -> NDArray[np.float64]:
    """Steps that each action gains towards the goal, less what it hinders; -2 for moves that are not feasible.

    Args:
        near: (H * W, 5) neighbour table.
        cells: (N,) flat cells.
        distances: (N, H * W) path distances.
        hindered: (N, 5) neighbours hindered, see `count_hindered`.
        hindrance: steps per hindered neighbour.

    Returns:
        (N, 5).
    """
    ways = np.empty((cells.shape[0], ACTIONS))
    for robot in range(cells.shape[0]):
        here = np.float32(distances[robot, cells[robot]])
        for action in range(ACTIONS):
            reached = near[cells[robot], action]
            way = -2.0 if reached < 0 else np.float64(here - np.float32(distances[robot, reached]))
            ways[robot, action] = way - hindrance * hindered[robot, action]
    return ways


@njit(cache=True, nogil=True)
def mix_preferences(
    near: Int,
    cells: Int,
    ways: NDArray[np.float64],
    log_probs: NDArray[np.float32],
    distance_weight: float,
    temperature: float,
    confidence: float,
    seed: int,
    preferences: NDArray[np.float32],
) -> None:
    """Mix a policy with path distance, as `shield.ShieldConfig` says.

    Args:
        near: (H * W, 5) neighbour table.
        cells: (N,) flat cells.
        ways: (N, 5), see `measure_way`.
        log_probs: (N, 5) of the policy.
        distance_weight: nats per step gained.
        temperature: of the Gumbel noise on log-probabilities.
        confidence: least log-probability of the best action for the policy to be heard.
        seed: of the noise.
        preferences: (N, 5) written; a row of NaN where a log-probability is one, so that it is noticed.
    """
    state = seed_state(seed)
    for robot in range(cells.shape[0]):
        best, is_number = -np.inf, True
        for action in range(ACTIONS):
            best = max(best, np.float64(log_probs[robot, action]))
            is_number &= not np.isnan(log_probs[robot, action])
        for action in range(ACTIONS):
            reached = near[cells[robot], action]
            way = ways[robot, action]
            if not is_number:
                way = np.nan
            elif best >= confidence:
                way = log_probs[robot, action] + distance_weight * way
                if temperature > 0 and reached >= 0:
                    uniform = (np.float64(draw(state) >> np.uint64(11)) + 0.5) / 9007199254740992.0
                    way -= temperature * np.log(-np.log(uniform))
            preferences[robot, action] = way


@njit(cache=True, nogil=True)
def rank_actions(
    near: Int,
    cells: Int,
    preferences: NDArray[np.float32],
    state: NDArray[np.uint64],
    order: NDArray[np.int8],
    counts: NDArray[np.int8],
) -> None:
    """Sort each robot's feasible actions by falling preference, equal ones in random order.

    Args:
        near: (H * W, 5) neighbour table.
        cells: (N,) flat cells.
        preferences: (N, 5) larger is better.
        state: random state.
        order: (N, 5) written: feasible actions, best first.
        counts: (N,) written: how many are feasible.
    """
    for robot in range(cells.shape[0]):
        count = 0
        for action in range(ACTIONS):
            if near[cells[robot], action] >= 0:
                order[robot, count] = action
                count += 1
        counts[robot] = count
        word = draw(state) >> np.uint64(11)
        for last in range(count - 1, 0, -1):
            pick = np.int64(word % np.uint64(last + 1))
            word //= np.uint64(last + 1)
            order[robot, last], order[robot, pick] = order[robot, pick], order[robot, last]
        for index in range(1, count):  # insertion sort is stable, so the shuffle decides ties
            action = order[robot, index]
            value = preferences[robot, action]
            slot = index
            while slot > 0 and preferences[robot, order[robot, slot - 1]] < value:
                order[robot, slot] = order[robot, slot - 1]
                slot -= 1
            order[robot, slot] = action


@njit(cache=True, nogil=True)
def _exits(near: Int, goals: Int, owner: Int, cell: int, entered_from: int) -> tuple[int, int]:
    """Count ways on from `cell`, and name one; dead ends whose robot is at home there do not count."""
    count = 0
    way = -1
    for action in range(ACTIONS - 1):
        other = near[cell, action]
        if other < 0 or other == entered_from:
            continue
        robot = owner[other]
        if robot >= 0 and goals[robot] == other:
            degree = 0
            for turn in range(ACTIONS - 1):
                if near[other, turn] >= 0:
                    degree += 1
            if degree == 1:
                continue
        count += 1
        way = other
    return count, way


@njit(cache=True, nogil=True)
def _must_swap(
    near: Int,
    goals: Int,
    distances: NDArray[np.int16],
    owner: Int,
    pusher: int,
    puller: int,
    pusher_cell: int,
    puller_cell: int,
) -> bool:
    """Whether two neighbours can only reach their goals by changing places.

    The pusher drives the puller ahead of it, away from a corridor, until a junction (no swap needed), a dead end, or
    until the pusher would no longer get nearer its goal.
    """
    back, front = pusher_cell, puller_cell
    while distances[pusher, front] < distances[pusher, back]:
        count, way = _exits(near, goals, owner, front, back)
        if count >= 2:
            return False
        if count == 0:
            break
        back, front = front, way
    puller_gains = bool(distances[puller, back] < distances[puller, front])
    pusher_gains = bool(distances[pusher, back] == 0 or distances[pusher, front] < distances[pusher, back])
    return puller_gains and pusher_gains


@njit(cache=True, nogil=True)
def _can_swap(near: Int, goals: Int, owner: Int, pusher_cell: int, puller_cell: int) -> bool:
    """Whether a puller that backs off along a corridor, followed by the pusher, finds a junction to change places."""
    back, front = pusher_cell, puller_cell
    while front != pusher_cell:
        count, way = _exits(near, goals, owner, front, back)
        if count != 1:
            return count >= 2
        back, front = front, way
    return False


@njit(cache=True, nogil=True)
def _swap_partner(
    near: Int,
    cells: Int,
    goals: Int,
    distances: NDArray[np.int16],
    owner: Int,
    target: Int,
    robot: int,
    wish: int,
    only_if_wanted: bool,
) -> int:
    """Name the neighbour with which `robot`, wishing to enter `wish`, must and can change places, or NOBODY."""
    here = cells[robot]
    if wish == here:
        return NOBODY
    ahead = owner[wish]
    if (
        ahead >= 0
        and target[ahead] == UNDECIDED
        and _must_swap(near, goals, distances, owner, robot, ahead, here, wish)
        and _can_swap(near, goals, owner, wish, here)
    ):
        return int(ahead)
    # A robot behind that will want to come past once this one has moved on: clear its way now. In a ring of cells the
    # published rule also finds one that does not want to come here, and both turn in the ring for ever.
    for action in range(ACTIONS - 1):
        beside = near[here, action]
        if beside < 0 or beside == wish:
            continue
        other = owner[beside]
        if (
            other >= 0
            and (not only_if_wanted or distances[other, here] < distances[other, beside])
            and _must_swap(near, goals, distances, owner, other, robot, here, wish)
            and _can_swap(near, goals, owner, wish, here)
        ):
            return int(other)
    return NOBODY


@njit(cache=True, nogil=True)
def _closes_ring(owner: Int, target: Int, robot: int, follower_of: int) -> bool:
    """Whether `robot`, entering the cell that `follower_of` leaves, completes a ring of moving robots."""
    current = follower_of
    while current != robot:
        goes_to = target[current]
        if goes_to == UNDECIDED:
            return False
        current = owner[goes_to]
        if current == NOBODY:
            return False
    return True


@njit(cache=True, nogil=True)
def plan_moves(
    near: Int,
    cells: Int,
    goals: Int,
    distances: NDArray[np.int16],
    turn: NDArray[np.int64],
    order: NDArray[np.int8],
    counts: NDArray[np.int8],
    owner: Int,
    next_owner: Int,
    target: Int,
    swap: bool,
    allow_rotation: bool,
    only_if_wanted: bool,
) -> bool:
    """Decide one joint move.

    Args:
        near: (H * W, 5) neighbour table.
        cells: (N,) flat cells, all different and free.
        goals: (N,) flat goals; read by the swap rule only.
        distances: (N, H * W) path distances; read by the swap rule only.
        turn: (N,) robots by falling priority.
        order: (N, 5) each robot's feasible actions, best first; reversed in place where the swap rule applies.
        counts: (N,) number of feasible actions.
        owner: (H * W,) robot on each cell or NOBODY.
        next_owner: (H * W,) robot bound for each cell; NOBODY except for cells of decided robots; written.
        target: (N,) next flat cell; UNDECIDED except for robots decided beforehand; written.
        swap: use the swap rule.
        allow_rotation: let rings of robots advance together.
        only_if_wanted: clear the way for a robot behind only if it wants to come here; off as published.

    Returns:
        False when a robot found no cell, which can only happen if robots decided beforehand took its own.
    """
    robots = cells.shape[0]
    stack = np.empty(robots, np.int32)
    cursor = np.zeros(robots, np.int8)
    partner = np.full(robots, NOBODY, np.int32)
    for position in range(robots):
        root = turn[position]
        if target[root] != UNDECIDED:
            continue
        depth = 0
        stack[0] = root
        opened = True  # the robot on top has just been put there
        placed = False  # the robot that was last taken off found a cell
        while depth >= 0:
            robot = stack[depth]
            here = cells[robot]
            if opened:
                cursor[robot] = 0
                opened = False
                if swap:
                    wish = near[here, order[robot, 0]]
                    partner[robot] = _swap_partner(
                        near, cells, goals, distances, owner, target, robot, wish, only_if_wanted
                    )
                    if partner[robot] != NOBODY:
                        order[robot, : counts[robot]] = order[robot, : counts[robot]][::-1].copy()
            while not placed and cursor[robot] < counts[robot]:
                goes_to = near[here, order[robot, cursor[robot]]]
                cursor[robot] += 1
                if next_owner[goes_to] != NOBODY:
                    continue
                other = owner[goes_to]
                is_free = other < 0 or other == robot
                if not is_free and target[other] != UNDECIDED:
                    if target[other] == here:
                        continue
                    if not allow_rotation and _closes_ring(owner, target, robot, other):
                        continue
                    is_free = True
                next_owner[goes_to] = robot
                target[robot] = goes_to
                if is_free:
                    placed = True
                else:
                    depth += 1
                    stack[depth] = other
                    opened = True
                    break
            if opened:
                continue
            if placed:
                pulled = partner[robot]
                if (
                    pulled != NOBODY
                    and cursor[robot] == 1
                    and target[pulled] == UNDECIDED
                    and next_owner[here] == NOBODY
                ):
                    target[pulled] = here
                    next_owner[here] = pulled
            else:
                # Overwrites the claim of the robot that asked: it sees the failure and tries its next cell.
                target[robot] = here
                next_owner[here] = robot
            depth -= 1
        if not placed:
            return False
    return True
