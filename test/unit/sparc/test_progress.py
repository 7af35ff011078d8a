"""Each robot's account of its way: who is stuck, and who has come to a lull."""

import itertools

import numpy as np

from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.policy import SparcPolicy
from attn_robotics.systems.sparc.progress import REST, Progress
from attn_robotics.systems.sparc.shield import Shield


def follow(columns, goal, progress=None):
    """Lulls and stuck steps of one robot that walks along a corridor."""
    grid = np.zeros((1, 12), np.bool_)
    goals = np.array([[0, goal]], np.int32)
    fields = distance_fields(grid, goals).reshape(1, -1)
    progress = progress or Progress()
    told = []
    for column in columns:
        progress.update(np.array([column], np.int32), goals[:, 1].copy(), fields)
        told.append((int(progress.lull[0]), int(progress.stuck[0])))
    return told


def test_a_robot_that_comes_nearer_has_no_lull_and_one_that_does_not_counts():
    assert follow([5, 4, 3, 3, 4, 3, 2], 0) == [(0, 0), (0, 0), (0, 0), (1, 1), (2, 2), (3, 3), (0, 0)]


def test_short_visits_to_the_goal_end_being_stuck_but_not_the_lull():
    told = follow([1, 0, 1, 0, 1, 0], 0)
    assert [lull for lull, _ in told] == [0, 0, 1, 2, 3, 4]
    assert max(stuck for _, stuck in told) == 0


def test_after_a_rest_on_the_goal_the_way_back_to_it_is_a_way_of_its_own():
    told = follow([1, *[0] * (REST + 3), 1, 2, 1, 0, 0], 0)
    lulls = [lull for lull, _ in told]
    assert lulls[1 : REST + 1] == [*range(REST - 1), 0]
    assert lulls[REST + 1 : REST + 4] == [0, 0, 0]  # resting on
    assert lulls[REST + 4 :] == [0, 1, 2, 0, 1]


def test_what_comes_after_a_step_is_told_without_changing_the_account():
    progress = Progress()
    follow([5, 4, 4], 0, progress)
    fields = distance_fields(np.zeros((1, 12), np.bool_), np.zeros((1, 2), np.int32)).reshape(1, -1)
    later = progress.after(np.array([4], np.int32), np.zeros(1, np.int32), fields)
    assert (progress.lull[0], later.lull[0]) == (1, 2) and (progress.stuck[0], later.stuck[0]) == (1, 2)


def test_two_robots_on_a_tiny_map_do_not_change_places_for_ever():
    grid = np.zeros((2, 3), np.bool_)
    places = list(itertools.permutations(np.ndindex(2, 3), 2))
    policy, steps = SparcPolicy.load(threads=1), []
    for seed, (starts, ends) in enumerate(itertools.islice(itertools.product(places, places), 0, None, 5)):
        cells, goals, last = np.array(starts, np.int32), np.array(ends, np.int32), None
        distances = distance_fields(grid, goals)
        policy.reset(grid, goals, distances, seed=seed)
        shield, rng = Shield(grid), np.random.default_rng(seed)
        step = 0
        while step < 100 and not (cells == goals).all():
            log_probs = policy.step(cells, last)
            last = shield.decide(cells, log_probs, policy.priorities, goals, distances, rng=rng)
            cells = (cells + MOVES[last]).astype(np.int32)
            step += 1
        steps.append(step)
    assert max(steps) < 60 and np.mean(steps) < 4, (max(steps), np.mean(steps))
