import pytest
import torch

from attn_robotics.attention import create, names
from attn_robotics.attention.relation import DistanceRelation

WIDTH = 16


def build(name, **config):
    torch.manual_seed(0)
    defaults = {
        'relation': {'width': WIDTH, 'heads': 2, 'relation': DistanceRelation(8)},
        'parallax': {'channels': 6},
        'polynomial': {'width': WIDTH},
        'spatial_covariance': {'width': WIDTH, 'bands': 2, 'window': 5},
        'action_guided': {'width': WIDTH, 'classes': 5, 'heads': 2, 'queue': 4},
    }.get(name, {'width': WIDTH, 'heads': 2})
    return create(name, **{**defaults, **config}).double()


# Every layer on one set of tokens, (B, N, WIDTH) -> output tensor; `keep` marks real tokens where it has a mask.
def self_mix(name, layer, x, keep=None):
    lengths = None if keep is None else keep.sum(1).to(torch.int32)
    calls = {
        'neighbour_set': lambda: layer(x, None, lengths),
        'gravity': lambda: layer(x, None, lengths),
        'differential': lambda: layer(x, keep=None if keep is None else keep[:, None, None, :]),
        'log_linear': lambda: layer(x, keep),
        'random_feature': lambda: layer(x, keep),
        'polynomial': lambda: layer(x, keep)[0],
        'preference_sparse': lambda: layer(x, x.detach().nan_to_num(), keep)[0],
        'quantum': lambda: layer(x, keep),
        'svd': lambda: layer(x, x, keep)[0],
    }
    return calls[name]()


MASKED = (
    'neighbour_set',
    'gravity',
    'differential',
    'log_linear',
    'random_feature',
    'polynomial',
    'preference_sparse',
    'quantum',
)


def test_every_name_builds_and_a_wrong_one_lists_the_others():
    for name in names():
        assert sum(p.numel() for p in build(name).parameters()) > 0
    with pytest.raises(ValueError, match=r'unknown mechanism .*gravity'):
        create('telepathy')
    with pytest.raises(ValueError, match='unexpected keyword'):
        create('gravity', width=8, heads=2, colour='red')


@pytest.mark.parametrize('name', ['neighbour_set', 'gravity', 'random_feature', 'quantum', 'svd', 'joint'])
def test_heads_that_do_not_divide_the_width_are_refused(name):
    with pytest.raises(ValueError, match='multiple of heads'):
        create(name, width=10, heads=3)


@pytest.mark.parametrize('name', (*MASKED, 'svd'))
def test_gradients_reach_every_parameter_and_are_finite(name):
    layer = build(name)
    x = torch.randn(2, 7, WIDTH, dtype=torch.float64, requires_grad=True)
    out = self_mix(name, layer, x)
    assert out.shape == x.shape
    (out * torch.randn_like(out)).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    unused = {'raw_alpha', 'raw_beta'} if name == 'neighbour_set' else set()  # no positions were given
    for key, parameter in layer.named_parameters():
        if key not in unused:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize('name', MASKED)
def test_padding_changes_nothing_and_a_fully_padded_row_is_finite(name):
    layer = build(name)
    x = torch.randn(3, 8, WIDTH, dtype=torch.float64)
    keep = torch.arange(8) < torch.tensor([[8], [5], [0]])
    dirty = x.masked_fill(~keep[..., None], 1e3)
    out = self_mix(name, layer, dirty, keep)
    alone = self_mix(name, layer, x[1:2, :5])
    torch.testing.assert_close(out[1:2, :5], alone)
    assert torch.isfinite(out).all()
    leaf = dirty.clone().requires_grad_()
    self_mix(name, layer, leaf, keep)[keep].sum().backward()
    assert torch.isfinite(leaf.grad).all()
    assert (leaf.grad[~keep] == 0).all()


@pytest.mark.parametrize('name', MASKED)
def test_nan_in_the_padding_reaches_neither_outputs_nor_gradients_of_inputs_or_weights(name):
    layer = build(name)
    x = torch.randn(3, 8, WIDTH, dtype=torch.float64)
    keep = torch.arange(8) < torch.tensor([[8], [5], [0]])
    found = []
    for hole in (torch.nan, 0.0):
        leaf = x.masked_fill(~keep[..., None], hole).requires_grad_()
        out = self_mix(name, layer, leaf, keep)
        assert torch.isfinite(out).all()
        layer.zero_grad()
        (out[keep] * torch.linspace(-1, 1, WIDTH, dtype=torch.float64)).sum().backward()
        weights = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        found.append([out.detach(), leaf.grad, *weights])
    for dirty, clean in zip(*found, strict=True):
        torch.testing.assert_close(dirty, clean)


@pytest.mark.parametrize(
    ('name', 'config'),
    [
        ('gravity', {'causal': True}),
        ('log_linear', {}),
        ('log_linear', {'gating': 'delta'}),
        ('random_feature', {'causal': True}),
        ('polynomial', {'causal': True}),
        ('polynomial', {'causal': True, 'form': 'general'}),
        ('preference_sparse', {'count': 3, 'recent': 1}),
        ('quantum', {}),
    ],
    ids=str,
)
def test_causal_layers_do_not_read_the_future(name, config):
    layer = build(name, **config)
    x = torch.randn(1, 9, WIDTH, dtype=torch.float64)
    guide = torch.randn(1, 9, 4, dtype=torch.float64)
    changed = x.clone()
    changed[:, 6] += 1.0
    one, other = (layer(y, guide)[0] if name == 'preference_sparse' else self_mix(name, layer, y) for y in (x, changed))
    torch.testing.assert_close(one[:, :6], other[:, :6], rtol=0, atol=0)
    assert not torch.equal(one[:, 6:], other[:, 6:])


@pytest.mark.parametrize('name', ['neighbour_set', 'differential', 'random_feature', 'polynomial', 'svd'])
def test_layers_without_positions_are_permutation_equivariant(name):
    layer = build(name)
    x = torch.randn(1, 9, WIDTH, dtype=torch.float64)
    order = torch.randperm(9)
    torch.testing.assert_close(self_mix(name, layer, x[:, order]), self_mix(name, layer, x)[:, order])


@pytest.mark.parametrize(
    'config', [{}, {'gating': 'delta'}, {'level_mode': 'bounded'}, {'level_mode': 'linear'}], ids=str
)
def test_log_linear_streams_equal_sequences(config):
    layer = build('log_linear', max_length=32, **config).float()
    x = torch.randn(2, 20, WIDTH)
    state = layer.open_state(2)
    steps = torch.stack([layer.step(x[:, t], state) for t in range(20)], 1)
    torch.testing.assert_close(steps, layer(x).detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match='exceeds max_length'):
        layer(torch.zeros(1, 33, WIDTH))


@pytest.mark.parametrize('form', ['speech', 'general'])
def test_polynomial_streams_equal_sequences(form):
    layer = build('polynomial', form=form, causal=True).float()
    x = torch.randn(2, 6, WIDTH)
    state = layer.open_state(2)
    steps = torch.stack([layer.step(x[:, t], state) for t in range(6)], 1)
    torch.testing.assert_close(steps, layer(x)[0].detach(), rtol=1e-4, atol=1e-5)


def test_streaming_histories_equal_whole_ones():
    from attn_robotics.attention.svd import HistoryGram
    from attn_robotics.kernels.svd import factorise

    items = torch.randn(2, 30, 6)
    keep = torch.rand(2, 30) > 0.3
    history = HistoryGram(2, 6)
    for start in (0, 7, 8):
        at = slice(start, {0: 7, 7: 8, 8: 30}[start])
        history.append(items[:, at], keep[:, at])
    torch.testing.assert_close(history.factorise(3).spectrum, factorise(items, 3, keep).spectrum)
    fading = HistoryGram(1, 6, decay=0.5)
    fading.append(items[:1, :2])
    truth = 0.5 * items[0, 0, :, None] * items[0, 0] + items[0, 1, :, None] * items[0, 1]
    torch.testing.assert_close(fading.product[0], truth)


def test_differential_lambda_starts_as_published():
    assert build('differential', layer=1).lambda_init == pytest.approx(0.2)
    assert build('differential', layer=100).lambda_init == pytest.approx(0.8)


def test_random_features_report_when_they_cannot_be_trusted():
    layer = build('random_feature', features=64)
    calm, wild = (torch.randn(1, 8, WIDTH, dtype=torch.float64) * s for s in (0.1, 30.0))
    norms, samples = zip(layer.diagnose(calm), layer.diagnose(wild), strict=True)
    assert norms[0] < 4 < norms[1] and samples[1] < 16 < samples[0]


def test_quantum_values_equal_their_absorbed_observables():
    layer = build('quantum', width=12, heads=3)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    absorbed = torch.einsum('bnd,hmde,bne->bhnm', x, layer.observables(), x)
    torch.testing.assert_close(layer.values(x), absorbed)
    torch.testing.assert_close(layer.values(-x), layer.values(x))  # even, as the paper file says


def test_selected_events_are_returned_with_the_answer():
    layer = build('preference_sparse', count=2, recent=1, soft_guidance=True)
    x = torch.randn(1, 6, WIDTH, dtype=torch.float64)
    out, index = layer(x, x, bonus=torch.zeros(1, 6, 6, dtype=torch.float64))
    assert index.shape == (1, 6, 4) and out.shape == x.shape
    blocks = build('preference_sparse', form='blocks', count=1, block=16)
    assert blocks(x, x)[1] is None
    with pytest.raises(ValueError, match='items form'):
        blocks(x, x, keep=torch.ones(1, 6, dtype=torch.bool))
