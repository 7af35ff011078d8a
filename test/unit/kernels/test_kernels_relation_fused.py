import pytest
import torch

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.relation import fused, relation_attention
from attn_robotics.kernels.relation.backward import sets_backward
from attn_robotics.kernels.relation.collected import collected_backward
from attn_robotics.kernels.relation.flash import flash_forward
from attn_robotics.kernels.relation.fused import relation_forward
from attn_robotics.kernels.relation.sets import LARGEST, sets_forward
from attn_robotics.kernels.relation.walk import walk_forward


def make(sets, heads, queries, keys, width, rows, dtype, device):
    torch.manual_seed(7)
    q = torch.randn(sets, heads, queries, width, dtype=dtype, device=device)
    k, v = (torch.randn(sets, heads, keys, width, dtype=dtype, device=device) for _ in range(2))
    tables = [torch.randn(rows, heads, width, dtype=dtype, device=device) for _ in range(2)]
    relation = torch.randint(-3, rows, (sets, queries, keys), device=device)
    relation[0, 0] = -1  # a robot without neighbours
    return q, k, v, *tables, relation


def output(*arguments):
    return relation_attention(*arguments)[0]


@pytest.mark.parametrize(
    ('sets', 'queries', 'keys', 'rows'), [(5, 8, 8, 41), (3, 7, 7, 20), (3, 1, 30, 41), (1, 70, 100, 17)], ids=str
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_kernel_is_as_accurate_as_torch(sets, queries, keys, rows, dtype, device, three_ways, poisoned_empty):
    arguments = make(sets, 2, queries, keys, 24, rows, dtype, device)
    out = three_ways(output, *arguments)
    assert (out[0, :, 0] == 0).all()


@pytest.mark.parametrize('config', [(2, 16, 16, 1, 1), (0, 16, 16, 2, 1), (0, 32, 64, 4, 2)], ids=str)
def test_every_tiling_computes_the_same(config, device):
    arguments = make(3, 2, 8, 8, 16, 41, torch.float32, device)
    found = relation_forward(*arguments, scale=0.25, config=config)
    torch.testing.assert_close(found, output(*arguments))


@pytest.mark.parametrize(('queries', 'keys', 'rows'), [(8, 8, 41), (5, 12, 20), (20, 3, 41), (32, 32, 60)], ids=str)
@pytest.mark.parametrize('packed', [False, True], ids=['plain', 'packed'])
@pytest.mark.parametrize('turned', [False, True], ids=['straight', 'turned'])
def test_sets_that_share_a_tile_do_not_see_each_other(
    queries, keys, rows, packed, turned, device, as_accurate_as_torch
):
    arguments = make(5, 2, queries, keys, 24, rows, torch.bfloat16, device)
    truth = output(*(x.double() if x.is_floating_point() else x for x in arguments))
    for config in ((16, 4, 1, 1), (64, 4, 2, 1)):
        found = sets_forward(*arguments, scale=24**-0.5, config=config, packed=packed, turned=turned)
        as_accurate_as_torch(found, output(*arguments), truth)
        assert (found[0, :, 0] == 0).all()


GRADIENTS = {
    **{
        f'column by column, {tile}': lambda *a, c=((tile, 4, 1, 1),) * 2, **o: sets_backward(*a, **o, config=c)
        for tile in (16, 64)
    },
    **{
        f'collected, {config}, turned {turned}': (
            lambda *a, c=config, t=turned, **o: collected_backward(*a, **o, config=c, turned=t)
        )
        for config in (
            ((16, 4, 1, 0), (8, 4), (16, 4, 1, 1)),
            ((64, 4, 1, 1), (32, 4), (64, 4, 1, 2)),
            ((32, 4, 1, 0), None, (32, 4, 1, 1)),
        )
        for turned in (True, False)
    },
}


@pytest.mark.parametrize(
    ('queries', 'keys', 'rows'), [(8, 8, 41), (5, 12, 20), (1, 3, 4), (32, 17, 64), (32, 32, 41)], ids=str
)
@pytest.mark.parametrize('backward', GRADIENTS.values(), ids=GRADIENTS.keys())
def test_gradient_kernel_matches_the_definition(queries, keys, rows, backward, device, poisoned_empty):
    arguments = make(5, 2, queries, keys, 24, rows, torch.float32, device)
    leaves = [x.double().requires_grad_() for x in arguments[:5]]
    gradient = torch.randn(5, 2, queries, 24, device=device)
    truth = torch.autograd.grad(output(*leaves, arguments[5]), leaves, gradient.double())
    found = backward(*arguments, gradient, scale=24**-0.5)
    for mine, true in zip(found, truth, strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('members', 'rows'), [(8, 41), (32, 41), (32, 64)], ids=str)
@pytest.mark.parametrize('packed', [False, True], ids=['plain', 'packed'])
@pytest.mark.parametrize('turned', [False, True], ids=['straight', 'turned'])
def test_collected_gradients_are_as_accurate_as_torch(
    members, rows, packed, turned, device, poisoned_empty, as_accurate_as_torch
):
    # Whole tiles, as in the benchmark, and three heads, which share a product that has room for four.
    arguments = make(8, 3, members, members, 32, rows, torch.bfloat16, device)
    gradient = torch.randn(8, 3, members, 32, device=device).bfloat16()
    wide = [x.double().requires_grad_() for x in arguments[:5]]
    truth = torch.autograd.grad(output(*wide, arguments[5]), wide, gradient.double())
    low = [x.clone().requires_grad_() for x in arguments[:5]]
    torch_low = torch.autograd.grad(output(*low, arguments[5]), low, gradient)
    found = collected_backward(*arguments, gradient, scale=32**-0.5, packed=packed, turned=turned)
    for mine, its, true in zip(found, torch_low, truth, strict=True):
        as_accurate_as_torch(mine, its, true)


def test_collected_gradients_of_strided_inputs_and_of_sets_without_neighbours(device, poisoned_empty):
    arguments = list(make(5, 2, 8, 8, 16, 41, torch.float32, device))
    arguments[:3] = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in arguments[:3]]
    arguments[5] = arguments[5].transpose(1, 2).contiguous().transpose(1, 2)
    gradient = torch.randn(5, 2, 8, 16, device=device)
    once, again = (collected_backward(*arguments, gradient, scale=0.25) for _ in range(2))
    for mine, true, same in zip(once, sets_backward(*arguments, gradient, scale=0.25), again, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-5, atol=1e-5)
        assert torch.equal(mine, same)  # no atomics: the same bits every time
    arguments[5] = torch.full_like(arguments[5], -1)
    assert all((found == 0).all() for found in collected_backward(*arguments, gradient, scale=0.25))


def test_weights_are_only_given_by_the_definition(device):
    arguments = make(1, 1, 4, 4, 16, 5, torch.float32, device)
    relation_attention(*arguments, need_weights=True)
    assert 'weights' in dispatch.last('relation').reason or device == 'cpu'
    with dispatch.forcing('fused'), pytest.raises(ValueError, match='weights were asked for'):
        relation_attention(*arguments, need_weights=True)


def gradients(arguments, path):
    leaves = [x.detach().clone().requires_grad_() for x in arguments[:5]]
    with dispatch.forcing(path):
        out = output(*leaves, arguments[5])
    return torch.autograd.grad(out, leaves, torch.ones_like(out))


@pytest.mark.parametrize(
    ('members', 'rows', 'width', 'path'),
    [
        (16, 17, 16, 'fused'),
        (17, 17, 16, 'naive'),
        (8, 64, 16, 'fused'),
        (8, 65, 16, 'naive'),
        (4, 9, 64, 'fused'),
        (4, 9, 72, 'naive'),
    ],
    ids=str,
)
def test_gradients_are_the_definitions_on_both_sides_of_the_largest_set_table_and_head(
    members, rows, width, path, device
):
    arguments = make(2, 1, members, members, width, rows, torch.float32, device)
    found = gradients(arguments, 'fused')
    decision = dispatch.last('relation_backward')
    assert decision.path == path and ('too large' in decision.reason) == (path == 'naive')
    for mine, true in zip(found, gradients(arguments, 'naive'), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-4)


def test_without_gradients_no_backward_pass_is_chosen(device, monkeypatch):
    monkeypatch.setattr(dispatch, '_last', {})
    arguments = make(2, 1, 4, 4, 16, 9, torch.float32, device)
    with dispatch.forcing('fused'), torch.no_grad():
        output(*(x.requires_grad_() if x.is_floating_point() else x for x in arguments))
    assert dispatch.last('relation').path == 'fused' and dispatch.last('relation_backward') is None


@pytest.mark.parametrize('members', [LARGEST, LARGEST + 1])
def test_small_sets_take_the_kernel_for_sets_and_larger_ones_the_one_for_tiles(members, device, monkeypatch):
    taken = []
    monkeypatch.setattr(fused, 'sets_forward', lambda *a, **k: taken.append(members) or sets_forward(*a, **k))
    arguments = make(2, 1, members, members, 16, 9, torch.float32, device)
    with dispatch.forcing('fused'):
        found = output(*arguments)
    assert bool(taken) == (members <= LARGEST)
    torch.testing.assert_close(found, output(*arguments))


def test_gradients_do_not_depend_on_the_order_in_which_programs_end(device):
    # No atomics: the same bits every time.
    arguments = make(40, 2, 8, 8, 16, 41, torch.float32, device)
    gradient = torch.randn(40, 2, 8, 16, device=device)
    first, second = (sets_backward(*arguments, gradient, scale=0.25) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_sets_without_neighbours_get_zero_gradients_and_touch_no_table(device, poisoned_empty):
    arguments = make(3, 2, 8, 8, 16, 9, torch.float32, device)
    arguments[5].fill_(-1)
    for found in sets_backward(*arguments, torch.randn(3, 2, 8, 16, device=device), scale=0.25):
        assert (found == 0).all()


@pytest.mark.parametrize('ahead', [False, True], ids=['', 'ahead'])
@pytest.mark.parametrize('splits', [1, 2, 5])
@pytest.mark.parametrize(('queries', 'keys', 'width'), [(20, 70, 24), (32, 64, 16), (1, 200, 16)], ids=str)
def test_keys_may_be_split_among_programs(queries, keys, width, splits, ahead, device, poisoned_empty):
    arguments = make(2, 2, queries, keys, width, 41, torch.float32, device)
    arguments[5][1, :, : keys // 2] = -1  # a span in which nobody is heard
    found = flash_forward(*arguments, scale=width**-0.5, config=(16, 32, 4, 1, splits), ahead=ahead)
    torch.testing.assert_close(found, output(*arguments), rtol=1e-4, atol=1e-4)
    assert (found[0, :, 0] == 0).all()


@pytest.mark.parametrize(('queries', 'keys', 'rows'), [(20, 70, 41), (32, 64, 64), (1, 200, 20), (16, 16, 41)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('packed', [False, True], ids=['plain', 'packed'])
def test_one_launch_walks_through_the_keys(queries, keys, rows, dtype, packed, device, as_accurate_as_torch):
    if packed and dtype == torch.float32:
        pytest.skip('packed values are bfloat16')
    arguments = make(2, 2, queries, keys, 24, rows, dtype, device)
    arguments[5][1, :, : keys // 2] = -1
    truth = output(*(x.double() if x.is_floating_point() else x for x in arguments))
    for config in ((16, 32, 4, 1), (32, 128, 4, 1)):
        found = walk_forward(*arguments, scale=24**-0.5, config=config, packed=packed)
        as_accurate_as_torch(found, output(*arguments), truth)
        assert (found[0, :, 0] == 0).all()


def test_from_the_size_where_it_wins_keys_are_walked_through_after_the_products(device, monkeypatch):
    monkeypatch.setattr(fused, 'FLASH_FROM', 40)
    taken = []
    monkeypatch.setattr(fused, 'flash_forward', lambda *a, **k: taken.append(a[1].shape[2]) or flash_forward(*a, **k))
    for keys in (39, 40):
        arguments = make(1, 1, 20, keys, 16, 9, torch.float32, device)
        with dispatch.forcing('fused'):
            torch.testing.assert_close(output(*arguments), output_of_definition(arguments), rtol=1e-4, atol=1e-4)
    assert taken == [40]


def output_of_definition(arguments):
    with dispatch.forcing('naive'):
        return output(*arguments)
