"""Training worlds: many fleets at once, stepped and labelled by the expert on CPU threads.

Every map lies in the corner of one canvas, walled off around it, so that all fleets share array shapes. Robots of all
fleets sit in one flat array of slots; rows of `row_slots` slots hold fleets of one size, so that a batch of rows needs
no padding. The compiled parts (`fleet_rules`) hold no lock: threads share the fleets among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attn_robotics.systems.sparc.actions import MOVES, STAY
from attn_robotics.systems.sparc.distance_fields import fill_fields
from attn_robotics.systems.sparc.fleet_rules import EXPERT, Fleets, label_fleets, renew_fleets, step_fleets
from attn_robotics.systems.sparc.maps import draw_map
from attn_robotics.systems.sparc.pibt import ACTIONS, seed_state


@dataclass(frozen=True)
class TeamMix:
    """Which fleets to draw: one entry per team size.

    Attributes:
        robots: team size, a divisor of `row_slots`.
        rows: rows of slots given to this size.
        sides: least and largest side of the map.
        densities: least and largest share of obstacles.
        family: a family of structured maps (`maps.FAMILIES`) up to the largest side, in place of random obstacles.
    """

    robots: int
    rows: int
    sides: tuple[int, int]
    densities: tuple[float, float] = (0.0, 0.0)
    family: str = ''


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
        scattered = []
        for fleet in fleets:
            team = self.mix[self._team[fleet]]
            if team.family:
                self._renew_structured(int(fleet), team)
                continue
            side[fleet] = self.rng.integers(team.sides[0], team.sides[1] + 1)
            density[fleet] = self.rng.uniform(*team.densities)
            scattered.append(fleet)
        if scattered:
            threads = min(len(self._shares), len(scattered))
            shares = [np.array(scattered[thread::threads], np.int64) for thread in range(threads)]
            self._share(renew_fleets, shares, self.canvas, side, density)

    def _renew_structured(self, fleet: int, team: TeamMix) -> None:
        grid = draw_map(team.family, self.rng, side=team.sides[1], cells=3 * team.robots)
        free = np.argwhere(~grid)
        starts, goals = (self.rng.permutation(free)[: team.robots] for _ in range(2))
        self.load(fleet, grid, starts, goals)

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
