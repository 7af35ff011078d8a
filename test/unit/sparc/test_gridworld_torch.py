import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.simulation.instances import random_instance
from attn_robotics.systems.sparc import distance_fields as plain
from attn_robotics.systems.sparc.gridworld import GridWorld
from attn_robotics.systems.sparc.gridworld_torch import BatchedGridWorld, distance_fields

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
DEVICES = ['cpu', pytest.param('cuda', marks=[pytest.mark.gpu, NO_GPU])]


def build(instances, device, **options):
    def stack(name):
        return torch.as_tensor(np.stack([getattr(instance, name) for instance in instances]), device=device)

    return BatchedGridWorld(stack('grid'), stack('starts'), stack('goals'), **options)


@pytest.mark.parametrize('device', DEVICES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_every_step_equals_the_reference_worlds(device, seed):
    rng = np.random.default_rng(seed)
    shape, robots = tuple(rng.integers(3, 7, 2).tolist()), int(rng.integers(1, 6))
    instances = [random_instance(shape, 0.25, robots, seed + index) for index in range(4)]
    batch = build(instances, device, blocking=True, max_steps=10)
    worlds = [GridWorld(instance, blocking=True, max_steps=10) for instance in instances]
    for _ in range(10):
        actions = rng.integers(0, 5, (4, robots))
        # Robots drawn to their goals: otherwise nobody ever rests there, and blocking goes untested.
        for index, world in enumerate(worlds):
            resting = (world.cells == world.goals).all(axis=1) & (rng.random(robots) < 0.8)
            actions[index][resting] = 4
        step = batch.step(torch.as_tensor(actions, device=device))
        for index, world in enumerate(worlds):
            expected = world.step(actions[index])
            for name in ('cells', 'moved', 'rewards', 'refused', 'on_goal', 'blocking', 'solved', 'done'):
                ours, theirs = getattr(step, name)[index].cpu().numpy(), getattr(expected, name)
                assert np.array_equal(ours, theirs), name


def test_blocking_occurs_in_the_compared_worlds():
    grid = np.array([[True] * 5, [False] * 5, [True] * 5])
    cells = torch.tensor([[[1, 1], [1, 0]]])
    goals = torch.tensor([[[1, 1], [1, 3]]])
    batch = BatchedGridWorld(torch.as_tensor(grid)[None], cells, goals, blocking=True)
    assert batch.step(torch.tensor([[4, 4]])).blocking.tolist() == [[True, False]]


def test_distances_equal_the_compiled_ones():
    instances = [random_instance((9, 12), 0.35, 6, seed) for seed in range(5)]
    grids = torch.as_tensor(np.stack([instance.grid for instance in instances]))
    goals = torch.as_tensor(np.stack([instance.goals for instance in instances]))
    fields = distance_fields(grids, goals).numpy()
    for instance, field in zip(instances, fields, strict=True):
        assert (field == plain.distance_fields(instance.grid, instance.goals)).all()


def test_a_replaced_fleet_starts_anew_and_the_others_go_on():
    instances = [random_instance(6, 0.1, 3, seed) for seed in range(3)]
    batch = build(instances, 'cpu')
    before = batch.step(torch.zeros(3, 3, dtype=torch.int64)).cells.clone()
    other = random_instance(6, 0.1, 3, 9)
    batch.replace(
        torch.tensor([1]),
        torch.as_tensor(other.grid)[None],
        torch.as_tensor(other.starts)[None],
        torch.as_tensor(other.goals)[None],
    )
    assert batch.steps.tolist() == [1, 0, 1]
    assert (batch.cells[1].numpy() == other.starts).all()
    assert (batch.cells[[0, 2]] == before[[0, 2]]).all()


def test_shapes_that_do_not_fit_are_refused():
    grids = torch.zeros(2, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match='starts and goals must be'):
        BatchedGridWorld(grids, torch.zeros(1, 3, 2), torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match='grids must be'):
        BatchedGridWorld(grids.int(), torch.zeros(2, 3, 2), torch.zeros(2, 3, 2))
