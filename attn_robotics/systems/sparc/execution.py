"""From joint grid moves to safe motion: an action dependency graph that grows with the plan.

Source: Hoenig, Kiesel, Tinka, Durham, Ayanian, "Persistent and Robust Execution of MAPF Schedules in Warehouses",
IEEE RA-L 4(2), 2019. There an action of one robot waits for actions of others that were planned before it (type 2
edges): a cell may be entered only when everyone who was planned in it earlier has left. Here the edges are kept as
one first-in first-out list of visits per cell, so the graph is appended to and consumed in constant time per move.

Words used below. *Held* cell: where a robot last reported to be. *Pending* moves: planned, not yet completed.
*Granted* moves: the first few pending ones whose cells everyone else has left; a robot may be driving into them at
any moment, so they are never taken back. A robot's disc therefore lies in its held and granted cells, and no cell is
held or granted to two robots.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import ArrayLike, NDArray

Cells = NDArray[np.int32]
_SIDE = 1 << 20  # cells are keyed as row * _SIDE + column


class ExecutionError(ValueError):
    """A joint move or a report that breaks the rules of execution; the message names the robot and the cell."""


def find_rotation(cells: NDArray[np.integer], next_cells: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Find robots that move round in a ring, each into the cell that the next one vacates.

    A ring is legal on the grid, but no robot of it can wait for its predecessor to leave. A swap is a ring of two.

    Args:
        cells: (N, 2) planned cells, all different.
        next_cells: (N, 2) where each robot is to go; may contain conflicts.

    Returns:
        (N,) True for every robot that is part of a ring; not for those that merely follow one.
    """
    keys, wanted = _keys(np.asarray(cells)), _keys(np.asarray(next_cells))
    count = len(keys)
    order = np.argsort(keys)
    owner = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), count - 1)]
    # successor[i] holds the cell that i wants; `count` is the sink of all that wait for nobody who moves
    successor = np.append(np.where((keys[owner] == wanted) & (keys != wanted), owner, count), count)
    for _ in range(int(count).bit_length()):
        successor = successor[successor]  # after k rounds: 2^k successors on, at last more than there are robots
    rotating = np.zeros(count + 1, bool)
    rotating[successor[:count]] = True  # whoever is never drained is sent round a ring, and covers it wholly
    result: NDArray[np.bool_] = rotating[:count]
    return result


def _keys(cells: NDArray[np.integer]) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = cells[..., 0].astype(np.int64) * _SIDE + cells[..., 1]
    return keys


def _cells(keys: NDArray[np.int64]) -> Cells:
    return np.stack([keys // _SIDE, keys % _SIDE], axis=-1).astype(np.int32)


class ExecutionGraph:
    """Who may drive where, now.

    One instance serves one fleet. Decisions are added with `append`, arrivals with `complete`; neither needs a clock.
    Not thread-safe.
    """

    def __init__(self, starts: ArrayLike, horizon: int = 4, lookahead: int = 2) -> None:
        """Place the robots.

        Args:
            starts: (N, 2) rows and columns, all different, not negative.
            horizon: how many pending moves a robot may have before it must be planned as staying, at least 1.
            lookahead: how many moves may be granted ahead, at least 1; 2 lets a robot pass a cell without stopping.

        Raises:
            ExecutionError: two robots share a start, or a number is out of range.
        """
        cells = np.asarray(starts)
        if cells.ndim != 2 or cells.shape[1] != 2 or cells.dtype.kind not in 'iu':
            raise ExecutionError(f'starts must be whole numbers of shape (N, 2), got {cells.dtype} {cells.shape}')
        if horizon < 1 or lookahead < 1:
            raise ExecutionError(f'horizon and lookahead must be at least 1, got {horizon} and {lookahead}')
        if cells.size and (cells.min() < 0 or cells.max() >= _SIDE):
            raise ExecutionError(f'starts must lie between 0 and {_SIDE - 1}')
        self.horizon = horizon
        self.lookahead = lookahead
        self._held: Cells = cells.astype(np.int32)
        self._planned: Cells = self._held.copy()
        self._lag = np.zeros(len(cells), np.int32)
        self._granted = np.zeros(len(cells), np.int32)
        self._route = np.repeat(self._held[:, None], lookahead + 1, axis=1)
        self._next: Cells = self._held.copy()
        self._pending: list[deque[int]] = [deque() for _ in cells]
        self._done = np.zeros(len(cells), np.int64)
        # A visit is done * N + robot: the robot's how-manieth cell this is, so that coming back is another visit.
        self._visits: dict[int, deque[int]] = {}
        for robot, key in enumerate(_keys(self._held).tolist()):
            if key in self._visits:
                other = self._visits[key][0]
                raise ExecutionError(f'robots {other} and {robot} share the start {_cell(key)}; give each its own')
            self._visits[key] = deque([robot])

    @property
    def robots(self) -> int:
        """Number of robots."""
        return len(self._lag)

    def planned(self) -> Cells:
        """(N, 2) cells after all pending moves: what the next decision starts from."""
        return self._planned.copy()

    def held(self) -> Cells:
        """(N, 2) cells that the robots last reported to be in."""
        return self._held.copy()

    def occupied(self) -> Cells:
        """(K, 2) cells a robot may be in or may drive into right now, held and granted ones, each named once."""
        return _cells(np.unique(_keys(self._route)))

    def lag(self) -> NDArray[np.int32]:
        """(N,) pending moves."""
        return self._lag.copy()

    def full(self) -> NDArray[np.bool_]:
        """(N,) robots that must stay in the next decision: those `horizon` moves behind."""
        full: NDArray[np.bool_] = self._lag >= self.horizon
        return full

    def enabled(self) -> NDArray[np.bool_]:
        """(N,) robots that may drive into their next cell now."""
        enabled: NDArray[np.bool_] = self._granted > 0
        return enabled

    def routes(self) -> Cells:
        """(N, lookahead + 1, 2) held cell and granted cells in order, the last one repeated to fill up.

        This is what `motion.CellController` follows.
        """
        return self._route.copy()

    def granted(self) -> NDArray[np.int32]:
        """(N,) how many moves each robot may drive now."""
        return self._granted.copy()

    def upcoming(self) -> Cells:
        """(N, 2) the cell that each robot is to enter after its granted ones, where there is none the last of them."""
        return self._next.copy()

    def targets(self) -> Cells:
        """(N, 2) the next cell each robot may enter now, its held cell when it must wait."""
        return self._route[:, 1].copy()

    def target(self, robot: int) -> tuple[int, int]:
        """Row and column of the next cell this robot may enter now, of its held cell when it must wait."""
        return _pair(self._route[robot, 1])

    def append(self, next_cells: ArrayLike) -> None:
        """Add one joint decision; staying costs nothing.

        Args:
            next_cells: (N, 2) whole numbers, each equal or 4-adjacent to the robot's `planned` cell.

        Raises:
            ExecutionError: a jump, two robots on one cell, a swap, a ring (see `find_rotation`), a move by a robot
                that is `full`. Nothing is added then.
        """
        cells = np.asarray(next_cells)
        if cells.shape != self._planned.shape or cells.dtype.kind not in 'iu':
            raise ExecutionError(
                f'next cells must be whole numbers of shape {self._planned.shape}, got {cells.dtype} {cells.shape}'
            )
        cells = cells.astype(np.int32)
        self._check(cells)
        moving = np.flatnonzero((cells != self._planned).any(axis=1))
        for robot, key in zip(moving.tolist(), _keys(cells[moving]).tolist(), strict=True):
            pending = self._pending[robot]
            pending.append(key)
            visit = (int(self._done[robot]) + len(pending)) * self.robots + robot
            self._visits.setdefault(key, deque()).append(visit)
            if len(pending) <= self.lookahead:
                self._grant(robot)
        self._lag[moving] += 1
        self._planned = cells

    def complete(self, robots: int | ArrayLike) -> None:
        """Report that robots have reached the centre of their next cell, and so have left the one before.

        Args:
            robots: one index or several; each may be named once and must be `enabled`.

        Raises:
            ExecutionError: a robot had no granted move.
        """
        for robot in np.atleast_1d(np.asarray(robots)).tolist():
            if not self._granted[robot]:
                raise ExecutionError(f'robot {robot} has no move to complete; it waits in {tuple(self._held[robot])}')
            left = _key(self._held[robot])
            self._held[robot] = _cell(self._pending[robot].popleft())
            self._done[robot] += 1
            self._lag[robot] -= 1
            self._grant(robot)
            self._leave(left)

    def rollback(self) -> Cells:
        """Take back every move that is not granted, of all robots, so that the planner can decide anew.

        What remains is consistent: every remaining pending move can be driven without waiting for anyone, and the
        last cells of all robots differ, since no cell is granted twice.

        Returns:
            (N, 2) new planned cells, the same as `planned`.
        """
        self._visits = {}
        for robot, pending in enumerate(self._pending):
            granted = int(self._granted[robot])
            while len(pending) > granted:
                pending.pop()
            self._lag[robot] = granted
            self._planned[robot] = self._next[robot] = self._route[robot, granted]
            base = int(self._done[robot])
            for step, key in enumerate(_keys(self._route[robot, : granted + 1]).tolist()):
                self._visits.setdefault(key, deque()).append((base + step) * self.robots + robot)
        return self._planned.copy()

    def _grant(self, robot: int) -> None:
        """Extend a robot's granted moves as far as every cell is first in line, and refresh its route."""
        pending = self._pending[robot]
        visit = int(self._done[robot]) * self.robots + robot
        route = self._route[robot]
        route[:] = self._held[robot]
        granted = 0
        for key in pending:
            visit += self.robots
            if granted == self.lookahead or self._visits[key][0] != visit:
                break
            granted += 1
            route[granted:] = _cell(key)
        self._granted[robot] = granted
        self._next[robot] = _cell(pending[granted]) if granted < len(pending) else route[-1]

    def _leave(self, key: int) -> None:
        """Let the next visitor of a cell have it."""
        visits = self._visits[key]
        visits.popleft()
        if visits:
            self._grant(visits[0] % self.robots)
        else:
            del self._visits[key]

    def _check(self, cells: Cells) -> None:
        """Refuse a joint move that cannot be executed."""
        step = np.abs(cells - self._planned).sum(axis=1)
        if (far := np.flatnonzero(step > 1)).size:
            robot = int(far[0])
            raise ExecutionError(f'robot {robot} jumps from {_pair(self._planned[robot])} to {_pair(cells[robot])}')
        moving = step > 0
        if (bad := np.flatnonzero(moving & self.full())).size:
            raise ExecutionError(
                f'robot {bad[0]} is {self.horizon} moves behind and must be planned as staying (see full())'
            )
        keys = _keys(cells)
        if cells.size and (cells.min() < 0 or cells.max() >= _SIDE):
            raise ExecutionError(f'next cells must lie between 0 and {_SIDE - 1}')
        order = np.argsort(keys, kind='stable')
        if (same := np.flatnonzero(np.diff(keys[order]) == 0)).size:
            first, second = int(order[same[0]]), int(order[same[0] + 1])
            raise ExecutionError(f'robots {first} and {second} are both sent to {_pair(cells[first])}')
        if (ring := np.flatnonzero(find_rotation(self._planned, cells))).size:
            what = 'swap cells' if len(ring) == 2 else 'move round in a ring, where each waits for the next'
            raise ExecutionError(f'robots {", ".join(map(str, ring))} {what}; let one of them stay')


def _key(cell: NDArray[np.integer]) -> int:
    return int(cell[0]) * _SIDE + int(cell[1])


def _cell(key: int) -> tuple[int, int]:
    return divmod(key, _SIDE)


def _pair(cell: NDArray[np.integer]) -> tuple[int, int]:
    return int(cell[0]), int(cell[1])
