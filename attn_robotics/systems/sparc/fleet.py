"""A fleet under way: decisions on the grid, their execution on wheels, and what to do when a robot stops.

The planner decides on *planned* cells, which may be a few steps ahead of the wheels; `execution.ExecutionGraph` lets a
robot enter a cell only when the one before it has left; `motion.CellController` drives. Nothing here knows ROS or time
other than the seconds it is told.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attn_robotics.simulation.grid import GridFrame
from attn_robotics.systems.sparc.actions import MOVES, STAY
from attn_robotics.systems.sparc.distance_fields import UNREACHABLE, distance_field
from attn_robotics.systems.sparc.execution import ExecutionGraph
from attn_robotics.systems.sparc.motion import CellController, MotionLimits, lean_in
from attn_robotics.systems.sparc.shield import Shield, ShieldConfig

ACTIVE, ARRIVED, BLOCKED, LOST, WAITING = range(5)


class FleetError(ValueError):
    """A fleet input that is refused; the message names the robot and the fix."""


class Policy(Protocol):
    """What decides: the attentive network, or anything with the same face."""

    @property
    def priorities(self) -> NDArray[np.float64]:
        """(N,) who goes first; the network and the shield must agree on it."""

    def reset(
        self, grid: NDArray[np.bool_], goals: NDArray[np.int32], distances: NDArray[np.int16], *, seed: int
    ) -> None:
        """Start on a map: grid (H, W), goals (N, 2), distances (N, H, W), seed of the priorities' fractions."""

    def change_map(self, grid: NDArray[np.bool_], distances: NDArray[np.int16]) -> None:
        """Obstacles came or went: grid (H, W), distances (N, H, W)."""

    def set_goals(self, goals: NDArray[np.int32], distances: NDArray[np.int16], robots: NDArray[np.intp]) -> None:
        """Change goals: goals (M, 2), distances (M, H, W), robots (M,) whose they are."""

    def step(
        self, cells: NDArray[np.int32], last_actions: NDArray[np.int8], *, need_attention: bool = False
    ) -> NDArray[np.float32]:
        """(N, 5) log-probabilities of the actions from cells (N, 2) and the last executed actions (N,)."""

    def attention(self) -> Mapping[str, NDArray[np.float32]]:
        """Layer name to (H, N, N) weights of the last step that was asked for them."""


@dataclass(frozen=True)
class FleetConfig:
    """How decisions and wheels are coupled.

    Attributes:
        horizon: decisions a robot may be ahead of its wheels.
        shortest_s: least time between decisions [s].
        ready_lag: a robot with at most this many moves left to drive is ready for the next decision.
        ready_share: decide when this share of the robots under way is ready.
        patience_s: or when the last decision is this old [s].
        stall_s: a robot that may drive but gets no nearer for this long counts as stopped [s].
        retry_s: a stopped robot is tried again after this long [s].
        lost_s: a robot without a pose for this long is an obstacle until it is seen again [s].
        stray_cells: a robot reported farther than this from every cell that is its own is stopped and planned around
            until it is back [cells]: its localisation is wrong, or somebody has carried it away.
        seed: of priorities and random ties.
    """

    horizon: int = 6
    shortest_s: float = 0.5
    ready_lag: int = 3
    ready_share: float = 0.9
    patience_s: float = 4.0
    stall_s: float = 3.0
    retry_s: float = 5.0
    lost_s: float = 2.0
    stray_cells: float = 1.25
    seed: int = 0


@dataclass(frozen=True)
class Proposal:
    """What one decision starts from; arrays run over the N robots.

    Attributes:
        cells: (N, 2) planned cells.
        goals: (N, 2).
        distances: (N, H, W) path distances to the goals.
        last_actions: (N,) int8.
        frozen: (N,) robots that stay whatever happens.
        need_attention: whether somebody wants to see attention weights.
        grid: (H, W) the map with the cells of stopped and lost robots as obstacles.
        walls: (H, W) the map with what nobody may enter: obstacles, and cells that stray robots are reported in.
        new_map: whether `grid` changed since the last proposal.
        new_goals: robots whose goals did.
        generation: counts maps; a decision for an older one is refused.
        poses: (N, 3) where the robots were then, x, y [m], yaw [rad].
        seen_s: when the newest of these was seen [s].
    """

    cells: NDArray[np.int32]
    goals: NDArray[np.int32]
    distances: NDArray[np.int16]
    last_actions: NDArray[np.int8]
    frozen: NDArray[np.bool_]
    need_attention: bool
    grid: NDArray[np.bool_]
    walls: NDArray[np.bool_]
    new_map: bool
    new_goals: NDArray[np.intp]
    generation: int
    poses: NDArray[np.float64]
    seen_s: float


@dataclass(frozen=True)
class Decision:
    """One joint decision.

    Attributes:
        proposal: what it started from.
        actions: (N,) int8.
        log_probs: (N, 5) float32 of the policy.
        duration_s: observation to shielded actions [s].
        attention: layer name to (H, N, N), empty when not asked for.
    """

    proposal: Proposal
    actions: NDArray[np.int8]
    log_probs: NDArray[np.float32]
    duration_s: float
    attention: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class Fleet:
    """Plan and drive N robots on one map.

    Args:
        grid: (H, W) True where an obstacle stands.
        frame: where the grid lies [m].
        names: N robot names, for messages.
        starts: (N, 2) cells in which the robots stand now.
        policy: what proposes actions.
        limits: what the wheels can do.
        config: coupling of decisions and wheels.
        shield: how preferences become moves; rotations are always off, wheels cannot start all at once.

    Raises:
        FleetError: robots off the map, in an obstacle or in one cell.
    """

    def __init__(
        self,
        grid: NDArray[np.bool_],
        frame: GridFrame,
        names: tuple[str, ...],
        starts: NDArray[np.int32],
        policy: Policy,
        limits: MotionLimits | None = None,
        config: FleetConfig | None = None,
        shield: ShieldConfig | None = None,
    ) -> None:
        self.grid, self.frame, self.names, self.config = grid, frame, names, config or FleetConfig()
        self._check_starts(starts, grid)
        self._policy = policy
        # Touched by `evaluate` alone, maybe in another thread; goals and maps reach it with the next proposal.
        self._new_goals: set[int] = set()
        self._new_map = False
        self._generation = 0
        self._shield = Shield(grid, dataclasses.replace(shield or ShieldConfig(), allow_rotation=False))
        self._rng = np.random.default_rng(self.config.seed)
        self.goals = starts.astype(np.int32).copy()
        self._has_goal = np.zeros(len(names), bool)
        self._planning_grid = self._walls = grid
        self._distances = np.stack([distance_field(grid, goal) for goal in self.goals])
        self._policy.reset(grid, self.goals, self._distances, seed=self.config.seed)
        self._graph = ExecutionGraph(starts, horizon=self.config.horizon)
        limits = limits or MotionLimits()
        self._controller = CellController(len(names), limits, frame.resolution)
        self._lean_m = limits.lean(frame.resolution)
        self._last_actions = np.full(len(names), STAY, np.int8)
        self.tick = 0
        self.poses = np.concatenate([frame.to_xy(starts), np.zeros((len(names), 1))], axis=1)
        self._seen_s = np.full(len(names), -np.inf)
        # Progress watch: nearest distance to the current target so far, and when it last shrank.
        self._nearest_m = np.full(len(names), np.inf)
        self._progress_s = np.zeros(len(names))
        self._stopped_since_s = np.full(len(names), np.nan)
        self._decided_s = -np.inf
        self._missing = np.zeros(len(names), bool)
        self._stray = np.zeros(len(names), bool)

    @property
    def robots(self) -> int:
        """Number of robots."""
        return len(self.names)

    @staticmethod
    def warm_up(policy: Policy) -> None:
        """Compile and load everything a decision needs, so that the first real one is as quick as the others."""
        grid = np.zeros((4, 4), bool)
        starts = np.array([[0, 0], [3, 3]], np.int32)
        fleet = Fleet(grid, GridFrame(4, 4), ('robot_0', 'robot_1'), starts, policy)
        for robot in range(2):
            fleet.set_goal(robot, starts[1 - robot])
        for need_attention in (False, True, False):
            fleet.decide(0.0, need_attention=need_attention)

    def set_goal(self, robot: int, goal: NDArray[np.int32]) -> None:
        """Send a robot to another cell, at any time.

        Args:
            robot: index.
            goal: (2,) row and column.

        Raises:
            FleetError: off the map, in an obstacle, cut off, or another robot's goal.
        """
        row, column = int(goal[0]), int(goal[1])
        height, width = self.grid.shape
        name = self.names[robot]
        if not (0 <= row < height and 0 <= column < width):
            raise FleetError(f'goal of {name} at ({row}, {column}) is off the {height} x {width} map')
        if self.grid[row, column]:
            raise FleetError(f'goal of {name} at ({row}, {column}) is inside an obstacle; send it to a free cell')
        same = self._has_goal & (self.goals == (row, column)).all(axis=1)
        same[robot] = False
        if same.any():
            raise FleetError(
                f'{name} and {self.names[int(same.argmax())]} have the same goal ({row}, {column}); give each its own'
            )
        field_ = distance_field(self.grid, np.array([row, column], np.int32))
        here = self._graph.planned()[robot]
        if (row, column) != tuple(here) and field_[tuple(here)] > self.grid.size:
            raise FleetError(f'goal of {name} at ({row}, {column}) can not be reached from {tuple(here.tolist())}')
        self._has_goal[robot] = True
        # New arrays: a decision under way keeps the ones it started from.
        self.goals = self.goals.copy()
        self.goals[robot] = (row, column)
        self._distances = self._distances.copy()
        self._distances[robot] = self._field(robot)
        self._new_goals.add(robot)

    def change_map(self, grid: NDArray[np.bool_]) -> None:
        """Take over obstacles that came or went; moves not begun are decided anew.

        Args:
            grid: (H, W) as before in size, True where an obstacle stands.

        Raises:
            FleetError: another size, or an obstacle on a robot or a goal; the old map stays then.
        """
        if grid.shape != self.grid.shape:
            raise FleetError(f'map changed from {self.grid.shape} to {grid.shape}; build a new fleet for it')
        self._graph.rollback()
        taken = self._graph.occupied()
        if grid[tuple(taken.T)].any():
            row, column = taken[int(grid[tuple(taken.T)].argmax())].tolist()
            raise FleetError(f'new obstacle at ({row}, {column}), where a robot stands or drives; the old map stays')
        for robot in np.flatnonzero(self._has_goal & grid[tuple(self.goals.T)]):
            raise FleetError(f'goal of {self.names[robot]} is inside a new obstacle; send it elsewhere first')
        self.grid = grid
        self._plan_around()

    def observe(self, robot: int, pose: tuple[float, float, float], now_s: float) -> None:
        """Take a robot's newest pose: x, y [m], yaw [rad] in the map frame, seen at `now_s`."""
        self.poses[robot] = pose
        self._seen_s[robot] = now_s

    def advance(self, now_s: float) -> tuple[str, ...]:
        """Account for what the wheels have done; call it before `is_due` and `velocities`.

        Returns:
            One line for every robot that was lost, found, stopped or went on.
        """
        notes: list[str] = []
        arrived = self._graph.enabled() & self._controller.arrived(self.poses, self._routes_xy())
        if arrived.any():
            self._graph.complete(np.flatnonzero(arrived))
            self._nearest_m[arrived] = np.inf
        self._watch(now_s, notes)
        return tuple(notes)

    def is_due(self, now_s: float) -> bool:
        """Whether a decision would help now."""
        under_way = self._on_the_way() & ~self._graph.full()
        since_s = now_s - self._decided_s
        if not under_way.any() or since_s < self.config.shortest_s:
            return False
        ready = self._graph.lag()[under_way] <= self.config.ready_lag
        return bool(ready.mean() >= self.config.ready_share or since_s >= self.config.patience_s)

    def propose(self, now_s: float, *, need_attention: bool = False) -> Proposal:
        """Freeze what the decision of `now_s` starts from."""
        self._decided_s = now_s
        proposal = Proposal(
            cells=self._graph.planned(),
            goals=self.goals,
            distances=self._distances,
            last_actions=self._last_actions.copy(),
            frozen=self._graph.full() | self._halted(),
            need_attention=need_attention,
            grid=self._planning_grid,
            walls=self._walls,
            new_map=self._new_map,
            new_goals=np.array(sorted(self._new_goals), np.intp),
            generation=self._generation,
            poses=self.poses.copy(),
            seen_s=float(self._seen_s.max(initial=0.0)),
        )
        self._new_map = False
        self._new_goals.clear()
        return proposal

    def evaluate(self, proposal: Proposal) -> Decision:
        """Turn a proposal into a joint move; touches only the policy and the shield, so any one thread may do it."""
        start = time.perf_counter()
        if proposal.new_map:
            self._shield = Shield(proposal.walls, self._shield.config)
            self._policy.change_map(proposal.grid, proposal.distances)
        if len(proposal.new_goals):
            whose = proposal.new_goals
            self._policy.set_goals(proposal.goals[whose], proposal.distances[whose], whose)
        log_probs = self._policy.step(proposal.cells, proposal.last_actions, need_attention=proposal.need_attention)
        attention = self._policy.attention() if proposal.need_attention else {}
        priorities = self._policy.priorities.copy()
        actions = self._shield.decide(
            proposal.cells,
            log_probs,
            priorities,
            proposal.goals,
            proposal.distances,
            rng=self._rng,
            frozen=proposal.frozen,
        )
        return Decision(proposal, actions, log_probs, time.perf_counter() - start, attention)

    def prepare(self) -> None:
        """Search ways out of deadlocks for the next decision, once this one is out; in the thread of `evaluate`."""
        self._shield.prepare()

    def commit(self, decision: Decision) -> bool:
        """Hand a decision to execution.

        Returns:
            False when the plan or the map changed meanwhile, since a robot stopped, say: decide again then.
        """
        proposal = decision.proposal
        halted = self._halted() & (decision.actions != STAY)
        is_old = proposal.generation != self._generation or not np.array_equal(proposal.cells, self._graph.planned())
        if is_old or halted.any():
            return False
        next_cells = proposal.cells + MOVES[decision.actions]
        self._graph.append(next_cells)
        self._last_actions = decision.actions
        self.tick += 1
        return True

    def decide(self, now_s: float, *, need_attention: bool = False) -> Decision:
        """Propose, evaluate and commit at once."""
        decision = self.evaluate(self.propose(now_s, need_attention=need_attention))
        self.commit(decision)
        self.prepare()
        return decision

    def velocities(self, dt_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Body velocities for the next `dt_s`: (N,) forwards [m/s] and (N,) turning [rad/s]."""
        upcoming = self.frame.to_xy(self._graph.upcoming())
        routes = lean_in(self._routes_xy(), self._graph.granted(), upcoming, self._lean_m)
        linear, angular = self._controller.step(self.poses, routes, dt_s)
        still = self._missing | self._stray
        return np.where(still, 0.0, linear), np.where(still, 0.0, angular)

    def states(self) -> NDArray[np.uint8]:
        """(N,) one of ACTIVE, ARRIVED, BLOCKED, LOST, WAITING for each robot."""
        lag, planned = self._graph.lag(), self._graph.planned()
        state = np.full(self.robots, ACTIVE, np.uint8)
        state[(lag > 0) & ~self._graph.enabled()] = BLOCKED
        state[self._halted()] = BLOCKED
        state[(lag == 0) & (planned == self.goals).all(axis=1)] = ARRIVED
        state[~self._has_goal] = WAITING
        state[self._stray] = BLOCKED
        state[self._missing] = LOST
        return state

    def planned(self) -> NDArray[np.int32]:
        """(N, 2) planned cells."""
        return self._graph.planned()

    def lag(self) -> NDArray[np.int32]:
        """(N,) decisions not driven yet."""
        return self._graph.lag()

    @property
    def has_arrived(self) -> bool:
        """Whether every robot that has a goal and is not lost stands on it."""
        counted = self._has_goal & ~self._missing
        return bool(counted.any()) and bool((self.states()[counted] == ARRIVED).all())

    def _on_the_way(self) -> NDArray[np.bool_]:
        """(N,) robots that still have somewhere to go and can."""
        away = self._has_goal & (self._graph.planned() != self.goals).any(axis=1)
        on_the_way: NDArray[np.bool_] = away & ~self._halted()
        return on_the_way

    def _halted(self) -> NDArray[np.bool_]:
        halted: NDArray[np.bool_] = self._missing | self._stray | ~np.isnan(self._stopped_since_s)
        return halted

    def _routes_xy(self) -> NDArray[np.float64]:
        return self.frame.to_xy(self._graph.routes())

    def _watch(self, now_s: float, notes: list[str]) -> None:
        """Notice robots that are lost or stopped, and take back what was planned through them."""
        gone = now_s - self._seen_s > self.config.lost_s
        for robot in np.flatnonzero(gone & ~self._missing):
            notes.append(f'{self.names[robot]} sends no pose for {self.config.lost_s:g} s: treated as an obstacle')
        for robot in np.flatnonzero(~gone & self._missing):
            notes.append(f'{self.names[robot]} is back')
        self._progress_s[gone != self._missing] = now_s
        stray = self._find_strays(gone, notes)

        may_drive = self._graph.enabled() & ~gone & ~stray
        distance = np.linalg.norm(self._routes_xy()[:, 1] - self.poses[:, :2], axis=1)
        nearer = distance < self._nearest_m - 0.02
        self._nearest_m = np.where(may_drive, np.where(nearer, distance, self._nearest_m), np.inf)
        self._progress_s = np.where(nearer | ~may_drive, now_s, self._progress_s)
        stopped = ~np.isnan(self._stopped_since_s)
        stalls = may_drive & ~stopped & (now_s - self._progress_s > self.config.stall_s)
        for robot in np.flatnonzero(stalls):
            notes.append(f'{self.names[robot]} does not get on for {self.config.stall_s:g} s: planned around')
        retries = stopped & (nearer | (now_s - self._stopped_since_s > self.config.retry_s))
        self._stopped_since_s = np.where(stalls, now_s, np.where(retries, np.nan, self._stopped_since_s))
        self._progress_s[retries] = now_s
        changed = stalls | retries | (gone != self._missing) | (stray != self._stray)
        if (stalls | (gone & ~self._missing) | (stray & ~self._stray)).any():
            # What others were to do after the stopped robot has moved on would wait for it: decide anew.
            self._graph.rollback()
        self._missing, self._stray = gone, stray
        if changed.any():
            self._plan_around()

    def _find_strays(self, gone: NDArray[np.bool_], notes: list[str]) -> NDArray[np.bool_]:
        """(N,) robots that are reported where they can't be, if all is well."""
        offset = self._routes_xy() - self.poses[:, None, :2]
        away = np.linalg.norm(offset, axis=-1).min(axis=1) / self.frame.resolution
        limit = np.where(self._stray, 0.6, 1.0) * self.config.stray_cells  # hysteresis
        stray: NDArray[np.bool_] = ~gone & (away > limit)
        for robot in np.flatnonzero(stray & ~self._stray):
            row, column = self.frame.to_cell(self.poses[robot, :2]).tolist()
            here = (self.frame.to_cell(self.poses[:, :2]) == (row, column)).all(axis=1)
            here[robot] = False
            others = f', the cell of {self.names[int(here.argmax())]}' if here.any() else ''
            notes.append(
                f'{self.names[robot]} is reported at ({row}, {column}){others}, {away[robot]:.1f} cells from its way: '
                'stopped and planned around; correct its localisation or bring it back'
            )
        for robot in np.flatnonzero(~stray & self._stray):
            notes.append(f'{self.names[robot]} is back on its way')
        return stray

    def _plan_around(self) -> None:
        """Make obstacles of the cells that stopped and lost robots hold, and of those that strays are reported in."""
        grid = self.grid.copy()
        for route in self._graph.routes()[self._halted()]:
            grid[tuple(route.T)] = True
        self._walls = self.grid.copy()
        for row, column in self.frame.to_cell(self.poses[self._stray, :2]).tolist():
            if 0 <= row < grid.shape[0] and 0 <= column < grid.shape[1]:
                grid[row, column] = self._walls[row, column] = True
        self._walls[tuple(self._graph.occupied().T)] = False  # robots stand or drive there already
        self._planning_grid = grid
        self._distances = np.stack([self._field(robot) for robot in range(self.robots)])
        self._new_map = True
        self._generation += 1

    def _field(self, robot: int) -> NDArray[np.int16]:
        """(H, W) path distances to a robot's goal, around stopped robots where there is a way around."""
        goal = self.goals[robot]
        if not self._planning_grid[tuple(goal)]:
            around = distance_field(self._planning_grid, goal)
            if around[tuple(self._graph.planned()[robot])] != UNREACHABLE:
                return around
        return distance_field(self.grid, goal)

    def _check_starts(self, starts: NDArray[np.int32], grid: NDArray[np.bool_]) -> None:
        height, width = grid.shape
        seen: dict[tuple[int, int], str] = {}
        for name, (row, column) in zip(self.names, starts.tolist(), strict=True):
            if not (0 <= row < height and 0 <= column < width):
                raise FleetError(f'{name} stands at ({row}, {column}), off the {height} x {width} map')
            if grid[row, column]:
                raise FleetError(f'{name} stands at ({row}, {column}), inside an obstacle; correct map or localisation')
            if (row, column) in seen:
                raise FleetError(f'{seen[row, column]} and {name} are both in cell ({row}, {column}); move one away')
            seen[row, column] = name
