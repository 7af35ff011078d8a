import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.log_linear import empty_state, levels_for, log_linear_attention, log_linear_step, naive
from attn_robotics.kernels.log_linear.fused import log_linear_forward


def make(tokens, sets=2, heads=2, key=16, value=16, dtype=torch.float64, device='cpu'):
    torch.manual_seed(0)
    q, k = (torch.randn(sets, heads, tokens, key, dtype=dtype, device=device) for _ in range(2))
    v = torch.randn(sets, heads, tokens, value, dtype=dtype, device=device)
    g = -torch.rand(sets, heads, tokens, dtype=dtype, device=device) * 0.1
    lam = torch.rand(sets, heads, tokens, levels_for(tokens), dtype=dtype, device=device)
    beta = torch.rand(sets, heads, tokens, dtype=dtype, device=device)
    return q, normalize(k, dim=-1), v, g, lam, beta


def test_levels_of_position_six():
    assert naive.level_table(7)[6].tolist() == [3, 3, 3, 3, 2, 2, 0]


@given(t=st.integers(0, 70), s=st.integers(0, 70))
def test_level_is_the_bit_length_of_the_difference(t, s):
    table = naive.level_table(71)
    assert table[t, s] == (t ^ s).bit_length()


@pytest.mark.parametrize('delta', [False, True])
@pytest.mark.parametrize('tokens', [1, 2, 5, 16, 37])
def test_all_forms_agree(tokens, delta):
    q, k, v, g, lam, beta = make(tokens)
    beta = beta if delta else None
    truth = log_linear_attention(q, k, v, g, lam, beta, form='dense')
    for chunk in (4, 16):
        torch.testing.assert_close(naive.chunked(q, k, v, g, lam, beta, chunk=chunk), truth, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        log_linear_attention(q, k, v, g, lam, beta, form='recurrent'), truth, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(('dtype', 'share'), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)], ids=str)
@pytest.mark.parametrize('delta', [False, True])
def test_all_forms_agree_in_low_precision(dtype, share, delta):
    values = make(200)
    values = (*values[:3], *values[3 : 6 if delta else 5])
    truth = naive.dense(*values)
    q, k, v, g, lam, *beta = (x.to(dtype) for x in values)
    low = (q, k, v, g.float(), lam, *beta)  # log decays stay in float32, as sums of them grow
    for found in (naive.chunked(*low), naive.dense(*low), naive.recurrent(*low)):
        assert (found.double() - truth).norm() <= 2 * share * truth.norm()


def test_a_long_stream_stays_with_the_chunked_form_and_its_state_does_not_grow():
    values = make(3000, 1, 1, 8, 8, torch.float32)[:5]
    state = empty_state(1, 1, values[4].shape[-1], 8, 8)
    size = sum(x.numel() for x in vars(state).values())
    truth = naive.chunked(*values)
    worst = 0.0
    for t in range(3000):
        out = naive.step(*(x[:, :, t] for x in values), state)
        worst = max(worst, float((out - truth[:, :, t]).abs().max()))
    assert worst < 1e-3 * float(truth.abs().max())
    assert sum(x.numel() for x in vars(state).values()) == size <= 8 * 8 * values[4].shape[-1] * 2


def test_equal_level_weights_are_gated_linear_attention():
    q, k, v, g, lam, _ = make(30)
    total = g.cumsum(-1)
    decay = (total[..., :, None] - total[..., None, :]).exp().tril()
    truth = ((q @ k.transpose(-1, -2)) * decay) @ v
    torch.testing.assert_close(log_linear_attention(q, k, v, g, torch.ones_like(lam)), truth)


@pytest.mark.parametrize('delta', [False, True])
def test_gradients_of_the_chunked_form_match_the_dense_form(delta):
    values = [x.requires_grad_() for x in make(11, 1, 1, 3, 2)]
    arguments = values if delta else values[:5]
    seed = torch.randn(1, 1, 11, 2, dtype=torch.float64)
    one = torch.autograd.grad(naive.chunked(*arguments, chunk=4), arguments, seed)
    other = torch.autograd.grad(naive.dense(*arguments), arguments, seed)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('tokens', [1, 40, 150])
def test_parallel_kernel_is_as_accurate_as_torch(tokens, device, three_ways, poisoned_empty):
    three_ways(log_linear_attention, *make(tokens, 1, 2, 16, 32, torch.float32, device)[:5])


@pytest.mark.parametrize('tokens', [16, 100, 330])
def test_the_tree_of_states_reaches_every_chunk(tokens, device, poisoned_empty):
    values = make(tokens, 1, 1, 16, 16, torch.float32, device)[:5]
    truth = naive.dense(*(x.double() for x in values))
    torch.testing.assert_close(log_linear_forward(*values, chunk=16).double(), truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('path', ['naive', 'fused'])
def test_streams_at_different_steps_equal_their_sequences(path, device):
    q, k, v, g, lam, _ = make(21, 2, 1, 16, 16, torch.float32, device)
    truth = naive.dense(*(x.double() for x in (q, k, v, g, lam)))
    state = empty_state(2, 1, lam.shape[-1], 16, 16, device)
    late = 4  # the second stream starts four tokens after the first
    with dispatch.forcing(path):
        for t in range(21):
            pair = [torch.stack([x[0, :, t], x[1, :, max(t - late, 0)]]) for x in (q, k, v, g, lam)]
            if t == late:
                fresh = empty_state(1, 1, lam.shape[-1], 16, 16, device)
                for mine, new in zip(vars(state).values(), vars(fresh).values(), strict=True):
                    mine[1:] = new
            out = log_linear_step(*pair, state)
            torch.testing.assert_close(out[0].double(), truth[0, :, t], rtol=1e-4, atol=1e-4)
            if t >= late:
                torch.testing.assert_close(out[1].double(), truth[1, :, t - late], rtol=1e-4, atol=1e-4)


def test_a_snapshot_is_not_touched_by_later_steps():
    q, k, v, g, lam, _ = make(6, 1, 1, 16, 16, torch.float32)
    state = empty_state(1, 1, lam.shape[-1], 16, 16)
    token = [x[:, :, 0] for x in (q, k, v, g, lam)]
    log_linear_step(*token, state)
    kept = state.clone()
    first = log_linear_step(*token, state)
    torch.testing.assert_close(log_linear_step(*token, kept), first)


@pytest.mark.parametrize('path', ['naive', 'fused'])
def test_tokens_beyond_the_last_level_pile_up_there(path, device):
    q, k, v, g, _, _ = make(12, 1, 1, 16, 16, torch.float32, device)
    lam = torch.ones(1, 1, 12, 3, device=device)  # levels for four tokens only
    state = empty_state(1, 1, 3, 16, 16, device)
    total = g.cumsum(-1)
    decay = (total[..., :, None] - total[..., None, :]).exp().tril()
    truth = ((q @ k.transpose(-1, -2)) * decay) @ v  # with equal weights nothing is lost
    with dispatch.forcing(path):
        for t in range(12):
            out = log_linear_step(*(x[:, :, t] for x in (q, k, v, g, lam)), state)
            torch.testing.assert_close(out, truth[:, :, t], rtol=1e-4, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(changed=st.integers(1, 19))
def test_the_past_does_not_see_the_future(changed):
    values = make(20, 1, 1, 4, 4)
    before = log_linear_attention(*values)
    values[2][:, :, changed] += 1.0
    after = log_linear_attention(*values)
    torch.testing.assert_close(after[:, :, :changed], before[:, :, :changed], rtol=0, atol=0)


def test_wrong_arguments_are_named():
    q, k, v, g, lam, _ = make(9)
    with pytest.raises(ValueError, match='L >= 5'):
        log_linear_attention(q, k, v, g, lam[..., :2])
    with pytest.raises(ValueError, match='form must be one of'):
        log_linear_attention(q, k, v, g, lam, form='magic')
    with pytest.raises(ValueError, match='does not fit'):
        log_linear_step(q[:, :, 0], k[:, :, 0], v[:, :, 0], g[:, :, 0], lam[:, :, 0], empty_state(1, 1, 2, 16, 16))
    assert log_linear_attention(q[:, :, :0], k[:, :, :0], v[:, :, :0], g[:, :, :0], lam[:, :, :0]).shape[2] == 0
