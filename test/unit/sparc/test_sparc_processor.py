"""What robots see, read off small drawn worlds, and the same in numpy and torch."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.simulation.instances import random_instance
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.processor import observe
from attn_robotics.systems.sparc.processor_torch import observe_batch


def drawn(*rows: str):
    """A is robot 0 and a its goal, B robot 1 and b its goal."""
    picture = np.array([list(row) for row in rows])
    cells = np.stack([np.argwhere(picture == letter)[0] for letter in 'AB']).astype(np.int32)
    goals = np.stack([np.argwhere(picture == letter)[0] for letter in 'ab']).astype(np.int32)
    return picture == '#', cells, goals


def look(grid, cells, goals, view: int = 3, waited=(0.25, 0.75), history=None):
    history = np.full((len(cells), 4), -1) if history is None else history
    return observe(grid, cells, goals, distance_fields(grid, goals), np.array(waited), history, view)


def test_heuristic_channels_follow_the_path_around_a_wall_not_the_straight_line() -> None:
    grid, cells, goals = drawn(
        'A#a..',
        '.#...',
        '.....',
        'B...b',
    )
    image = look(grid, cells, goals).image
    assert image[0, :4, 1, 1].tolist() == [0, 1, 0, 0]  # down only: the goal two cells to the right is walled off
    assert image[1, :4, 1, 1].tolist() == [0, 0, 0, 1]


def test_obstacles_borders_robots_and_goals_are_where_they_should_be() -> None:
    grid, cells, goals = drawn(
        'A#...',
        'aB..b',
        '.....',
    )
    image = look(grid, cells, goals).image
    assert image[0, 4].tolist() == [[1, 1, 1], [1, 0, 1], [1, 0, 0]]
    assert image[0, 5].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert image[0, 6].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert image[0, 7].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]  # B's goal, clamped to the border
    assert image[1, 6].sum() == 0  # own goal out of view


def test_the_vector_tells_direction_distances_priority_and_history() -> None:
    grid, cells, goals = drawn('A..a', 'B..b')
    vector = look(grid, cells, goals, waited=(3.25, 0.75), history=np.array([[3, 4, -1, -1], [-1] * 4])).vector
    np.testing.assert_allclose(vector[0, :7], [0, 1, np.log(4) / 4, np.log(4) / 4, 0, np.log(4) / 4, 0.25], rtol=1e-6)
    assert vector[0, 7:].reshape(4, 5).tolist() == [[0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0] * 5, [0] * 5]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    robots=st.integers(1, 20),
    view=st.sampled_from([3, 5, 9]),
    density=st.sampled_from([0.0, 0.2, 0.35]),
)
def test_torch_and_numpy_observations_are_equal(seed: int, robots: int, view: int, density: float) -> None:
    instance = random_instance((11, 13), density, robots, seed)
    rng = np.random.default_rng(seed)
    distances = distance_fields(instance.grid, instance.goals)
    waited = rng.integers(0, 9, robots) + rng.integers(0, 8, robots) / 8
    history = rng.integers(-1, 5, (robots, 4))
    plain = observe(instance.grid, instance.starts, instance.goals, distances, waited, history, view)
    image, vector = observe_batch(
        torch.from_numpy(instance.grid)[None],
        torch.zeros(1, robots, dtype=torch.int64),
        torch.from_numpy(instance.starts.astype(np.int64))[None],
        torch.from_numpy(instance.goals.astype(np.int64))[None],
        torch.from_numpy(distances)[None],
        torch.from_numpy(waited.astype(np.float32))[None],
        torch.from_numpy(history)[None],
        view,
    )
    assert np.array_equal(image[0].numpy(), plain.image)
    np.testing.assert_allclose(vector[0].numpy(), plain.vector, atol=1e-6)


def test_fleets_that_share_a_row_do_not_see_each_other() -> None:
    first, second = (random_instance(8, 0.2, 4, seed) for seed in (1, 2))
    alone, together = [], []
    for fleets in ([first], [second], [first, second]):
        image, vector = observe_batch(
            torch.from_numpy(np.stack([f.grid for f in fleets])),
            torch.arange(len(fleets)).repeat_interleave(4)[None],
            torch.from_numpy(np.concatenate([f.starts for f in fleets]).astype(np.int64))[None],
            torch.from_numpy(np.concatenate([f.goals for f in fleets]).astype(np.int64))[None],
            torch.from_numpy(np.concatenate([distance_fields(f.grid, f.goals) for f in fleets]))[None],
            torch.rand(1, 4 * len(fleets), generator=torch.Generator().manual_seed(0)) * 0,
            torch.full((1, 4 * len(fleets), 4), -1),
            5,
        )
        (alone if len(fleets) == 1 else together).append((image[0], vector[0]))
    for part in range(2):
        assert torch.equal(torch.cat([pair[part] for pair in alone]), together[0][part])


def test_a_robot_alone_sees_the_same_from_messages_as_in_the_fleet() -> None:
    instance = random_instance(10, 0.2, 9, 5)
    distances = distance_fields(instance.grid, instance.goals)
    waited, history = np.arange(9) + 0.5, np.full((9, 4), -1)
    fleet = observe(instance.grid, instance.starts, instance.goals, distances, waited, history, 5)
    for robot in range(9):
        one = slice(robot, robot + 1)
        alone = observe(
            instance.grid, instance.starts[one], instance.goals[one], distances[one], waited[one], history[one], 5,
            (instance.starts, instance.goals),
        )  # fmt: skip
        assert np.array_equal(alone.image[0], fleet.image[robot])
        assert np.array_equal(alone.vector[0], fleet.vector[robot])
