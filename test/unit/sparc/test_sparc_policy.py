"""The policy as robots use it: state, back ends, weights."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.numpy import save

from attn_robotics.runtime.sessions import cpu_session, graph_session
from attn_robotics.simulation.instances import random_instance
from attn_robotics.systems.sparc.actions import MOVES
from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.conflicts import one_winner
from attn_robotics.systems.sparc.distance_fields import distance_fields, neighbours
from attn_robotics.systems.sparc.export import export_bytes
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.onnx_decider import INPUTS, OnnxDecider
from attn_robotics.systems.sparc.policy import Decider, Heard, SparcPolicy
from attn_robotics.systems.sparc.processor import observe
from attn_robotics.systems.sparc.shield import Shield
from attn_robotics.systems.sparc.team_value import TeamValue
from attn_robotics.systems.sparc.torch_decider import TorchDecider, network_of
from attn_robotics.systems.sparc.weights_card import WeightsError, verify_weights
from attn_robotics.systems.sparc.weights_file import read_network, read_weights, write_weights

TINY = replace(SparcConfig.small(), width=32, field_of_view=5, mask_radius=6)


@pytest.fixture
def network() -> SparcNetwork:
    torch.manual_seed(0)
    return SparcNetwork(TINY).eval()


def by(backend: str, network: SparcNetwork) -> Decider:
    return (
        OnnxDecider(network.config, cpu_session(export_bytes(network), 1))
        if backend == 'onnxruntime'
        else TorchDecider(network)
    )


def started(
    network: SparcNetwork | None, robots: int = 8, seed: int = 0, decider: Decider | None = None
) -> tuple[SparcPolicy, np.ndarray, Shield]:
    instance = random_instance(10, 0.15, robots, seed)
    policy = SparcPolicy(decider or TorchDecider(network))
    policy.reset(instance.grid, instance.goals, seed=3)
    return policy, instance.starts, Shield(instance.grid)


def drive(policy: SparcPolicy, cells: np.ndarray, shield: Shield, steps: int, tell_actions: bool = True):
    rng, last, seen = np.random.default_rng(1), None, []
    for _ in range(steps):
        seen.append(policy.step(cells, last if tell_actions else None))
        last = shield.resolve(cells, seen[-1], policy.priorities, rng=rng, swap=False)
        cells = cells + MOVES[last]
    return np.stack(seen), cells


def test_the_same_run_twice_is_the_same(network: SparcNetwork) -> None:
    first, _ = drive(*started(network), 6)
    second, _ = drive(*started(network), 6)
    assert np.array_equal(first, second)


def test_actions_read_off_the_cells_equal_told_ones(network: SparcNetwork) -> None:
    first, _ = drive(*started(network), 6)
    second, _ = drive(*started(network), 6, tell_actions=False)
    assert np.array_equal(first, second)


def test_onnx_runtime_agrees_with_torch_for_any_fleet_size(network: SparcNetwork) -> None:
    quick = by('onnxruntime', network)
    for robots in (1, 3, 20):
        first, _ = drive(*started(network, robots), 4)
        second, _ = drive(*started(network, robots, decider=quick), 4)
        np.testing.assert_allclose(first, second, atol=1e-4)
    kept = []
    for decider in (None, quick):
        policy, cells, _ = started(network, decider=decider)
        policy.step(cells, need_attention=True)
        kept.append(policy.attention())
    for layer, weights in kept[0].items():
        np.testing.assert_allclose(kept[1][layer], weights, atol=1e-5)


def test_an_automatic_backend_is_the_quick_one_of_the_cpu() -> None:
    assert SparcPolicy.load().decider.backend == 'onnxruntime'
    with pytest.raises(ValueError, match="device 'cuda:7' is not available"):
        SparcPolicy.load(device='cuda:7')


@pytest.mark.parametrize('backend', ['torch', 'onnxruntime'])
def test_robots_that_decide_alone_from_messages_equal_the_fleet(network: SparcNetwork, backend: str) -> None:
    """One policy object per robot, messages passed by hand, only within the mask radius."""
    decider = by(backend, network)
    fleet, cells, shield = started(network, 8, seed=2)
    goals = fleet.goals
    fraction = fleet.priorities
    alone = [SparcPolicy(decider) for _ in range(8)]
    for robot, policy in enumerate(alone):
        policy.reset(fleet._map, goals[robot : robot + 1])
        policy.set_priority(0, float(fraction[robot]))
    rng, last = np.random.default_rng(0), None
    sent = np.zeros((8, TINY.width), np.float32)
    for _ in range(12):
        together = fleet.step(cells, last)
        rows, outgoing = [], []
        for robot, policy in enumerate(alone):
            near = np.abs(cells - cells[robot]).sum(1) <= TINY.mask_radius
            heard = Heard(cells[near], goals[near], sent[near])
            rows.append(policy.step_alone(cells[robot], heard, None if last is None else int(last[robot])))
            outgoing.append(policy.messages[0])
            assert policy.priorities[0] == pytest.approx(fleet.priorities[robot])
        np.testing.assert_allclose(np.stack(rows), together, atol=1e-5)
        sent = np.stack(outgoing)
        last = shield.resolve(cells, together, fleet.priorities, rng=rng, swap=False)
        cells = cells + MOVES[last]


@pytest.mark.parametrize('backend', ['torch', 'onnxruntime'])
def test_attention_is_kept_only_when_asked_and_matches_the_radius(network: SparcNetwork, backend: str) -> None:
    policy, cells, _ = started(network, decider=by(backend, network))
    policy.step(cells)
    assert policy.attention() == {}
    policy.step(cells, need_attention=True)
    weights = policy.attention()
    assert list(weights) == ['communication.0', 'communication.1']
    far = policy.pair_distances() > TINY.mask_radius
    for layer in weights.values():
        assert layer.shape == (TINY.heads, 8, 8)
        np.testing.assert_allclose(layer.sum(-1), 1, atol=1e-5)
        assert (layer[:, far] == 0).all()


def test_priorities_grow_on_the_way_and_fall_back_on_the_goal(network: SparcNetwork) -> None:
    policy, cells, _ = started(network, 2)
    policy.step(cells)
    before = policy.priorities
    policy.step(cells)
    assert np.array_equal(policy.priorities, before + 1)
    there = np.stack([policy.goals[0], cells[1]])
    policy.step(there)
    assert policy.priorities[0] == before[0] % 1
    assert policy.priorities[1] == before[1] + 2


def test_new_goals_take_effect_without_touching_the_callers_arrays(network: SparcNetwork) -> None:
    instance = random_instance(10, 0.1, 4, 0)
    distances = distance_fields(instance.grid, instance.goals).copy()
    kept = distances.copy()
    policy = SparcPolicy(TorchDecider(network))
    policy.reset(instance.grid, instance.goals, distances)
    policy.step(instance.starts)
    policy.set_goals(instance.starts[2:3], robots=np.array([2]))
    assert np.array_equal(distances, kept)
    assert policy.distances[2][tuple(instance.starts[2])] == 0
    assert policy.goals[2].tolist() == instance.starts[2].tolist()
    fresh = SparcPolicy(TorchDecider(network))
    fresh.reset(instance.grid, policy.goals)
    assert np.array_equal(policy.distances, fresh.distances)


def test_robots_come_and_go_and_the_others_keep_their_state(network: SparcNetwork) -> None:
    policy, cells, shield = started(network, 5)
    _, cells = drive(policy, cells, shield, 3)
    messages, priorities = policy.messages.copy(), policy.priorities
    policy.remove_robots(np.array([1, 3]))
    assert np.array_equal(policy.messages, messages[[0, 2, 4]])
    assert np.array_equal(policy.priorities, priorities[[0, 2, 4]])
    policy.add_robots(policy.goals[:1])
    assert policy.robots == 4
    free = np.argwhere(~policy._map)
    log_probs = policy.step(np.concatenate([cells[[0, 2, 4]], free[:1]]))
    assert log_probs.shape == (4, 5)
    assert np.isfinite(log_probs).all()


def test_misuse_is_refused_in_one_clear_line(network: SparcNetwork) -> None:
    policy = SparcPolicy(TorchDecider(network))
    with pytest.raises(ValueError, match='reset first'):
        policy.set_goals(np.zeros((1, 2), np.int32))
    policy, cells, _ = started(network)
    with pytest.raises(ValueError, match='another fleet'):
        policy.step(cells[:3])
    with pytest.raises(ValueError, match='robot 0 at'):
        policy.step(cells + 100)
    with pytest.raises(ValueError, match='backend must be'):
        SparcPolicy.load(backend='pickle')
    with pytest.raises(ValueError, match='recurrent'):
        SparcPolicy(TorchDecider(SparcNetwork(replace(TINY, recurrent=True))))


def test_weights_survive_a_round_trip_in_half_precision(network: SparcNetwork, tmp_path: Path) -> None:
    write_weights(tmp_path / 'w.safetensors', network, {'data': 'none'})
    again, card = read_weights(tmp_path / 'w.safetensors')
    assert card['data'] == 'none'
    assert again.config == TINY
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize('fault', ['missing', 'damaged', 'no card', 'foreign card', 'other network'])
def test_bad_weights_give_one_clear_line(network: SparcNetwork, tmp_path: Path, fault: str) -> None:
    path = tmp_path / 'w.safetensors'
    write_weights(path, network, {})
    if fault == 'missing':
        path.unlink()
    elif fault == 'damaged':
        path.write_bytes(path.read_bytes()[:-1] + b'x')
    elif fault == 'no card':
        path.with_suffix('.yaml').unlink()
    elif fault == 'foreign card':
        path.with_suffix('.yaml').write_text('just words')
    else:
        with safe_open(path, framework='np') as file:
            facts, tensors = file.metadata(), {name: file.get_tensor(name) for name in list(file.keys())[1:]}
        path.write_bytes(save(tensors, facts))
        card = {'sha256': hashlib.sha256(path.read_bytes()).hexdigest()}
        path.with_suffix('.yaml').write_text(yaml.safe_dump(card))
    with pytest.raises(WeightsError) as caught:
        SparcPolicy.load(path)
    assert 'w.' in str(caught.value)
    assert '\n' not in str(caught.value)


def test_the_shipped_weights_are_what_their_card_says() -> None:
    policy = SparcPolicy.load()
    entry = yaml.safe_load((Path(__file__).parents[3] / 'config/models/sparc.yaml').read_text())
    card = verify_weights().card
    assert entry['sha256'] == card['sha256']
    assert entry['config'] == card['config'] == policy.config.to_dict()
    assert [spec['name'] for spec in entry['inputs']] == list(INPUTS)
    instance = random_instance(20, 0.15, 8, 0)
    policy.reset(instance.grid, instance.goals)
    log_probs, _ = drive(policy, instance.starts, Shield(instance.grid), 60)
    assert np.isfinite(log_probs).all()


def test_team_values_of_an_imagined_step_are_those_of_the_step_itself() -> None:
    """What the conflict rule imagines is what the network says once the robots have moved."""
    instance = random_instance(12, 0.2, 10, 3)
    torch.manual_seed(0)
    config = SparcConfig(width=16, heads=2, layers=1, feed_forward=16, relation_embedding=8)
    policy = SparcPolicy(TorchDecider(SparcNetwork(config).eval()))
    policy.reset(instance.grid, instance.goals)
    rng = np.random.default_rng(0)
    cells = instance.starts
    policy.step(cells)
    near = neighbours(instance.grid)
    flat = (cells[:, 0] * 12 + cells[:, 1]).astype(np.int32)
    actions = one_winner(near, flat, np.zeros((10, 5)), rng=rng)
    stay = np.full(10, 4, np.int8)
    values = TeamValue(policy, instance.grid, cells)(np.stack([actions, stay, actions]))
    assert values[0] == values[2]
    assert values[0] != values[1]
    moved = (cells + MOVES[actions]).astype(np.int32)
    kept = policy.messages.copy()
    policy.step(moved)
    policy.messages = kept
    seen = observe(
        instance.grid, moved, policy.goals, policy.distances, policy.priorities, policy.history, config.field_of_view
    )
    with torch.no_grad():
        places = torch.from_numpy(moved)[None]
        output = network_of(policy)(
            torch.from_numpy(seen.image)[None],
            torch.from_numpy(seen.vector)[None],
            network_of(policy).neighbour_relation(places, places),
            torch.from_numpy(kept)[None],
        )
    assert values[0] == pytest.approx(float(output.values[..., 0].sum()), abs=1e-4)


def test_a_map_of_another_size_is_refused_and_the_old_one_stays(network: SparcNetwork) -> None:
    policy, cells, _ = started(network)
    grid, distances = policy._map.copy(), policy.distances
    grown = np.pad(grid, ((0, 2), (0, 0)))
    with pytest.raises(ValueError, match=r'map of \(10, 10\) changed to \(12, 10\)'):
        policy.change_map(grown, distance_fields(grown, policy.goals))
    with pytest.raises(ValueError, match='path distances'):
        policy.change_map(grid, distances[:3])
    assert np.array_equal(policy._map, grid) and policy.distances is distances
    assert np.isfinite(policy.step(cells)).all()


def test_goals_where_no_robot_can_go_are_refused_before_anything_changes(network: SparcNetwork) -> None:
    policy, cells, _ = started(network)
    before, wall = policy.goals.copy(), np.argwhere(policy._map)[:1]
    for goal, words in ((wall, 'inside an obstacle'), (np.array([[3, 10]]), 'off the 10 x 10 map')):
        with pytest.raises(ValueError, match=words):
            policy.set_goals(goal, robots=np.array([2]))
        with pytest.raises(ValueError, match=words):
            policy.add_robots(goal)
    assert np.array_equal(policy.goals, before) and policy.robots == 8
    assert np.isfinite(policy.step(cells)).all()


def decisions(decider: Decider) -> np.ndarray:
    return drive(*started(None, decider=decider), 3)[0]


def test_the_graph_beside_the_weights_decides_like_the_network(network: SparcNetwork, tmp_path: Path) -> None:
    """It holds no numbers of its own, and one that belongs to other weights is not taken."""
    path = tmp_path / 'w.safetensors'
    write_weights(path, network, {})
    weights = verify_weights(path)
    truth = decisions(TorchDecider(read_network(weights)))
    quick = OnnxDecider.load(weights, 1)
    assert graph_session(weights.graph, weights.card['sha256'], 1) is not None
    np.testing.assert_allclose(decisions(quick), truth, atol=1e-4)
    constants = onnx.load(weights.graph, load_external_data=False).graph.initializer
    assert max(len(constant.raw_data) for constant in constants) < 1024

    for parameter in network.parameters():
        parameter.data *= 1.1
    old = weights.graph.read_bytes()
    write_weights(path, network, {})
    weights.graph.write_bytes(old)
    again = verify_weights(path)
    assert graph_session(again.graph, again.card['sha256'], 1) is None
    truth = decisions(TorchDecider(read_network(again)))
    np.testing.assert_allclose(decisions(OnnxDecider.load(again, 1)), truth, atol=1e-4)
    weights.graph.unlink()
    np.testing.assert_allclose(decisions(OnnxDecider.load(again, 1)), truth, atol=1e-4)


def test_the_graph_that_ships_decides_like_the_network() -> None:
    weights = verify_weights()
    truth = decisions(TorchDecider(read_network(weights)))
    np.testing.assert_allclose(decisions(OnnxDecider(weights.config, cpu_session(weights.graph, 1))), truth, atol=1e-4)


def test_robots_on_the_cpu_load_no_torch() -> None:
    """It takes longer to import than all the rest of a node, and 150 MB in every robot's process."""
    script = (
        'import sys; from attn_robotics.systems.sparc.policy import SparcPolicy; '
        'import attn_robotics.systems.sparc.fleet, attn_robotics.systems.sparc.robot; '
        "SparcPolicy.load(); print([name for name in ('torch', 'scipy.ndimage') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
