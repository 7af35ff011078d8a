import pytest
import torch
from torch.nn.functional import normalize, scaled_dot_product_attention

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.neighbour_block import neighbour_block
from attn_robotics.kernels.preference_sparse import (
    attend_items,
    preference_block_attention,
    select_blocks,
    select_items,
)
from attn_robotics.kernels.svd import factorise, svd_attention


@pytest.mark.parametrize(('members', 'width', 'heads'), [(16, 32, 2), (7, 64, 4), (1, 32, 1)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_neighbour_block_is_as_accurate_as_torch(members, width, heads, dtype, device, three_ways, poisoned_empty):
    if dtype == torch.float32 and device == 'cuda':
        pytest.skip('float32 blocks are left to the definition on a GPU')
    torch.manual_seed(0)
    x = torch.randn(5, members, width, dtype=dtype, device=device)
    weights = [
        torch.randn(*shape, dtype=dtype, device=device) * width**-0.5
        for shape in ((width,), (width,), (3 * width, width), (width, width), (width,))
    ]
    positions = torch.randn(5, members, 2, device=device)
    alpha, beta = (torch.rand(heads, device=device) for _ in range(2))
    lengths = torch.randint(0, members + 1, (5,), dtype=torch.int32, device=device)
    lengths[0] = 0
    gradients = dtype == torch.float32
    three_ways(neighbour_block, x, *weights, heads=heads, gradients=gradients)
    out = three_ways(neighbour_block, x, *weights, positions, alpha, beta, lengths, heads=heads, gradients=gradients)
    assert (out[0] == 0).all()


@pytest.mark.parametrize(('query_block', 'key_block'), [(16, 16), (32, 16)], ids=str)
@pytest.mark.parametrize('tokens', [5, 150])
def test_block_sparse_kernel_is_as_accurate_as_torch(
    query_block, key_block, tokens, device, three_ways, poisoned_empty
):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, tokens, 16, device=device)
    guide = normalize(torch.randn(2, tokens, 8, device=device), dim=-1)
    sizes = {'count': 3, 'query_block': query_block, 'key_block': key_block}

    def operator(q, k, v, **options):  # one choice of blocks for all precisions
        return preference_block_attention(q, k, v, guide, guide, **options)

    three_ways(operator, q, k, v, **sizes)


def test_choosing_every_block_is_dense_causal_attention():
    q, k, v = torch.randn(3, 1, 2, 70, 8, dtype=torch.float64)
    guide = torch.randn(1, 70, 4, dtype=torch.float64)
    out = preference_block_attention(q, k, v, guide, guide, count=5, query_block=16, key_block=16)
    torch.testing.assert_close(out, scaled_dot_product_attention(q, k, v, is_causal=True))


def test_listed_blocks_lie_in_the_past_and_are_the_preferred_ones():
    guide_k = torch.zeros(1, 80, 2)
    guide_k[:, 16:32, 0] = 1.0  # block 1 is what everyone likes
    guide_q = torch.tensor([1.0, 0.0]).expand(1, 80, 2)
    found = select_blocks(guide_q, guide_k, 2, 16, 16)[0].tolist()
    assert found[0] == [-1, -1] and found[1] == [-1, -1]
    assert found[3][0] == 1 and found[4][0] == 1
    for tile, blocks in enumerate(found):
        assert all(block == -1 or block < tile - 1 for block in blocks)


def test_item_selection_keeps_its_contract():
    torch.manual_seed(0)
    preference = torch.randn(2, 12, 12)
    preference[0, 9, 3] = float('nan')
    preference[0, 9, 4] = 50.0
    keep = torch.ones(2, 12, dtype=torch.bool)
    keep[1, 7:] = False
    index = select_items(preference, keep, 3, 2)
    assert index.shape == (2, 12, 6)
    for b in range(2):
        for i in range(12):
            chosen = [j for j in index[b, i].tolist() if j >= 0]
            assert chosen == sorted(set(chosen)) and all(j <= i for j in chosen)
            if keep[b, i]:
                assert i in chosen and all(bool(keep[b, j]) for j in chosen)
                assert {j for j in range(max(0, i - 2), i + 1)} <= set(chosen)
            else:
                assert chosen == []
    assert 4 in index[0, 9].tolist() and 3 not in index[0, 9].tolist()


def test_ties_go_to_the_most_recent_item():
    assert select_items(torch.zeros(1, 8, 8), None, 2, 0)[0, 7].tolist() == [6, 7, -1]


def test_items_that_nobody_selects_may_change_places():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 16, 4, dtype=torch.float64)
    preference = torch.randn(1, 16, 16)
    preference[:, 12:, :6] = -100.0  # what lies far back is nobody's choice any more
    index = select_items(preference, None, 3, 1)
    assert (index[0, 12:][index[0, 12:] >= 0] >= 6).all()
    order = torch.cat([torch.randperm(6), torch.arange(6, 16)])
    one = attend_items(q, k, v, index, None, activation='softmax', scale=0.5)
    other = attend_items(q, k[:, :, order], v[:, :, order], index, None, activation='softmax', scale=0.5)
    assert torch.equal(one[:, :, 12:], other[:, :, 12:])


@pytest.mark.parametrize('activation', ['softmax', 'silu'])
def test_selecting_everything_is_dense(activation):
    q, k, v = torch.randn(3, 1, 2, 9, 4, dtype=torch.float64)
    index = select_items(torch.randn(1, 9, 9), None, 9, 0)
    out = attend_items(q, k, v, index, None, activation=activation, scale=0.5)
    lower = torch.ones(9, 9, dtype=torch.bool).tril()
    scores = q @ k.transpose(-1, -2) * 0.5
    if activation == 'softmax':
        truth = scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        truth = (torch.nn.functional.silu(scores) / 9).masked_fill(~lower, 0.0) @ v
    torch.testing.assert_close(out, truth)


@pytest.mark.parametrize(('width', 'masked'), [(16, False), (16, True), (32, False), (64, True)], ids=str)
def test_jacobi_kernel_finds_the_components(width, masked, device, poisoned_empty):
    torch.manual_seed(0)
    history = torch.randn(3, 90, width, device=device) * torch.logspace(0, -2, width, device=device)
    history[2] = 0
    keep = torch.rand(3, 90, device=device) > 0.3 if masked else None
    q = torch.randn(3, 5, width, dtype=torch.float64, device=device)
    truth = factorise(history.double(), 6, keep)
    with dispatch.forcing('fused'):
        found = factorise(history, 6, keep)
    torch.testing.assert_close(found.spectrum.double(), truth.spectrum, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.energy.double(), truth.energy, rtol=1e-5, atol=1e-5)
    one, other = (svd_attention(q, part.tokens) for part in (found, truth))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_jacobi_kernel_finds_equal_values_few_items_and_histories_of_one_direction(device, poisoned_empty):
    torch.manual_seed(0)
    equal = torch.linalg.qr(torch.randn(64, 16, device=device))[0]  # every direction is as long as the others
    line = torch.randn(64, 1, device=device) @ torch.randn(1, 16, device=device)
    few = torch.zeros(64, 16, device=device)
    few[:3] = torch.randn(3, 16, device=device)
    history = torch.stack([equal, line, few])
    with dispatch.forcing('fused'):
        found = factorise(history, 16)
    truth = factorise(history.double(), 16)
    torch.testing.assert_close(found.spectrum.double(), truth.spectrum, rtol=1e-4, atol=1e-4)
    assert (found.spectrum[1, 1:] < 1e-3 * found.spectrum[1, 0]).all() and (found.spectrum[2, 3:] < 1e-3).all()
    products = (found.tokens.mT @ found.tokens).double()
    torch.testing.assert_close(products, truth.tokens.mT @ truth.tokens, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('candidates', 'rank', 'value'), [(5, 3, 16), (70, 20, 32)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_attention_to_mirrored_tokens_is_as_accurate_as_torch(
    candidates, rank, value, dtype, device, three_ways, poisoned_empty
):
    torch.manual_seed(0)
    q = torch.randn(3, candidates, 16, dtype=dtype, device=device)
    keys = torch.randn(3, rank, 16, device=device)
    keys[1] = 0  # an empty history
    keys[0, -1] = 0
    out = three_ways(svd_attention, q, keys, torch.randn(3, rank, value, device=device))
    assert (out[1] == 0).all()


def test_the_linear_form_is_lossless_at_full_rank_and_signs_do_not_matter():
    torch.manual_seed(0)
    history = torch.randn(2, 50, 3, dtype=torch.float64) @ torch.randn(2, 3, 8, dtype=torch.float64)
    q = torch.randn(2, 4, 8, dtype=torch.float64)
    z = factorise(history, 3).tokens
    torch.testing.assert_close((q @ z.mT) @ z * 50, (q @ history.mT) @ history)
    flipped = z * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(svd_attention(q, flipped), svd_attention(q, z))
    doubled = torch.cat([z, -z], 1)  # the definition behind the closed form
    truth = scaled_dot_product_attention(q, doubled, doubled)
    torch.testing.assert_close(svd_attention(q, z), truth)


def test_order_empty_histories_and_high_ranks_are_handled():
    torch.manual_seed(0)
    history = torch.randn(1, 20, 4, dtype=torch.float64)
    q = torch.randn(1, 3, 4, dtype=torch.float64)
    out = svd_attention(q, factorise(history, 4).tokens)
    torch.testing.assert_close(svd_attention(q, factorise(history[:, torch.randperm(20)], 4).tokens), out)
    torch.testing.assert_close(svd_attention(q, factorise(history, 9).tokens), out)
    assert svd_attention(q, factorise(history[:, :2], 4).tokens).isfinite().all()
    nothing = factorise(history, 4, torch.zeros(1, 20, dtype=torch.bool))
    assert (svd_attention(q, nothing.tokens) == 0).all() and nothing.energy.item() == 1.0
