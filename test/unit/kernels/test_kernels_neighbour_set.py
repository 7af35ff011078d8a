import pytest
import torch

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.distance import distance_bias, pairwise_distance
from attn_robotics.kernels.neighbour_set import neighbour_set_attention
from attn_robotics.kernels.neighbour_set.fused import neighbour_set_forward


def make(sets, heads, slots, width, dtype, device):
    torch.manual_seed(42)
    q, k, v = (torch.randn(sets, heads, slots, width, dtype=dtype, device=device) for _ in range(3))
    positions = torch.randn(sets, slots, 2, device=device)
    alpha, beta = torch.rand(heads, device=device) * 2, torch.rand(heads, device=device) + 0.1
    lengths = torch.randint(0, slots + 1, (sets,), dtype=torch.int32, device=device)
    lengths[0] = 0
    return q, k, v, positions, alpha, beta, lengths


@pytest.mark.parametrize(
    ('slots', 'width', 'heads'), [(1, 16, 2), (7, 24, 3), (8, 16, 4), (16, 16, 2), (33, 32, 1)], ids=str
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_kernel_is_as_accurate_as_torch_forward_and_backward(
    slots, width, heads, dtype, device, three_ways, poisoned_empty
):
    three_ways(neighbour_set_attention, *make(3, heads, slots, width, dtype, device))


def test_linear_law_and_missing_positions(device, three_ways, poisoned_empty):
    q, k, v, positions, alpha, beta, lengths = make(2, 2, 9, 16, torch.float32, device)
    three_ways(neighbour_set_attention, q, k, v, positions, alpha, beta, lengths, law='linear')
    three_ways(neighbour_set_attention, q, k, v, None, None, None, lengths)


def test_whatever_the_padding_holds_stays_unseen(device):
    q, k, v, positions, alpha, beta, lengths = make(3, 2, 8, 16, torch.float32, device)
    dirty = [x.clone() for x in (q, k, v, positions)]
    for b, length in enumerate(lengths.tolist()):
        for x in dirty[:3]:
            x[b, :, length:] = float('nan')
        dirty[3][b, length:] = float('nan')
    for path in ('naive', 'fused'):
        with dispatch.forcing(path):
            clean = neighbour_set_attention(q, k, v, positions, alpha, beta, lengths)
            same = neighbour_set_attention(*dirty, alpha, beta, lengths)
        torch.testing.assert_close(same, clean, rtol=0, atol=0)
        assert (same[0] == 0).all()


def test_non_contiguous_inputs_are_read_in_place(device):
    q, k, v, positions, alpha, beta, lengths = make(2, 2, 8, 16, torch.float32, device)
    swapped = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    with dispatch.forcing('fused'):
        one = neighbour_set_attention(q, k, v, positions, alpha, beta, lengths)
        other = neighbour_set_attention(*swapped, positions, alpha, beta, lengths)
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize('config', [(1, 16, 1), (2, 32, 2), (4, 16, 1)], ids=str)
def test_every_tiling_computes_the_same(config, device):
    q, k, v, positions, alpha, beta, lengths = make(2, 3, 20, 16, torch.float32, device)
    truth = neighbour_set_attention(q, k, v, positions, alpha, beta, lengths)
    arguments = (q, k, v, positions, alpha, beta, lengths)
    found = neighbour_set_forward(*arguments, law='power', scale=0.25, config=config)
    torch.testing.assert_close(found, truth)


@pytest.mark.parametrize(('slots', 'width'), [(16, 16), (8, 32), (32, 16)], ids=str)
@pytest.mark.parametrize('late', [0, 1])
def test_padding_may_stay_unread_and_may_hold_nan(slots, width, late, device, poisoned_empty):
    q, k, v, positions, alpha, beta, lengths = make(4, 4, slots, width, torch.float32, device)
    truth = neighbour_set_attention(q, k, v, positions, alpha, beta, lengths)
    for b, length in enumerate(lengths.tolist()):
        for x in (q, k, v):
            x[b, :, length:] = float('nan')
    rows = max(16, slots)
    arguments = (q, k, v, positions, alpha, beta, lengths)
    found = neighbour_set_forward(*arguments, law='power', scale=width**-0.5, config=(2, rows, 1, late))
    torch.testing.assert_close(found, truth)


def test_bias_is_the_logarithm_of_the_power_law():
    positions = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]], dtype=torch.float64)
    distance = pairwise_distance(positions, positions)
    assert distance[0, 0, 1] == 5.0
    assert pairwise_distance(positions, positions, 'manhattan')[0, 0, 1] == 7.0
    two, half = torch.tensor([2.0], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    torch.testing.assert_close(distance_bias(distance, two, half).exp()[0, 0, 0, 1].item(), 3.5**-2)


def test_wrong_arguments_are_named():
    q = torch.zeros(1, 2, 3, 16)
    with pytest.raises(ValueError, match='share one shape'):
        neighbour_set_attention(q, q[:, :1], q)
    with pytest.raises(ValueError, match='positions need alpha and beta'):
        neighbour_set_attention(q, q, q, torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match='law must be one of'):
        neighbour_set_attention(q, q, q, law='cubic')
    with pytest.raises(ValueError, match='lengths must be'):
        neighbour_set_attention(q, q, q, lengths=torch.zeros(2, dtype=torch.int32))
