"""Relation attention: the definition, its table form and the relations any faithful build must show."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attn_robotics.attention.relation import DistanceRelation, OffsetRelation, RelationAttention
from attn_robotics.kernels.relation import relation_attention


def make_inputs(queries: int, keys: int, rows: int = 9, seed: int = 0, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    relation = torch.randint(-1, rows, (2, queries, keys), generator=generator)
    return normal(2, 3, queries, 8), normal(2, 3, keys, 8), normal(2, 3, keys, 8), normal(rows, 3, 8), normal(
        rows, 3, 8
    ), relation  # fmt: skip


def spelled_out(q, k, v, query_table, key_table, relation):
    """The score equation, pair by pair."""
    out = torch.zeros(q.shape[:3] + v.shape[3:], dtype=q.dtype)
    for b, h, i in torch.cartesian_prod(*(torch.arange(n) for n in q.shape[:3])).tolist():
        heard = [j for j in range(k.shape[2]) if relation[b, i, j] >= 0]
        if not heard:
            continue
        scores = torch.stack(
            [
                (q[b, h, i] + query_table[relation[b, i, j], h]) @ (k[b, h, j] + key_table[relation[b, i, j], h])
                for j in heard
            ]
        )
        weights = (scores / q.shape[3] ** 0.5).softmax(0)
        out[b, h, i] = weights @ v[b, h, heard]
    return out


@pytest.mark.parametrize('path', ['pairwise', 'table'])
@pytest.mark.parametrize(('queries', 'keys'), [(1, 1), (1, 6), (5, 5), (7, 3)])
def test_both_paths_follow_the_score_equation(path: str, queries: int, keys: int) -> None:
    inputs = make_inputs(queries, keys)
    out, weights = relation_attention(*inputs, path=path, need_weights=True)
    torch.testing.assert_close(out, spelled_out(*inputs), atol=1e-12, rtol=0)
    assert weights is not None
    heard = (inputs[-1] >= 0).any(-1)[:, None].expand(-1, 3, -1)
    torch.testing.assert_close(weights.sum(-1), heard.double(), atol=1e-12, rtol=0)


def test_gradients_of_the_table_form_are_those_of_the_definition() -> None:
    *tensors, relation = make_inputs(6, 6, seed=3)
    grads = []
    for path in ('pairwise', 'table'):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        out, _ = relation_attention(*leaves, relation, path=path)
        out.square().sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    for left, right in zip(*grads, strict=True):
        torch.testing.assert_close(left, right, atol=1e-10, rtol=1e-10)


def test_table_form_passes_a_numerical_gradient_check() -> None:
    *tensors, relation = make_inputs(3, 4, rows=4, seed=1)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(lambda *xs: relation_attention(*xs, relation, path='table')[0], leaves)


def test_table_form_equals_the_definition_in_float32() -> None:
    inputs = make_inputs(40, 40, rows=201, seed=2, dtype=torch.float32)
    left, _ = relation_attention(*inputs, path='table')
    right, _ = relation_attention(*inputs, path='pairwise')
    torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


def test_a_query_that_hears_nobody_gets_zeros_and_finite_gradients() -> None:
    q, k, v, a, b, relation = make_inputs(4, 4)
    relation[:, 2] = -1
    q.requires_grad_()
    out, _ = relation_attention(q, k, v, a, b, relation)
    assert (out[:, :, 2] == 0).all()
    out.sum().backward()
    assert torch.isfinite(q.grad).all()
    assert (q.grad[:, :, 2] == 0).all()


@pytest.mark.parametrize(
    ('change', 'word'),
    [
        (lambda x: (x[0][..., :4], *x[1:]), 'q, k, v'),
        (lambda x: (*x[:3], x[3][:, :2], *x[4:]), 'tables'),
        (lambda x: (*x[:5], x[5][:, :-1]), 'relation must be'),
        (lambda x: (*x[:5], x[5].double()), 'signed integer'),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(change, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        relation_attention(*change(make_inputs(4, 4)))


def test_an_unknown_path_is_refused() -> None:
    with pytest.raises(ValueError, match='path must be'):
        relation_attention(*make_inputs(2, 2), path='fast')


@pytest.fixture
def layer() -> RelationAttention:
    torch.manual_seed(0)
    return RelationAttention(32, 4, DistanceRelation(20), embedding=8).double()


def numbered(cells: Tensor, radius: int, relation) -> Tensor:
    offset = cells[:, None] - cells[:, :, None]
    return torch.where(offset.abs().sum(-1) <= radius, relation(offset), -1)


def test_score_depends_on_each_pair_distance_not_on_an_average(layer: RelationAttention) -> None:
    """Two fleets with equal mean distances, but different pair distances, must attend differently."""
    x = torch.randn(1, 3, 32, dtype=torch.float64)
    relation = torch.tensor([[[0, 1, 3], [1, 0, 2], [3, 2, 0]]])
    other = torch.tensor([[[0, 3, 1], [1, 0, 2], [3, 2, 0]]])
    _, first = layer(x, x, relation, need_weights=True)
    _, second = layer(x, x, other, need_weights=True)
    assert (first[0, :, 0] - second[0, :, 0]).abs().max() > 1e-6


def test_a_zeroed_table_gives_plain_attention(layer: RelationAttention) -> None:
    with torch.no_grad():
        layer.embedding.zero_()
    x = torch.randn(2, 9, 32, dtype=torch.float64)
    out, _ = layer(x, x, torch.randint(0, 20, (2, 9, 9)))
    q, k, v = (m(x).unflatten(-1, (4, 8)).transpose(1, 2) for m in (layer.query, layer.key, layer.value))
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(out, layer.out(plain), atol=1e-6, rtol=0)


def test_content_only_ignores_distances_but_keeps_the_neighbour_set(layer: RelationAttention) -> None:
    layer.content_only = True
    x = torch.randn(1, 5, 32, dtype=torch.float64)
    near, far = torch.zeros(1, 5, 5, dtype=torch.int64), torch.full((1, 5, 5), 7)
    torch.testing.assert_close(layer(x, x, near)[0], layer(x, x, far)[0])
    far[0, 0, 3] = -1
    assert not torch.allclose(layer(x, x, near)[0][0, 0], layer(x, x, far)[0][0, 0])


def test_permuting_robots_permutes_outputs(layer: RelationAttention) -> None:
    x = torch.randn(1, 12, 32, dtype=torch.float64)
    cells = torch.randint(0, 15, (1, 12, 2))
    order = torch.randperm(12)
    out, _ = layer(x, x, numbered(cells, 10, DistanceRelation(20)))
    moved, _ = layer(x[:, order], x[:, order], numbered(cells[:, order], 10, DistanceRelation(20)))
    torch.testing.assert_close(moved, out[:, order])


def test_a_robot_beyond_the_radius_changes_nothing(layer: RelationAttention) -> None:
    x = torch.randn(1, 3, 32, dtype=torch.float64)
    cells = torch.tensor([[[0, 0], [0, 2], [9, 9]]])
    out, _ = layer(x, x, numbered(cells, 10, DistanceRelation(20)))
    cells[0, 2] = torch.tensor([20, 20])
    x[0, 2] += 5.0
    again, _ = layer(x, x, numbered(cells, 10, DistanceRelation(20)))
    assert torch.equal(out[0, :2], again[0, :2])


@pytest.mark.parametrize('relation', [DistanceRelation(20), OffsetRelation(2, 20)])
def test_reverse_names_the_relation_seen_from_the_other_side(relation) -> None:
    offset = torch.randint(-12, 13, (500, 2))
    assert torch.equal(relation.reverse()[relation(offset)], relation(-offset))
    assert int(relation(offset).max()) < relation.rows


def test_the_key_side_sees_the_relation_back() -> None:
    """score_ij uses d_ij on the query side and d_ji on the key side."""
    torch.manual_seed(1)
    relation = OffsetRelation(1, 5)
    layer = RelationAttention(8, 2, relation, embedding=4).double()
    ahead = torch.tensor([-1, 0])
    _, key_table = layer.tables()
    expected = layer.key(layer.key_relation(layer.embedding[relation(-ahead)]))
    torch.testing.assert_close(key_table[relation(ahead)].flatten(), expected)
