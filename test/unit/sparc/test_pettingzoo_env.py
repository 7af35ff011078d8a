import numpy as np
import pytest

pytest.importorskip('pettingzoo')
pytest.importorskip('attn_robotics.systems.sparc.processor')

from attn_robotics.systems.sparc.expert import Expert
from attn_robotics.systems.sparc.pettingzoo_env import SparcParallelEnv
from attn_robotics.systems.sparc.shield import Priorities


def test_the_environment_passes_pettingzoos_own_test():
    from pettingzoo.test import parallel_api_test

    parallel_api_test(SparcParallelEnv(robots=3, size=6, max_steps=20), num_cycles=60)


def test_the_same_seed_gives_the_same_episode():
    environment = SparcParallelEnv(robots=3, size=6)
    first, _ = environment.reset(seed=4)
    again, _ = environment.reset(seed=4)
    for agent in environment.agents:
        assert np.array_equal(first[agent]['image'], again[agent]['image'])
        assert np.array_equal(first[agent]['vector'], again[agent]['vector'])


def test_an_expert_solves_it_through_the_public_interface():
    environment = SparcParallelEnv(robots=6, size=8, density=0.1)
    environment.reset(seed=2)
    state = environment.state()
    grid = np.array([[cell == '#' for cell in row] for row in environment.render().split('\n')])
    expert, priorities, rng = Expert(grid, state[:, 2:]), Priorities(6, 0), np.random.default_rng(0)
    while environment.agents:
        state = environment.state()
        priorities.update((state[:, :2] == state[:, 2:]).all(axis=1))
        actions = expert.act(state[:, :2], priorities.values, rng=rng)
        chosen = {f'robot_{index}': int(action) for index, action in enumerate(actions)}
        *_, ends, stops, _ = environment.step(chosen)
    assert all(ends.values())
    assert not any(stops.values())
    assert set(environment.render()) <= set('#.*\n')
