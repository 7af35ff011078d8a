"""Training worlds, the loop on a tiny case, checkpoints and curves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_robotics.simulation.instances import random_instance
from attn_robotics.systems.sparc import ablation, imitation, validation
from attn_robotics.systems.sparc.config import SparcConfig
from attn_robotics.systems.sparc.data import FleetWorlds, TeamMix
from attn_robotics.systems.sparc.distance_fields import distance_fields
from attn_robotics.systems.sparc.expert import rollout_many
from attn_robotics.systems.sparc.fleet_rules import EXPERT, ONE_WINNER, SHIELD, SHIELD_SWAP
from attn_robotics.systems.sparc.gridworld import count_conflicts
from attn_robotics.systems.sparc.imitation import Trainer, team_mix
from attn_robotics.systems.sparc.maps import FAMILIES
from attn_robotics.systems.sparc.model import SparcNetwork
from attn_robotics.systems.sparc.reinforce import (
    PpoConfig,
    Reinforcer,
    Rollout,
    advantages,
    draw_log_probs,
    share_rewards,
    step_rewards,
)
from attn_robotics.systems.sparc.train import main
from attn_robotics.systems.sparc.validation import validate
from attn_robotics.systems.sparc.weights_file import read_weights
from attn_robotics.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    read_extra,
    read_facts,
    read_network,
    save_checkpoint,
)
from attn_robotics.training.curves import Curves
from attn_robotics.training.distributed import Group
from attn_robotics.training.graphs import Replayed
from attn_robotics.training.loop import TimeBudget, cosine_rate

TINY = SparcConfig(width=16, heads=2, layers=1, feed_forward=16, relation_embedding=8, field_of_view=5)
MIX = [TeamMix(8, 1, (6, 9), (0.0, 0.3)), TeamMix(16, 1, (8, 12), (0.1, 0.3))]


def small_worlds(seed: int = 0, **options) -> FleetWorlds:
    return FleetWorlds(MIX, seed=seed, canvas=12, row_slots=32, **options)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), rule=st.sampled_from([EXPERT, SHIELD, ONE_WINNER, SHIELD_SWAP]))
def test_no_rule_ever_executes_a_conflict_whatever_the_preferences(seed: int, rule: int) -> None:
    worlds = small_worlds(seed)
    rng = np.random.default_rng(seed)
    worlds.state.rule[:] = rule
    for _ in range(25):
        before = worlds.state.cells.copy()
        worlds.label()
        worlds.step(rng.gumbel(size=(worlds.robots, 5)).astype(np.float32) * rng.choice([0.0, 1.0, 9.0]))
        for fleet in range(len(worlds.state.size)):
            slots = worlds.fleet == fleet
            grid = worlds.walls(np.array([fleet]))[0]
            cells = [np.stack(np.divmod(flat[slots], 12), -1) for flat in (before, worlds.state.cells)]
            assert count_conflicts(grid, *cells) == 0
    worlds.close()


def test_one_winner_lets_the_older_robot_pass_and_the_other_take_its_next_choice() -> None:
    """Two robots want the middle of a corridor with a side pocket."""
    grid = np.array([[False, False, False], [False, True, True]])
    worlds = FleetWorlds([TeamMix(2, 1, (3, 3), (0.0, 0.0))], seed=0, canvas=3, row_slots=2)
    worlds.load(0, grid, np.array([[0, 0], [0, 2]]), np.array([[0, 2], [0, 0]]))
    worlds.state.rule[:] = ONE_WINNER
    worlds.state.waited[:] = [0.25, 0.75]
    wishes = np.zeros((2, 5), np.float32)
    wishes[0, [3, 1]] = [2.0, 1.0]  # right, else down
    wishes[1, [2, 4]] = [2.0, 1.0]  # left, else stay
    assert worlds.step(wishes).tolist() == [1, 2]
    worlds.close()


def test_two_robots_that_face_each_other_never_change_places() -> None:
    worlds = FleetWorlds([TeamMix(2, 1, (2, 2), (0.0, 0.0))], seed=0, canvas=2, row_slots=2)
    worlds.load(0, np.array([[False, False], [True, True]]), np.array([[0, 0], [0, 1]]), np.array([[0, 1], [0, 0]]))
    worlds.state.rule[:] = ONE_WINNER
    wishes = np.zeros((2, 5), np.float32)
    wishes[0, 3] = wishes[1, 2] = 5.0
    assert worlds.step(wishes).tolist() == [4, 4]
    worlds.close()


def test_expert_fleets_arrive_and_priorities_follow_pibt() -> None:
    worlds = small_worlds(3)
    for _ in range(80):
        worlds.label()
        before = worlds.state.waited.copy()
        worlds.step(np.zeros((worlds.robots, 5), np.float32))
        home = worlds.state.cells == worlds.state.goals
        np.testing.assert_allclose(worlds.state.waited[home], before[home] % 1)
        np.testing.assert_allclose(worlds.state.waited[~home], before[~home] + 1)
    assert (worlds.state.arrived == worlds.state.size).mean() >= 0.8
    worlds.close()


def test_the_expert_brings_dense_fleets_home_sooner_than_pibt_with_swap() -> None:
    """Hindrance, the longest way first and unrest are worth more than a tenth of the steps of the last arrival."""
    instances = [random_instance(16, 0.25, 32, seed) for seed in range(24)]
    network = SparcNetwork(TINY)
    finished, _ = validation.run_instances(network, torch.device('cpu'), instances, rule=EXPERT, steps=160)
    plain = rollout_many(instances, method='pibt_swap', max_steps=160)
    capped = [len(path) - 1 if (path[-1] == i.goals).all() else 160 for path, i in zip(plain, instances, strict=True)]
    assert (finished >= 0).all()
    assert finished.mean() < 0.95 * np.mean(capped)


def test_a_kept_world_goes_on_exactly(tmp_path: Path) -> None:
    one, other = small_worlds(7), small_worlds(8)
    for _ in range(5):
        one.label()
        one.step(np.zeros((one.robots, 5), np.float32))
    other.restore(one.keep())
    for worlds in (one, other):
        worlds.label()
        worlds.step(np.zeros((worlds.robots, 5), np.float32))
        worlds.close()
    for left, right in zip(one.state, other.state, strict=True):
        assert np.array_equal(left, right)
    with pytest.raises(ValueError, match='other fleets'):
        FleetWorlds(MIX[:1], seed=0, canvas=12, row_slots=32).restore(one.keep())


def test_loaded_problems_keep_their_distances() -> None:
    instance = random_instance(10, 0.2, 16, 4)
    worlds = FleetWorlds([TeamMix(16, 1, (12, 12), (0.0, 0.0))], seed=0, canvas=12, row_slots=16)
    worlds.load(0, instance.grid, instance.starts, instance.goals)
    fields = worlds.state.fields.reshape(16, 12, 12)
    assert np.array_equal(fields[:, :10, :10], distance_fields(instance.grid, instance.goals))
    assert worlds.walls(np.array([0]))[0][10:].all()
    gained = worlds.steps_gained()
    assert set(np.unique(gained)) <= {-1.0, 0.0, 1.0}
    worlds.close()


def test_the_same_seed_draws_the_same_worlds_on_any_number_of_threads() -> None:
    one, two = small_worlds(5, threads=1), small_worlds(5, threads=3)
    for worlds in (one, two):
        worlds.label()
        worlds.step(np.zeros((worlds.robots, 5), np.float32))
        worlds.close()
    for left, right in zip(one.state, two.state, strict=True):
        assert np.array_equal(left, right)


def test_about_half_of_the_training_robots_are_in_dense_teams() -> None:
    mix = team_mix(64)
    assert sum(team.rows for team in mix) == 64
    assert sum(team.rows for team in mix if team.robots == 128) >= 30


@pytest.mark.parametrize('family', sorted(FAMILIES))
def test_structured_training_maps_are_connected_and_come_with_a_problem(family: str) -> None:
    worlds = FleetWorlds([TeamMix(8, 2, (12, 24), family=family)], seed=1, canvas=24, row_slots=8)
    grids = worlds.walls(np.arange(2))
    assert not np.array_equal(*grids)
    assert (worlds.state.fields[np.arange(16), worlds.state.cells] >= 0).all()
    for grid in grids:
        assert (distance_fields(grid, np.argwhere(~grid)[:1])[0][~grid] >= 0).all()
    worlds.renew(np.array([0]))
    again = worlds.walls(np.arange(2))
    assert not np.array_equal(grids[0], again[0]) and np.array_equal(grids[1], again[1])
    worlds.close()


def test_a_map_family_that_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match='lanes: no map of side up to 9 with 24 free cells'):
        FleetWorlds([TeamMix(8, 1, (5, 9), family='lanes')], seed=0, canvas=9, row_slots=8)
    with pytest.raises(ValueError, match='no map family'):
        FleetWorlds([TeamMix(8, 1, (5, 9), family='harbour')], seed=0, canvas=9, row_slots=8)


def trainer(seed: int = 0) -> Trainer:
    return Trainer(TINY, rows=2, window=2, seed=seed, device=torch.device('cpu'), threads=1, peak_rate=1e-3)


@pytest.mark.timeout(100)
def test_imitation_learns_and_the_policy_takes_over(monkeypatch) -> None:
    monkeypatch.setattr(imitation, 'team_mix', lambda rows: [TeamMix(16, 2, (12, 16), (0.0, 0.2))])
    run = trainer()
    losses = [run.update(1e-2)[0] for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:2])
    run.begin_dagger()
    assert {int(rule) for lane in run.lanes for rule in lane.worlds.state.rule} >= {SHIELD, ONE_WINNER}
    loss, agreement = run.update(1e-3)
    assert np.isfinite(loss)
    assert 0 < agreement < 1
    rate, _, share = validate(
        run.network, torch.device('cpu'), robots=2, side=6, density=0.0, rule=SHIELD, temperature=1.0, seeds=3, steps=8
    )
    assert 0 <= rate <= 1
    assert 0 <= share <= 1


def test_a_checkpoint_restores_network_optimiser_and_random_states_exactly(tmp_path: Path) -> None:
    run = trainer()
    run.update(1e-3)
    generators = {'trainer': run.rng}
    save_checkpoint(
        tmp_path, run.network, run.optimiser, step=run.step, facts={'seconds': 1.5}, generators=generators,
        shard_bytes=20_000,
    )  # fmt: skip
    assert len(list(tmp_path.glob('*.safetensors'))) > 1
    expected = torch.rand(3), run.rng.random(3)
    other = trainer(seed=9)
    step, facts = load_checkpoint(tmp_path, other.network, other.optimiser, {'trainer': other.rng})
    assert (step, facts) == (1, {'seconds': 1.5})
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(other.rng.random(3), expected[1])
    for optimiser in (run.optimiser, other.optimiser):
        for index, parameter in enumerate(optimiser.param_groups[0]['params']):
            parameter.grad = torch.full_like(parameter, 0.01 * (index % 7))
        optimiser.step()
    for left, right in zip(run.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.timeout(100)
@pytest.mark.parametrize('stage', ['dagger', 'mappo'])
def test_a_resumed_training_goes_on_as_if_nothing_had_happened(stage: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(imitation, 'team_mix', lambda rows: [TeamMix(8, 1, (8, 10), (0.1, 0.3))])
    monkeypatch.setattr(validation, 'QUICK_TABLE', [])
    settings_ = ['--set', 'width=16', '--set', 'layers=1', '--set', 'heads=2', '--window', '4', '--device', 'cpu']
    arguments = [*settings_, '--minutes', '1', '--schedule-minutes', '1e9', '--bc-share', '0', '--stage', stage]
    per_call = 1 if stage == 'dagger' else 4 * 2 * 2

    def run(out: str, updates: int, *more: str) -> dict[str, torch.Tensor]:
        assert main([*arguments, '--out', str(tmp_path / out), '--updates', str(updates * per_call), *more]) == 0
        return read_network(tmp_path / out)[0]

    whole = run('whole', 2)
    run('half', 1)
    resumed = run('rest', 2, '--resume', str(tmp_path / 'half'))
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


@pytest.mark.timeout(150)
def test_two_processes_train_one_network_from_different_worlds(tmp_path: Path) -> None:
    """`torchrun` starts two processes; the second one reports through the checkpoint that the first one writes."""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '-m']
    command += ['attn_robotics.systems.sparc.train', '--out', str(tmp_path), '--updates', '2', '--minutes', '2']
    command += ['--set', 'width=16', '--set', 'layers=1', '--set', 'heads=2', '--rows', '5', '--window', '2']
    command += ['--device', 'cpu', '--threads', '1', '--seeds', '0']
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {'OMP_NUM_THREADS': '1'})
    kept = read_extra(tmp_path)
    assert {name.split('.')[0] for name in kept} == {'0', '1'}
    assert not torch.equal(kept['0.0.goals'], kept['1.0.goals'])
    facts = read_facts(tmp_path)
    assert facts['processes'] == 2
    assert facts['robot_steps'] == 2 * 2 * 2 * 2 * 5 * 128  # updates, processes, lanes, steps, rows, slots


def test_gradients_are_averaged_over_processes() -> None:
    context = torch.multiprocessing.get_context('spawn')
    with tempfile.TemporaryDirectory() as folder, context.Pool(2) as pool:
        results = pool.starmap(average_in_a_process, [(rank, f'{folder}/meet') for rank in range(2)])
    assert results[0] == results[1] == pytest.approx([0.5, 0.5, 7.0])


def average_in_a_process(rank: int, meeting: str) -> list[float]:
    torch.distributed.init_process_group('gloo', init_method=f'file://{meeting}', rank=rank, world_size=2)
    group = Group.__new__(Group)
    group.rank, group.size, group.device = rank, 2, torch.device('cpu')
    parameter = torch.nn.Parameter(torch.zeros(2))
    unused = torch.nn.Parameter(torch.zeros(1, 1))
    shared = group.share_gradients([unused, parameter])
    (parameter * rank).sum().backward()
    group.average(shared)
    assert not unused.grad.any()
    first = group.from_first(7.0 + rank)
    group.close()
    return [*parameter.grad.tolist(), first]


def test_an_interrupted_save_leaves_the_checkpoint_before_it_readable(tmp_path: Path) -> None:
    run = trainer()
    save_checkpoint(tmp_path, run.network, run.optimiser, step=1, facts={})
    (tmp_path / 'step-2-0.safetensors').write_bytes(b'half a fi')
    (tmp_path / 'checkpoint.json.partial').write_text('{"ste')
    assert load_checkpoint(tmp_path, run.network, run.optimiser)[0] == 1
    save_checkpoint(tmp_path, run.network, run.optimiser, step=3, facts={})
    assert not list(tmp_path.glob('step-[12]-*'))


def test_bad_checkpoints_are_refused_by_name(tmp_path: Path) -> None:
    run = trainer()
    with pytest.raises(CheckpointError, match='no checkpoint in'):
        load_checkpoint(tmp_path, run.network, run.optimiser)
    save_checkpoint(tmp_path, run.network, run.optimiser, step=1, facts={})
    other = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match='another network'):
        load_checkpoint(tmp_path, other, torch.optim.Adam(other.parameters()))
    next(tmp_path.glob('*.safetensors')).unlink()
    with pytest.raises(CheckpointError, match='missing'):
        load_checkpoint(tmp_path, run.network, run.optimiser)


def test_curves_continue_an_earlier_file_and_draw(tmp_path: Path) -> None:
    first = Curves(tmp_path / 'c.csv')
    first.add({'step': 1, 'loss': 0.5})
    first.write()
    second = Curves(tmp_path / 'c.csv')
    second.add({'step': 2, 'loss': 0.25, 'late': 1})
    second.write()
    assert Curves(tmp_path / 'c.csv').rows == [{'step': 1, 'loss': 0.5}, {'step': 2, 'loss': 0.25, 'late': 1}]
    second.draw(tmp_path / 'c.png', 'step', {'loss': ['loss', 'never'], 'empty': []})
    assert (tmp_path / 'c.png').read_bytes()[:4] == b'\x89PNG'


def test_the_learning_rate_warms_up_and_falls() -> None:
    rates = [cosine_rate(step / 100, step, peak=1.0, floor=0.1, warmup=10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(max(rates[9:12]))
    assert rates[100] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))


def test_the_time_budget_counts_earlier_runs_and_ends_on_interrupt() -> None:
    with TimeBudget(1000, spent=50) as budget:
        assert budget.total >= 50
        assert not budget.is_over
        budget._interrupt(2, None)
        assert budget.is_over


def reinforcer(monkeypatch) -> Reinforcer:
    monkeypatch.setattr(imitation, 'team_mix', lambda rows: [TeamMix(16, 1, (8, 12), (0.1, 0.3))])
    return Reinforcer(trainer(), PpoConfig(steps=4))


def first_ratios(learn: Reinforcer, lane: int, rollout: Rollout) -> torch.Tensor:
    zero = torch.zeros_like(rollout.rewards)
    batches = [learn.cut(rollout, zero, zero, window) for window in range(2)]
    return torch.stack([learn.loss(learn.trainer.lanes[lane], batch)[1] for batch in batches])


def test_the_first_importance_ratios_are_one(monkeypatch) -> None:
    """Every window of a rollout is recomputed from what its decisions saw: distances, messages, history."""
    learn = reinforcer(monkeypatch)
    for _ in range(2):  # the second rollout starts from messages that are not zero
        for lane, player in enumerate(learn.players):
            rollout = learn.collect(player)
            assert (first_ratios(learn, lane, rollout) - 1).abs().max() < 1e-4
    assert rollout.messages[1].abs().max() > 0


def test_recomputing_with_other_messages_would_be_noticed(monkeypatch) -> None:
    learn = reinforcer(monkeypatch)
    rollout = learn.collect(learn.players[0])
    rollout.messages[1] = torch.randn_like(rollout.messages[1])
    assert (first_ratios(learn, 0, rollout)[1] - 1).abs().max() > 1e-4


def test_draws_without_replacement_have_the_product_of_their_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.1, 0.1, 0.0]).clamp(min=1e-30)
    order = torch.tensor([1, 0, 2, 3, 4]).expand(3, 5)
    found = draw_log_probs(probabilities.log().expand(3, 5), order, torch.tensor([0, 1, 2])).exp()
    torch.testing.assert_close(found, torch.tensor([0.3, 0.3 * 0.5 / 0.7, 0.3 * 0.5 / 0.7 * 0.1 / 0.2]))


def test_an_action_is_drawn_until_a_draw_is_executed(monkeypatch) -> None:
    learn = reinforcer(monkeypatch)
    rollout = learn.collect(learn.players[0])
    executed = rollout.order.gather(2, rollout.taken[..., None])[..., 0]
    history = rollout.states[1:, ..., 4].flatten(1)  # the newest entry of the state that follows
    assert torch.equal(executed[:-1], history)


def test_a_rollout_and_its_updates_change_the_policy_and_the_value(monkeypatch) -> None:
    learn = reinforcer(monkeypatch)
    before = [parameter.clone() for parameter in learn.trainer.network.parameters()]
    loss, agreement = learn.update(1e-3)
    assert np.isfinite(loss)
    assert 0 <= agreement <= 1
    assert learn.trainer.step == 2 * 2 * 2
    changed = {
        name
        for (name, parameter), old in zip(learn.trainer.network.named_parameters(), before, strict=True)
        if not torch.equal(parameter, old)
    }
    assert {'policy.0.weight', 'value.0.0.weight', 'next_message.weight'} <= changed


def test_advantages_equal_their_sum_of_discounted_surprises() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(6, 3, generator=generator), torch.randn(7, 3, generator=generator)
    surprise = rewards + 0.9 * values[1:] - values[:-1]
    expected = torch.stack(
        [sum((0.9 * 0.8) ** (later - step) * surprise[later] for later in range(step, 6)) for step in range(6)]
    )
    torch.testing.assert_close(advantages(rewards, values, 0.9, 0.8), expected)


def test_rewards_follow_the_table_and_are_shared_with_robots_near_by_only() -> None:
    executed, refused = np.array([0, 4, 4, 4]), np.array([False, True, False, True])
    at_goal = np.array([False, False, False, True])
    own = step_rewards(executed, refused, np.array([1.0, 0.0, 0.0, 0.0]), at_goal, PpoConfig(collision=-2.0))
    np.testing.assert_allclose(own, [-0.2, -2.0, -0.3, 0.0], atol=1e-6)
    cells = torch.tensor([[[0, 0], [0, 2], [0, 9], [0, 1]]])
    fleet = torch.tensor([[0, 0, 0, 1]])
    shared = share_rewards(torch.tensor([[-0.2, -2.0, -0.3, 0.0]]), cells, fleet, 1.0, 5)
    torch.testing.assert_close(shared, torch.tensor([[-1.1, -1.1, -0.3, 0.0]]))


@pytest.mark.timeout(100)
def test_variants_of_the_ablation_take_the_same_number_of_updates(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(imitation, 'team_mix', lambda rows: [TeamMix(4, 1, (5, 7), (0.0, 0.2))])
    monkeypatch.setattr(ablation, 'CASES', ((8, 0.3, ONE_WINNER),))
    instance = random_instance(8, 0.1, 4, 0)
    monkeypatch.setattr(ablation, 'frozen_instances', lambda robots, density, count: [instance] * count)
    settings_ = ['--set', 'width=16', '--set', 'layers=1', '--set', 'heads=2', '--devices', 'cpu,cpu', '--chunk', '2']
    assert (
        ablation.main(['--out', str(tmp_path), '--seconds', '1', '--seeds', '1', '--instances', '2', *settings_]) == 0
    )
    table = json.loads((tmp_path / 'table.json').read_text())
    assert [row['variant'] for row in table['rows']] == ['rmha', 'content_only', 'no_comm']
    cards = [
        yaml.safe_load((tmp_path / f'{name}-0.yaml').read_text()) for name in ablation.VARIANTS if 'near' not in name
    ]
    assert len({card['updates'] for card in cards}) == 1
    assert [card['config']['mask_radius'] for card in cards] == [15, 15, 0]
    assert len({card['parameters'] for card in cards}) == 1
    assert (tmp_path / 'table.png').read_bytes()[:4] == b'\x89PNG'
    assert 'content_only' in capsys.readouterr().out
    rows = {row['name']: row for row in json.loads((tmp_path / 'ablation.json').read_text())['rows']}
    finished = {row['variant']: np.array(row['finished']) >= 0 for row in table['rows']}
    gain = rows['success_gain/rmha-content_only/8x40/0.30']
    assert gain['value'] == pytest.approx((finished['rmha'] * 1.0 - finished['content_only']).mean())
    assert rows['success_rate/no_comm/8x40/0.30/shipping']['value'] == finished['no_comm'].mean()
    card = read_weights(tmp_path / 'weights' / 'content_only.safetensors')[1]
    assert card['variant'] == 'content_only' and card['results'].startswith('8 robots')


@pytest.mark.timeout(110)
def test_the_command_trains_resumes_and_prints_a_table(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(imitation, 'team_mix', lambda rows: [TeamMix(4, 1, (5, 7), (0.0, 0.2))])
    monkeypatch.setattr(validation, 'QUICK_TABLE', [(2, 6, 0.0, SHIELD, 1.0, 0.5)])
    settings_ = ['--set', 'width=16', '--set', 'layers=1', '--set', 'heads=2', '--window', '2', '--device', 'cpu']
    arguments = ['--out', str(tmp_path), '--minutes', '0.01', *settings_, '--bc-share', '0']
    assert main([*arguments, '--seeds', '0']) == 0
    before = json.loads((tmp_path / 'checkpoint.json').read_text())
    resumed = [*arguments[:4], '--seeds', '2', '--window', '2', '--device', 'cpu', '--stage', 'mappo', '--resume']
    assert main([*resumed, str(tmp_path)]) == 0
    after = json.loads((tmp_path / 'checkpoint.json').read_text())
    assert after['step'] > before['step']
    assert after['facts']['robot_steps'] > before['facts']['robot_steps']
    assert 'success' in capsys.readouterr().out
    assert after['facts']['config']['width'] == 16
    assert main([*arguments, '--resume', str(tmp_path / 'nowhere')]) == 2
    assert 'start without --resume' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='no SPARC setting'):
        main(['--set', 'colour=3'])


def test_repeated_work_on_a_cpu_is_never_captured() -> None:
    calls: list[int] = []
    work = Replayed(lambda: calls.append(1), torch.device('cpu'))
    for _ in range(6):
        work()
    assert len(calls) == 6
    assert work.is_settled
