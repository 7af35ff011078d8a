"""Instances: components, placement and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.grid import parse_grid
from attn_robotics.simulation.instances import Instance, components, random_instance


def flood(grid: np.ndarray) -> np.ndarray:
    """Components by plain flooding in reading order, then ranked by size; the definition."""
    labels = np.full(grid.shape, -1)
    sizes = []
    for seed in np.argwhere(~grid).tolist():
        if labels[tuple(seed)] >= 0:
            continue
        stack, size = [tuple(seed)], 0
        labels[tuple(seed)] = len(sizes)
        while stack:
            row, column = stack.pop()
            size += 1
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                inside = 0 <= near[0] < grid.shape[0] and 0 <= near[1] < grid.shape[1]
                if inside and not grid[near] and labels[near] < 0:
                    labels[near] = len(sizes)
                    stack.append(near)
        sizes.append(size)
    ranked = sorted(range(len(sizes)), key=lambda label: -sizes[label])
    return np.array([[-1 if label < 0 else ranked.index(label) for label in row] for row in labels.tolist()])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10), st.integers(1, 10), st.floats(0, 1), st.integers(0, 999))
def test_components_are_those_of_plain_flooding_the_largest_first(height, width, density, seed):
    grid = np.random.default_rng(seed).random((height, width)) < density
    np.testing.assert_array_equal(components(grid), flood(grid))


def test_a_map_of_obstacles_only_and_one_without_any_have_zero_and_one_component():
    assert components(np.ones((2, 2), bool)).tolist() == [[-1, -1], [-1, -1]]
    assert components(np.zeros((2, 2), bool)).tolist() == [[0, 0], [0, 0]]
    assert components(parse_grid('.#..')).tolist() == [[1, -1, 0, 0]]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_everybody_starts_and_ends_in_the_largest_component_and_a_seed_repeats(seed, robots):
    instance, again = (random_instance(8, 0.3, robots, seed) for _ in range(2))
    np.testing.assert_array_equal(instance.goals, again.goals)
    labels = components(instance.grid)
    assert not labels[tuple(instance.starts.T)].any()
    assert not labels[tuple(instance.goals.T)].any()
    assert len(np.unique(instance.starts, axis=0)) == robots


def test_an_instance_of_wrong_shapes_is_refused():
    cells = np.zeros((1, 2), np.int32)
    with pytest.raises(WorldError, match='grid must be a boolean matrix, got int64'):
        Instance(np.zeros((2, 2), np.int64), cells, cells)
    with pytest.raises(WorldError, match=r'starts and goals must both be \(N, 2\)'):
        Instance(np.zeros((2, 2), bool), cells, cells[:0])
    with pytest.raises(WorldError, match='density must be at least 0 and below 1'):
        random_instance(4, 1.0, 1, 0)
