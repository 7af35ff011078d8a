"""How the bare policy's colliding wishes become a joint move without the shield.

`one_winner` is the published rule (Algorithm 1 of SPARC, taken over from SCRIMP, arXiv 2303.00605): in each conflict
one robot wins, the others draw again from their own policy without the action that lost, until nothing collides.
`all_stay` keeps every colliding robot in place; it is the grid world's rule for wishes nobody resolved, and a
diagnostic for the policy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attn_robotics.systems.sparc.actions import STAY
from attn_robotics.systems.sparc.pibt import ACTIONS, NOBODY, draw, seed_state

# (M, N) int8 joint actions that might be taken -> (M,) summed team value of the states they lead to.
TeamValue = Callable[[NDArray[np.int8]], NDArray[np.floating]]


@njit(cache=True, nogil=True)
def all_stay(
    near: NDArray[np.int32], cells: NDArray[np.int32], actions: NDArray[np.int8], owner: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Refuse every colliding move, and every move into a cell that is therefore not left.

    A move is refused when it leaves the map, enters an obstacle, changes places with another robot, or ends where
    another robot ends. Refusals are found in rounds, each looking at the outcome of the one before; nobody who was
    refused gets a second chance.

    Args:
        near: (H * W, 5) neighbour table.
        cells: (N,) flat cells, all different.
        actions: (N,) wishes; refused ones become `stay`.
        owner: (H * W,) workspace, NOBODY everywhere; given back so.

    Returns:
        (N,) whose wish was refused.
    """
    robots = cells.shape[0]
    refused = np.zeros(robots, np.bool_)
    target = np.empty(robots, np.int32)
    arrivals = np.zeros(near.shape[0], np.int32)
    for robot in range(robots):
        owner[cells[robot]] = robot
        target[robot] = near[cells[robot], actions[robot]]
        if target[robot] < 0:
            refused[robot] = True
            target[robot] = cells[robot]
    for robot in range(robots):
        other = owner[target[robot]]
        if other >= 0 and other != robot and near[cells[other], actions[other]] == cells[robot]:
            refused[robot] = True
    for robot in range(robots):
        if refused[robot]:
            target[robot] = cells[robot]
        arrivals[target[robot]] += 1
    changed = True
    while changed:
        changed = False
        loses = np.zeros(robots, np.bool_)
        for robot in range(robots):
            loses[robot] = target[robot] != cells[robot] and arrivals[target[robot]] > 1
        for robot in range(robots):
            if loses[robot]:
                arrivals[target[robot]] -= 1
                target[robot] = cells[robot]
                arrivals[target[robot]] += 1
                refused[robot] = True
                changed = True
    for robot in range(robots):
        owner[cells[robot]] = NOBODY
        if refused[robot]:
            actions[robot] = STAY
    return refused


@njit(cache=True, nogil=True)
def _draw_actions(
    near: NDArray[np.int32],
    cells: NDArray[np.int32],
    log_probs: NDArray[np.float64],
    open_to: NDArray[np.bool_],
    again: NDArray[np.bool_],
    greedy: bool,
    seed: int,
    actions: NDArray[np.int8],
    stopped: NDArray[np.bool_],
) -> None:
    """Draw for the robots in `again` (Gumbel trick); who has nothing left or meets an obstacle is stopped in place."""
    state = seed_state(seed)
    for robot in range(cells.shape[0]):
        if not again[robot]:
            continue
        best, chosen = -np.inf, -1
        for action in range(ACTIONS):
            if not open_to[robot, action] or log_probs[robot, action] == -np.inf:
                continue
            value = log_probs[robot, action]
            if not greedy:
                uniform = (np.float64(draw(state) >> np.uint64(11)) + 0.5) / 9007199254740992.0
                value -= np.log(-np.log(uniform))
            if chosen < 0 or value > best:
                best, chosen = value, action
        if chosen < 0 or near[cells[robot], chosen] < 0:
            stopped[robot] = True
            chosen = STAY
        actions[robot] = chosen


@njit(cache=True, nogil=True)
def _find_conflicts(
    near: NDArray[np.int32],
    cells: NDArray[np.int32],
    actions: NDArray[np.int8],
    owner: NDArray[np.int32],
    first: NDArray[np.int32],
    groups: NDArray[np.int32],
    is_swap: NDArray[np.bool_],
) -> int:
    """Count and number conflicts: `groups` (N,) is -1 for robots without one, `is_swap` (N,) marks changing places."""
    robots = cells.shape[0]
    groups[:] = -1
    is_swap[:] = False
    count = 0
    for robot in range(robots):
        owner[cells[robot]] = robot
    for robot in range(robots):
        other = owner[near[cells[robot], actions[robot]]]
        if other > robot and near[cells[other], actions[other]] == cells[robot]:
            groups[robot] = groups[other] = count
            is_swap[robot] = is_swap[other] = True
            count += 1
    for robot in range(robots):
        if is_swap[robot]:
            continue
        target = near[cells[robot], actions[robot]]
        rival = first[target]
        if rival < 0:
            first[target] = robot
            continue
        if groups[rival] < 0:
            groups[rival] = count
            count += 1
        groups[robot] = groups[rival]
    for robot in range(robots):
        owner[cells[robot]] = NOBODY
        first[near[cells[robot], actions[robot]]] = NOBODY
    # A winner of a swap may still meet a third robot in its new cell; the next round sees that.
    return count


def one_winner(
    near: NDArray[np.int32],
    cells: NDArray[np.int32],
    log_probs: NDArray[np.floating],
    *,
    rng: np.random.Generator,
    scores: NDArray[np.floating] | None = None,
    team_value: TeamValue | None = None,
    goal_distance: NDArray[np.floating] | None = None,
    greedy: bool = False,
    mask_obstacles: bool = True,
) -> NDArray[np.int8]:
    """Draw a joint move from the policy and settle its conflicts by the published rule.

    Per conflict the winner is drawn from a softmax over its robots' scores. Losers draw again without the action that
    lost, and in a change of places also without `stay`, because the winner comes into their cell. A robot that an
    obstacle has stopped, or that has no action left, stays and wins.

    Args:
        near: (H * W, 5) table of `distance_fields.neighbours`.
        cells: (N,) flat cells, all different and free.
        log_probs: (N, 5) the policy's log-probabilities.
        rng: draws actions and winners.
        scores: (N,) fixed scores, for instance PIBT priorities; None for the log-probability of the disputed action.
        team_value: with it, a robot's score is the team value if it wins (SCRIMP), in place of `scores`.
        goal_distance: (N,) distance to the goal divided by the map side; 0.1 times it is added to team values.
        greedy: take the most probable open action in place of a draw.
        mask_obstacles: never draw a move into an obstacle; else such a robot is stopped, as in SCRIMP.

    Returns:
        (N,) int8 actions without conflict.
    """
    robots = len(cells)
    if np.isnan(log_probs).any():
        raise ValueError(f'log-probabilities of robot {int(np.isnan(log_probs).any(axis=1).argmax())} hold NaN')
    logits = np.ascontiguousarray(log_probs, np.float64)
    open_to = near[cells] >= 0 if mask_obstacles else np.ones((robots, ACTIONS), np.bool_)
    actions = np.full(robots, STAY, np.int8)
    stopped = np.zeros(robots, np.bool_)
    owner = np.full(len(near), NOBODY, np.int32)
    first = np.full(len(near), NOBODY, np.int32)
    groups = np.empty(robots, np.int32)
    is_swap = np.empty(robots, np.bool_)
    everyone = np.arange(robots)

    def redraw(again: NDArray[np.bool_]) -> None:
        seed = int(rng.integers(1 << 62))
        _draw_actions(near, cells, logits, open_to, again, greedy, seed, actions, stopped)

    redraw(np.ones(robots, np.bool_))
    # Every round takes an action from at least one robot, so there are at most 5 N rounds.
    while _find_conflicts(near, cells, actions, owner, first, groups, is_swap):
        inside = groups >= 0
        if team_value is not None:
            bids = _team_bids(near, cells, logits, open_to, actions, stopped, groups, is_swap, team_value, rng)
            if goal_distance is not None:
                bids = bids + 0.1 * goal_distance
        else:
            bids = logits[everyone, actions] if scores is None else np.asarray(scores, np.float64)
        bids = np.where(stopped, np.inf, bids + rng.gumbel(size=robots))
        winners = np.zeros(robots, np.bool_)
        ranked = np.lexsort((-bids, groups))
        winners[ranked[np.r_[True, np.diff(groups[ranked]) != 0]]] = True
        losers = inside & ~winners
        open_to[everyone[losers], actions[losers]] = False
        open_to[losers & is_swap, STAY] = False
        redraw(losers)
    return actions


def _team_bids(
    near: NDArray[np.int32],
    cells: NDArray[np.int32],
    logits: NDArray[np.float64],
    open_to: NDArray[np.bool_],
    actions: NDArray[np.int8],
    stopped: NDArray[np.bool_],
    groups: NDArray[np.int32],
    is_swap: NDArray[np.bool_],
    team_value: TeamValue,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Team value of each disputed robot's victory, its rivals drawing something else: (N,), -inf without conflict."""
    candidates = np.flatnonzero(groups >= 0)
    imagined = np.repeat(actions[None], len(candidates), axis=0)  # (M, N)
    for row, winner in enumerate(candidates):
        rivals = groups == groups[winner]
        rivals[winner] = False
        left = open_to.copy()
        left[np.flatnonzero(rivals), actions[rivals]] = False
        left[rivals & is_swap, STAY] = False
        _draw_actions(
            near, cells, logits, left, rivals, False, int(rng.integers(1 << 62)), imagined[row], stopped.copy()
        )
    bids = np.full(len(cells), -np.inf)
    bids[candidates] = team_value(imagined)
    return bids
