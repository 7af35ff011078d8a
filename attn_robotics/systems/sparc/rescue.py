"""Dissolve a deadlock by a small joint search among the robots around one that is stuck.

Path distance and priorities can not order robots that have to leave a dead end in another order than they stand in.
A few neighbours who know each other's cells and goals can: `lacam.search` over the robots near the stuck one, everybody
else standing still, finds moves after which that robot is nearer its goal than ever before and none of the others is
farther than now. The group then follows these moves; whoever is not part of it plans around them. A plan is given up
as soon as anybody stands in its way.

The longer a robot is stuck, the wider it asks: more robots from farther away, and more moves tried. A search takes a
millisecond at first and tens of them at last, so it is done for the step to come, once the moves of the present one are
out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attn_robotics.systems.sparc.actions import REVERSE
from attn_robotics.systems.sparc.lacam import search
from attn_robotics.systems.sparc.pibt import ACTIONS, NOBODY, UNDECIDED

PAUSE = 10  # steps between two searches of a robot that stays stuck
WIDEST = 3  # searches after which the next one is no wider
MOST_STEPS = 20  # longer plans are met by somebody before they end


@dataclass(frozen=True)
class Extent:
    """How far one search goes."""

    reach: int  # path length from the stuck robot within which robots take part
    robots: int  # that take part at most
    nodes: int  # joint moves tried at most

    @classmethod
    def after(cls, searches: int) -> Extent:
        """Of a robot that was not helped by so many searches."""
        level = min(searches, WIDEST)
        return cls(reach=6 + 3 * level, robots=12 + 8 * level, nodes=400 + 800 * level)


@dataclass
class _Plan:
    """Joint moves of a few robots."""

    members: NDArray[np.int64]  # (M,)
    path: NDArray[np.int32]  # (T + 1, M) flat cells
    step: int = 0


@njit(cache=True, nogil=True)
def gather(
    near: NDArray[np.int32], cells: NDArray[np.int32], leader: int, reach: int, most: int, free: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Find the robots nearest to one, by path length.

    Args:
        near: (H * W, 5) neighbour table.
        cells: (N,) flat cells.
        leader: whose neighbours.
        reach: path length searched.
        most: members at most.
        free: (N,) who may be a member.

    Returns:
        (M,) members, the leader first.
    """
    owner = np.full(near.shape[0], NOBODY, np.int32)
    for robot in range(cells.shape[0]):
        owner[cells[robot]] = robot
    seen = np.zeros(near.shape[0], np.bool_)
    queue = np.empty(near.shape[0], np.int32)
    members = np.empty(most, np.int64)
    queue[0] = cells[leader]
    seen[cells[leader]] = True
    head, tail, count = 0, 1, 0
    for _ in range(reach + 1):
        level = tail
        while head < level:
            cell = queue[head]
            head += 1
            if owner[cell] >= 0 and free[owner[cell]] and count < most:
                members[count] = owner[cell]
                count += 1
            for action in range(ACTIONS - 1):
                other = near[cell, action]
                if other >= 0 and not seen[other]:
                    seen[other] = True
                    queue[tail] = other
                    tail += 1
    return members[:count]


@njit(cache=True, nogil=True)
def _wall_off(near: NDArray[np.int32], cells: NDArray[np.int32], members: NDArray[np.int64]) -> NDArray[np.int32]:
    """The neighbour table without ways into the cells of robots that are no members."""
    walled = near.copy()
    inside = np.zeros(cells.shape[0], np.bool_)
    inside[members] = True
    for robot in range(cells.shape[0]):
        if inside[robot]:
            continue
        for action in range(ACTIONS - 1):
            beside = near[cells[robot], action]
            if beside >= 0:
                walled[beside, REVERSE[action]] = -1
    return walled


@cache
def _warm_up() -> None:
    """Compile the search now: the first deadlock is no time to do it."""
    near = np.array([[-1, -1, -1, -1, 0]], np.int32)
    cells, left = np.zeros(1, np.int32), np.zeros((1, 1), np.int16)
    gather(near, cells, 0, 1, 1, np.ones(1, np.bool_))
    walled = _wall_off(near, cells, np.zeros(1, np.int64))
    search(walled, cells, cells, left, True, True, 0, 1, np.zeros(1, np.int64))


class Rescue:
    """Searches and plans of one fleet.

    Args:
        near: (H * W, 5) neighbour table.
        searches: searches per step at most, which bounds their time.
    """

    def __init__(self, near: NDArray[np.int32], *, searches: int = 2) -> None:
        self._near, self._searches = near, searches
        _warm_up()
        self._plans: list[_Plan] = []
        self._tried = np.empty(0, np.int64)  # stuck steps at which each robot may ask again

    def fix(self, cells: NDArray[np.int32], frozen: NDArray[np.bool_] | None) -> NDArray[np.int32] | None:
        """Fix the next cells of robots that follow a plan; plans that somebody is in the way of are given up.

        Args:
            cells: (N,) flat cells.
            frozen: (N,) who may not move; nobody when None.

        Returns:
            (N,) flat next cells, UNDECIDED for everybody else; None when nobody follows one.
        """
        if not self._plans or len(self._tried) != len(cells):
            return None
        target, self._plans = self._follow(cells, frozen)
        for plan in self._plans:
            plan.step += 1
        return target

    def search(
        self,
        cells: NDArray[np.int32],
        goals: NDArray[np.int32],
        distances: NDArray[np.int16],
        stuck: NDArray[np.int64],
        nearest: NDArray[np.int64],
        patience: int,
        frozen: NDArray[np.bool_] | None,
        *,
        allow_rotation: bool,
        seed: int,
    ) -> None:
        """Look for plans of robots that will be stuck, from the cells in which everybody will stand.

        Args:
            cells: (N,) flat cells, those of the next call of `fix`.
            goals: (N,) flat goals.
            distances: (N, H * W) path distances.
            stuck: (N,) steps without progress.
            nearest: (N,) least path length so far.
            patience: steps without progress after which a search is due.
            frozen: (N,) who may not move; nobody when None.
            allow_rotation: let rings advance.
            seed: of the search.
        """
        if len(self._tried) != len(cells):
            self._tried, self._plans = np.zeros(len(cells), np.int64), []
        self._tried[stuck == 0] = 0
        due = stuck > np.maximum(patience, self._tried)
        if not due.any():
            return
        target, plans = self._follow(cells, frozen)
        available = (target == UNDECIDED) if frozen is None else (target == UNDECIDED) & ~frozen
        waiting = np.flatnonzero(available & due)
        for leader in waiting[np.argsort(-stuck[waiting], kind='stable')][: self._searches]:
            self._tried[leader] = stuck[leader] + PAUSE
            if not available[leader]:
                continue
            extent = Extent.after(int(stuck[leader] - patience) // PAUSE)
            members = gather(self._near, cells, leader, extent.reach, extent.robots, available)
            path = self._search(cells, goals, distances, nearest, members, extent.nodes, allow_rotation, seed)
            if path is not None:
                plans.append(_Plan(members, path))
                available[members] = False
        self._plans = plans

    def _follow(
        self, cells: NDArray[np.int32], frozen: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int32], list[_Plan]]:
        """The next cells of all plans that are still safe: into cells that are empty, or that their members leave."""
        target = np.full(len(cells), UNDECIDED, np.int32)
        owner = np.full(len(self._near), NOBODY, np.int32)
        owner[cells] = np.arange(len(cells))
        available = np.ones(len(cells), np.bool_) if frozen is None else ~frozen
        kept = []
        for plan in self._plans:
            if plan.step + 1 >= len(plan.path) or not np.array_equal(cells[plan.members], plan.path[plan.step]):
                continue
            ahead = plan.path[plan.step + 1]
            there = owner[ahead]
            blocked = not ((there == NOBODY) | np.isin(there, plan.members)).all() or np.isin(ahead, target).any()
            if blocked or not available[plan.members].all():
                continue
            target[plan.members] = ahead
            available[plan.members] = False
            kept.append(plan)
        return target, kept

    def _search(
        self,
        cells: NDArray[np.int32],
        goals: NDArray[np.int32],
        distances: NDArray[np.int16],
        nearest: NDArray[np.int64],
        members: NDArray[np.int64],
        nodes: int,
        allow_rotation: bool,
        seed: int,
    ) -> NDArray[np.int32] | None:
        near = _wall_off(self._near, cells, members)
        inside = np.ascontiguousarray(distances[members])
        most_left = inside[np.arange(len(members)), cells[members]].astype(np.int64)
        most_left[0] = max(min(most_left[0], nearest[members[0]]) - 1, 0)
        _, path = search(near, cells[members], goals[members], inside, True, allow_rotation, seed, nodes, most_left)
        return path if 1 < len(path) <= MOST_STEPS + 1 else None
