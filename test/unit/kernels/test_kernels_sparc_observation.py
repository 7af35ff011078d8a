"""The kernel that observes for a whole fleet equals the definition that training uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attn_robotics.simulation.instances import random_instance
from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.observation_kernel import observe_fleet
from attn_robotics.systems.sparc.processor_torch import observe_batch

CASES = {
    'ships': SparcConfig(),
    'paper': SparcConfig(field_of_view=3, relation='distance', mask_radius=40),
    'round neighbourhood': SparcConfig(field_of_view=5, mask_radius=4, mask_metric='euclidean'),
}


@pytest.mark.parametrize('config', CASES.values(), ids=CASES)
@pytest.mark.parametrize('robots', [1, 5, 70])
def test_images_vectors_and_relations_equal_their_definition(device, config, robots):
    instance = random_instance(14, 0.2, robots, seed=3)
    rng = np.random.default_rng(0)
    cells = torch.from_numpy(instance.starts.astype(np.int64)).to(device)
    goals = torch.from_numpy(instance.goals.astype(np.int64)).to(device)
    goals[0] = cells[0]  # one has arrived
    fields = torch.from_numpy(distance_fields(instance.grid, goals.cpu().numpy().astype(np.int32))).to(device)
    waited = torch.from_numpy(rng.uniform(0, 60, robots).astype(np.float32)).to(device)
    history = torch.from_numpy(rng.integers(-1, 5, (robots, config.history))).to(device)
    grid = torch.from_numpy(instance.grid.copy()).to(device)

    fleet = torch.zeros(1, robots, dtype=torch.int64, device=device)
    image, vector = observe_batch(
        grid[None], fleet, cells[None], goals[None], fields[None], waited[None], history[None], config.field_of_view
    )
    relation = SparcNetwork(config).neighbour_relation(cells[None], cells[None])
    state = torch.cat([cells, goals, waited[:, None], history], 1).float()
    ours = observe_fleet(state, grid, fields, config)

    assert torch.equal(ours[0], image[0])
    torch.testing.assert_close(ours[1], vector[0], atol=1e-6, rtol=1e-6)
    assert torch.equal(ours[2].long(), relation[0])
