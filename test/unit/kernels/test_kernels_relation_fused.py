import pytest
import torch

from attn_robotics.kernels import dispatch
from attn_robotics.kernels.relation import relation_attention
from attn_robotics.kernels.relation.fused import relation_forward


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


def test_weights_are_only_given_by_the_definition(device):
    arguments = make(1, 1, 4, 4, 16, 5, torch.float32, device)
    relation_attention(*arguments, need_weights=True)
    assert 'weights' in dispatch.last('relation').reason or device == 'cpu'
    with dispatch.forcing('fused'), pytest.raises(ValueError, match='weights were asked for'):
        relation_attention(*arguments, need_weights=True)
