"""A fleet under way, with wheels that jump from cell to cell."""

from __future__ import annotations

import numpy as np
import pytest

from attn_robotics.simulation.grid import GridFrame, parse_grid
from attn_robotics.systems.sparc.fleet import ARRIVED, BLOCKED, LOST, Fleet, FleetConfig, FleetError

TICK_S = 0.1


class Descent:
    """A policy without an opinion: the shield falls back to path distance."""

    def __init__(self) -> None:
        self.maps: list[np.ndarray] = []

    def reset(self, grid, goals, distances, *, seed):
        self.priorities = np.random.default_rng(seed).permutation(len(goals)) + 0.5

    def change_map(self, grid, distances):
        self.maps.append(grid)

    def set_goals(self, goals, distances, robots):
        pass

    def step(self, cells, last_actions, *, need_attention=False, meanwhile=None):
        return np.full((len(cells), 5), np.log(0.2), np.float32)

    def attention(self):
        return {}


class Run:
    """A fleet on a map drawn as text: A goes to a, B to b."""

    def __init__(self, drawing: str, **config) -> None:
        rows = drawing.strip().splitlines()
        cells = {letter: (r, c) for r, row in enumerate(rows) for c, letter in enumerate(row) if letter.isalpha()}
        letters = sorted(letter for letter in cells if letter.isupper())
        self.grid = parse_grid('\n'.join(''.join('#' if x == '#' else '.' for x in row) for row in rows))
        self.frame = GridFrame(*self.grid.shape)
        starts = np.array([cells[letter] for letter in letters], np.int32)
        self.policy = Descent()
        names = tuple(f'robot_{letter}' for letter in letters)
        self.fleet = Fleet(self.grid, self.frame, names, starts, self.policy, config=FleetConfig(**config))
        for robot, letter in enumerate(letters):
            if letter.lower() in cells:
                self.fleet.set_goal(robot, np.array(cells[letter.lower()]))
        self.now_s, self.silent, self.stuck, self.notes = 0.0, set(), set(), []
        self.cells = starts.copy()

    def spin(self, seconds: float, until=lambda: False) -> bool:
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            for robot in range(self.fleet.robots):
                if robot not in self.silent:
                    x, y = self.frame.to_xy(self.cells[robot])
                    self.fleet.observe(robot, (float(x), float(y), 0.0), self.now_s)
            self.notes += self.fleet.advance(self.now_s)
            if self.fleet.is_due(self.now_s):
                self.fleet.decide(self.now_s)
            for robot, target in enumerate(self.fleet._graph.targets()):
                if robot not in self.stuck | self.silent:
                    self.cells[robot] = target
            assert len(np.unique(self.cells, axis=0)) == len(self.cells)
            if until():
                return True
        return False


RING = """
.........
.#######.
A..B....a
.#######.
.........
"""


@pytest.mark.parametrize('fault', ['silent', 'stuck'])
def test_others_take_the_way_round_a_robot_that_is_lost_or_stops(fault):
    run = Run(RING, stall_s=1.0, retry_s=1000.0, lost_s=1.0)
    # B has nowhere to go; it is told to leave its cell just as it fails, so that it blocks the short lane.
    getattr(run, fault).add(1)
    run.fleet.set_goal(1, np.array([2, 6]))
    assert run.spin(60, lambda: run.fleet.states()[0] == ARRIVED), run.notes
    assert any('obstacle' in note or 'planned around' in note for note in run.notes)
    if fault == 'silent':
        assert run.fleet.states()[1] == LOST


def test_a_lost_robot_that_comes_back_drives_on():
    run = Run(RING, lost_s=1.0)
    run.fleet.set_goal(1, np.array([2, 6]))
    run.silent.add(1)
    run.spin(5)
    run.silent.clear()
    assert run.spin(60, lambda: run.fleet.has_arrived), run.notes
    assert any('is back' in note for note in run.notes)


def test_a_decision_for_a_map_that_has_changed_is_refused():
    run = Run('A..a\n....')
    run.spin(TICK_S)
    decision = run.fleet.evaluate(run.fleet.propose(run.now_s))
    changed = run.grid.copy()
    changed[1, 2] = True
    run.fleet.change_map(changed)
    assert not run.fleet.commit(decision)
    run.fleet.decide(run.now_s)
    assert (run.policy.maps[-1] == changed).all()


def test_an_obstacle_on_a_robot_or_a_goal_is_refused_and_the_old_map_stays():
    run = Run('A..a\n....')
    for cell, words in (((0, 0), 'where a robot stands'), ((0, 3), 'goal of robot_A')):
        changed = run.grid.copy()
        changed[cell] = True
        with pytest.raises(FleetError, match=words):
            run.fleet.change_map(changed)
    assert not run.fleet.grid.any()


@pytest.mark.parametrize(
    ('goal', 'words'),
    [
        ((0, 2), 'inside an obstacle'),
        ((9, 0), 'off the 2 x 4 map'),
        ((0, 3), 'can not be reached'),
        ((1, 0), 'same goal'),
    ],
)
def test_bad_goals_are_one_line(goal, words):
    run = Run('A.#.\nbB#.')
    with pytest.raises(FleetError, match=words) as caught:
        run.fleet.set_goal(0, np.array(goal))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('place', 'words'),
    [((2, 3), 'is reported at (2, 3), the cell of robot_B'), ((40, 2), 'is reported at (40, 2), ')],
    ids=['in the cell of another robot', 'off the grid'],
)
def test_a_robot_reported_where_it_can_not_be_stops_and_the_others_go_on(place, words):
    run = Run(RING + 'C.......c')
    run.spin(1.0)
    where = run.fleet.planned()[2].copy()
    for _ in range(200):
        run.now_s += TICK_S
        for robot in range(3):
            x, y = run.frame.to_xy(np.array(place) if robot == 2 else run.cells[robot])
            run.fleet.observe(robot, (float(x), float(y), 0.0), run.now_s)
        run.notes += run.fleet.advance(run.now_s)
        if run.fleet.is_due(run.now_s):
            run.fleet.decide(run.now_s)
        run.cells[:2] = run.fleet._graph.targets()[:2]
        assert len(np.unique(run.cells, axis=0)) == 3
    assert sum(words in note for note in run.notes) == 1, run.notes
    assert run.fleet.velocities(TICK_S)[0][2] == 0
    assert np.abs(run.fleet.planned()[2] - where).sum() <= 3, 'no more than what it was driving already'
    assert run.fleet.states()[0] == ARRIVED
    assert run.fleet.states()[2] == BLOCKED


def test_a_map_that_grows_is_refused_and_the_fleet_goes_on_with_the_old_one():
    run = Run('A..a\n....')
    run.spin(TICK_S)
    with pytest.raises(FleetError, match=r'map changed from \(2, 4\) to \(3, 4\)') as caught:
        run.fleet.change_map(np.zeros((3, 4), np.bool_))
    assert '\n' not in str(caught.value) and run.fleet.grid.shape == (2, 4)
    assert run.spin(60, lambda: run.fleet.has_arrived), run.notes
