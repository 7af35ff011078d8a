import pytest
import torch

from attn_robotics.kernels.random_feature import (
    draw_projections,
    effective_samples,
    exact_attention,
    importance_log_ratio,
    log_features,
    optimal_covariance,
    random_feature_attention,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('geometric', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_kernel_is_as_accurate_as_torch(geometric, dtype, device, three_ways, poisoned_empty):
    torch.manual_seed(3)
    q = torch.randn(2, 2, 40, 16, dtype=dtype, device=device)
    k = torch.randn(2, 2, 70, 16, dtype=dtype, device=device)
    v = torch.randn(2, 2, 70, 32, dtype=dtype, device=device)
    w = draw_projections(32, 16, generator())[None].to(device, dtype)
    m = (torch.randn(2, 16, 16, device=device) * 0.3).to(dtype) if geometric else None
    keep = torch.rand(2, 70, device=device) > 0.4
    keep[0] = False
    out = three_ways(random_feature_attention, q, k, v, w, m, keep, gradients=dtype == torch.float32)
    assert (out[0] == 0).all()


@pytest.mark.parametrize('orthogonal', [False, True])
@pytest.mark.parametrize('anisotropic', [False, True])
def test_the_kernel_estimate_is_unbiased(orthogonal, anisotropic):
    torch.manual_seed(0)
    q, k = (torch.randn(8, dtype=torch.float64) * 0.3 for _ in range(2))
    m = torch.diag(torch.linspace(0.5, 1.2, 8, dtype=torch.float64)) if anisotropic else None
    w = draw_projections(20000, 8, generator(), orthogonal=orthogonal, dtype=torch.float64)
    geometry = None if m is None else m[None]
    features = [log_features(x[None, None, None], w[None], geometry)[0, 0, 0].exp() for x in (q, k)]
    products = features[0] * features[1] * 20000
    truth = (q @ k if m is None else (m @ q) @ (m @ k)).exp()
    assert (products.mean() - truth).abs() <= 3 * products.std() / 20000**0.5


def test_the_optimal_proposal_lowers_the_variance_as_computed():
    spectrum = torch.logspace(-1, -2, 16, dtype=torch.float64)  # 0.10 down to 0.01
    sigma = optimal_covariance(torch.diag(spectrum))
    draws, pairs = 400, 4000
    torch.manual_seed(0)
    q, k = (torch.randn(pairs, 16, dtype=torch.float64) * spectrum.sqrt() for _ in range(2))
    truth = (q * k).sum(-1).exp()
    variances = []
    for covariance in (torch.eye(16, dtype=torch.float64), sigma):
        w = torch.randn(draws, 16, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
        ratio = importance_log_ratio(w, covariance)
        log = sum(x @ w.T - x.square().sum(-1, keepdim=True) / 2 for x in (q, k)) + ratio
        variances.append(((2 * log).exp().mean(1) - truth.square()).mean())
    assert 1.3 < variances[0] / variances[1] < 2.3  # 1.78 in the limit


def test_no_proposal_exists_beyond_one_half():
    with pytest.raises(ValueError, match=r'below 0\.5'):
        optimal_covariance(torch.eye(3) * 0.5)


def test_many_features_approach_exact_attention_of_the_same_geometry():
    torch.manual_seed(0)
    # Small norms: the variance grows with the exponential of the squared norm.
    q, k, v = (torch.randn(1, 1, 12, 4, dtype=torch.float64) * s for s in (0.5, 0.5, 1.0))
    m = torch.randn(1, 4, 4, dtype=torch.float64) * 0.4
    w = draw_projections(60000, 4, generator(), dtype=torch.float64)[None]
    for causal in (False, True):
        truth = exact_attention(q, k, v, m, None, causal=causal, scale=0.5)
        estimate = random_feature_attention(q, k, v, w, m, causal=causal)
        assert (estimate - truth).norm() / truth.norm() < 0.03


def test_the_identity_geometry_is_the_isotropic_case():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 9, 4, dtype=torch.float64) for _ in range(3))
    w = draw_projections(16, 4, generator(), dtype=torch.float64)[None]
    one = random_feature_attention(q, k, v, w)
    torch.testing.assert_close(random_feature_attention(q, k, v, w, torch.eye(4, dtype=torch.float64)[None]), one)


def test_causal_chunks_equal_prefixes_and_do_not_leak():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 300, 4, dtype=torch.float64) for _ in range(3))
    w = draw_projections(16, 4, generator(), dtype=torch.float64)[None]
    keep = torch.ones(1, 300, dtype=torch.bool)
    keep[:, :5] = False
    out = random_feature_attention(q, k, v, w, None, keep, causal=True)
    assert (out[:, :, :5] == 0).all()
    for t in (10, 255, 256, 299):
        cut = [x[:, :, : t + 1] for x in (q, k, v)]
        whole = random_feature_attention(*cut, w, None, keep[:, : t + 1])
        torch.testing.assert_close(out[:, :, t], whole[:, :, t])


def test_effective_samples_count_the_features_that_matter():
    torch.testing.assert_close(effective_samples(torch.zeros(7)), torch.tensor(7.0))
    torch.testing.assert_close(effective_samples(torch.tensor([0.0, -100.0, -100.0])), torch.tensor(1.0))


def test_orthogonal_directions_are_orthogonal_and_unbiased_in_sign():
    w = draw_projections(8, 8, generator(), dtype=torch.float64)
    product = w @ w.T
    assert (product - torch.diag(product.diagonal())).abs().max() < 1e-10
    means = torch.stack([draw_projections(8, 8, generator(s), dtype=torch.float64) for s in range(300)]).mean(0)
    assert means.abs().max() < 5 / 300**0.5
