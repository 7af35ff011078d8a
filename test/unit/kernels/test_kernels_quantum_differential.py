import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from attn_robotics.kernels.differential import differential_attention
from attn_robotics.kernels.quantum import (
    absorbed_observables,
    draw_strings,
    gaussian_attention,
    pauli_values,
    permutation_form,
)

PAULI = {
    0: [[1, 0], [0, 1]],
    1: [[0, 1], [1, 0]],
    2: [[0, -1j], [1j, 0]],
    3: [[1, 0], [0, -1]],
}


def dense(string):
    matrix = torch.ones(1, 1, dtype=torch.complex128)
    for letter in string:
        matrix = torch.kron(matrix, torch.tensor(PAULI[letter], dtype=torch.complex128))
    return matrix


@pytest.mark.parametrize('qubits', [1, 2, 3])
def test_permutation_form_equals_dense_matrices(qubits):
    torch.manual_seed(0)
    y = torch.randn(5, 2**qubits, dtype=torch.float64)
    strings = [s for s in itertools.product(range(4), repeat=qubits) if s.count(2) % 2 == 0]
    values = pauli_values(y, *permutation_form(torch.tensor(strings)))
    truth = torch.stack([(y * (y @ dense(s).real.T)).sum(-1) for s in strings], -1)
    torch.testing.assert_close(values, truth)
    assert (values.abs() <= y.square().sum(-1, keepdim=True) + 1e-12).all()


@pytest.mark.parametrize('qubits', [4, 5, 6])
def test_drawn_observables_equal_dense_ones_which_are_unitary(qubits):
    strings = draw_strings(12, qubits, torch.Generator().manual_seed(qubits))
    y = torch.randn(3, 2**qubits, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrices = [dense(string) for string in strings.tolist()]
    for matrix in matrices:
        torch.testing.assert_close(matrix @ matrix.mH, torch.eye(2**qubits, dtype=torch.complex128))
        assert matrix.imag.abs().max() == 0  # an even number of Y
    truth = torch.stack([(y * (y @ matrix.real.T)).sum(-1) for matrix in matrices], -1)
    torch.testing.assert_close(pauli_values(y, *permutation_form(strings)), truth)


def test_drawn_strings_are_distinct_live_and_repeatable():
    strings = draw_strings(128, 7, torch.Generator().manual_seed(0))
    assert len({tuple(s) for s in strings.tolist()}) == 128
    assert ((strings == 2).sum(1) % 2 == 0).all() and (strings != 0).any(1).all()
    assert torch.equal(strings, draw_strings(128, 7, torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match='usable strings'):
        draw_strings(10, 2, torch.Generator())


def test_absorbed_observables_give_the_same_values():
    torch.manual_seed(0)
    weight = torch.randn(16, 10, dtype=torch.float64)
    x = torch.randn(4, 10, dtype=torch.float64)
    form = permutation_form(draw_strings(6, 4, torch.Generator().manual_seed(0)))
    absorbed = torch.einsum('nd,mde,ne->nm', x, absorbed_observables(weight, *form), x)
    torch.testing.assert_close(absorbed, pauli_values(x @ weight.T, *form))


def leaks(mix):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 8, 4, dtype=torch.float64)
    before = mix(q, k, v)
    changed = v.clone()
    changed[:, :, -1] += 1.0
    return bool((mix(q, k, changed) - before)[:, :, :-1].abs().max() > 0)


def test_the_leak_probe_passes_our_form_and_catches_the_released_one():
    def released(q, k, v):
        square = (q[..., :, None, :] - k[..., None, :, :]).square().sum(-1)
        lower = torch.ones(8, 8, dtype=torch.bool).tril()
        weights = (-square).exp().masked_fill(~lower, -torch.inf).softmax(-1)
        return weights.transpose(-1, -2) @ v

    assert not leaks(lambda q, k, v: gaussian_attention(q, k, v, None))
    assert leaks(released)


def test_gaussian_attention_spells_out_and_masks():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 1, 5, 3, dtype=torch.float64)
    keep = torch.tensor([[False, True, True, True, True], [False] * 5])
    dirty = v.clone()
    dirty[~keep[:, None, :, None].expand_as(v)] = float('nan')
    out = gaussian_attention(q, k, dirty, keep)
    assert (out[1] == 0).all() and (out[0, :, 0] == 0).all()
    weights = torch.stack([(-(q[0, 0, 3] - k[0, 0, j]).square().sum()).exp() for j in (1, 2, 3)]).softmax(0)
    torch.testing.assert_close(out[0, 0, 3], weights @ v[0, 0, 1:4])


def pair(shape=(2, 2, 6, 4)):
    torch.manual_seed(0)
    q, k = (tuple(torch.randn(*shape, dtype=torch.float64) for _ in range(2)) for _ in range(2))
    return q, k, torch.randn(2, 2, 6, 8, dtype=torch.float64)


def test_difference_equals_two_library_calls():
    q, k, v = pair()
    truth = scaled_dot_product_attention(q[0], k[0], v) - 0.3 * scaled_dot_product_attention(q[1], k[1], v)
    torch.testing.assert_close(differential_attention(q, k, v, torch.tensor(0.3)), truth)


def test_without_the_second_map_it_is_plain_attention():
    q, k, v = pair()
    plain = scaled_dot_product_attention(q[0], k[0], v)
    torch.testing.assert_close(differential_attention(q, k, v, torch.tensor(0.0)), plain)


def test_rows_sum_to_one_minus_lambda_and_empty_rows_are_zero():
    q, k, v = pair()
    keep = torch.tensor([[True] * 4 + [False] * 2, [False] * 6])[:, None, None, :]
    dirty = v.clone()
    dirty[0, :, 4:] = float('nan')
    out = differential_attention(q, k, dirty, torch.tensor(0.3), keep)
    assert (out[1] == 0).all() and out.isfinite().all()
    ones = differential_attention(q, k, torch.ones_like(v), torch.tensor(0.3), keep)
    torch.testing.assert_close(ones[0], torch.full_like(ones[0], 0.7))


def test_pair_terms_enter_keys_and_values():
    q, k, v = pair()
    edges = torch.randn(2, 2, 2, 6, 6, 4, dtype=torch.float64)
    value_edges = torch.randn(2, 2, 6, 6, 8, dtype=torch.float64)
    out = differential_attention(q, k, v, torch.tensor(0.3), None, (edges[0], edges[1]), value_edges)
    for i in range(6):
        maps = [((k[s] + edges[s][:, :, i]) @ q[s][:, :, i, :, None] * 0.5).softmax(2) for s in range(2)]
        truth = ((maps[0] - 0.3 * maps[1]) * (v + value_edges[:, :, i])).sum(2)
        torch.testing.assert_close(out[:, :, i], truth)


def test_gradients_match_finite_differences():
    q, k, v = pair((1, 1, 3, 2))
    v = v[:1, :1, :3]
    keep = torch.tensor([[True, False, True], [False] * 3, [True] * 3])
    leaves = [x.requires_grad_() for x in (*q, *k, v)] + [torch.tensor(0.3, dtype=torch.float64, requires_grad=True)]

    def work(q1, q2, k1, k2, v, lam):
        return differential_attention((q1, q2), (k1, k2), v, lam, keep)

    assert torch.autograd.gradcheck(work, leaves)
