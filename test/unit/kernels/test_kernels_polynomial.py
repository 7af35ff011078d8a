import pytest
import torch

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.polynomial import features_of, gate_of, polynomial_mix, polynomial_step


def make(form, batch=2, tokens=9, features=12):
    torch.manual_seed(0)
    projected, gate = torch.randn(2, batch, tokens, features, dtype=torch.float64)
    coefficients = torch.randn(features, 3, dtype=torch.float64) if form == 'general' else None
    return projected, gate, {'degree': 3, 'coefficients': coefficients}


@pytest.mark.parametrize('form', ['speech', 'general'])
def test_causal_outputs_equal_the_mean_over_each_prefix(form):
    projected, gate, options = make(form)
    out, _, _ = polynomial_mix(projected, gate, causal=True, **options)
    for t in range(9):
        cut = projected[:, : t + 1], gate[:, : t + 1]
        whole, _, _ = polynomial_mix(*cut, **options)
        torch.testing.assert_close(out[:, t], whole[:, t])


@pytest.mark.parametrize('form', ['speech', 'general'])
@pytest.mark.parametrize('causal', [False, True])
def test_blocks_of_any_size_continue_a_stream(form, causal):
    projected, gate, options = make(form)
    whole, mean, count = polynomial_mix(projected, gate, causal=True, **options)
    state = (None, None)
    for start, end in ((0, 1), (1, 5), (5, 9)):
        out, *state = polynomial_mix(
            projected[:, start:end], gate[:, start:end], None, *state, causal=causal, **options
        )
        # Block-causal: all tokens of a block see the block; its last token sees what the causal form sees.
        torch.testing.assert_close(out[:, -1], whole[:, end - 1])
    torch.testing.assert_close(state[0], mean)
    torch.testing.assert_close(state[1], count)


def test_padding_and_batch_mates_change_nothing():
    projected, gate, options = make('speech')
    keep = torch.ones(2, 9, dtype=torch.bool)
    keep[0, 4:] = False
    dirty = projected.clone()
    dirty[0, 4:] = float('nan')
    for causal in (False, True):
        out, mean, count = polynomial_mix(dirty, gate, keep, causal=causal, **options)
        alone, alone_mean, _ = polynomial_mix(projected[:1, :4], gate[:1, :4], causal=causal, **options)
        torch.testing.assert_close(out[:1, :4], alone)
        torch.testing.assert_close(mean[:1], alone_mean)
        assert (out[0, 4:] == 0).all() and count.tolist() == [4.0, 9.0]


def test_a_fully_padded_row_is_zero_and_has_finite_gradients():
    projected, gate, options = make('general')
    projected.requires_grad_()
    out, _, _ = polynomial_mix(projected, gate, torch.zeros(2, 9, dtype=torch.bool), **options)
    out.sum().backward()
    assert (out == 0).all() and torch.isfinite(projected.grad).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_powers_of_half_precision_do_not_overflow(dtype):
    projected, gate = (30 * torch.randn(2, 1, 50, 16, generator=torch.Generator().manual_seed(0))).to(dtype)
    projected, gate = projected.requires_grad_(), gate.requires_grad_()
    out, mean, _ = polynomial_mix(projected, gate, degree=4)
    assert mean.dtype == torch.float32 and torch.isfinite(mean).all()
    out.float().clamp(-1e4, 1e4).sum().backward()
    for leaf in (projected, gate):
        assert torch.isfinite(leaf.grad).all()


def test_mixing_is_permutation_equivariant():
    projected, gate, options = make('speech')
    order = torch.randperm(9)
    out, _, _ = polynomial_mix(projected, gate, **options)
    mixed, _, _ = polynomial_mix(projected[:, order], gate[:, order], **options)
    torch.testing.assert_close(mixed, out[:, order])


def test_degree_one_is_gated_mean_pooling():
    projected, gate, _ = make('speech')
    out, _, _ = polynomial_mix(projected, gate, degree=1)
    truth = gate.sigmoid() * torch.nn.functional.gelu(projected).mean(1, keepdim=True)
    torch.testing.assert_close(out, truth)


def test_general_features_are_the_stated_polynomial():
    x = torch.tensor([[-50.0, 0.5, 9.0]], dtype=torch.float64)
    c = torch.tensor([[1.0, 2.0]] * 3, dtype=torch.float64)
    base = torch.tensor([[-0.1, 0.5, 6.0]], dtype=torch.float64)
    torch.testing.assert_close(features_of(x, 2, c), base + 2 * base**2)
    torch.testing.assert_close(gate_of(torch.zeros(1), c), torch.tensor([0.5]))


# float16, because the interpreter truncates where hardware rounds to bfloat16.
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
def test_step_kernel_equals_the_sequence(dtype, device, poisoned_empty, as_accurate_as_torch):
    torch.manual_seed(0)
    projected, gate = torch.randn(2, 3, 5, 64, dtype=dtype, device=device)
    truth, _, _ = polynomial_mix(projected.double(), gate.double(), causal=True)
    low, _, _ = polynomial_mix(projected, gate, causal=True)
    state, count = torch.zeros(3, 64, device=device), torch.zeros(3, device=device)
    with dispatch.forcing('fused'):
        for t in range(5):
            out = polynomial_step(projected[:, t], gate[:, t], state, count)
            as_accurate_as_torch(out, low[:, t], truth[:, t])
    assert count.tolist() == [5.0] * 3


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match='no multiple of degree'):
        polynomial_mix(torch.zeros(1, 2, 5), torch.zeros(1, 2, 5), degree=2)
    with pytest.raises(ValueError, match='belong together'):
        polynomial_mix(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), state=torch.zeros(1, 4))


@pytest.mark.parametrize('block', [2, 4, 9])
def test_blocks_in_one_call_equal_a_stream_of_blocks(block):
    projected, gate, options = make('speech')
    whole, mean, count = polynomial_mix(projected, gate, causal=True, block=block, **options)
    state, parts = (None, None), []
    for start in range(0, 9, block):
        cut = projected[:, start : start + block], gate[:, start : start + block]
        out, *state = polynomial_mix(*cut, None, *state, **options)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(state[0], mean)
    torch.testing.assert_close(state[1], count)
