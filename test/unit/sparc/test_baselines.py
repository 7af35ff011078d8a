import itertools

import numpy as np
import pytest

from attn_robotics.simulation.instances import Instance, random_instance
from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.baselines import BASELINES, Planned, plan_prioritised
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.evaluate import run_episode
from attn_robotics.systems.sparc.expert import Expert, rollout, rollout_many
from attn_robotics.systems.sparc.gridworld import count_conflicts
from attn_robotics.systems.sparc.lacam import solve
from attn_robotics.systems.sparc.refinement import refine
from attn_robotics.systems.sparc.shield import Priorities


def assert_executable(instance, path):
    path = path.astype(np.int64)
    assert (path[0] == instance.starts).all()
    assert sum(count_conflicts(instance.grid, a, b) for a, b in itertools.pairwise(path)) == 0


def lengths(instance, path):
    """Arrival time of each robot."""
    off = (path != instance.goals).any(axis=-1)  # (T + 1, N)
    return np.where(off.any(axis=0), len(path) - off[::-1].argmax(axis=0), 0)


def fastest(instance):
    """Fewest steps in which the whole fleet can arrive, by breadth-first search over configurations."""
    start, goal = (tuple(map(tuple, cells.tolist())) for cells in (instance.starts, instance.goals))
    seen, layer, steps = {start}, [start], 0
    while layer:
        if goal in layer:
            return steps
        following = []
        for cells in layer:
            for actions in itertools.product(range(5), repeat=len(cells)):
                after = np.array(cells) + MOVES[list(actions)]
                key = tuple(map(tuple, after.tolist()))
                if key not in seen and not count_conflicts(instance.grid, np.array(cells), after):
                    seen.add(key)
                    following.append(key)
        layer, steps = following, steps + 1
    return None


@pytest.mark.parametrize('name', BASELINES)
def test_every_baseline_moves_a_fleet_without_conflict_and_the_same_way_twice(name):
    instance = random_instance(10, 0.2, 10, 5)
    episodes = [run_episode(BASELINES[name](64), instance, 3, 64) for _ in range(2)]
    assert episodes[0] == episodes[1]
    assert episodes[0].conflicts == episodes[0].refused == 0
    if name not in ('independent', 'prioritised'):
        assert episodes[0].solved


@pytest.mark.parametrize(('rotation', 'seeds'), [(True, (53, 82, 83)), (False, (53, 82))])
def test_lacam_solves_what_pibt_with_swap_does_not(rotation, seeds):
    for seed in seeds:
        instance = random_instance(40, 0.3, 128, seed)
        path = rollout(instance, seed=seed, allow_rotation=rotation)
        assert_executable(instance, path)
        assert not (path[-1] == instance.goals).all(), 'solved by the plain rule: choose another seed'
        solution = solve(instance, seed, allow_rotation=rotation)
        assert solution is not None
        assert_executable(instance, solution)
        assert (solution[-1] == instance.goals).all()


def test_lacam_says_none_where_there_is_no_solution():
    corridor = Instance(np.zeros((1, 3), bool), np.array([(0, 0), (0, 2)]), np.array([(0, 2), (0, 0)]))
    assert solve(corridor) is None
    assert fastest(corridor) is None


def test_a_component_without_solution_does_not_hold_up_the_others():
    grid = np.array([[False, False, False], [True, True, True], [False, False, False]])
    starts, goals = np.array([(0, 0), (0, 2), (2, 0)]), np.array([(0, 2), (0, 0), (2, 2)])
    instance = Instance(grid, starts, goals)
    assert solve(instance) is None
    path = solve(instance, partial=True)
    assert path[-1].tolist() == [[0, 0], [0, 2], [2, 2]]


def test_search_is_complete_on_small_fleets_and_refinement_reaches_most_optima():
    optimal = solved = 0
    for seed in range(10):
        instance = random_instance(3, 0.15, 3, seed)
        best, first = fastest(instance), solve(instance, seed)
        assert (first is None) == (best is None)
        if first is None:
            continue
        last = refine(instance, first, rounds=200, group_size=3, seed=seed)
        assert_executable(instance, last)
        assert (last[-1] == instance.goals).all()
        assert lengths(instance, last).sum() <= lengths(instance, first).sum()
        assert best <= len(last) - 1 <= len(first) - 1
        optimal, solved = optimal + (len(last) - 1 == best), solved + 1
    assert 5 <= solved < 10, 'the draw must hold both kinds'
    assert optimal >= 0.7 * solved


def test_search_labels_end_earlier_than_pibt_with_swap():
    instances = [random_instance(16, 0.3, 40, seed) for seed in range(4)]
    plain = rollout_many(instances, jobs=2)
    searched = rollout_many(instances, method='search', jobs=2)
    for instance, path in zip(instances, searched, strict=True):
        assert_executable(instance, path)
        assert (path[-1] == instance.goals).all()
    assert sum(map(len, searched)) < 0.9 * sum(map(len, plain))


def test_prioritised_planning_is_executable_even_when_robots_find_no_path():
    failures = 0
    for seed in range(6):
        instance = random_instance(8, 0.3, 22, seed)
        path = plan_prioritised(instance, seed, max_steps=64)
        if path is not None:
            assert_executable(instance, path)
        failures += path is None or not (path[-1] == instance.goals).all()
    assert failures


def test_a_plan_is_not_replayed_in_a_world_that_did_not_follow_it():
    instance = random_instance(6, 0.0, 2, 0)
    method = Planned(lambda problem, seed: solve(problem, seed))
    method.reset(instance, 0)
    method.act(instance.starts)
    with pytest.raises(RuntimeError, match='left the planned path'):
        method.act(instance.starts[::-1])


def test_the_expert_for_visited_states_walks_like_its_rollout():
    instance = random_instance(12, 0.2, 12, 4)
    expert, priorities = Expert(instance.grid, instance.goals), Priorities(12, 0)
    cells, rng = instance.starts, np.random.default_rng(0)
    for _ in range(100):
        cells = cells + MOVES[expert.act(cells, priorities.values, rng=rng)]
        priorities.update((cells == instance.goals).all(axis=1))
    assert (cells == instance.goals).all()
    with pytest.raises(ValueError, match='expert must be one of'):
        Expert(instance.grid, instance.goals, method='search')


def test_paths_are_never_shorter_than_the_distance():
    instance = random_instance(14, 0.25, 20, 2)
    distances = distance_fields(instance.grid, instance.goals)
    least = distances[np.arange(20), instance.starts[:, 0], instance.starts[:, 1]]
    for method in ('pibt_swap', 'search'):
        path = rollout(instance, method=method, distances=distances)
        assert (lengths(instance, path) >= least).all()
