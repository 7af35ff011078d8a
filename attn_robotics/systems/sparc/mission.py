"""Judge a run from poses alone: who stands on its goal, how long it took, how near robots came."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attn_robotics.simulation.instances import components
from attn_robotics.simulation.world import World


class ContactCounter:
    """Count contact events in reports that repeat as long as two things touch.

    Attributes:
        events: so far. A pair that parts for less than `SAME_S` is still the same event.
    """

    SAME_S = 0.25

    def __init__(self) -> None:
        self.events = 0
        self._last_s: dict[tuple[str, str], float] = {}

    def take(self, first: str, second: str, now_s: float) -> None:
        """Take the report that two things touch at `now_s`; who tells does not matter, both may."""
        pair = (min(first, second), max(first, second))
        if now_s - self._last_s.get(pair, -np.inf) > self.SAME_S:
            self.events += 1
        self._last_s[pair] = now_s


class Mission:
    """The goals of a fleet and how far it has come.

    Args:
        world: robots, map, starts and goals.
        timeout_s: give up after this time [s].
        lifelong: draw a new goal for every robot that arrives; such a mission ends by its time-out, with success.

    Attributes:
        goals: (N, 2) cells, the current ones.
        positions: (N, 2) newest x and y [m].
        contacts: contact events that the simulator reported; None while nobody reports any.
        arrived: (N,) who has stood on its goal for `SETTLED_S`.
        delivered: goals reached so far.
    """

    TOLERANCE = 0.25  # of a cell: how near the centre counts as standing on it
    SETTLED_S = 0.5

    def __init__(self, world: World, *, timeout_s: float, lifelong: bool = False) -> None:
        self._world, self._timeout_s, self._lifelong = world, timeout_s, lifelong
        self._rng = np.random.default_rng(world.instance.seed)
        self.goals = world.instance.goals.copy()
        self.positions = world.start_xy.copy()
        self.contacts: int | None = None
        self.arrived = np.zeros(world.robots, bool)
        self.delivered = 0
        self._seen = np.zeros(world.robots, bool)
        self._on_goal_since_s = np.full(world.robots, np.nan)
        self._start_s: float | None = None
        self._now_s = 0.0
        self._path_m = np.zeros(world.robots)
        self._nearest_m = np.inf

    @property
    def has_started(self) -> bool:
        """Whether every robot has been seen."""
        return self._start_s is not None

    @property
    def elapsed_s(self) -> float:
        """Time since every robot was seen [s]."""
        return 0.0 if self._start_s is None else self._now_s - self._start_s

    @property
    def is_over(self) -> bool:
        """Whether all have arrived or time is up."""
        return self.has_started and (
            self.elapsed_s >= self._timeout_s or (not self._lifelong and bool(self.arrived.all()))
        )

    @property
    def is_success(self) -> bool:
        """Whether the run is over, everybody arrived (or lifelong time is up) and it is known that nothing touched.

        A run of which nobody tells whether something touched is no success.
        """
        return self.is_over and self.contacts == 0 and (self._lifelong or bool(self.arrived.all()))

    def observe(self, robot: int, xy: tuple[float, float], now_s: float) -> None:
        """Take a robot's newest position [m] at `now_s`."""
        new = np.array(xy)
        if self._seen[robot]:
            self._path_m[robot] += np.linalg.norm(new - self.positions[robot])
        self.positions[robot] = new
        self._seen[robot] = True
        goal = self._world.frame.to_xy(self.goals[robot])
        near = np.linalg.norm(new - goal) <= self.TOLERANCE * self._world.frame.resolution
        if not near:
            self._on_goal_since_s[robot] = np.nan
        elif np.isnan(self._on_goal_since_s[robot]):
            self._on_goal_since_s[robot] = now_s

    def start(self, now_s: float) -> None:
        """Count time from now on, since robots are driven; else it begins when the last robot is seen."""
        if self._start_s is None:
            self._start_s = now_s

    def advance(self, now_s: float) -> list[int]:
        """Account for the time; returns the robots that have a new goal."""
        self._now_s = now_s
        if self._start_s is None:
            if not self._seen.all():
                return []
            self.start(now_s)
        self.arrived = now_s - self._on_goal_since_s >= self.SETTLED_S
        if self._world.robots > 1:
            gaps = np.linalg.norm(self.positions[:, None] - self.positions[None], axis=-1)
            np.fill_diagonal(gaps, np.inf)
            self._nearest_m = min(self._nearest_m, float(gaps.min()))
        if not self._lifelong:
            return []
        renewed = np.flatnonzero(self.arrived).tolist()
        for robot in renewed:
            self.goals[robot] = self._draw_goal()
            self._on_goal_since_s[robot] = np.nan
            self.delivered += 1
        self.arrived[:] = False
        return renewed

    def line(self) -> str:
        """Progress in one line."""
        what = (
            f'{self.delivered} goals reached' if self._lifelong else f'{self.arrived.sum()}/{len(self.arrived)} arrived'
        )
        contacts = 'contacts unknown' if self.contacts is None else f'{self.contacts} contacts'
        return f'{what} after {self.elapsed_s:.0f} s, {contacts}'

    def failure(self) -> str:
        """Why the run is not a success, in one line."""
        if not self.has_started:
            missing = [name for name, seen in zip(self._world.names, self._seen, strict=True) if not seen]
            return f'never started: no pose of {", ".join(missing[:5])}'
        away = [name for name, there in zip(self._world.names, self.arrived, strict=True) if not there]
        if away and not self._lifelong:
            why = 'time is up' if self.elapsed_s >= self._timeout_s else 'interrupted'
            return f'{why}, not arrived: {", ".join(away[:5])}{" ..." if len(away) > 5 else ""}'
        if not self.is_over:
            return 'interrupted'
        return 'contacts unknown: nobody reports them' if self.contacts is None else f'{self.contacts} contacts'

    def summary(self) -> dict[str, object]:
        """Everything worth keeping of a run, ready for JSON."""
        robots = self._world.robots
        return {
            'success': self.is_success,
            'robots': robots,
            'map': f'{self._world.name} {self._world.frame.height}x{self._world.frame.width}',
            'seed': self._world.instance.seed,
            'arrived': robots if self._lifelong else int(self.arrived.sum()),
            'goals_reached': self.delivered if self._lifelong else int(self.arrived.sum()),
            'simulated_s': round(self.elapsed_s, 2),
            'contacts': self.contacts,
            'nearest_gap_m': None if robots < 2 else round(self._nearest_m - 2 * self._world.robot.radius, 3),
            'mean_path_m': round(float(self._path_m.mean()), 2),
        }

    def _draw_goal(self) -> NDArray[np.int32]:
        cells = np.argwhere(components(self._world.instance.grid) == 0).astype(np.int32)
        taken = {tuple(goal) for goal in self.goals.tolist()}
        free = [cell for cell in cells if tuple(cell.tolist()) not in taken]
        chosen: NDArray[np.int32] = free[int(self._rng.integers(len(free)))]
        return chosen
