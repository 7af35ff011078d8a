import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.instances import Instance, random_instance
from attn_robotics.systems.sparc.actions import DOWN, LEFT, MOVES, RIGHT, STAY, UP
from attn_robotics.systems.sparc.conflicts import one_winner
from attn_robotics.systems.sparc.distance_fields import neighbours
from attn_robotics.systems.sparc.gridworld import GridWorld, count_conflicts


def world(picture, goals, **options):
    """A world whose robots are the letters of the picture, in alphabetical order."""
    rows = picture.split('\n')
    grid = np.array([[cell == '#' for cell in row] for row in rows])
    letters = sorted((cell, r, c) for r, row in enumerate(rows) for c, cell in enumerate(row) if cell.isalpha())
    starts = np.array([(r, c) for _, r, c in letters], np.int32)
    return GridWorld(Instance(grid, starts, np.array(goals, np.int32)), **options)


def slow_refusals(grid, cells, actions):
    """The rule spelled out with sets: who is refused, round by round."""
    height, width = grid.shape
    here = [tuple(cell) for cell in cells.tolist()]
    wish = [tuple((cell + MOVES[action]).tolist()) for cell, action in zip(cells, actions, strict=True)]
    refused = set()
    for robot, (row, column) in enumerate(wish):
        if not (0 <= row < height and 0 <= column < width) or grid[row, column]:
            refused.add(robot)
        for other in range(len(here)):
            if other != robot and wish[robot] == here[other] and wish[other] == here[robot]:
                refused.add(robot)
    while True:
        ends = [here[r] if r in refused else wish[r] for r in range(len(here))]
        more = {r for r in range(len(here)) if ends[r] != here[r] and ends.count(ends[r]) > 1}
        if not more:
            return refused
        refused |= more


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_random_wishes_end_as_the_plain_rule_says_and_never_in_conflict(seed):
    rng = np.random.default_rng(seed)
    instance = random_instance((4, 6), 0.2, int(rng.integers(1, 11)), seed)
    world = GridWorld(instance)
    for _ in range(5):
        actions, before = rng.integers(0, 5, instance.robots), world.cells
        step = world.step(actions)
        expected = slow_refusals(instance.grid, before, actions)
        assert set(np.flatnonzero(step.refused).tolist()) == expected
        assert count_conflicts(instance.grid, before, step.cells) == 0
        assert (step.cells == before + MOVES[step.moved]).all()


def test_following_is_allowed_and_a_blocked_leader_stops_the_whole_row():
    free = world('abc.', [(0, 3), (0, 0), (0, 1)])
    assert not free.step(np.array([RIGHT] * 3)).refused.any()
    blocked = world('abc#', [(0, 1), (0, 0), (0, 2)])
    assert blocked.step(np.array([RIGHT] * 3)).refused.all()


def test_a_ring_of_robots_may_turn_and_two_may_not_change_places():
    ring = world('ab\ndc', [(0, 1), (1, 1), (1, 0), (0, 0)])
    step = ring.step(np.array([RIGHT, DOWN, LEFT, UP]))
    assert step.solved
    pair = world('ab', [(0, 1), (0, 0)])
    assert pair.step(np.array([RIGHT, LEFT])).refused.all()


def test_rewards_follow_the_papers_table():
    fleet = world('a.b\n.c.\n...', [(0, 1), (0, 2), (2, 1)], blocking=False)
    step = fleet.step(np.array([RIGHT, STAY, STAY]))  # reaches its goal, rests on it, waits off goal
    assert step.rewards.tolist() == pytest.approx([0.0, 0.0, -0.3])
    step = fleet.step(np.array([UP, DOWN, DOWN]))  # the border, leaves its goal, reaches its goal
    assert step.rewards.tolist() == pytest.approx([-2.0, -0.3, 0.0])


def test_a_robot_that_rests_in_a_corridor_blocks_the_one_behind_it():
    corridor = world('b.a\n###', [(0, 2), (0, 1)])
    step = corridor.step(np.array([STAY, RIGHT]))
    assert step.blocking.tolist() == [False, False], 'b has arrived beside a, which is not resting'
    row = world('#####\nba..#\n#####', [(1, 1), (1, 3)])
    step = row.step(np.array([STAY, STAY]))
    assert step.blocking.tolist() == [True, False]
    assert step.rewards.tolist() == pytest.approx([-1.0, -0.3])
    open_field = world('.....\nba...\n.....', [(1, 1), (1, 3)])
    assert not open_field.step(np.array([STAY, STAY])).blocking.any(), 'a way around two steps longer is no blocking'


def test_an_episode_ends_when_solved_or_out_of_steps():
    assert world('a.', [(0, 1)]).step(np.array([RIGHT])).done
    short = world('a..', [(0, 2)], max_steps=2)
    assert [short.step(np.array([STAY])).done for _ in range(2)] == [False, True]


def test_new_goals_are_checked():
    fleet = world('a.#', [(0, 1)])
    fleet.step(np.array([RIGHT]))
    fleet.set_goals(np.array([(0, 0)]))
    assert fleet.step(np.array([LEFT])).solved
    with pytest.raises(WorldError, match='inside an obstacle'):
        fleet.set_goals(np.array([(0, 2)]))


def test_actions_that_do_not_exist_are_refused():
    fleet = world('a.', [(0, 1)])
    with pytest.raises(ValueError, match='action of robot 0'):
        fleet.step(np.array([5]))
    with pytest.raises(ValueError, match='actions must be'):
        fleet.step(np.array([1, 1]))


@pytest.mark.parametrize(
    ('before', 'after', 'conflicts'),
    [
        ([(0, 0), (0, 1)], [(0, 1), (0, 2)], 0),  # following
        ([(0, 0), (0, 1)], [(0, 1), (0, 0)], 1),  # changing places
        ([(0, 0), (0, 2)], [(0, 1), (0, 1)], 1),  # one cell
        ([(0, 0), (0, 2)], [(-1, 0), (1, 2)], 2),  # off the map, into the obstacle
        ([(0, 0), (0, 2)], [(0, 1), (1, 1)], 1),  # a jump
    ],
)
def test_the_judge_of_executed_steps_sees_every_kind_of_conflict(before, after, conflicts):
    grid = np.array([[False] * 3, [False, False, True]])
    assert count_conflicts(grid, np.array(before), np.array(after)) == conflicts


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.sampled_from(['none', 'scores', 'value']))
def test_algorithm_one_always_ends_without_conflict(seed, greedy, mask, kind):
    rng = np.random.default_rng(seed)
    instance = random_instance((5, 6), 0.2, int(rng.integers(1, 20)), seed)
    near, cells = neighbours(instance.grid), instance.starts
    for _ in range(5):
        log_probs = np.log(rng.dirichlet(np.full(5, 0.5), instance.robots) + 1e-12)
        log_probs[rng.random(log_probs.shape) < 0.1] = -np.inf
        actions = one_winner(
            near,
            (cells[:, 0] * 6 + cells[:, 1]).astype(np.int32),
            log_probs,
            rng=rng,
            scores=rng.random(instance.robots) if kind == 'scores' else None,
            team_value=(lambda joint: rng.random(len(joint))) if kind == 'value' else None,
            greedy=greedy,
            mask_obstacles=mask,
        )
        assert count_conflicts(instance.grid, cells, cells + MOVES[actions]) == 0
        cells = cells + MOVES[actions]


def test_the_winner_keeps_its_action_and_the_loser_draws_another_of_its_own():
    near = neighbours(np.zeros((2, 3), bool))
    cells = np.array([0, 2], np.int32)  # both want the cell between them
    log_probs = np.full((2, 5), -np.inf)
    log_probs[0, RIGHT] = log_probs[1, LEFT] = np.log(0.9)
    log_probs[0, DOWN] = log_probs[1, DOWN] = np.log(0.1)
    for scores, expected in (([50.0, 0.0], [RIGHT, DOWN]), ([0.0, 50.0], [DOWN, LEFT])):
        actions = one_winner(near, cells, log_probs, rng=np.random.default_rng(0), scores=np.array(scores), greedy=True)
        assert actions.tolist() == expected


def test_the_team_value_decides_who_wins():
    near = neighbours(np.zeros((2, 3), bool))
    cells = np.array([0, 2], np.int32)
    log_probs = np.full((2, 5), -np.inf)
    log_probs[0, RIGHT] = log_probs[1, LEFT] = np.log(0.9)
    log_probs[:, DOWN] = np.log(0.1)

    def second_should_go(joint):
        return np.where(joint[:, 1] == LEFT, 100.0, 0.0)

    actions = one_winner(near, cells, log_probs, rng=np.random.default_rng(0), team_value=second_should_go, greedy=True)
    assert actions.tolist() == [DOWN, LEFT]
