"""Training worlds: many fleets at once, stepped and labelled by the expert on CPU threads.

Every map lies in the corner of one canvas, walled off around it, so that all fleets share array shapes. Robots of all
fleets sit in one flat array of slots; rows of `row_slots` slots hold fleets of one size, so that a batch of rows needs
no padding. The compiled parts hold no lock: threads share the fleets among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attn_robotics.systems.sparc.actions import MOVES, STAY
from attn_robotics.systems.sparc.distance_fields import fill_fields
from attn_robotics.systems.sparc.gridworld import find_blocking
from attn_robotics.systems.sparc.pibt import (
    ACTIONS,
    NOBODY,
    UNDECIDED,
    count_hindered,
    draw,
    plan_moves,
    rank_actions,
    seed_state,
)

# How a fleet's wishes become a joint move.
EXPERT, SHIELD, ONE_WINNER, SHIELD_SWAP = range(4)

# The expert: steps per neighbour in whose way an action ends; steps without progress until a robot becomes restless;
# noise on its preferences then, in steps.
HINDRANCE, PATIENCE, UNREST = 0.1, 20, 0.6
FAR = 1 << 16  # above any path length, so that lengths fit between two whole priorities
LARGE_TEAM = 32  # from here on nobody looks for blocking robots, as in SCRIMP


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


class Fleets(NamedTuple):
    """State of F fleets with A robots in all on maps of C cells; compiled code takes it whole."""

    first: NDArray[np.int64]  # (F,) first slot of each fleet
    size: NDArray[np.int64]  # (F,) robots of each fleet
    near: NDArray[np.int32]  # (F, C, 5) neighbour tables
    cells: NDArray[np.int32]  # (A,) flat cells
    goals: NDArray[np.int32]  # (A,) flat goals
    fields: NDArray[np.int16]  # (A, C) path distances
    waited: NDArray[np.float64]  # (A,) priorities
    length: NDArray[np.int64]  # (A,) path length from where the goal was given
    nearest: NDArray[np.int64]  # (A,) least path length since, FAR on the goal
    stuck: NDArray[np.int64]  # (A,) steps since that was reached
    history: NDArray[np.int64]  # (A, h) executed actions, newest first, -1 before the first
    labels: NDArray[np.int64]  # (A,) the expert's actions
    actions: NDArray[np.int64]  # (A,) executed last
    random: NDArray[np.uint64]  # (F, 1) random states
    rule: NDArray[np.int64]  # (F,) EXPERT, SHIELD, ONE_WINNER or SHIELD_SWAP
    steps: NDArray[np.int64]  # (F,) since the fleet was renewed
    idle: NDArray[np.int64]  # (F,) steps in a row without any motion
    arrived: NDArray[np.int64]  # (F,) robots on their goals


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
def label_fleets(listed: NDArray[np.int64], world: Fleets) -> None:
    """Write the expert's action of every robot of the listed fleets into `labels`.

    The expert is PIBT with swap and hindrance; among robots that have waited equally long, the longest way goes first;
    robots that have made no progress for a while get noise on their preferences and give way every other while. On the
    frozen set of 128 robots at 30 % it brings 96 of 97 solvable fleets home in 88 steps, PIBT with swap 91 in 108.
    """
    count_cells = world.near.shape[1]
    owner = np.full(count_cells, NOBODY, np.int32)
    next_owner = np.full(count_cells, NOBODY, np.int32)
    for fleet in listed:
        low, robots = world.first[fleet], world.size[fleet]
        near, cells = world.near[fleet], world.cells[low : low + robots]
        preferences = np.empty((robots, ACTIONS), np.float32)
        hindered = np.empty((robots, ACTIONS), np.float32)
        count_hindered(near, cells, world.fields[low : low + robots], owner, hindered)
        for robot in range(robots):
            for action in range(ACTIONS):
                reached = near[cells[robot], action]
                way = 0.0 if reached < 0 else -np.float64(world.fields[low + robot, reached])
                way -= HINDRANCE * hindered[robot, action]
                if world.stuck[low + robot] > PATIENCE:
                    way -= UNREST * np.log(-np.log(max(_uniform(world.random[fleet]), 1e-12)))
                preferences[robot, action] = way
        target = _plan(world, fleet, preferences, True, owner, next_owner)
        for robot in range(robots):
            for action in range(ACTIONS):
                if near[cells[robot], action] == target[robot]:
                    world.labels[low + robot] = action


@njit(cache=True, nogil=True)
def _turn(world: Fleets, fleet: int) -> NDArray[np.int64]:
    """Robots of one fleet by falling priority: steps waited, then length of the way; restless ones yield at times."""
    low, robots = world.first[fleet], world.size[fleet]
    priorities = np.empty(robots)
    for robot in range(robots):
        slot = low + robot
        waited = np.floor(world.waited[slot])
        between = (world.length[slot] + world.waited[slot] - waited) / FAR
        stuck = world.stuck[slot]
        yields = stuck > PATIENCE and (stuck // (PATIENCE // 2)) % 2 == 1
        priorities[robot] = between if yields else waited + between
    return np.argsort(-priorities)


@njit(cache=True, nogil=True)
def _plan(
    world: Fleets,
    fleet: int,
    preferences: NDArray[np.float32],
    swap: bool,
    owner: NDArray[np.int32],
    next_owner: NDArray[np.int32],
) -> NDArray[np.int32]:
    """One joint move of one fleet by PIBT: (N,) next cells; the workspaces are given back empty."""
    low, high = world.first[fleet], world.first[fleet] + world.size[fleet]
    near, cells, turn = world.near[fleet], world.cells[low:high], _turn(world, fleet)
    order = np.empty((high - low, ACTIONS), np.int8)
    counts = np.empty(high - low, np.int8)
    target = np.full(high - low, UNDECIDED, np.int32)
    rank_actions(near, cells, preferences, world.random[fleet], order, counts)
    for robot in range(high - low):
        owner[cells[robot]] = robot
    goals, fields = world.goals[low:high], world.fields[low:high]
    plan_moves(near, cells, goals, fields, turn, order, counts, owner, next_owner, target, swap, True)
    for robot in range(high - low):
        owner[cells[robot]] = NOBODY
        next_owner[target[robot]] = NOBODY
    return target


@njit(cache=True, nogil=True)
def step_fleets(listed: NDArray[np.int64], world: Fleets, preferences: NDArray[np.float32]) -> None:
    """Turn preferences (A, 5) into moves by each listed fleet's rule and execute them."""
    count_cells = world.near.shape[1]
    owner = np.full(count_cells, NOBODY, np.int32)
    next_owner = np.full(count_cells, NOBODY, np.int32)
    for fleet in listed:
        low, high = world.first[fleet], world.first[fleet] + world.size[fleet]
        robots = high - low
        near, here = world.near[fleet], world.cells[low:high]
        target = np.empty(robots, np.int32)
        rule = world.rule[fleet]
        if rule == EXPERT:
            for robot in range(robots):
                target[robot] = near[here[robot], world.labels[low + robot]]
        elif rule == ONE_WINNER:
            order = np.empty((robots, ACTIONS), np.int8)
            counts = np.empty(robots, np.int8)
            rank_actions(near, here, preferences[low:high], world.random[fleet], order, counts)
            settle_one_winner(near, here, world.waited[low:high], order, counts, target)
        else:
            target[:] = _plan(world, fleet, preferences[low:high], rule == SHIELD_SWAP, owner, next_owner)
        _execute(world, fleet, target)


@njit(cache=True, nogil=True)
def _execute(world: Fleets, fleet: int, target: NDArray[np.int32]) -> None:
    """Move one fleet to its next cells (N,) and keep the books."""
    low = world.first[fleet]
    moved = False
    count = 0
    for robot in range(world.size[fleet]):
        slot = low + robot
        for action in range(ACTIONS):
            if world.near[fleet, world.cells[slot], action] == target[robot]:
                world.actions[slot] = action
        moved |= world.actions[slot] != STAY
        for age in range(world.history.shape[1] - 1, 0, -1):
            world.history[slot, age] = world.history[slot, age - 1]
        world.history[slot, 0] = world.actions[slot]
        world.cells[slot] = target[robot]
        if target[robot] == world.goals[slot]:
            count += 1
            world.waited[slot] -= np.floor(world.waited[slot])
            # A robot that is pushed off its goal has to find back first: that counts as a way of its own.
            world.nearest[slot] = FAR
            world.stuck[slot] = 0
        else:
            world.waited[slot] += 1.0
            left = world.fields[slot, target[robot]]
            world.stuck[slot] = 0 if left < world.nearest[slot] else world.stuck[slot] + 1
            world.nearest[slot] = min(left, world.nearest[slot])
    world.steps[fleet] += 1
    world.idle[fleet] = 0 if moved else world.idle[fleet] + 1
    world.arrived[fleet] = count


@njit(cache=True, nogil=True)
def renew_fleets(
    listed: NDArray[np.int64], world: Fleets, canvas: int, side: NDArray[np.int64], density: NDArray[np.float64]
) -> None:
    """Draw new maps of `side` (F,) and `density` (F,), starts and goals for the listed fleets."""
    pool = np.empty(world.near.shape[1], np.int32)
    for fleet in listed:
        low, high = world.first[fleet], world.first[fleet] + world.size[fleet]
        robots, random = high - low, world.random[fleet]
        share = density[fleet]
        count = 0
        while count < robots + 1:
            count = draw_map(random, canvas, side[fleet], share, world.near[fleet], pool)
            share *= 0.9  # a map without room is redrawn thinner
        _pick(random, pool, count, robots)
        world.cells[low:high] = pool[:robots]
        _pick(random, pool, count, robots)
        world.goals[low:high] = pool[:robots]
        fill_fields(world.near[fleet], world.goals[low:high], world.fields[low:high])
        for robot in range(robots):
            pool[robot] = robot
        _pick(random, pool, robots, robots)
        for robot in range(robots):
            world.waited[low + robot] = (pool[robot] + 0.5) / robots
            length = world.fields[low + robot, world.cells[low + robot]]
            world.length[low + robot] = world.nearest[low + robot] = length
            world.stuck[low + robot] = 0
        world.history[low:high] = -1
        world.steps[fleet] = 0
        world.idle[fleet] = 0


@njit(cache=True, nogil=True)
def find_blockers(world: Fleets, canvas: int) -> NDArray[np.float32]:
    """Robots that rest in somebody's way (`gridworld.find_blocking`): (A,) 1 or 0, -1 in teams too large to look."""
    blockers = np.full(world.cells.shape[0], -1, np.float32)
    for fleet in range(world.size.shape[0]):
        low, high = world.first[fleet], world.first[fleet] + world.size[fleet]
        if high - low < LARGE_TEAM:
            found = find_blocking(world.near[fleet], canvas, world.cells[low:high], world.goals[low:high], 1, 10)
            for robot in range(high - low):
                blockers[low + robot] = 1.0 if found[robot] else 0.0
    return blockers


@njit(cache=True, nogil=True)
def pack_fleets(world: Fleets, canvas: int, packed: NDArray[np.int16]) -> None:
    """Write rows and columns of cells and goals, then the history, of every robot: packed (A, 4 + h)."""
    for slot in range(world.cells.shape[0]):
        packed[slot, 0] = world.cells[slot] // canvas
        packed[slot, 1] = world.cells[slot] % canvas
        packed[slot, 2] = world.goals[slot] // canvas
        packed[slot, 3] = world.goals[slot] % canvas
        for age in range(world.history.shape[1]):
            packed[slot, 4 + age] = world.history[slot, age]


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
        state: arrays of all fleets.
        fleet: (A,) int64 fleet of each slot.
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
        self.mix = tuple(mix)
        self.canvas = canvas
        self.row_slots = row_slots
        counts = [team.rows * row_slots // team.robots for team in mix]
        self._team = np.repeat(np.arange(len(mix)), counts)
        size = np.repeat([team.robots for team in mix], counts).astype(np.int64)
        fleets, slots, spots = len(size), int(size.sum()), canvas * canvas
        self.rng = np.random.default_rng(seed)
        words = self.rng.integers(1 << 62, size=fleets)
        self.state = Fleets(
            first=np.cumsum(size) - size,
            size=size,
            near=np.empty((fleets, spots, ACTIONS), np.int32),
            cells=np.empty(slots, np.int32),
            goals=np.empty(slots, np.int32),
            fields=np.empty((slots, spots), np.int16),
            waited=np.empty(slots, np.float64),
            length=np.empty(slots, np.int64),
            nearest=np.empty(slots, np.int64),
            stuck=np.zeros(slots, np.int64),
            history=np.empty((slots, history), np.int64),
            labels=np.zeros(slots, np.int64),
            actions=np.zeros(slots, np.int64),
            random=np.stack([seed_state(int(word)) for word in words]),
            rule=np.full(fleets, EXPERT, np.int64),
            steps=np.zeros(fleets, np.int64),
            idle=np.zeros(fleets, np.int64),
            arrived=np.zeros(fleets, np.int64),
        )
        self.fleet = np.repeat(np.arange(fleets), size)
        self._pool = ThreadPoolExecutor(threads)
        # Fleets are dealt out by falling size so that threads finish together.
        ranked = np.argsort(-size, kind='stable')
        self._shares = [ranked[thread::threads].copy() for thread in range(threads)]
        self.renew(np.arange(fleets))

    @property
    def robots(self) -> int:
        """Robots of all fleets together, A."""
        return len(self.fleet)

    @property
    def rows(self) -> int:
        """Rows of slots."""
        return self.robots // self.row_slots

    def places(self, flat: NDArray[np.integer]) -> NDArray[np.int64]:
        """Flat cells (A,) as (rows, row_slots, 2) rows and columns."""
        return np.stack(np.divmod(flat.astype(np.int64), self.canvas), -1).reshape(self.rows, self.row_slots, 2)

    def renew(self, fleets: NDArray[np.int64]) -> None:
        """Draw new problems for the listed fleets."""
        side = np.zeros(len(self.state.size), np.int64)
        density = np.zeros(len(self.state.size))
        for fleet in fleets:
            team = self.mix[self._team[fleet]]
            side[fleet] = self.rng.integers(team.sides[0], team.sides[1] + 1)
            density[fleet] = self.rng.uniform(*team.densities)
        threads = len(self._shares)
        shares = [fleets[thread::threads].copy() for thread in range(min(threads, len(fleets)))]
        self._share(renew_fleets, shares, self.canvas, side, density)

    def label(self) -> NDArray[np.int64]:
        """Ask the expert about the current state: (A,) actions."""
        self._share(label_fleets, self._shares)
        return self.state.labels

    def step(self, preferences: NDArray[np.float32]) -> NDArray[np.int64]:
        """Execute one joint move of every fleet by its rule; (A, 5) preferences; returns the (A,) executed actions."""
        self._share(step_fleets, self._shares, preferences)
        return self.state.actions

    def _share(self, work: Callable[..., None], shares: list[NDArray[np.int64]], *arguments: object) -> None:
        if len(shares) == 1:
            work(shares[0], self.state, *arguments)
            return
        for job in [self._pool.submit(work, share, self.state, *arguments) for share in shares]:
            job.result()

    def steps_gained(self) -> NDArray[np.float32]:
        """How much nearer each action brings each robot to its goal: (A, 5), 0 where an action is not feasible."""
        reached = self.state.near[self.fleet, self.state.cells]  # (A, 5)
        now = self.state.fields[np.arange(len(self.state.cells)), self.state.cells].astype(np.float32)
        after = np.take_along_axis(self.state.fields, reached.clip(0).astype(np.int64), 1).astype(np.float32)
        return np.where(reached >= 0, now[:, None] - after, np.float32(0))

    def walls(self, fleets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Obstacle maps of the listed fleets: (L, canvas, canvas), True outside their maps."""
        blocked: NDArray[np.bool_] = self.state.near[fleets, :, STAY] < 0
        return blocked.reshape(len(fleets), self.canvas, self.canvas)

    def load(
        self, fleet: int, grid: NDArray[np.bool_], starts: NDArray[np.integer], goals: NDArray[np.integer]
    ) -> None:
        """Put a given problem into one fleet: grid (H, W) no larger than the canvas, starts and goals (N, 2)."""
        height, width = grid.shape
        whole = np.ones((self.canvas, self.canvas), np.bool_)
        whole[:height, :width] = grid
        self._set_walls(fleet, whole)
        low, high = int(self.state.first[fleet]), int(self.state.first[fleet] + self.state.size[fleet])
        self.state.cells[low:high] = starts[:, 0] * self.canvas + starts[:, 1]
        self.state.goals[low:high] = goals[:, 0] * self.canvas + goals[:, 1]
        fill_fields(self.state.near[fleet], self.state.goals[low:high], self.state.fields[low:high])
        self.state.waited[low:high] = (self.rng.permutation(high - low) + 0.5) / (high - low)
        lengths = self.state.fields[np.arange(low, high), self.state.cells[low:high]]
        self.state.length[low:high] = self.state.nearest[low:high] = lengths
        self.state.stuck[low:high] = 0
        self.state.history[low:high] = -1
        self.state.steps[fleet] = self.state.idle[fleet] = 0

    def _set_walls(self, fleet: int, walls: NDArray[np.bool_]) -> None:
        padded = np.pad(walls, 1, constant_values=True)
        spots = np.arange(self.canvas * self.canvas)
        for action, (down, right) in enumerate(MOVES):
            blocked = padded[1 + down : 1 + down + self.canvas, 1 + right : 1 + right + self.canvas] | walls
            reached = spots + down * self.canvas + right
            self.state.near[fleet, :, action] = np.where(blocked.reshape(-1), -1, reached)

    def keep(self) -> dict[str, NDArray[np.generic]]:
        """Everything that `restore` needs to go on exactly from here; what follows from it is left out."""
        kept: dict[str, NDArray[np.generic]] = {
            name: array for name, array in self.state._asdict().items() if name not in ('near', 'fields', 'random')
        }
        words = self.state.random.view(np.int64)
        return kept | {'random': words, 'walls': np.packbits(self.walls(np.arange(len(self.state.size))))}

    def restore(self, kept: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from what `keep` gave; raises ValueError when that were other fleets."""
        if not np.array_equal(kept['size'], self.state.size) or kept['history'].shape != self.state.history.shape:
            raise ValueError('the kept worlds hold other fleets')
        fleets = len(self.state.size)
        shape = (fleets, self.canvas, self.canvas)
        walls = np.unpackbits(kept['walls'].view(np.uint8), count=int(np.prod(shape))).reshape(shape).astype(np.bool_)
        for name, array in self.state._asdict().items():
            if name in kept and name != 'random':
                array[:] = kept[name]
        self.state.random[:] = kept['random'].view(np.uint64)
        for fleet in range(fleets):
            self._set_walls(fleet, walls[fleet])
            low, high = int(self.state.first[fleet]), int(self.state.first[fleet] + self.state.size[fleet])
            fill_fields(self.state.near[fleet], self.state.goals[low:high], self.state.fields[low:high])

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()
