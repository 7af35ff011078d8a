import pytest
import torch

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.relation import fused, relation_attention
from attn_robotics.kernels.relation.backward import sets_backward
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
def test_sets_that_share_a_tile_do_not_see_each_other(queries, keys, rows, packed, device, as_accurate_as_torch):
    arguments = make(5, 2, queries, keys, 24, rows, torch.bfloat16, device)
    truth = output(*(x.double() if x.is_floating_point() else x for x in arguments))
    for config in ((16, 4, 1, 1, None), (64, 4, 2, 1, None)):
        found = sets_forward(*arguments, scale=24**-0.5, config=config, packed=packed)
        as_accurate_as_torch(found, output(*arguments), truth)
        assert (found[0, :, 0] == 0).all()


@pytest.mark.parametrize(
    ('queries', 'keys', 'rows'), [(8, 8, 41), (5, 12, 20), (1, 3, 4), (32, 17, 64), (32, 32, 41)], ids=str
)
@pytest.mark.parametrize(
    'config',
    [((16, 4, 1, 0, None), (8, 4), (16, 4, 1, 1, None)), ((32, 4, 1, 1, None), (32, 4), (32, 4, 1, 2, None))],
    ids=str,
)
def test_gradient_kernel_matches_the_definition(queries, keys, rows, config, device, poisoned_empty):
    arguments = make(5, 2, queries, keys, 24, rows, torch.float32, device)
    leaves = [x.double().requires_grad_() for x in arguments[:5]]
    gradient = torch.randn(5, 2, queries, 24, device=device)
    truth = torch.autograd.grad(output(*leaves, arguments[5]), leaves, gradient.double())
    found = sets_backward(*arguments, gradient, scale=24**-0.5, config=config)
    for mine, true in zip(found, truth, strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('members', 'rows'), [(8, 41), (32, 41), (32, 64)], ids=str)
@pytest.mark.parametrize('packed', [False, True], ids=['plain', 'packed'])
def test_gradients_are_as_accurate_as_torch(members, rows, packed, device, poisoned_empty, as_accurate_as_torch):
    # Whole tiles, as in the benchmark, and three heads, which share a product that has room for four.
    sets = 8 if members == 8 else 3  # several tiles either way
    arguments = make(sets, 3, members, members, 32, rows, torch.bfloat16, device)
    gradient = torch.randn(sets, 3, members, 32, device=device).bfloat16()
    wide = [x.double().requires_grad_() for x in arguments[:5]]
    truth = torch.autograd.grad(output(*wide, arguments[5]), wide, gradient.double())
    low = [x.clone().requires_grad_() for x in arguments[:5]]
    torch_low = torch.autograd.grad(output(*low, arguments[5]), low, gradient)
    found = sets_backward(*arguments, gradient, scale=32**-0.5, packed=packed)
    for mine, its, true in zip(found, torch_low, truth, strict=True):
        as_accurate_as_torch(mine, its, true)


def test_gradients_of_strided_inputs(device, poisoned_empty):
    arguments = list(make(5, 2, 8, 8, 16, 41, torch.float32, device))
    gradient = torch.randn(5, 2, 8, 16, device=device)
    expected = sets_backward(*arguments, gradient, scale=0.25)
    arguments[:3] = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in arguments[:3]]
    arguments[5] = arguments[5].transpose(1, 2).contiguous().transpose(1, 2)
    for mine, true in zip(sets_backward(*arguments, gradient, scale=0.25), expected, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-5, atol=1e-5)


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
        (32, 17, 16, 'fused'),
        (33, 17, 16, 'naive'),
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
    sets = 40 if device == 'cuda' else 6  # the interpreter runs them in order
    arguments = make(sets, 2, 8, 8, 16, 41, torch.float32, device)
    gradient = torch.randn(sets, 2, 8, 16, device=device)
    first, second = (sets_backward(*arguments, gradient, scale=0.25) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_sets_without_neighbours_get_zero_gradients_and_touch_no_table(device, poisoned_empty):
    arguments = make(3, 2, 8, 8, 16, 9, torch.float32, device)
    arguments[5].fill_(-1)
    for found in sets_backward(*arguments, torch.randn(3, 2, 8, 16, device=device), scale=0.25):
        assert (found == 0).all()


@pytest.mark.parametrize(('queries', 'keys', 'width'), [(20, 70, 24), (32, 64, 16), (1, 200, 16)], ids=str)
def test_keys_are_walked_through_after_the_products(queries, keys, width, device, poisoned_empty):
    arguments = make(2, 2, queries, keys, width, 41, torch.float32, device)
    arguments[5][1, :, : keys // 2] = -1  # tiles in which nobody is heard
    found = flash_forward(*arguments, scale=width**-0.5, config=(16, 32, 4, 1))
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


def test_the_number_of_queries_and_keys_decides_which_kernel_walks_through_keys(device, monkeypatch):
    for name, value in {'FLASH_FROM': 40, 'WALK_UP_TO': 44, 'WALK_ROWS': 34}.items():
        monkeypatch.setattr(fused, name, value)
    taken = []
    for name in ('flash_forward', 'walk_forward'):
        original = getattr(fused, name)
        monkeypatch.setattr(fused, name, lambda *a, n=name, f=original, **k: taken.append(n) or f(*a, **k))
    for queries, keys in ((34, 44), (35, 44), (34, 45), (35, 39)):
        arguments = make(1, 1, queries, keys, 16, 9, torch.float32, device)
        with dispatch.forcing('fused'):
            torch.testing.assert_close(output(*arguments), output_of_definition(arguments), rtol=1e-4, atol=1e-4)
    assert taken == ['walk_forward', 'flash_forward', 'flash_forward']


def output_of_definition(arguments):
    with dispatch.forcing('naive'):
        return output(*arguments)
