"""Attention as an explanation of actions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.explanation import remove_neighbours, study
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.policy import SparcPolicy


def test_removing_the_most_attended_neighbour_changes_the_action_more_often_than_removing_the_least_attended() -> None:
    asked, changed, moved = study(SparcPolicy.load(backend='torch'), 48, 24, 0.3, 0, steps=24, every=4)
    assert asked > 100
    assert changed['most'] > 2 * changed['least'], changed
    assert moved['most'] > moved['random'] > moved['least'], moved


def test_robots_with_one_neighbour_are_not_judged() -> None:
    torch.manual_seed(0)
    network = SparcNetwork(SparcConfig.small()).eval()
    config, rng = network.config, np.random.default_rng(0)
    image = (rng.random((3, 8, config.field_of_view, config.field_of_view)) < 0.3).astype(np.float32)
    vector = rng.normal(size=(3, config.vector_features)).astype(np.float32)
    messages = rng.normal(size=(3, config.width)).astype(np.float32)
    far = config.mask_radius + 5
    removal = remove_neighbours(network, image, vector, np.array([[0, 0], [0, 1], [far, 0]]), messages, rng)
    assert not removal.judged.any(), 'with one neighbour, most and least attended are the same'


def test_networks_whose_robots_hear_each_other_within_a_step_are_refused() -> None:
    network = SparcNetwork(SparcConfig.small().__class__(communication='stacked')).eval()
    with pytest.raises(ValueError, match='broadcast'):
        remove_neighbours(network, *([np.zeros((1, 1), np.float32)] * 4), np.random.default_rng(0))  # type: ignore[arg-type]
