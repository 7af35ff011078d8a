"""The decision that stays on the device equals the one that robots compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attn_robotics.simulation.instances import random_instance
from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.captured import CapturedDecision
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.policy import SparcPolicy
from attn_robotics.systems.sparc.shield import Shield
from attn_robotics.systems.sparc.torch_decider import network_of

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU'))]


@pytest.mark.parametrize('device', DEVICES)
def test_captured_decisions_equal_those_of_the_policy_along_an_episode(device: str) -> None:
    instance = random_instance(12, 0.2, 10, 3)
    distances = distance_fields(instance.grid, instance.goals)
    policy = SparcPolicy.load()
    policy.reset(instance.grid, instance.goals, distances, seed=1)
    network = network_of(SparcPolicy.load(device=device, backend='torch'))
    captured = CapturedDecision(network, instance.grid, distances, policy.messages)
    shield, rng, cells = Shield(instance.grid), np.random.default_rng(0), instance.starts
    actions = None
    for step in range(12):
        if step == 6:  # new goals reach the device as well
            goals = instance.goals.copy()
            goals[[0, 1]] = goals[[1, 0]]
            fields = distance_fields(instance.grid, goals[:2])
            policy.set_goals(goals[:2], fields, np.array([0, 1]))
            captured.set_distances(fields, np.array([0, 1]))
        truth = policy.step(cells, actions)
        ours = captured.step(cells, policy.goals, policy.priorities, policy.history)
        assert np.abs(np.exp(ours) - np.exp(truth)).max() < 1e-4
        assert np.abs(captured.messages - policy.messages).max() < 1e-3
        actions = shield.decide(cells, truth, policy.priorities, policy.goals, policy.distances, rng=rng)
        cells = cells + MOVES[actions]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_policy_on_a_gpu_keeps_its_messages_through_changes_of_the_fleet() -> None:
    instance = random_instance(12, 0.2, 10, 3)
    on_gpu, on_cpu = SparcPolicy.load(device='cuda'), SparcPolicy.load()
    for policy in (on_gpu, on_cpu):
        policy.reset(instance.grid, instance.goals, seed=1)
        policy.step(instance.starts)
        policy.step(instance.starts, need_attention=True)
        policy.remove_robots(np.array([2]))
        policy.step(np.delete(instance.starts, 2, axis=0))
        policy.add_robots(instance.goals[2:3])
    cells = np.concatenate([np.delete(instance.starts, 2, axis=0), instance.starts[2:3]])
    assert np.abs(np.exp(on_gpu.step(cells)) - np.exp(on_cpu.step(cells))).max() < 1e-4
