"""One robot that plans for itself: its own observation, its neighbours' notes, and the same shield on every robot.

Every robot sends one note a decision step: where it stands in the plan, where it wants to go, its preferences, its
priority and the embedding that its neighbours' networks read at the next step. Who has the notes of all others
computes the joint move by itself; since all robots have the same notes, the same weights and the same random numbers,
they all find the same one. Notes are repeated until the next step, so that loss and delay cost time and nothing else.

A step waits for the notes of every robot that is alive. When one falls silent, the others finish the moves that nobody
can take from them, say hello again with the cell they then stand in (a new *epoch*), and go on with the silent one as
an obstacle; a robot that comes back says hello and is taken in the same way. Where the radio falls apart into several
parts, only one that holds more than half of all robots goes on, so that no two parts plan through each other.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attn_robotics.runtime.metrics import Recent
from attn_robotics.simulation.grid import GridFrame
from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.distance_fields import distance_field
from attn_robotics.systems.sparc.execution import ExecutionGraph
from attn_robotics.systems.sparc.motion import CellController, MotionLimits, lean_in
from attn_robotics.systems.sparc.note import HELLO, Cell, Note, check_note
from attn_robotics.systems.sparc.policy import Heard, SparcPolicy
from attn_robotics.systems.sparc.shield import Priorities, Shield, ShieldConfig

_UNLIMITED = 1 << 20


@dataclass(frozen=True)
class RobotConfig:
    """Timing of one robot.

    Attributes:
        horizon: steps that a robot may be ahead of its wheels.
        shortest_s: least time between two steps [s].
        ready_lag: it goes on when at most this many moves are left to drive.
        patience_s: it goes on at the latest after this time [s], as one that stays.
        lost_s: a robot that is silent for this long is an obstacle [s of wall time, since that is what radios take].
        start_s: how long to wait at first for robots that were never heard [s of wall time].
        stray_cells: it waits while it is reported farther than this from every cell that is its own [cells].
        guard_m: never drive towards a robot that is seen nearer than this, centre to centre [m].
        seed: of priorities and random ties; must be the same on all robots.
    """

    horizon: int = 6
    shortest_s: float = 0.5
    ready_lag: int = 3
    patience_s: float = 3.0
    lost_s: float = 3.0
    start_s: float = 30.0
    stray_cells: float = 1.25
    guard_m: float = 0.75
    seed: int = 0


class RobotAgent:
    """Plan and drive one robot of a fleet.

    Args:
        name: this robot.
        names: all robots that may ever take part, in the same order on every robot.
        grid: (H, W) True where an obstacle stands.
        frame: where the grid lies [m].
        policy: the network with its weights; this agent alone uses it.
        limits: what the wheels can do.
        config: timing.
        shield: how preferences become moves.
    """

    def __init__(
        self,
        name: str,
        names: tuple[str, ...],
        grid: NDArray[np.bool_],
        frame: GridFrame,
        policy: SparcPolicy,
        limits: MotionLimits | None = None,
        config: RobotConfig | None = None,
        shield: ShieldConfig | None = None,
    ) -> None:
        self.name, self.names, self.grid, self.frame = name, names, grid, frame
        self.config = config or RobotConfig()
        self._index = names.index(name)
        self._policy = policy
        self._limits = limits or MotionLimits()
        self._lean_m = self._limits.lean(frame.resolution)
        self._shield_config = replace(shield or ShieldConfig(), allow_rotation=False)
        self._first_priority = float(Priorities(len(names), self.config.seed).values[self._index])
        self._fields: dict[Cell, NDArray[np.int16]] = {}
        self._heard: dict[str, Note] = {}  # newest note of each
        self._notes: dict[str, dict[int, Note]] = {}  # of this epoch, the last two steps of each
        self._heard_s: dict[str, float] = {}
        self.goal: Cell | None = None
        self.pose: tuple[float, float, float] | None = None
        self.epoch = 0
        self.step = HELLO
        self.note: Note | None = None  # what is sent now
        self._team: tuple[str, ...] = ()  # who takes part in this epoch, in the order of `names`
        self._last: dict[str, Note] = {}  # everybody's note of the step before
        self._previous: Note | None = None  # the own one
        self._recent: dict[str, tuple[Cell, ...]] = {}
        self._action: int | None = None
        self._shield_ms = 0.0
        self._graph: ExecutionGraph | None = None
        self._controller = CellController(1, self._limits, frame.resolution)
        self._decided_s = -np.inf
        self._wall_s = self._greeted_s = 0.0
        self.seen = np.zeros((0, 2))  # x and y of other robots that are seen [m]
        self._regroups = False
        self.attention: Mapping[str, NDArray[np.float32]] = {}
        self.need_attention = False
        self.heard_cells = np.zeros((0, 2), np.int32)  # where everybody of the team stood, behind `attention`
        self.decision_ms = 0.0  # newest decision: network and shield [ms]
        self.decisions_ms = Recent()
        self.mismatch = ''

    # Inputs.
    def set_goal(self, goal: Cell) -> None:
        """Want to go to a cell, at any time; others learn of it with the next note.

        Raises:
            ValueError: off the map or inside an obstacle.
        """
        height, width = self.grid.shape
        if not (0 <= goal[0] < height and 0 <= goal[1] < width):
            raise ValueError(f'goal of {self.name} at {goal} is off the {height} x {width} map')
        if self.grid[goal]:
            raise ValueError(f'goal of {self.name} at {goal} is inside an obstacle; send it to a free cell')
        self.goal = goal

    def receive(self, note: Note, wall_s: float) -> None:
        """Take another robot's note, received at `wall_s`; old ones only prove that it lives.

        Raises:
            ValueError: from a robot that is not in `names`, or numbers that cannot be.
        """
        if note.robot == self.name:
            raise ValueError(f'note from {note.robot!r}, which is this robot itself')
        check_note(note, self.names, self.grid, self._policy.config.width, self.epoch)
        self._heard_s[note.robot] = wall_s
        last = self._heard.get(note.robot)
        if last is not None and (note.epoch, note.step) < (last.epoch, last.step - 1):
            return
        if last is None or (note.epoch, note.step, note.executed) >= (last.epoch, last.step, last.executed):
            self._heard[note.robot] = note
        kept = self._notes.setdefault(note.robot, {})
        if last is not None and note.epoch > last.epoch:
            kept.clear()
        kept[note.step] = note
        for step in [step for step in kept if step < note.step - 1]:
            del kept[step]

    def outgoing(self) -> list[Note]:
        """What to send now, and again every now and then: the own note, and the last one while somebody needs it."""
        if self.note is None:
            return []
        behind = any(
            (heard := self._heard[name]).epoch == self.epoch and heard.step < self.step
            for name in self._team
            if name != self.name and name in self._heard
        )
        return [*([self._previous] if behind and self._previous else []), self.note]

    # The loop.
    def advance(self, now_s: float, wall_s: float) -> tuple[str, ...]:
        """Account for wheels and notes, and take a step when everybody is ready.

        Args:
            now_s: time of the robots, maybe simulated [s].
            wall_s: time of the radio, as given to `receive` [s].

        Returns:
            What is worth a line in the log.
        """
        self._wall_s = wall_s
        if self.pose is None or self.goal is None:
            return ()
        if self.note is None:
            row, column = self.frame.to_cell(np.array(self.pose[:2])).tolist()
            height, width = self.grid.shape
            if not (0 <= row < height and 0 <= column < width):
                self.mismatch = f'{self.name} stands at ({row}, {column}), off the {height} x {width} map'
                return ()
            if self.grid[row, column]:
                self.mismatch = (
                    f'{self.name} stands at ({row}, {column}), inside an obstacle; correct map or localisation'
                )
                return ()
            self.mismatch = ''
            self._greet((row, column))
            self._decided_s, self._greeted_s = now_s, wall_s
            return ()
        notes: list[str] = []
        self._follow_wheels()
        self._watch(now_s, notes)
        if self.step == HELLO:
            self._form_team(now_s, notes)
        elif now_s - self._decided_s >= self.config.shortest_s:
            self._decide(now_s, notes)
        return tuple(notes)

    def prepare(self) -> None:
        """Search ways out of deadlocks for the next step; call it when the note is out."""
        if self._team:
            self._shield.prepare()

    def velocities(self, dt_s: float) -> tuple[float, float]:
        """Forward [m/s] and turning [rad/s] velocity for the next `dt_s`."""
        if self._graph is None or self.pose is None:
            return 0.0, 0.0
        graph, me = self._graph, [self._place]
        routes = self.frame.to_xy(graph.routes()[me])
        away = float(np.linalg.norm(routes[0] - self.pose[:2], axis=-1).min()) / self.frame.resolution
        routes = lean_in(routes, graph.granted()[me], self.frame.to_xy(graph.upcoming()[me]), self._lean_m)
        linear, angular = self._controller.step(np.array([self.pose]), routes, dt_s)
        if away > self.config.stray_cells:
            row, column = self.frame.to_cell(np.array(self.pose[:2])).tolist()
            self.mismatch = (
                f'{self.name} is reported at ({row}, {column}), {away:.1f} cells from its way: waits; correct its '
                'localisation or bring it back'
            )
            return 0.0, 0.0
        if 'from its way' in self.mismatch:
            self.mismatch = ''
        if linear[0] > 0 and self._somebody_ahead():
            return 0.0, float(angular[0])
        return float(linear[0]), float(angular[0])

    def _somebody_ahead(self) -> bool:
        """Whether a robot is seen so near that driving on could touch it, whatever the plan says."""
        if not len(self.seen) or self.pose is None:
            return False
        x, y, yaw = self.pose
        offset = self.seen - (x, y)
        near = np.hypot(offset[:, 0], offset[:, 1]) < self.config.guard_m
        ahead = offset @ (np.cos(yaw), np.sin(yaw)) > 0
        return bool((near & ahead).any())

    @property
    def team(self) -> tuple[str, ...]:
        """Who takes part in this epoch."""
        return self._team

    @property
    def lost(self) -> tuple[str, ...]:
        """Robots that were heard once and are no part of the team."""
        return tuple(name for name in self.names if name in self._heard and self._team and name not in self._team)

    @property
    def lag(self) -> int:
        """Own moves planned but not driven yet."""
        return 0 if self._graph is None else int(self._graph.lag()[self._place])

    @property
    def planned(self) -> Cell | None:
        """Own planned cell."""
        return None if self.note is None else self.note.cell

    @property
    def next_cell(self) -> Cell | None:
        """The cell it may enter now, or stands in; None before it takes part."""
        return None if self._graph is None else self._graph.target(self._place)

    @property
    def has_arrived(self) -> bool:
        """Whether it stands on its goal with nothing left to drive."""
        return self.goal is not None and self.planned == self.goal and self.lag == 0

    @property
    def _place(self) -> int:
        return self._team.index(self.name)

    def _greet(self, cell: Cell) -> None:
        """Say where this robot stands, with no preferences yet."""
        assert self.goal is not None
        zeros = np.zeros(self._policy.config.width, np.float32)
        priority = self._first_priority if self.note is None else self.note.priority
        self.step = HELLO
        self.note = Note(
            self.name, self.epoch, 0, HELLO, cell, self.goal, 0, False, priority, np.zeros(5, np.float32), zeros
        )
        self._previous = None

    def _follow_wheels(self) -> None:
        """Report arrivals to the graph: the own one from the pose, the others' from their notes."""
        graph = self._graph
        if graph is None or self.note is None or self.pose is None:
            return
        pose = np.array([self.pose])
        place = self._place
        while graph.enabled()[place] and self._controller.arrived(pose, self.frame.to_xy(graph.routes()[[place]]))[0]:
            graph.complete(place)
            self.note = replace(self.note, executed=self.note.executed + 1)
        for other, name in enumerate(self._team):
            heard = self._heard.get(name)
            if name == self.name or heard is None or heard.epoch != self.epoch:
                continue
            while self._executed[name] < heard.executed and graph.enabled()[other]:
                graph.complete(other)
                self._executed[name] += 1

    def _watch(self, now_s: float, notes: list[str]) -> None:
        """Notice robots that fell silent, that came back, and epochs that others have begun."""
        newest = max((note.epoch for note in self._heard.values()), default=0)
        if newest > self.epoch:
            self._regroup(newest, f'a new epoch {newest} has begun', notes)
        elif self._team and self.step != HELLO and not self._regroups:
            silent = [name for name in self._team if name != self.name and self._is_silent(name)]
            strangers = [
                name
                for name, note in self._heard.items()
                if name not in self._team and note.step == HELLO and not self._is_silent(name)
            ]
            if silent:
                self._regroup(self.epoch + 1, f'{", ".join(silent)} fell silent: an obstacle from now on', notes)
            elif strangers:
                self._regroup(self.epoch + 1, f'{", ".join(strangers)} joins', notes)
        if self._regroups and self._graph is not None and self._graph.lag()[self._place] == 0:
            cell = self._graph.held()[self._place]
            self._regroups = False
            self._greet((int(cell[0]), int(cell[1])))
            self._decided_s, self._greeted_s = now_s, self._wall_s

    def _regroup(self, epoch: int, why: str, notes: list[str]) -> None:
        """Finish what nobody can take away, then say hello."""
        notes.append(why)
        self.epoch = epoch
        if self._graph is None or self.step == HELLO:
            assert self.note is not None
            self._greet(self.note.cell)
            self._greeted_s = self._wall_s
            return
        self._graph.rollback()
        self._regroups = True
        self.step = HELLO

    def _is_silent(self, name: str) -> bool:
        return self._wall_s - self._heard_s.get(name, -np.inf) > self.config.lost_s

    def _form_team(self, now_s: float, notes: list[str]) -> None:
        """Start the epoch once everybody who can be heard has said hello."""
        if self._regroups or self.note is None:
            return
        present = [name for name in self.names if name == self.name or not self._is_silent(name)]
        unheard = [name for name in self.names if name != self.name and name not in self._heard]
        patience_s = self.config.start_s if unheard else self.config.lost_s
        if len(present) < len(self.names) and self._wall_s - self._greeted_s < patience_s:
            return  # give the others time to be heard
        if 2 * len(present) <= len(self.names):
            self.mismatch = f'only {len(present)} of {len(self.names)} robots can be heard; waits for more than half'
            return
        hellos = {name: self._heard[name] for name in present if name != self.name} | {self.name: self.note}
        # Who is a step ahead has formed its team already; its cell is still the one it greeted from.
        if any(note.epoch != self.epoch or note.step > HELLO + 1 for note in hellos.values()):
            return
        team = tuple(name for name in self.names if name in hellos)
        cells = np.array([hellos[name].cell for name in team], np.int32)
        if len(np.unique(cells, axis=0)) < len(cells):
            self.mismatch = f'two robots claim one cell: {dict(zip(team, cells.tolist(), strict=True))}'
            return
        self.mismatch = ''
        self._team = team
        self._executed = dict.fromkeys(team, 0)
        # Others may be further than this robot has heard: only they know when they are full.
        self._graph = ExecutionGraph(cells, horizon=_UNLIMITED)
        self._controller = CellController(1, self._limits, self.frame.resolution)
        self._obstacles = self._grid_with_lost(cells)
        self._shield = Shield(self._obstacles, self._shield_config)
        self._fields.clear()
        missing = [name for name in self.names if name not in team]
        if missing:
            notes.append(f'going on without {", ".join(missing)}')
        self._policy.reset(self._obstacles, np.array([self.goal], np.int32), self._field(self.goal)[None])
        self._policy.set_priority(0, self.note.priority)
        self._last = hellos
        self._action = None
        self._recent = {}
        self._prepare_step(1)

    def _grid_with_lost(self, cells: NDArray[np.int32]) -> NDArray[np.bool_]:
        """The map with the cells in which lost robots may stand, from what everybody knows: their last notes."""
        grid = self.grid.copy()
        for name, note in self._heard.items():
            if name not in self._team:
                for cell in self._recent.get(name, (note.cell,)):
                    grid[cell] = True
        grid[tuple(cells.T)] = False
        return grid

    def _field(self, goal: Cell | None) -> NDArray[np.int16]:
        assert goal is not None
        if goal not in self._fields:
            grid = self._obstacles.copy()
            grid[goal] = False  # a lost robot may stand there for a while
            self._fields[goal] = distance_field(grid, np.array(goal, np.int32))
        return self._fields[goal]

    def _gather(self, step: int) -> list[Note] | None:
        """Everybody's notes of a step in the order of the team, None while one is missing."""
        assert self.note is not None
        found = [self.note if name == self.name else self._notes.get(name, {}).get(step) for name in self._team]
        complete = [note for note in found if note is not None and note.epoch == self.epoch]
        return complete if len(complete) == len(self._team) else None

    def _prepare_step(self, step: int) -> None:
        """Run the network for one step and put the result into the note."""
        assert self._graph is not None and self.note is not None and self.goal is not None
        start = time.perf_counter()
        cells = self.heard_cells = self._graph.planned()
        goals = np.array([self._last[name].goal for name in self._team], np.int32)
        embeddings = np.stack([self._last[name].embedding for name in self._team])
        if step == HELLO + 1:
            embeddings = np.zeros_like(embeddings)  # somebody's note may already be the one after its greeting
        cell = cells[self._place]
        if tuple(self._policy.goals[0].tolist()) != self.goal:
            self._policy.set_goals(np.array([self.goal], np.int32), self._field(self.goal)[None])
        log_probs = self._policy.step_alone(
            cell, Heard(cells, goals, embeddings), self._action, need_attention=self.need_attention
        )
        self.attention = self._policy.attention() if self.need_attention else {}
        self.decision_ms = (time.perf_counter() - start) * 1e3 + self._shield_ms
        self.decisions_ms.observe(self.decision_ms)
        self.step, self._previous = step, self.note
        self.note = Note(
            self.name,
            self.epoch,
            zlib.crc32('\n'.join(self._team).encode()),
            step,
            (int(cell[0]), int(cell[1])),
            self.goal,
            self.note.executed,
            self.lag >= self.config.horizon,
            float(self._policy.priorities[0]),
            log_probs,
            self._policy.messages[0].copy(),
        )

    def _decide(self, now_s: float, notes: list[str]) -> None:
        """Compute the joint move, the same on every robot, and take part in it."""
        assert self._graph is not None and self.note is not None
        if self.lag > self.config.ready_lag and now_s - self._decided_s < self.config.patience_s:
            return
        team = self._gather(self.step)
        if team is None:
            return
        cells = np.array([note.cell for note in team], np.int32)
        if any(note.team != self.note.team for note in team) or not np.array_equal(cells, self._graph.planned()):
            # Only possible when messages were lost just as a robot fell silent.
            self.mismatch = 'plans differ between robots; starting over'
            self._regroup(self.epoch + 1, self.mismatch, notes)
            return
        start = time.perf_counter()
        goals = np.array([note.goal for note in team], np.int32)
        distances = np.stack([self._field(note.goal) for note in team])
        actions = self._shield.decide(
            cells,
            np.stack([note.log_probs for note in team]),
            np.array([note.priority for note in team]),
            goals,
            distances,
            rng=np.random.default_rng([self.config.seed, self.epoch, self.step]),
            frozen=np.array([note.frozen for note in team]),
        )
        self._shield_ms = (time.perf_counter() - start) * 1e3
        next_cells = cells + MOVES[actions]
        self._graph.append(next_cells)
        self._action = int(actions[self._place])
        self._remember(next_cells)
        self._last = {note.robot: note for note in team}
        self._decided_s = now_s
        self._prepare_step(self.step + 1)

    def _remember(self, cells: NDArray[np.int32]) -> None:
        """Keep the cells in which each robot may be if it falls silent: the last few planned ones."""
        depth = self.config.horizon + 1
        self._recent = {
            name: (*self._recent.get(name, ())[-depth:], (int(row), int(column)))
            for name, (row, column) in zip(self._team, cells.tolist(), strict=True)
        }
