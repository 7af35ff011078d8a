"""The network in all its forms, and the decentralised contract."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.model import FORBIDDEN, CodeGate, SparcNetwork, TransformerGate

TINY = replace(SparcConfig.small(), width=32, layers=2, field_of_view=5, mask_radius=6)
FORMS = {
    'ships': TINY,
    'paper': replace(SparcConfig.paper(), width=32, heads=2),
    'published code': replace(
        SparcConfig.paper(), width=32, heads=2, message_source='current', recurrent=False, id_encoding='none'
    ),
    'scrimp': replace(TINY, encoder='scrimp', gating='gtrxl'),
    'no communication': replace(TINY, communication='none'),
    'content only': replace(TINY, content_only=True),
    'euclidean': replace(TINY, mask_metric='euclidean', relation='distance'),
}


def build(config: SparcConfig) -> SparcNetwork:
    torch.manual_seed(0)
    return SparcNetwork(config).eval()


def make_inputs(config: SparcConfig, robots: int = 10, side: int = 9, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    view = config.field_of_view
    image = (torch.rand(1, robots, 8, view, view, generator=generator) < 0.3).float()
    vector = torch.randn(1, robots, config.vector_features, generator=generator)
    cells = torch.randint(0, side, (1, robots, 2), generator=generator)
    message = torch.randn(1, robots, config.width, generator=generator)
    return image, vector, cells, message


@pytest.mark.parametrize('name', FORMS)
@torch.no_grad()
def test_every_form_gives_distributions_of_the_right_shape(name: str) -> None:
    config = FORMS[name]
    network = build(config)
    image, vector, cells, message = make_inputs(config)
    relation = network.neighbour_relation(cells, cells)
    output = network(image, vector, relation, message, need_attention=True)
    assert output.log_probs.shape == (1, 10, 5)
    torch.testing.assert_close(output.log_probs.exp().sum(-1), torch.ones(1, 10))
    assert output.values.shape == (1, 10, 2)
    assert output.blocking.shape == (1, 10)
    assert output.message.shape == message.shape
    layers = 0 if config.communication == 'none' else config.layers
    assert [weights.shape for weights in output.attention] == [(1, config.heads, 10, 10)] * layers
    for weights in output.attention:
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, config.heads, 10))
        assert (weights.masked_select((relation < 0)[:, None]) == 0).all()
    again = network(image, vector, relation, message)
    assert torch.equal(again.log_probs, output.log_probs)
    assert again.attention == []


@torch.no_grad()
def test_moves_into_obstacles_are_never_chosen() -> None:
    network = build(TINY)
    image, vector, cells, message = make_inputs(TINY)
    output = network(image, vector, network.neighbour_relation(cells, cells), message)
    assert torch.equal(output.log_probs[..., 0] < FORBIDDEN / 2, image[..., 4, 1, 2] > 0)
    assert torch.equal(output.log_probs[..., 3] < FORBIDDEN / 2, image[..., 4, 2, 3] > 0)
    assert (output.log_probs[..., 4] > FORBIDDEN / 2).all()


@pytest.mark.parametrize('name', ['ships', 'scrimp', 'content only', 'euclidean'])
@torch.no_grad()
def test_a_robot_alone_with_its_messages_decides_as_in_the_fleet(name: str) -> None:
    config = FORMS[name]
    network = build(config)
    image, vector, cells, message = make_inputs(config, side=14)
    relation = network.neighbour_relation(cells, cells)
    fleet = network(image, vector, relation, message)
    for robot in range(10):
        heard = torch.nonzero(relation[0, robot] >= 0).flatten()
        heard = heard[torch.randperm(len(heard), generator=torch.Generator().manual_seed(robot))]
        one = slice(robot, robot + 1)
        alone = network(
            image[:, one],
            vector[:, one],
            network.neighbour_relation(cells[:, one], cells[:, heard]),
            message[:, one],
            message[:, heard],
        )
        torch.testing.assert_close(alone.log_probs[0, 0], fleet.log_probs[0, robot], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.message[0, 0], fleet.message[0, robot], atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', ['ships', 'published code', 'scrimp'])
@torch.no_grad()
def test_permuting_robots_permutes_decisions(name: str) -> None:
    config = FORMS[name]
    network = build(config)
    image, vector, cells, message = make_inputs(config)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    first = network(image, vector, network.neighbour_relation(cells, cells), message)
    second = network(
        image[:, order], vector[:, order], network.neighbour_relation(cells[:, order], cells[:, order]),
        message[:, order],
    )  # fmt: skip
    torch.testing.assert_close(second.log_probs, first.log_probs[:, order], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_robot_beyond_the_radius_changes_nothing() -> None:
    network = build(TINY)
    image, vector, cells, message = make_inputs(TINY, robots=3)
    cells[0] = torch.tensor([[0, 0], [0, 3], [0, 10]])  # robot 2 is out of reach of robot 0 alone
    first = network(image, vector, network.neighbour_relation(cells, cells), message)
    message[0, 2] += 3.0
    cells[0, 2] = torch.tensor([30, 30])
    second = network(image, vector, network.neighbour_relation(cells, cells), message)
    assert torch.equal(first.log_probs[0, 0], second.log_probs[0, 0])
    assert torch.equal(first.message[0, 0], second.message[0, 0])


@pytest.mark.parametrize('name', FORMS)
@torch.no_grad()
def test_an_isolated_robot_gets_finite_outputs(name: str) -> None:
    network = build(FORMS[name])
    image, vector, cells, message = make_inputs(FORMS[name], robots=2)
    cells[0, 1] = cells[0, 0] + 500
    output = network(image, vector, network.neighbour_relation(cells, cells), message)
    assert torch.isfinite(output.log_probs).all()
    assert torch.isfinite(output.message).all()


def test_every_parameter_of_the_communication_learns_through_the_messages() -> None:
    """The message of one step must carry gradient to the loss of the next one."""
    network = build(TINY)
    image, vector, cells, _ = make_inputs(TINY)
    relation = network.neighbour_relation(cells, cells)
    sent = network(image, vector, relation, network.empty_message(1, 10)).message
    network(image, vector, relation, sent).log_probs[..., 4].sum().backward()
    for part in (network.next_message, network.layers, network.encoder, network.join):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_scrimp_gate_starts_close_to_the_old_row_and_the_code_gate_is_a_gru_cell() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(4, 16), torch.randn(4, 16)
    gate = TransformerGate(16)
    with torch.no_grad():
        for layer in (gate.input, gate.state, gate.candidate):
            layer.weight.zero_()
    torch.testing.assert_close(gate(x, y), x * (1 - torch.sigmoid(torch.tensor(-2.0))))
    code, cell = CodeGate(16), torch.nn.GRUCell(16, 16)
    with torch.no_grad():
        cell.weight_ih.copy_(code.input.weight)
        cell.bias_ih.copy_(code.input.bias)
        cell.weight_hh.copy_(code.state.weight)
        cell.bias_hh.copy_(code.state.bias)
    torch.testing.assert_close(code(x, y), cell(y, x))


@pytest.mark.parametrize(
    ('change', 'word'),
    [
        ({'field_of_view': 4}, 'odd'),
        ({'heads': 3}, 'multiple'),
        ({'relation': 'angle'}, 'relation must be one of'),
        ({'message_source': 'current'}, 'broadcast'),
        ({'layers': 0}, 'layers'),
    ],
)
def test_a_bad_setting_is_refused_by_name(change: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        SparcConfig(**change)


def test_settings_survive_a_round_trip_and_unknown_ones_are_refused() -> None:
    config = SparcConfig.paper()
    assert SparcConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match='colour'):
        SparcConfig.from_dict({'colour': 1})


def test_the_published_network_has_about_the_published_size() -> None:
    """Encoder 0.73 M, communication 3.95 M with 0.26 M of robot numbers that ours does not learn."""
    network = SparcNetwork(SparcConfig.paper())
    encoder = sum(p.numel() for part in (network.encoder, network.lstm) for p in part.parameters())
    communication = sum(p.numel() for p in network.layers.parameters())
    assert encoder == pytest.approx(0.73e6, rel=0.05)
    assert communication == pytest.approx(3.69e6, rel=0.05)
