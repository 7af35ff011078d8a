"""The execution graph against the definition of an action dependency graph, and its promises under chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_moves import draw_joint_move

from attn_robotics.systems.sparc.execution import ExecutionError, ExecutionGraph, find_rotation

SIDE = 5
OPEN = np.zeros((SIDE, SIDE), bool)
seeds = st.integers(0, 2**32 - 1)
counts = st.integers(1, 14)


def place(rng: np.random.Generator, robots: int) -> np.ndarray:
    return np.stack(np.divmod(rng.permutation(SIDE * SIDE)[:robots], SIDE), axis=-1).astype(np.int32)


def assert_no_cell_is_claimed_twice(graph: ExecutionGraph) -> None:
    claims = [{tuple(cell) for cell in route} for route in graph.routes().tolist()]
    together = set.union(*claims)
    assert sum(map(len, claims)) == len(together)
    assert {tuple(cell) for cell in graph.occupied().tolist()} == together


def wander(
    graph: ExecutionGraph,
    rng: np.random.Generator,
    events: int,
    stopped: int | None = None,
    planned_around: bool = False,
) -> list[np.ndarray]:
    """Decide and drive in random order, maybe around one that is stopped; returns the joint plan decided."""
    plan = [graph.planned()]
    speed = rng.random(graph.robots)
    blocked = OPEN.copy()
    still = np.zeros(graph.robots, bool)
    if planned_around:
        still[stopped] = True
        blocked[tuple(graph.routes()[stopped].T)] = True
    for _ in range(events):
        if rng.random() < 0.4:
            plan.append(draw_joint_move(rng, graph.planned(), blocked, graph.full() | still))
            graph.append(plan[-1])
        else:
            ready = graph.enabled() & (rng.random(graph.robots) < speed)
            if stopped is not None:
                ready[stopped] = False
            graph.complete(rng.permutation(np.flatnonzero(ready)))
        assert_no_cell_is_claimed_twice(graph)
        assert (graph.lag() <= graph.horizon).all()
    return plan


def drain(graph: ExecutionGraph, stopped: int | None = None) -> None:
    while True:
        ready = graph.enabled()
        if stopped is not None:
            ready[stopped] = False
        if not ready.any():
            return
        graph.complete(np.flatnonzero(ready)[0])
        assert_no_cell_is_claimed_twice(graph)


def finishable(plan: list[np.ndarray], stopped: int, already: int) -> np.ndarray:
    """Moves each robot can complete by the paper's definition when one robot completes only `already` moves."""
    robots = len(plan[0])
    moves = [
        [
            (t, tuple(plan[t - 1][i]), tuple(plan[t][i]))
            for t in range(1, len(plan))
            if (plan[t - 1][i] != plan[t][i]).any()
        ]
        for i in range(robots)
    ]
    done = np.zeros(robots, int)
    changed = True
    while changed:
        changed = False
        for i in range(robots):
            while done[i] < len(moves[i]) and not (i == stopped and done[i] >= already):
                time, _, into = moves[i][done[i]]
                waits = any(
                    source == into and when <= time and number >= done[j]
                    for j in range(robots)
                    if j != i
                    for number, (when, source, _) in enumerate(moves[j])
                )
                if waits:
                    break
                done[i] += 1
                changed = True
    return done


@settings(max_examples=60, deadline=None)
@given(seeds, counts, st.integers(1, 5), st.integers(1, 3))
def test_no_cell_is_held_or_granted_twice_and_everybody_gets_to_the_end_of_the_plan(seed, robots, horizon, lookahead):
    rng = np.random.default_rng(seed)
    graph = ExecutionGraph(place(rng, robots), horizon, lookahead)
    wander(graph, rng, 40)
    drain(graph)
    np.testing.assert_array_equal(graph.held(), graph.planned())
    assert not graph.lag().any()


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(2, 12))
def test_a_stopped_robot_blocks_exactly_those_that_the_paper_s_graph_puts_behind_it(seed, robots):
    rng = np.random.default_rng(seed)
    starts = place(rng, robots)
    graph = ExecutionGraph(starts, horizon=6)
    plan = wander(graph, rng, 40, stopped=0)
    drain(graph, stopped=0)
    total = np.array([sum((plan[t - 1][i] != plan[t][i]).any() for t in range(1, len(plan))) for i in range(robots)])
    np.testing.assert_array_equal(total - graph.lag(), finishable(plan, stopped=0, already=0))


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(2, 10))
def test_after_a_robot_is_lost_the_others_go_on_around_it(seed, robots):
    rng = np.random.default_rng(seed)
    graph = ExecutionGraph(place(rng, robots), horizon=4)
    wander(graph, rng, 25)
    claimed = {tuple(cell) for cell in graph.routes()[0].tolist()}
    held = graph.held()
    planned = graph.rollback()
    np.testing.assert_array_equal(graph.held(), held)
    assert len(np.unique(planned, axis=0)) == robots
    wander(graph, rng, 25, stopped=0, planned_around=True)
    drain(graph, stopped=0)
    np.testing.assert_array_equal(graph.held()[1:], graph.planned()[1:])
    assert claimed.isdisjoint(tuple(cell) for cell in graph.held()[1:].tolist())


def test_a_robot_that_has_to_wait_knows_the_cell_it_waits_for():
    graph = ExecutionGraph([[0, 0], [0, 1]])
    assert graph.upcoming().tolist() == [[0, 0], [0, 1]]
    graph.append([[0, 1], [1, 1]])
    assert graph.granted().tolist() == [0, 1]
    assert graph.upcoming().tolist() == [[0, 1], [1, 1]]
    graph.rollback()
    assert graph.upcoming().tolist() == [[0, 0], [1, 1]]


@settings(max_examples=40, deadline=None)
@given(seeds, counts, st.integers(1, 3))
def test_a_rollback_keeps_granted_moves_only_and_waits_for_nobody(seed, robots, lookahead):
    rng = np.random.default_rng(seed)
    graph = ExecutionGraph(place(rng, robots), 5, lookahead)
    wander(graph, rng, 30)
    routes = graph.routes()
    planned = graph.rollback()
    np.testing.assert_array_equal(graph.routes(), routes)
    np.testing.assert_array_equal(planned, routes[:, -1])
    for robot in rng.permutation(robots):
        while graph.lag()[robot]:
            graph.complete(robot)
    np.testing.assert_array_equal(graph.held(), planned)
    wander(graph, rng, 20)
    drain(graph)


def test_a_follower_waits_until_its_predecessor_has_left():
    graph = ExecutionGraph([[0, 1], [0, 0]])
    graph.append([[0, 2], [0, 1]])
    assert graph.enabled().tolist() == [True, False]
    assert graph.target(1) == (0, 0)
    graph.complete(0)
    assert graph.target(1) == (0, 1)


def test_a_robot_that_comes_back_to_a_cell_lets_the_one_planned_between_pass_first():
    graph = ExecutionGraph([[0, 1], [1, 1]])
    graph.append([[0, 2], [0, 1]])
    graph.append([[0, 2], [0, 0]])
    graph.append([[0, 1], [0, 0]])
    graph.complete(0)
    assert graph.enabled().tolist() == [False, True]
    graph.complete([1, 1])
    assert graph.target(0) == (0, 1)


def test_two_cells_are_granted_ahead_where_the_way_is_free():
    graph = ExecutionGraph([[0, 0]], horizon=4, lookahead=2)
    for column in (1, 2, 3):
        graph.append([[0, column]])
    assert graph.routes().tolist() == [[[0, 0], [0, 1], [0, 2]]]
    assert graph.lag().tolist() == [3]


@pytest.mark.parametrize(
    ('next_cells', 'complaint'),
    [
        ([[0, 2], [1, 1], [1, 0]], 'robot 0 jumps'),
        ([[0, 1], [0, 1], [1, 0]], 'robots 0 and 1 are both sent to'),
        ([[0, 1], [0, 0], [1, 0]], 'robots 0, 1 swap cells'),
        ([[0, 0], [0, 1]], 'shape'),
        ([[-1, 0], [0, 1], [1, 0]], 'must lie between'),
    ],
)
def test_a_move_that_cannot_be_executed_is_refused_and_nothing_changes(next_cells, complaint):
    graph = ExecutionGraph([[0, 0], [0, 1], [1, 0]])
    with pytest.raises(ExecutionError, match=complaint):
        graph.append(next_cells)
    assert not graph.lag().any()
    assert graph.planned().tolist() == [[0, 0], [0, 1], [1, 0]]


def test_a_ring_of_four_is_found_and_refused_but_its_follower_is_not_part_of_it():
    cells = np.array([[0, 0], [0, 1], [1, 1], [1, 0], [2, 0]])
    ring = np.array([[0, 1], [1, 1], [1, 0], [0, 0], [2, 0]])
    assert find_rotation(cells, ring).tolist() == [True] * 4 + [False]
    follower = ring.copy()
    follower[4] = [1, 0]  # also a conflict: two want the cell, only one goes round
    assert find_rotation(cells, follower).tolist() == [True] * 4 + [False]
    with pytest.raises(ExecutionError, match='robots 0, 1, 2, 3 move round in a ring'):
        ExecutionGraph(cells).append(ring)
    assert not find_rotation(np.zeros((0, 2), int), np.zeros((0, 2), int)).size


def test_a_robot_that_lags_must_be_planned_as_staying():
    graph = ExecutionGraph([[0, 0]], horizon=2)
    graph.append([[0, 1]])
    graph.append([[0, 2]])
    assert graph.full().tolist() == [True]
    with pytest.raises(ExecutionError, match='2 moves behind'):
        graph.append([[0, 3]])
    graph.append([[0, 2]])


def test_reports_that_make_no_sense_are_refused():
    with pytest.raises(ExecutionError, match='share the start'):
        ExecutionGraph([[0, 0], [0, 0]])
    with pytest.raises(ExecutionError, match='no move to complete'):
        ExecutionGraph([[0, 0]]).complete(0)
