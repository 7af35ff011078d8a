"""Collision shield: turns any preferences of a fleet into a joint move that can not collide (CS-PIBT).

No two robots enter one cell, no two change places, nobody leaves the map or enters an obstacle, whatever the
preferences say. A robot's move depends on the others only through chains of neighbours that stand in each other's
way, so the rule can run on the robots themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from attn_robotics.systems.sparc.actions import STAY
from attn_robotics.systems.sparc.distance_fields import neighbours
from attn_robotics.systems.sparc.pibt import (
    ACTIONS,
    NOBODY,
    UNDECIDED,
    count_hindered,
    measure_way,
    mix_preferences,
    plan_moves,
    rank_actions,
    seed_state,
)
from attn_robotics.systems.sparc.progress import Progress
from attn_robotics.systems.sparc.rescue import Rescue

NO_TURN = np.empty(0, np.int64)  # nobody has sorted the priorities yet


class ShieldError(ValueError):
    """A fleet state that no shield can make safe; the message names the culprit and the fix."""


@dataclass(frozen=True)
class ShieldConfig:
    """How preferences become moves.

    `decide` mixes a policy with path distances: a robot follows `log p + temperature * noise + distance_weight * way`
    where its policy is sure, and its way alone (that is, PIBT) where the policy's best action has a probability below
    `confidence`. Its *way* is the steps gained towards the goal less what hinders neighbours. With Gumbel noise and
    temperature 1 the order is a draw from the policy without replacement; at 0 it is always the same, which livelocks
    more easily without the swap rule. `longest_first` is a rule of `progress`, `rescue_after` one of
    `rescue`.
    """

    swap: bool = True  # change places in corridors (needs distances)
    only_if_wanted: bool = True  # clear the way for a robot behind only if it wants to come; off in the published rule
    allow_rotation: bool = True  # rings of robots may advance together; off for wheels, which can't start all at once
    distance_weight: float = 8.0  # nats per step gained towards the goal
    temperature: float = 0.0  # of the drawn preference order
    # Steps per neighbour in whose way an action ends. Settles ties of path distance: with it PIBT with swap needs 7 %
    # fewer steps (128 robots, 40x40, 30 %), whatever the value between 0.02 and 0.3.
    hindrance: float = 0.1
    confidence: float = 0.4  # least probability of the best action for the policy to be heard
    longest_first: bool = True  # among robots that have waited equally long, the longest way goes first
    rescue_after: int = 40  # steps without progress after which neighbours search a way out together; 0 for never

    def __post_init__(self) -> None:
        for name in ('distance_weight', 'temperature', 'hindrance'):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ShieldError(f'{name} must be finite and at least 0, got {getattr(self, name)}')
        if not 0 <= self.confidence <= 1:
            raise ShieldError(f'confidence must lie in 0..1, got {self.confidence}')
        if self.rescue_after < 0:
            raise ShieldError(f'rescue_after must be at least 0, got {self.rescue_after}')


class Priorities:
    """PIBT's priorities: steps since a robot was last on its goal, plus a fixed fraction that breaks ties.

    Attributes:
        values: (N,) float64 current priorities, all different.
    """

    def __init__(self, robots: int, seed: int) -> None:
        # A permutation, not draws: no two robots may ever tie.
        self._fraction = (np.random.default_rng(seed).permutation(robots) + 0.5) / max(robots, 1)
        self._waited = np.zeros(robots, np.int64)

    @property
    def values(self) -> NDArray[np.float64]:
        """(N,) float64 priorities for the next decision."""
        return self._waited + self._fraction

    def update(self, on_goal: NDArray[np.bool_]) -> None:
        """Count one executed step; on_goal: (N,) whether each robot stands on its goal after it."""
        self._waited = np.where(on_goal, 0, self._waited + 1)


@dataclass(frozen=True)
class _Looked:
    """What is known of a step before the policy speaks."""

    given: tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.int16], NDArray[np.floating]]
    cells: NDArray[np.int32]  # (N,) flat
    goals: NDArray[np.int32]  # (N,) flat
    fields: NDArray[np.int16]  # (N, H * W)
    ways: NDArray[np.float64]  # (N, 5)
    ranked: NDArray[np.float64]  # (N,) priorities, longest way first
    turn: NDArray[np.int64]  # (N,) robots by falling priority

    def fits(
        self,
        cells: NDArray[np.integer],
        goals: NDArray[np.integer],
        distances: NDArray[np.int16],
        priorities: NDArray[np.floating],
    ) -> bool:
        """Whether it was made from these."""
        same = self.given[0] is cells and self.given[1] is goals and self.given[2] is distances
        return same and np.array_equal(self.given[3], priorities)


@dataclass(frozen=True)
class _Ahead:
    """The state that a decision leads to, for the search: flat cells and goals (N,), fields (N, H * W)."""

    cells: NDArray[np.int32]
    goals: NDArray[np.int32]
    fields: NDArray[np.int16]
    frozen: NDArray[np.bool_] | None
    seed: int


class Shield:
    """Joint moves without conflict on one map.

    Args:
        grid: (H, W) True where an obstacle stands.
        config: how preferences become moves.
    """

    def __init__(self, grid: NDArray[np.bool_], config: ShieldConfig | None = None) -> None:
        if grid.ndim != 2 or grid.dtype != np.bool_:
            raise ShieldError(f'grid must be a boolean matrix, got {grid.dtype} with shape {grid.shape}')
        self.config = config or ShieldConfig()
        self.shape = grid.shape
        self._near = neighbours(grid)
        self._owner = np.full(grid.size, NOBODY, np.int32)
        self._next_owner = np.full(grid.size, NOBODY, np.int32)
        self._progress = Progress()
        self._rescue = Rescue(self._near)
        self._ahead: _Ahead | None = None
        self._looked: _Looked | None = None

    def resolve(
        self,
        cells: NDArray[np.integer],
        preferences: NDArray[np.floating],
        priorities: NDArray[np.floating],
        *,
        rng: np.random.Generator,
        goals: NDArray[np.integer] | None = None,
        distances: NDArray[np.int16] | None = None,
        frozen: NDArray[np.bool_] | None = None,
        swap: bool | None = None,
        allow_rotation: bool | None = None,
    ) -> NDArray[np.int8]:
        """Choose one joint move.

        Args:
            cells: (N, 2) rows and columns, all different.
            preferences: (N, 5) larger is better, in the order of `actions.NAMES`; infinities are fine.
            priorities: (N,) larger goes first.
            rng: breaks ties among equal preferences.
            goals: (N, 2) rows and columns; needed by the swap rule.
            distances: (N, H, W) path distances to the goals; needed by the swap rule.
            frozen: (N,) robots that stay whatever happens; everybody plans around them.
            swap: overrides `config.swap`.
            allow_rotation: overrides `config.allow_rotation`.

        Returns:
            (N,) int8 actions.

        Raises:
            ShieldError: a robot off the map, in an obstacle or in another's cell, a preference or priority that is
                not a number, or arrays that do not fit together.
        """
        swap = self.config.swap if swap is None else swap
        allow_rotation = self.config.allow_rotation if allow_rotation is None else allow_rotation
        flat = self._flat(cells, 'cell')
        if swap:
            if goals is None or distances is None:
                raise ShieldError('the swap rule needs goals and distances; pass both or swap=False')
            flat_goals, fields = self._flat(goals, 'goal'), self._fields(distances, len(cells))
        else:
            flat_goals, fields = np.empty(0, np.int32), np.empty((0, 0), np.int16)
        return self._move(
            flat, flat_goals, fields, preferences, priorities, rng, frozen, None, swap, allow_rotation, NO_TURN
        )

    def decide(
        self,
        cells: NDArray[np.integer],
        log_probs: NDArray[np.floating],
        priorities: NDArray[np.floating],
        goals: NDArray[np.integer],
        distances: NDArray[np.int16],
        *,
        rng: np.random.Generator,
        frozen: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int8]:
        """Choose the joint move that ships: policy mixed with path distance (`ShieldConfig`), then `resolve`.

        Keeps account of every robot's progress: call it once a step, always with the same fleet. A search for a way out
        is made for the step to come: by `prepare` once the moves are out, or at the start of the next call.

        Args:
            cells: (N, 2) rows and columns.
            log_probs: (N, 5) the policy's log-probabilities.
            priorities: (N,) larger goes first.
            goals: (N, 2) rows and columns.
            distances: (N, H, W) path distances to the goals.
            rng: draws the order and breaks ties.
            frozen: (N,) robots that stay whatever happens.

        Returns:
            (N,) int8 actions.
        """
        if log_probs.shape != (len(cells), ACTIONS):
            raise ShieldError(f'log-probabilities must be ({len(cells)}, {ACTIONS}), got {log_probs.shape}')
        config, looked = self.config, self._looked
        if looked is None or not looked.fits(cells, goals, distances, priorities):
            looked = self._look(cells, goals, distances, priorities)
        self._looked = None
        preferences = np.empty((len(cells), ACTIONS), np.float32)
        mix_preferences(
            self._near,
            looked.cells,
            looked.ways,
            np.ascontiguousarray(log_probs, np.float32),
            config.distance_weight,
            config.temperature,
            float(np.log(max(config.confidence, 1e-12))),
            int(rng.integers(1 << 62)),
            preferences,
        )
        searches = config.rescue_after > 0 and config.swap
        seed = int(rng.integers(1 << 62)) if searches else 0
        actions = self._move(
            looked.cells,
            looked.goals,
            looked.fields,
            preferences,
            looked.ranked,
            rng,
            frozen,
            self._rescue.fix(looked.cells, frozen) if searches else None,
            config.swap,
            config.allow_rotation,
            looked.turn,
        )
        if searches:
            reached = self._near[looked.cells, actions]
            self._ahead = _Ahead(reached, looked.goals, looked.fields, frozen, seed)
        return actions

    def look(
        self,
        cells: NDArray[np.integer],
        goals: NDArray[np.integer],
        distances: NDArray[np.int16],
        priorities: NDArray[np.floating],
    ) -> None:
        """Do the part of the coming `decide` that needs no log-probabilities, while the policy works on them.

        Args:
            cells: (N, 2) as given to `decide` then, the very array; so are the others.
            goals: (N, 2).
            distances: (N, H, W).
            priorities: (N,), equal ones at least.
        """
        self._looked = self._look(cells, goals, distances, priorities)

    def _look(
        self,
        cells: NDArray[np.integer],
        goals: NDArray[np.integer],
        distances: NDArray[np.int16],
        priorities: NDArray[np.floating],
    ) -> _Looked:
        config, robots = self.config, len(cells)
        flat, flat_goals = self._flat(cells, 'cell'), self._flat(goals, 'goal')
        fields = self._fields(distances, robots)
        self.prepare()
        self._progress.update(flat, flat_goals, fields)
        hindered = np.zeros((robots, ACTIONS), np.float32)
        if config.hindrance:
            count_hindered(self._near, flat, fields, self._owner, hindered)
        ways = measure_way(self._near, flat, fields, hindered, config.hindrance)
        ranked, turn = np.asarray(priorities, np.float64), NO_TURN
        if ranked.shape == (robots,):
            if config.longest_first:
                ranked = self._progress.longest_first(ranked)
            turn = take_turns(ranked)
        given = (cells, goals, distances, priorities)
        return _Looked(given, flat, flat_goals, fields, ways, ranked, turn)

    def prepare(self) -> None:
        """Do now what the next `decide` would do first: search ways out of deadlocks, where the moves will lead.

        The moves are the same whether it is called or not; call it when they are out, and the next ones are out sooner.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return
        progress = self._progress.after(ahead.cells, ahead.goals, ahead.fields)
        self._rescue.search(
            ahead.cells,
            ahead.goals,
            ahead.fields,
            progress.stuck,
            progress.nearest,
            self.config.rescue_after,
            ahead.frozen,
            allow_rotation=self.config.allow_rotation,
            seed=ahead.seed,
        )

    def steps_gained(self, cells: NDArray[np.integer], distances: NDArray[np.int16]) -> NDArray[np.float32]:
        """How much nearer each action brings each robot to its goal.

        Args:
            cells: (N, 2) rows and columns.
            distances: (N, H, W) path distances to the goals.

        Returns:
            (N, 5) float32: 1 nearer, 0 as far, -1 farther; -2 where the action is not feasible.
        """
        flat = self._flat(cells, 'cell')
        reached = self._near[flat]  # (N, 5)
        fields = distances.reshape(len(cells), -1)
        now = np.take_along_axis(fields, flat[:, None], axis=1).astype(np.float32)
        after = np.take_along_axis(fields, reached.clip(0), axis=1).astype(np.float32)
        return np.where(reached >= 0, now - after, np.float32(-2))

    def hindered(self, cells: NDArray[np.integer], distances: NDArray[np.int16]) -> NDArray[np.float32]:
        """How many neighbours each action would hinder.

        Args:
            cells: (N, 2) rows and columns, all different.
            distances: (N, H, W) path distances to the goals.

        Returns:
            (N, 5) float32, see `pibt.count_hindered`.
        """
        hindered = np.empty((len(cells), ACTIONS), np.float32)
        fields = np.ascontiguousarray(distances).reshape(len(cells), -1)
        count_hindered(self._near, self._flat(cells, 'cell'), fields, self._owner, hindered)
        return hindered

    def _move(
        self,
        cells: NDArray[np.int32],
        goals: NDArray[np.int32],
        fields: NDArray[np.int16],
        preferences: NDArray[np.floating],
        priorities: NDArray[np.floating],
        rng: np.random.Generator,
        frozen: NDArray[np.bool_] | None,
        fixed: NDArray[np.int32] | None,
        swap: bool,
        allow_rotation: bool,
        turn: NDArray[np.int64],
    ) -> NDArray[np.int8]:
        """Check and decide, cells and goals flat; `fixed` (N,) holds next cells that are decided, else UNDECIDED."""
        robots = len(cells)
        if preferences.shape != (robots, ACTIONS):
            raise ShieldError(f'preferences must be ({robots}, {ACTIONS}) for {robots} robots, got {preferences.shape}')
        if priorities.shape != (robots,):
            raise ShieldError(f'priorities must be ({robots},) for {robots} robots, got {priorities.shape}')
        if frozen is not None and (frozen.shape != (robots,) or frozen.dtype != np.bool_):
            raise ShieldError(f'frozen must be ({robots},) booleans, got {frozen.dtype} with shape {frozen.shape}')
        target = np.full(robots, UNDECIDED, np.int32) if fixed is None else fixed
        if frozen is not None:
            target = np.where(frozen, cells, target)
        actions = np.full(robots, STAY, np.int8)
        culprit = decide_moves(
            self._near,
            cells,
            goals,
            fields,
            np.ascontiguousarray(preferences, np.float32),
            np.ascontiguousarray(priorities, np.float64),
            target,
            swap,
            allow_rotation,
            int(rng.integers(1 << 62)),
            self._owner,
            self._next_owner,
            actions,
            turn,
            self.config.only_if_wanted,
        )
        if culprit >= 0:
            self._explain(culprit, cells, preferences, priorities)
        return actions

    def _fields(self, distances: NDArray[np.int16], robots: int) -> NDArray[np.int16]:
        if distances.shape != (robots, *self.shape) or distances.dtype != np.int16:
            raise ShieldError(
                f'distances must be int16 {(robots, *self.shape)}, got {distances.dtype} {distances.shape}'
            )
        return np.ascontiguousarray(distances).reshape(robots, -1)

    def _flat(self, cells: NDArray[np.integer], what: str) -> NDArray[np.int32]:
        if cells.ndim != 2 or cells.shape[1] != 2:
            raise ShieldError(f'{what}s must be (N, 2) rows and columns, got {cells.shape}')
        height, width = self.shape
        outside = (cells < 0).any(axis=1) | (cells[:, 0] >= height) | (cells[:, 1] >= width)
        if outside.any():
            robot = int(outside.argmax())
            raise ShieldError(
                f'{what} of robot {robot} at {tuple(cells[robot].tolist())} is off the {height} x {width} map'
            )
        flat: NDArray[np.int32] = (cells[:, 0] * width + cells[:, 1]).astype(np.int32)
        return flat

    def _explain(
        self,
        robot: int,
        cells: NDArray[np.int32],
        preferences: NDArray[np.floating],
        priorities: NDArray[np.floating],
    ) -> None:
        place = divmod(int(cells[robot]), self.shape[1])
        if np.isnan(preferences[robot]).any() or np.isnan(priorities[robot]):
            raise ShieldError(f'preferences of robot {robot} hold NaN; check the policy that produced them')
        if self._near[cells[robot], STAY] < 0:
            raise ShieldError(f'robot {robot} at {place} is inside an obstacle; correct the map or its position')
        raise ShieldError(
            f'robot {robot} at {place} shares its cell with another robot; correct the reported positions'
        )


@njit(cache=True, nogil=True)
def take_turns(priorities: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N,) robots by falling priority (N,)."""
    return np.argsort(-priorities)


@njit(cache=True, nogil=True)
def decide_moves(
    near: NDArray[np.int32],
    cells: NDArray[np.int32],
    goals: NDArray[np.int32],
    distances: NDArray[np.int16],
    preferences: NDArray[np.float32],
    priorities: NDArray[np.float64],
    fixed: NDArray[np.int32],
    swap: bool,
    allow_rotation: bool,
    seed: int,
    owner: NDArray[np.int32],
    next_owner: NDArray[np.int32],
    actions: NDArray[np.int8],
    turn: NDArray[np.int64],
    only_if_wanted: bool,
) -> int:
    """Check a fleet and decide its joint move, compiled; arguments as in `Shield.resolve`, cells and goals flat.

    Args:
        near: (H * W, 5) neighbour table.
        cells: (N,) flat cells on the map.
        goals: (N,) flat goals, read if `swap`.
        distances: (N, H * W), read if `swap`.
        preferences: (N, 5).
        priorities: (N,).
        fixed: (N,) next cells decided beforehand, UNDECIDED for the others.
        swap: use the swap rule.
        allow_rotation: let rings advance.
        seed: of the random ties.
        owner: (H * W,) workspace, NOBODY everywhere; given back so.
        next_owner: (H * W,) workspace, NOBODY everywhere; given back so.
        actions: (N,) written.
        turn: (N,) robots by falling priority, or NO_TURN.
        only_if_wanted: see `ShieldConfig`.

    Returns:
        -1, or the first robot whose input is not a number, or that stands in an obstacle or on another robot.
    """
    robots = cells.shape[0]
    culprit = -1
    placed = 0
    for robot in range(robots):
        cell = cells[robot]
        if np.isnan(priorities[robot]) or near[cell, STAY] < 0 or owner[cell] != NOBODY:
            culprit = robot
            break
        for action in range(ACTIONS):
            if np.isnan(preferences[robot, action]):
                culprit = robot
        if culprit >= 0:
            break
        owner[cell] = robot
        placed += 1
    if culprit < 0:
        target = fixed.copy()
        for robot in range(robots):
            if target[robot] != UNDECIDED:
                next_owner[target[robot]] = robot
        order = np.empty((robots, ACTIONS), np.int8)
        counts = np.empty(robots, np.int8)
        rank_actions(near, cells, preferences, seed_state(seed), order, counts)
        ranks = turn if turn.shape[0] == robots else np.argsort(-priorities)
        plan_moves(
            near,
            cells,
            goals,
            distances,
            ranks,
            order,
            counts,
            owner,
            next_owner,
            target,
            swap,
            allow_rotation,
            only_if_wanted,
        )
        for robot in range(robots):
            next_owner[target[robot]] = NOBODY
            for action in range(ACTIONS):
                if near[cells[robot], action] == target[robot]:
                    actions[robot] = action
    for robot in range(placed):
        owner[cells[robot]] = NOBODY
    return culprit
