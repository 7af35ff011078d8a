"""Nobody goes round in circles on maps that are all rings."""

import itertools

import numpy as np
import pytest

from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.policy import SparcPolicy
from attn_robotics.systems.sparc.shield import Shield, ShieldConfig


@pytest.mark.parametrize('rotation', [False, True])
@pytest.mark.parametrize(('height', 'robots', 'every'), [(2, 2, 3), (3, 3, 2003)])
def test_robots_on_a_tiny_map_arrive_at_once(height, robots, every, rotation):
    grid = np.zeros((height, 3), np.bool_)
    places = list(itertools.permutations(np.ndindex(height, 3), robots))
    policy, steps = SparcPolicy.load(threads=1), []
    for seed, (starts, ends) in enumerate(itertools.islice(itertools.product(places, places), 0, None, every)):
        cells, goals, last = np.array(starts, np.int32), np.array(ends, np.int32), None
        distances = distance_fields(grid, goals)
        policy.reset(grid, goals, distances, seed=seed)
        shield, rng = Shield(grid, ShieldConfig(allow_rotation=rotation, rescue_after=0)), np.random.default_rng(seed)
        step = 0
        while step < 30 and not (cells == goals).all():
            log_probs = policy.step(cells, last)
            last = shield.decide(cells, log_probs, policy.priorities, goals, distances, rng=rng)
            cells = (cells + MOVES[last]).astype(np.int32)
            step += 1
        steps.append(step)
    assert max(steps) <= 10, max(steps)
