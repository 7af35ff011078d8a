import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from attn_robotics.kernels.distance import distance_bias
from attn_robotics.kernels.gravity import gravity_attention
from attn_robotics.kernels.gravity.fused import gravity_forward


def make(sets=2, heads=2, queries=20, keys=20, width=16, dtype=torch.float64, device='cpu'):
    torch.manual_seed(0)
    q = torch.randn(sets, heads, queries, width, dtype=dtype, device=device)
    k, v = (torch.randn(sets, heads, keys, width, dtype=dtype, device=device) for _ in range(2))
    small = torch.float64 if dtype == torch.float64 else torch.float32
    alpha = torch.rand(heads, dtype=small, device=device) * 2
    beta = torch.rand(heads, dtype=small, device=device) + 0.1
    return q, k, v, alpha, beta


@pytest.mark.parametrize('options', [{}, {'causal': True}, {'causal': True, 'placement': 'gate'}], ids=str)
@pytest.mark.parametrize(('queries', 'keys'), [(40, 40), (1, 50), (35, 17)], ids=str)
def test_token_distance_kernel_is_as_accurate_as_torch(options, queries, keys, device, three_ways, poisoned_empty):
    values = make(queries=queries, keys=keys, dtype=torch.float32, device=device)
    three_ways(gravity_attention, *values, **options)


@pytest.mark.parametrize('metric', ['euclidean', 'manhattan'])
@pytest.mark.parametrize('axes', [1, 2, 3])
def test_metric_distance_kernel_is_as_accurate_as_torch(metric, axes, device, three_ways, poisoned_empty):
    values = make(queries=18, keys=37, dtype=torch.bfloat16, device=device)
    options = {
        'positions_q': torch.randn(2, 18, axes, device=device),
        'positions_k': torch.randn(2, 37, axes, device=device),
        'lengths': torch.tensor([0, 30], dtype=torch.int32, device=device),
    }
    out = three_ways(gravity_attention, *values, metric=metric, **options)
    assert (out[0] == 0).all()  # an empty set


def test_far_tiles_may_expand_the_logarithm(device):
    q, k, v, alpha, beta = make(1, 1, 250, 250, dtype=torch.float32, device=device)
    alpha[:] = 4.0
    truth = gravity_attention(*(x.double() for x in (q, k, v, alpha, beta)), causal=True)
    options = {'metric': 'index', 'causal': True, 'placement': 'logit', 'scale': 0.25, 'config': (16, 16, 4, 1)}
    near = gravity_forward(q, k, v, alpha, beta, None, None, None, zones=False, **options)
    far = gravity_forward(q, k, v, alpha, beta, None, None, None, zones=True, **options)
    torch.testing.assert_close(near.double(), truth, rtol=1e-5, atol=1e-5)
    # The stated bound is 3e-4 alpha in the score; outputs are averages of values of order one.
    assert not torch.equal(near, far)
    assert (far - truth).abs().max() < 3e-4 * 4.0


def test_no_pull_is_plain_attention():
    q, k, v, alpha, beta = make()
    plain = scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(gravity_attention(q, k, v, alpha * 0, beta, causal=True), plain)


def test_infinite_pull_attends_to_itself():
    q, k, v, alpha, beta = make()
    torch.testing.assert_close(gravity_attention(q, k, v, alpha * 0 + 1e6, beta, causal=True), v)


def test_the_field_has_no_scale_of_its_own_far_away():
    far = torch.tensor([1e4, 1e6, 1e8], dtype=torch.float64)
    alpha, beta = torch.tensor([1.5], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    ratio = {
        law: (distance_bias(3 * far[None], alpha, beta, law) - distance_bias(far[None], alpha, beta, law)).exp()[0, 0]
        for law in ('power', 'linear')
    }
    torch.testing.assert_close(ratio['power'], torch.full_like(far, 3.0**-1.5), rtol=1e-3, atol=0)
    assert (ratio['linear'] == 0).all()  # as ALiBi would have it


def test_normalised_gate_equals_logit_and_the_gate_only_loses_mass():
    q, k, v, alpha, beta = make()
    logit = gravity_attention(q, k, v, alpha, beta)
    torch.testing.assert_close(gravity_attention(q, k, v, alpha, beta, placement='gate_norm'), logit)
    mass = gravity_attention(q, k, torch.ones_like(v), alpha, beta, placement='gate')
    assert (mass <= 1.0).all() and (mass < 0.99).any()


def test_gradients_match_finite_differences():
    q, k, v, alpha, beta = make(1, 2, 5, 5, 3)
    leaves = [x.requires_grad_() for x in (q, k, v, alpha, beta)]
    assert torch.autograd.gradcheck(lambda *a: gravity_attention(*a, causal=True), leaves)


def test_past_and_future_may_pull_differently():
    q, k, v, alpha, beta = make()
    both = torch.stack([alpha, alpha])
    one = gravity_attention(q, k, v, alpha, beta)
    torch.testing.assert_close(gravity_attention(q, k, v, both, beta), one)
    blind = gravity_attention(q, k, v, torch.stack([alpha, alpha * 0 + 1e6]), beta)
    torch.testing.assert_close(blind, gravity_attention(q, k, v, alpha, beta, causal=True))


def test_truncation_error_stays_below_its_bound():
    q, k, v, alpha, beta = make(1, 1, 1, 200, 8)
    alpha = torch.tensor([2.0], dtype=torch.float64)
    positions = torch.arange(200, dtype=torch.float64)[None, :, None]
    options = {'metric': 'euclidean', 'positions_q': positions[:, :1]}
    whole = gravity_attention(q, k, v, alpha, beta, positions_k=positions, **options)
    scores = (q @ k.transpose(-1, -2))[0, 0, 0] * 8**-0.5
    g = (1 + beta * positions[0, :, 0]) ** -2.0
    for radius in (10, 50, 120):
        cut = gravity_attention(
            q, k[:, :, :radius], v[:, :, :radius], alpha, beta, positions_k=positions[:, :radius], **options
        )
        ratio = g[radius:].sum() * scores.max().exp() / (g[:radius].sum() * scores.min().exp())
        assert (whole - cut).norm() <= 2 * v.norm(dim=-1).max() * ratio


def test_wrong_arguments_are_named():
    q, k, v, alpha, beta = make()
    with pytest.raises(ValueError, match='metric must be one of'):
        gravity_attention(q, k, v, alpha, beta, metric='hamming')
    with pytest.raises(ValueError, match='positions_q'):
        gravity_attention(q, k, v, alpha, beta, metric='euclidean')
    with pytest.raises(ValueError, match='one entry per head'):
        gravity_attention(q, k, v, alpha[:1], beta)
