import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.instances import random_instance
from attn_robotics.systems.sparc.actions import DOWN, LEFT, MOVES, RIGHT, STAY, UP
from attn_robotics.systems.sparc.distance_fields import UNREACHABLE, distance_field, distance_fields
from attn_robotics.systems.sparc.shield import Priorities, Shield, ShieldConfig, ShieldError


def draw(picture):
    """Read a map in which `#` is an obstacle and letters are robots in alphabetical order."""
    rows = picture.split('\n')
    grid = np.array([[cell == '#' for cell in row] for row in rows])
    letters = sorted((cell, r, c) for r, row in enumerate(rows) for c, cell in enumerate(row) if cell.isalpha())
    return grid, np.array([(r, c) for _, r, c in letters], np.int32).reshape(-1, 2)


def wish(*actions):
    """Preferences with one favourite action a robot, then stay, then the rest."""
    preferences = np.zeros((len(actions), 5), np.float32)
    preferences[:, STAY] = 1
    preferences[np.arange(len(actions)), actions] = 2
    return preferences


def assert_safe(grid, cells, actions, *, rotation=True):
    after = cells + MOVES[actions]
    height, width = grid.shape
    assert ((after >= 0) & (after < (height, width))).all(), 'left the map'
    assert not grid[tuple(after.T)].any(), 'entered an obstacle'
    flat, flat_after = cells @ (width, 1), after @ (width, 1)
    assert len(set(flat_after.tolist())) == len(cells), 'two robots in one cell'
    owner = {int(cell): robot for robot, cell in enumerate(flat)}
    for robot, cell in enumerate(flat_after.tolist()):
        other = owner.get(cell, robot)
        assert other == robot or flat_after[other] != flat[robot], 'two robots changed places'
    if not rotation:
        for robot in range(len(cells)):
            current, length = robot, 0
            while length <= len(cells):
                following = owner.get(int(flat_after[current]))
                if following is None or following == current:
                    break
                current, length = following, length + 1
                assert current != robot, f'a ring of {length} robots'


@st.composite
def fleets(draw_value):
    """A crowded random state: map, cells, goals and a generator, most of the free cells taken."""
    seed = draw_value(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    side = tuple(rng.integers(1, 8, 2))
    grid = rng.random(side) < rng.choice([0, 0.2, 0.4])
    grid[0, 0] = False
    free = np.argwhere(~grid).astype(np.int32)
    robots = int(rng.integers(1, len(free) + 1))
    return grid, rng.permutation(free)[:robots], rng.permutation(free)[:robots], rng


@settings(max_examples=400, deadline=None)
@given(fleets(), st.booleans(), st.booleans(), st.sampled_from(['normal', 'ties', 'infinite']))
def test_no_preference_can_make_robots_collide(fleet, swap, rotation, kind):
    grid, cells, goals, rng = fleet
    shield = Shield(grid, ShieldConfig(swap=swap, allow_rotation=rotation))
    distances = distance_fields(grid, goals)
    frozen = rng.random(len(cells)) < 0.1
    for _ in range(10):
        preferences = rng.normal(size=(len(cells), 5))
        if kind == 'ties':
            preferences = preferences.round()
        elif kind == 'infinite':
            preferences = np.where(preferences > 0.5, -np.inf, preferences)
        priorities = rng.random(len(cells)).round(1)
        actions = shield.resolve(
            cells, preferences, priorities, rng=rng, goals=goals, distances=distances, frozen=frozen
        )
        assert_safe(grid, cells, actions, rotation=rotation)
        assert (actions[frozen] == STAY).all()
        cells = cells + MOVES[actions]


def test_robots_in_a_row_follow_each_other():
    grid, cells = draw('abc.')
    actions = Shield(grid).resolve(
        cells, wish(RIGHT, RIGHT, RIGHT), np.array([3.0, 2, 1]), rng=np.random.default_rng(0), swap=False
    )
    assert actions.tolist() == [RIGHT, RIGHT, RIGHT]


def test_a_robot_that_is_in_the_way_is_pushed_ahead():
    grid, cells = draw('ab.')
    actions = Shield(grid).resolve(
        cells, wish(RIGHT, STAY), np.array([2.0, 1.0]), rng=np.random.default_rng(0), swap=False
    )
    assert actions.tolist() == [RIGHT, RIGHT]


def test_everyone_plans_around_a_frozen_robot():
    grid, cells = draw('ab.\n...')
    preferences = wish(RIGHT, STAY)
    preferences[0, DOWN] = 1.5
    actions = Shield(grid).resolve(
        cells,
        preferences,
        np.array([2.0, 1.0]),
        rng=np.random.default_rng(0),
        swap=False,
        frozen=np.array([False, True]),
    )
    assert actions.tolist() == [DOWN, STAY]


def test_a_ring_turns_only_where_rotation_is_allowed():
    grid, cells = draw('ab\ndc')
    preferences, priorities = wish(RIGHT, DOWN, LEFT, UP), np.arange(4.0)
    shield = Shield(grid, ShieldConfig(swap=False))
    turned = shield.resolve(cells, preferences, priorities, rng=np.random.default_rng(0))
    assert turned.tolist() == [RIGHT, DOWN, LEFT, UP]
    kept = shield.resolve(cells, preferences, priorities, rng=np.random.default_rng(0), allow_rotation=False)
    assert kept.tolist() == [STAY] * 4


def test_two_robots_change_places_in_a_corridor_with_the_swap_rule_only():
    grid, cells = draw('###.####\nab.....#\n###.####')
    goals = np.array([(1, 5), (1, 0)], np.int32)
    distances = distance_fields(grid, goals)
    arrived = {}
    for swap in (False, True):
        shield, priorities, here = Shield(grid, ShieldConfig(swap=swap)), Priorities(2, 0), cells
        rng = np.random.default_rng(1)
        for _ in range(60):
            gained = shield.steps_gained(here, distances)
            actions = shield.resolve(here, gained, priorities.values, rng=rng, goals=goals, distances=distances)
            here = here + MOVES[actions]
            priorities.update((here == goals).all(axis=1))
            arrived[swap] = bool((here == goals).all())
            if arrived[swap]:
                break
    assert arrived == {False: False, True: True}


def test_a_robot_far_away_changes_nothing():
    rng = np.random.default_rng(3)
    grid = np.zeros((5, 40), bool)
    near = rng.permutation(np.argwhere(np.ones((5, 5), bool)))[:12].astype(np.int32)
    preferences, priorities = rng.normal(size=(13, 5)), rng.random(13)
    preferences[12, STAY] = 9
    results = []
    for column in (20, 35):
        cells = np.concatenate([near, [(2, column)]]).astype(np.int32)
        results.append(Shield(grid).resolve(cells, preferences, priorities, rng=np.random.default_rng(0), swap=False))
    assert (results[0] == results[1]).all()


def test_equal_seeds_give_equal_moves_and_ties_are_not_always_broken_alike():
    grid, cells = draw('...\n.a.\n...')
    shield, equal = Shield(grid, ShieldConfig(swap=False)), np.zeros((1, 5))
    moves = [shield.resolve(cells, equal, np.zeros(1), rng=np.random.default_rng(s))[0] for s in range(40)]
    again = [shield.resolve(cells, equal, np.zeros(1), rng=np.random.default_rng(s))[0] for s in range(40)]
    assert moves == again
    assert set(moves) == {UP, DOWN, LEFT, RIGHT, STAY}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'cells': [(0, 0), (0, 0)]}, 'robot 1 at .* shares its cell'),
        ({'cells': [(0, 0), (1, 1)]}, 'robot 1 at .* inside an obstacle'),
        ({'cells': [(0, 0), (-1, 0)]}, 'robot 1 at .* off the 2 x 3 map'),
        ({'preferences': [[0] * 5, [0, 0, np.nan, 0, 0]]}, 'robot 1 hold NaN'),
        ({'preferences': [[0] * 4] * 2}, 'preferences must be'),
        ({'priorities': [0.0]}, 'priorities must be'),
        ({'frozen': [1, 0]}, 'frozen must be'),
        ({'swap': True}, 'needs goals and distances'),
    ],
)
def test_a_state_that_can_not_be_made_safe_is_refused_and_the_shield_stays_usable(change, message):
    grid, cells = draw('a.b\n.#.')
    shield = Shield(grid, ShieldConfig(swap=False))
    good = {'cells': cells, 'preferences': wish(RIGHT, LEFT), 'priorities': np.arange(2.0)}
    bad = good | {key: value if key == 'swap' else np.array(value) for key, value in change.items()}
    with pytest.raises(ShieldError, match=message) as error:
        shield.resolve(**bad, rng=np.random.default_rng(0))
    assert '\n' not in str(error.value)
    assert_safe(grid, cells, shield.resolve(**good, rng=np.random.default_rng(0)))


def test_an_unsure_policy_falls_back_to_path_distance():
    grid, cells = draw('a....')
    goals = np.array([(0, 4)], np.int32)
    distances = distance_fields(grid, goals)
    unsure = np.log(np.array([[0.2, 0.2, 0.2, 0.1, 0.3]]))
    sure = np.log(np.array([[0.01, 0.01, 0.01, 0.01, 0.96]]))
    shield = Shield(grid, ShieldConfig(temperature=0.0, distance_weight=1.0))
    for log_probs, expected in ((unsure, RIGHT), (sure, STAY)):
        actions = shield.decide(cells, log_probs, np.zeros(1), goals, distances, rng=np.random.default_rng(0))
        assert actions.tolist() == [expected]
    with pytest.raises(ShieldError, match='NaN'):
        shield.decide(cells, sure * np.nan, np.zeros(1), goals, distances, rng=np.random.default_rng(0))


def test_distances_follow_corridors_and_name_what_is_cut_off():
    grid, _ = draw('..#.\n.##.\n....')
    expected = [[5, 6, -1, 2], [4, -1, -1, 1], [3, 2, 1, 0]]
    assert distance_field(grid, (2, 3)).tolist() == [[UNREACHABLE if d < 0 else d for d in row] for row in expected]
    with pytest.raises(WorldError, match=r'goal of robot 0 .* inside an obstacle'):
        distance_field(grid, (0, 2))


def test_distances_match_a_plain_relaxation():
    instance = random_instance(12, 0.3, 5, 7)
    fields = distance_fields(instance.grid, instance.goals).astype(int)
    for field, goal in zip(fields, instance.goals, strict=True):
        expected = np.full(instance.grid.shape, UNREACHABLE)
        expected[tuple(goal)] = 0
        for _ in range(instance.grid.size):
            padded = np.pad(expected, 1, constant_values=UNREACHABLE)
            best = np.minimum.reduce([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]) + 1
            expected = np.where(instance.grid, UNREACHABLE, np.minimum(expected, best))
        assert (field == expected.clip(max=UNREACHABLE)).all()


def test_priorities_grow_until_the_goal_is_reached_and_never_tie():
    priorities = Priorities(50, 0)
    fraction = priorities.values
    assert len(set(fraction.tolist())) == 50
    assert ((fraction > 0) & (fraction < 1)).all()
    priorities.update(np.zeros(50, bool))
    priorities.update(np.arange(50) < 10)
    assert (np.floor(priorities.values) == np.where(np.arange(50) < 10, 0, 2)).all()


def test_an_action_hinders_the_neighbours_in_whose_way_it_ends():
    grid, cells = draw('b..\na..\n...')
    distances = distance_fields(grid, np.array([(0, 2), (2, 1)], np.int32))
    hindered = Shield(grid).hindered(cells, distances)
    assert hindered[0].tolist() == [0, 1, 0, 1, 1], 'b wants down and right: a ends in its way unless it goes up'
    grid, cells = draw('b..\n.a.\n...')
    assert not Shield(grid).hindered(cells, distances).any(), 'nobody stands beside another'


def test_looking_ahead_of_the_policy_changes_no_move_and_may_be_left_out() -> None:
    instance = random_instance(10, 0.25, 16, 4)
    distances = distance_fields(instance.grid, instance.goals)
    shields = [Shield(instance.grid, ShieldConfig(rescue_after=4)) for _ in range(2)]
    rngs = [np.random.default_rng(0) for _ in range(2)]
    priorities, cells, draw = Priorities(16, 0), instance.starts, np.random.default_rng(1)
    for step in range(50):
        log_probs = np.log(draw.dirichlet(np.full(5, 0.3), 16) + 1e-9)
        if step % 3:
            shields[0].look(cells, instance.goals, distances, priorities.values)
        moves = [
            shield.decide(cells, log_probs, priorities.values, instance.goals, distances, rng=rng)
            for shield, rng in zip(shields, rngs, strict=True)
        ]
        assert (moves[0] == moves[1]).all()
        cells = cells + MOVES[moves[0]]
        priorities.update((cells == instance.goals).all(axis=1))


def test_what_was_looked_at_for_another_state_is_not_used() -> None:
    instance = random_instance(10, 0.25, 16, 4)
    distances = distance_fields(instance.grid, instance.goals)
    looked, plain = Shield(instance.grid), Shield(instance.grid)
    looked.look(instance.goals, instance.starts, distances, np.arange(16.0))
    state = (instance.starts, np.zeros((16, 5)), np.arange(16.0)[::-1], instance.goals, distances)
    moves = [shield.decide(*state, rng=np.random.default_rng(0)) for shield in (looked, plain)]
    assert (moves[0] == moves[1]).all()
