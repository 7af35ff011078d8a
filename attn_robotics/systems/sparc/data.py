"""Training worlds: many fleets at once, stepped and labelled by the expert on CPU threads.

Every map lies in the corner of one canvas, walled off around it, so that all fleets share array shapes. Robots of all
fleets sit in one flat array of slots; rows of `row_slots` slots hold fleets of one size, so that a batch of rows needs
no padding. The compiled parts hold no lock: threads share the fleets among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attn_robotics.systems.sparc.actions import MOVES, STAY
from attn_robotics.systems.sparc.distance_fields import fill_fields
from attn_robotics.systems.sparc.pibt import ACTIONS, NOBODY, UNDECIDED, draw, plan_moves, rank_actions, seed_state

# How a fleet's wishes become a joint move.
EXPERT, SHIELD, ONE_WINNER, SHIELD_SWAP = range(4)


@dataclass(frozen=True)
class TeamMix:
    """Which fleets to draw: one entry per team size.

    Attributes:
        robots: team size, a divisor of `row_slots`.
        rows: rows of slots given to this size.
        sides: least and largest side of the map.
        densities: least and largest share of obstacles.
    """

    robots: int
    rows: int
    sides: tuple[int, int]
    densities: tuple[float, float]


@njit(cache=True, nogil=True)
def _uniform(state: NDArray[np.uint64]) -> float:
    return np.float64(draw(state) >> np.uint64(11)) / 9007199254740992.0


@njit(cache=True, nogil=True)
def draw_map(
    state: NDArray[np.uint64], canvas: int, side: int, density: float, near: NDArray[np.int32], cells: NDArray[np.int32]
) -> int:
    """Draw obstacles on a side x side map in the canvas corner.

    Args:
        state: random state.
        canvas: side of the canvas.
        side: side of the map.
        density: share of obstacles.
        near: (canvas * canvas, 5) neighbour table, written.
        cells: (canvas * canvas,) written: the cells of the largest connected component.

    Returns:
        How many cells that component has.
    """
    free = np.zeros(canvas * canvas, np.bool_)
    for row in range(side):
        for column in range(side):
            free[row * canvas + column] = _uniform(state) >= density
    near[:] = -1
    for cell in range(canvas * canvas):
        if not free[cell]:
            continue
        row, column = cell // canvas, cell % canvas
        near[cell, 4] = cell
        if row > 0 and free[cell - canvas]:
            near[cell, 0] = cell - canvas
        if row + 1 < canvas and free[cell + canvas]:
            near[cell, 1] = cell + canvas
        if column > 0 and free[cell - 1]:
            near[cell, 2] = cell - 1
        if column + 1 < canvas and free[cell + 1]:
            near[cell, 3] = cell + 1
    seen = np.zeros(canvas * canvas, np.bool_)
    queue = np.empty(canvas * canvas, np.int32)
    largest = 0
    for start in range(canvas * canvas):
        if not free[start] or seen[start]:
            continue
        queue[0] = start
        seen[start] = True
        head, tail = 0, 1
        while head < tail:
            cell = queue[head]
            head += 1
            for action in range(4):
                other = near[cell, action]
                if other >= 0 and not seen[other]:
                    seen[other] = True
                    queue[tail] = other
                    tail += 1
        if tail > largest:
            largest = tail
            cells[:tail] = queue[:tail]
    return largest


@njit(cache=True, nogil=True)
def _pick(state: NDArray[np.uint64], pool: NDArray[np.int32], count: int, wanted: int) -> None:
    """Move `wanted` random entries of the first `count` to the front."""
    for index in range(wanted):
        other = index + np.int64(draw(state) >> np.uint64(11)) % (count - index)
        pool[index], pool[other] = pool[other], pool[index]


@njit(cache=True, nogil=True)
def _turn(waited: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.argsort(-waited)


@njit(cache=True, nogil=True)
def settle_one_winner(
    near: NDArray[np.int32],
    cells: NDArray[np.int32],
    waited: NDArray[np.float64],
    order: NDArray[np.int8],
    counts: NDArray[np.int8],
    target: NDArray[np.int32],
) -> None:
    """Bare rule: one winner per conflict by priority, the losers fall to their next action, no inheritance.

    With each robot's order drawn by the Gumbel trick this equals drawing again from the own policy without the action
    that lost. A robot that has run out of actions stays, and nobody can take its cell.

    Args:
        near: (H * W, 5) neighbour table.
        cells: (N,) flat cells.
        waited: (N,) priorities.
        order: (N, 5) feasible actions, best first.
        counts: (N,) number of feasible actions.
        target: (N,) written: next cells, all different, no two robots changing places.
    """
    robots = cells.shape[0]
    owner = np.full(near.shape[0], NOBODY, np.int32)
    winner = np.full(near.shape[0], NOBODY, np.int32)
    cursor = np.zeros(robots, np.int8)
    stays_out = np.zeros(robots, np.bool_)  # lost a change of places: the own cell is taken
    for robot in range(robots):
        owner[cells[robot]] = robot
        target[robot] = near[cells[robot], order[robot, 0]]
    settled = False
    while not settled:
        settled = True
        loses = np.zeros(robots, np.bool_)
        for robot in range(robots):
            winner[target[robot]] = NOBODY
        for robot in range(robots):
            rival = winner[target[robot]]
            if rival == NOBODY:
                winner[target[robot]] = robot
                continue
            wins = waited[robot] > waited[rival]
            if cursor[rival] >= counts[rival]:
                wins = False
            elif cursor[robot] >= counts[robot]:
                wins = True
            if wins:
                winner[target[robot]] = robot
                loses[rival] = True
            else:
                loses[robot] = True
        for robot in range(robots):
            other = owner[target[robot]]
            if other == NOBODY or other <= robot or target[other] != cells[robot] or loses[robot] or loses[other]:
                continue
            worse = robot if waited[robot] < waited[other] else other
            loses[worse] = True
            stays_out[worse] = True
        for robot in range(robots):
            if not loses[robot]:
                continue
            settled = False
            cursor[robot] += 1
            if cursor[robot] < counts[robot] and stays_out[robot] and order[robot, cursor[robot]] == STAY:
                cursor[robot] += 1
            if cursor[robot] >= counts[robot]:
                target[robot] = cells[robot]
            else:
                target[robot] = near[cells[robot], order[robot, cursor[robot]]]


@njit(cache=True, nogil=True)
def label_fleets(
    fleets: NDArray[np.int64],
    first: NDArray[np.int64],
    size: NDArray[np.int64],
    near: NDArray[np.int32],
    cells: NDArray[np.int32],
    goals: NDArray[np.int32],
    fields: NDArray[np.int16],
    waited: NDArray[np.float64],
    random: NDArray[np.uint64],
    labels: NDArray[np.int64],
) -> None:
    """Write the expert's (PIBT with swap) action of every robot of the listed fleets into `labels`."""
    count_cells = near.shape[1]
    owner = np.full(count_cells, NOBODY, np.int32)
    next_owner = np.full(count_cells, NOBODY, np.int32)
    for fleet in fleets:
        low, high = first[fleet], first[fleet] + size[fleet]
        robots = high - low
        table = near[fleet]
        here = cells[low:high]
        preferences = np.empty((robots, ACTIONS), np.float32)
        for robot in range(robots):
            for action in range(ACTIONS):
                reached = table[here[robot], action]
                preferences[robot, action] = 0.0 if reached < 0 else -np.float32(fields[low + robot, reached])
        target = _plan(
            table, here, goals[low:high], fields[low:high], waited[low:high], preferences, random[fleet], True,
            owner, next_owner,
        )  # fmt: skip
        for robot in range(robots):
            for action in range(ACTIONS):
                if table[here[robot], action] == target[robot]:
                    labels[low + robot] = action


@njit(cache=True, nogil=True)
def _plan(
    near: NDArray[np.int32],
    cells: NDArray[np.int32],
    goals: NDArray[np.int32],
    fields: NDArray[np.int16],
    waited: NDArray[np.float64],
    preferences: NDArray[np.float32],
    random: NDArray[np.uint64],
    swap: bool,
    owner: NDArray[np.int32],
    next_owner: NDArray[np.int32],
) -> NDArray[np.int32]:
    """One joint move by PIBT; the workspaces are given back empty."""
    robots = cells.shape[0]
    order = np.empty((robots, ACTIONS), np.int8)
    counts = np.empty(robots, np.int8)
    target = np.full(robots, UNDECIDED, np.int32)
    rank_actions(near, cells, preferences, random, order, counts)
    for robot in range(robots):
        owner[cells[robot]] = robot
    plan_moves(near, cells, goals, fields, _turn(waited), order, counts, owner, next_owner, target, swap, True)
    for robot in range(robots):
        owner[cells[robot]] = NOBODY
        next_owner[target[robot]] = NOBODY
    return target


@njit(cache=True, nogil=True)
def step_fleets(
    fleets: NDArray[np.int64],
    first: NDArray[np.int64],
    size: NDArray[np.int64],
    near: NDArray[np.int32],
    cells: NDArray[np.int32],
    goals: NDArray[np.int32],
    fields: NDArray[np.int16],
    waited: NDArray[np.float64],
    history: NDArray[np.int64],
    random: NDArray[np.uint64],
    rule: NDArray[np.int64],
    labels: NDArray[np.int64],
    preferences: NDArray[np.float32],
    actions: NDArray[np.int64],
    steps: NDArray[np.int64],
    idle: NDArray[np.int64],
    arrived: NDArray[np.int64],
) -> None:
    """Turn preferences into moves by each fleet's rule and execute them.

    Args:
        fleets: (L,) which fleets to step.
        first: (F,) first slot of each fleet.
        size: (F,) robots of each fleet.
        near: (F, C, 5) neighbour tables.
        cells: (A,) flat cells, updated.
        goals: (A,) flat goals.
        fields: (A, C) path distances.
        waited: (A,) priorities, updated.
        history: (A, h) executed actions, newest first, updated.
        random: (F, 1) random states.
        rule: (F,) EXPERT, SHIELD, ONE_WINNER or SHIELD_SWAP.
        labels: (A,) the expert's actions, executed under EXPERT.
        preferences: (A, 5) the policy's.
        actions: (A,) written: what was executed.
        steps: (F,) counted up.
        idle: (F,) steps in a row without any motion, updated.
        arrived: (F,) written: robots on their goals.
    """
    count_cells = near.shape[1]
    owner = np.full(count_cells, NOBODY, np.int32)
    next_owner = np.full(count_cells, NOBODY, np.int32)
    for fleet in fleets:
        low, high = first[fleet], first[fleet] + size[fleet]
        robots = high - low
        table = near[fleet]
        here = cells[low:high]
        target = np.empty(robots, np.int32)
        if rule[fleet] == EXPERT:
            for robot in range(robots):
                target[robot] = table[here[robot], labels[low + robot]]
        elif rule[fleet] == ONE_WINNER:
            order = np.empty((robots, ACTIONS), np.int8)
            counts = np.empty(robots, np.int8)
            rank_actions(table, here, preferences[low:high], random[fleet], order, counts)
            settle_one_winner(table, here, waited[low:high], order, counts, target)
        else:
            target[:] = _plan(
                table, here, goals[low:high], fields[low:high], waited[low:high], preferences[low:high],
                random[fleet], rule[fleet] == SHIELD_SWAP, owner, next_owner,
            )  # fmt: skip
        moved = False
        count = 0
        for robot in range(robots):
            slot = low + robot
            for action in range(ACTIONS):
                if table[here[robot], action] == target[robot]:
                    actions[slot] = action
            moved |= actions[slot] != STAY
            for age in range(history.shape[1] - 1, 0, -1):
                history[slot, age] = history[slot, age - 1]
            history[slot, 0] = actions[slot]
        for robot in range(robots):
            slot = low + robot
            cells[slot] = target[robot]
            if cells[slot] == goals[slot]:
                count += 1
                waited[slot] -= np.floor(waited[slot])
            else:
                waited[slot] += 1.0
        steps[fleet] += 1
        idle[fleet] = 0 if moved else idle[fleet] + 1
        arrived[fleet] = count


@njit(cache=True, nogil=True)
def renew_fleets(
    fleets: NDArray[np.int64],
    first: NDArray[np.int64],
    size: NDArray[np.int64],
    canvas: int,
    side: NDArray[np.int64],
    density: NDArray[np.float64],
    near: NDArray[np.int32],
    cells: NDArray[np.int32],
    goals: NDArray[np.int32],
    fields: NDArray[np.int16],
    waited: NDArray[np.float64],
    history: NDArray[np.int64],
    random: NDArray[np.uint64],
    steps: NDArray[np.int64],
    idle: NDArray[np.int64],
) -> None:
    """Draw new maps, starts and goals for the listed fleets; arguments as in `step_fleets`."""
    pool = np.empty(near.shape[1], np.int32)
    for fleet in fleets:
        low, high = first[fleet], first[fleet] + size[fleet]
        robots = high - low
        share = density[fleet]
        count = 0
        while count < robots + 1:
            count = draw_map(random[fleet], canvas, side[fleet], share, near[fleet], pool)
            share *= 0.9  # a map without room is redrawn thinner
        _pick(random[fleet], pool, count, robots)
        cells[low:high] = pool[:robots]
        _pick(random[fleet], pool, count, robots)
        goals[low:high] = pool[:robots]
        fill_fields(near[fleet], goals[low:high], fields[low:high])
        for robot in range(robots):
            pool[robot] = robot
        _pick(random[fleet], pool, robots, robots)
        for robot in range(robots):
            waited[low + robot] = (pool[robot] + 0.5) / robots
        history[low:high] = -1
        steps[fleet] = 0
        idle[fleet] = 0


class FleetWorlds:
    """Fleets of several sizes, stepped together.

    Args:
        mix: which fleets, by team size.
        seed: of maps, starts, goals, ties.
        canvas: side of the largest map.
        row_slots: robots per row; a multiple of every team size.
        history: executed actions remembered.
        threads: CPU threads.

    Attributes:
        fleet: (A,) int64 fleet of each slot.
        near, cells, goals, fields, waited, history, steps, arrived: as in `step_fleets`.
    """

    def __init__(
        self,
        mix: Sequence[TeamMix],
        *,
        seed: int,
        canvas: int = 40,
        row_slots: int = 128,
        history: int = 4,
        threads: int = 1,
    ) -> None:
        for team in mix:
            if row_slots % team.robots or not 2 <= team.sides[0] <= team.sides[1] <= canvas:
                raise ValueError(f'{team} does not fit rows of {row_slots} slots on maps of side up to {canvas}')
        sizes = np.concatenate([np.full(team.rows * row_slots // team.robots, team.robots) for team in mix])
        self._mix = np.concatenate(
            [np.full(team.rows * row_slots // team.robots, index) for index, team in enumerate(mix)]
        )
        self.mix = tuple(mix)
        self.canvas = canvas
        self.row_slots = row_slots
        self.size = sizes.astype(np.int64)
        fleets, slots, spots = len(sizes), int(sizes.sum()), canvas * canvas
        self.first = (np.cumsum(self.size) - self.size).astype(np.int64)
        self.fleet = np.repeat(np.arange(fleets), self.size)
        self.near = np.empty((fleets, spots, ACTIONS), np.int32)
        self.cells = np.empty(slots, np.int32)
        self.goals = np.empty(slots, np.int32)
        self.fields = np.empty((slots, spots), np.int16)
        self.waited = np.empty(slots, np.float64)
        self.history = np.empty((slots, history), np.int64)
        self.labels = np.zeros(slots, np.int64)
        self.actions = np.zeros(slots, np.int64)
        self.rule = np.zeros(fleets, np.int64)
        self.steps = np.zeros(fleets, np.int64)
        self.idle = np.zeros(fleets, np.int64)
        self.arrived = np.zeros(fleets, np.int64)
        self.rng = np.random.default_rng(seed)
        self.random = np.stack([seed_state(int(word)) for word in self.rng.integers(1 << 62, size=fleets)])
        self._pool = ThreadPoolExecutor(threads)
        # Fleets are dealt out by falling size so that threads finish together.
        ranked = np.argsort(-self.size, kind='stable')
        self._shares = [ranked[thread::threads].copy() for thread in range(threads)]
        self.renew(np.arange(fleets))

    @property
    def rows(self) -> int:
        """Rows of slots."""
        return len(self.cells) // self.row_slots

    def places(self, flat: NDArray[np.integer]) -> NDArray[np.int64]:
        """Flat cells (A,) as (rows, row_slots, 2) rows and columns."""
        return np.stack(np.divmod(flat.astype(np.int64), self.canvas), -1).reshape(self.rows, self.row_slots, 2)

    def renew(self, fleets: NDArray[np.int64]) -> None:
        """Draw new problems for the listed fleets."""
        side = np.zeros(len(self.size), np.int64)
        density = np.zeros(len(self.size))
        for fleet in fleets:
            team = self.mix[self._mix[fleet]]
            side[fleet] = self.rng.integers(team.sides[0], team.sides[1] + 1)
            density[fleet] = self.rng.uniform(*team.densities)
        threads = len(self._shares)
        jobs = [
            self._pool.submit(
                renew_fleets,
                fleets[thread::threads].copy(),
                self.first,
                self.size,
                self.canvas,
                side,
                density,
                self.near,
                self.cells,
                self.goals,
                self.fields,
                self.waited,
                self.history,
                self.random,
                self.steps,
                self.idle,
            )  # fmt: skip
            for thread in range(min(threads, len(fleets)))
        ]
        for job in jobs:
            job.result()

    def label(self) -> NDArray[np.int64]:
        """Ask the expert about the current state: (A,) actions."""
        jobs = [
            self._pool.submit(
                label_fleets,
                share,
                self.first,
                self.size,
                self.near,
                self.cells,
                self.goals,
                self.fields,
                self.waited,
                self.random,
                self.labels,
            )  # fmt: skip
            for share in self._shares
        ]
        for job in jobs:
            job.result()
        return self.labels

    def step(self, preferences: NDArray[np.float32]) -> NDArray[np.int64]:
        """Execute one joint move of every fleet by its rule; (A, 5) preferences; returns the (A,) executed actions."""
        jobs = [
            self._pool.submit(
                step_fleets,
                share,
                self.first,
                self.size,
                self.near,
                self.cells,
                self.goals,
                self.fields,
                self.waited,
                self.history,
                self.random,
                self.rule,
                self.labels,
                preferences,
                self.actions,
                self.steps,
                self.idle,
                self.arrived,
            )  # fmt: skip
            for share in self._shares
        ]
        for job in jobs:
            job.result()
        return self.actions

    def walls(self, fleets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Obstacle maps of the listed fleets: (L, canvas, canvas), True outside their maps."""
        blocked: NDArray[np.bool_] = self.near[fleets, :, STAY] < 0
        return blocked.reshape(len(fleets), self.canvas, self.canvas)

    def load(
        self, fleet: int, grid: NDArray[np.bool_], starts: NDArray[np.integer], goals: NDArray[np.integer]
    ) -> None:
        """Put a given problem into one fleet: grid (H, W) no larger than the canvas, starts and goals (N, 2)."""
        height, width = grid.shape
        whole = np.ones((self.canvas, self.canvas), np.bool_)
        whole[:height, :width] = grid
        padded = np.pad(whole, 1, constant_values=True)
        spots = np.arange(self.canvas * self.canvas)
        for action, (down, right) in enumerate(MOVES):
            blocked = padded[1 + down : 1 + down + self.canvas, 1 + right : 1 + right + self.canvas] | whole
            reached = spots + down * self.canvas + right
            self.near[fleet, :, action] = np.where(blocked.reshape(-1), -1, reached)
        low, high = int(self.first[fleet]), int(self.first[fleet] + self.size[fleet])
        self.cells[low:high] = starts[:, 0] * self.canvas + starts[:, 1]
        self.goals[low:high] = goals[:, 0] * self.canvas + goals[:, 1]
        fill_fields(self.near[fleet], self.goals[low:high], self.fields[low:high])
        self.waited[low:high] = (self.rng.permutation(high - low) + 0.5) / (high - low)
        self.history[low:high] = -1
        self.steps[fleet] = self.idle[fleet] = 0

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()
