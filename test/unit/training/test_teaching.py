"""AtteNT's sample scheduler, and the theory behind its rule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.training.teaching import STRATEGIES, TeachingPlan, TeachingSampler


def sampler(strategy='soft', size=200, epochs=41, **options):
    plan = TeachingPlan(strategy, cycles=4, interval=(3, 5), **options)
    teaching = TeachingSampler(size, epochs, plan, seed=3)
    teaching.update(torch.arange(size), torch.arange(size, dtype=torch.float32))  # the last samples are the hardest
    return teaching


def epoch_of(teaching, epoch):
    teaching.set_epoch(epoch)
    return list(teaching)


def test_cycles_alternate_between_a_growing_part_and_everything():
    teaching = sampler()
    sizes = []
    for epoch in range(41):
        teaching.set_epoch(epoch)
        sizes.append(len(teaching))
    parts = [40, 80, 120, 160]  # 0.2 to 0.8 of 200
    expected = [200]
    for part, interval in zip(parts, (3, 3, 4, 5), strict=True):
        expected += [part] * interval + [200] * (10 - interval)
    assert sizes == expected


def test_shares_follow_the_published_schedules():
    cosine = TeachingPlan(ratio_shape='cosine', cycles=5)
    assert [cosine.share(c) for c in (0, 2, 4)] == pytest.approx([0.2, 0.5, 0.8])
    assert cosine.share(1) == pytest.approx(0.2 + 0.6 * (1 - np.cos(np.pi / 4)) / 2)
    assert TeachingPlan(ratio_shape='fixed').share(9) == 0.2
    assert TeachingPlan(interval=(5, 50)).epochs(9) == 50


def test_hard_takes_the_largest_losses_but_not_the_outliers():
    assert sorted(epoch_of(sampler('hard', outliers=0.0), 1)) == list(range(160, 200))
    assert sorted(epoch_of(sampler('hard', outliers=0.05), 1)) == list(range(150, 190))


def test_samples_never_seen_come_first():
    teaching = TeachingSampler(100, 41, TeachingPlan('hard', cycles=4, outliers=0.0))
    teaching.update(torch.arange(90), torch.linspace(0, 1, 90))
    assert set(range(90, 100)) <= set(epoch_of(teaching, 1))


def test_soft_prefers_large_losses_and_small_temperatures_approach_hard():
    warm, cold = (np.mean(epoch_of(sampler(outliers=0.0, temperature=t), 1)) for t in (1.0, 1e-3))
    assert 120 < warm < 175
    assert cold == np.mean(range(160, 200))


@pytest.mark.parametrize('strategy', ['random', 'soft'])
def test_weights_make_the_part_stand_for_everything(strategy):
    values = torch.linspace(0, 1, 200) ** 2
    estimates = []
    for seed in range(400):
        teaching = sampler(strategy, outliers=0.0)
        teaching.seed = seed
        chosen = torch.tensor(epoch_of(teaching, 1))
        estimates.append(float((teaching.weights(chosen) * values[chosen]).sum()))
    error = abs(np.mean(estimates) - float(values.sum()))
    assert error < 4 * np.std(estimates) / 20  # four standard errors of 400 draws


def test_a_certain_choice_has_no_weights():
    teaching = sampler('hard')
    teaching.set_epoch(1)
    with pytest.raises(ValueError, match='leaves samples out for certain'):
        teaching.weights(torch.tensor([199]))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(STRATEGIES), st.integers(1, 60), st.integers(1, 30), st.integers(0, 29), st.integers(1, 4))
def test_ranks_share_one_choice_and_are_equally_long(strategy, size, epochs, epoch, world):
    plan = TeachingPlan(strategy, cycles=3)
    ranks = [TeachingSampler(size, epochs, plan, rank=rank, world=world) for rank in range(world)]
    drawn = [epoch_of(teaching, epoch) for teaching in ranks]
    assert {len(part) for part in drawn} == {len(ranks[0])}
    together = sorted({index for part in drawn for index in part})
    assert together == ranks[0].chosen.tolist()
    assert drawn == [epoch_of(teaching, epoch) for teaching in ranks]


def test_a_resumed_sampler_goes_on_as_if_nothing_had_happened():
    one, other = sampler('hard'), TeachingSampler(200, 41, TeachingPlan('hard', cycles=4, interval=(3, 5)), seed=3)
    one.set_epoch(1)
    one.update(torch.arange(200), torch.rand(200))  # the part stays as it was chosen
    other.load_state_dict(one.state_dict())
    for epoch in (2, 3, 4, 11):
        assert epoch_of(one, epoch) == epoch_of(other, epoch)
    with pytest.raises(ValueError, match='state of 200 samples, but the data set has 5'):
        TeachingSampler(5, 3).load_state_dict(one.state_dict())


def test_bad_numbers_are_named():
    teaching = sampler()
    with pytest.raises(ValueError, match='sample 200 is outside'):
        teaching.update(torch.tensor([3, 200]), torch.zeros(2))
    with pytest.raises(ValueError, match='loss of sample 7 is not finite'):
        teaching.update(torch.tensor([3, 7]), torch.tensor([1.0, float('nan')]))
    with pytest.raises(ValueError, match='one loss a sample'):
        teaching.update(torch.tensor([3, 7]), torch.zeros(3))
    with pytest.raises(ValueError, match='strategy must be one of'):
        TeachingPlan('clever')
    with pytest.raises(ValueError, match='ratio must lie in'):
        TeachingPlan(ratio=(0.0, 1.0))
    with pytest.raises(ValueError, match='rank below world'):
        TeachingSampler(5, 3, rank=1)


def attend(weights, sequence):
    q, k, v = (sequence @ w for w in weights)
    return (q @ k.T * q.shape[-1] ** -0.5).softmax(-1) @ v


def test_the_attention_tangent_kernel_is_a_kernel_and_grows_with_the_gradient():
    """Paper, section on the ANTK: K(S, S') = <df(S)/dtheta, df(S')/dtheta> is symmetric and positive semidefinite."""
    torch.manual_seed(0)
    weights = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    rows = []
    for scale in np.linspace(0.2, 2.0, 8):
        out = attend(weights, scale * torch.randn(5, 4, dtype=torch.float64)).sum()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(out, weights)]))
    features = torch.stack(rows)
    kernel = features @ features.T
    torch.testing.assert_close(kernel, kernel.T)
    assert torch.linalg.eigvalsh(kernel).min() > -1e-9 * kernel.diagonal().max()
    torch.testing.assert_close(kernel.diagonal().sqrt(), features.norm(dim=1))


def test_the_query_gradient_weighs_each_element_by_one_number():
    """Paper, section 2.1: the gradient of a query column is sum_j omega_j S_j / sqrt(d)."""
    torch.manual_seed(0)
    weights = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    sequence, seed = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    (truth,) = torch.autograd.grad((attend(weights, sequence) * seed).sum(), weights[:1])
    q, k, v = (sequence @ w.detach() for w in weights)
    share = (q @ k.T * 3**-0.5).softmax(-1)
    signal = seed @ v.T
    d_score = share * (signal - (share * signal).sum(-1, keepdim=True))
    omega = d_score @ k  # (T, d): one number per element and column
    torch.testing.assert_close(sequence.T @ omega * 3**-0.5, truth, rtol=1e-6, atol=1e-9)
