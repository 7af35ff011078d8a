import json
import sys
import types

import numpy as np
import pytest

from attn_robotics.simulation.errors import WorldError
from attn_robotics.simulation.instances import random_instance
from attn_robotics.systems.sparc import evaluate, suites
from attn_robotics.systems.sparc.actions import MOVES, RIGHT
from attn_robotics.systems.sparc.learned import ABLATION_WEIGHTS, LEARNED, LearnedMethod
from attn_robotics.systems.sparc.report import Row, plain_command, wilson
from attn_robotics.systems.sparc.shield import ShieldConfig
from attn_robotics.systems.sparc.weights_card import verify_weights

SMALL = ['--robots', '4', '--size', '8', '--density', '0.1', '--seeds', '0-3']


class DescentPolicy:
    """Stands in for a trained network: prefers what brings it nearer, and remembers what it was told."""

    def __init__(self):
        self.told = []

    @classmethod
    def load(cls, weights, device='cpu', backend='torch'):
        return cls()

    def reset(self, grid, goals, distances=None, *, seed=0):
        self.grid, self.distances, self.told = grid, distances, []

    def step(self, cells, last_actions=None):
        self.told.append(None if last_actions is None else last_actions.tolist())
        after = cells[:, None] + MOVES
        inside = ((after >= 0) & (after < self.grid.shape)).all(axis=2)
        clipped = after.clip(0, np.array(self.grid.shape) - 1)
        reached = self.distances[np.arange(len(cells))[:, None], clipped[..., 0], clipped[..., 1]]
        logits = np.where(inside & (reached < 32767), -2.0 * reached.astype(np.float32), -1e9)
        return (logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))).astype(np.float32)


@pytest.fixture
def stand_in(monkeypatch):
    module = types.ModuleType('attn_robotics.systems.sparc.policy')
    module.SparcPolicy = DescentPolicy
    monkeypatch.setitem(sys.modules, module.__name__, module)
    evaluate.make_method.cache_clear()
    yield
    evaluate.make_method.cache_clear()


@pytest.fixture
def no_policy(monkeypatch):
    monkeypatch.setitem(sys.modules, 'attn_robotics.systems.sparc.policy', None)
    evaluate.make_method.cache_clear()
    yield
    evaluate.make_method.cache_clear()


def test_the_command_prints_a_table_and_writes_the_common_schema(tmp_path, capsys):
    path = tmp_path / 'rows.json'
    assert evaluate.main([*SMALL, '--methods', 'pibt,lacam', '--json', str(path)]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[2:]] == ['pibt', 'lacam', 'pibt_swap']
    body = json.loads(path.read_text())
    assert body['schema'] == 1
    rows = {row['name']: row for row in body['rows']}
    rate = rows['success_rate/pibt/4x8/0.10']
    assert rate['n'] == 4
    assert rate['ci95'][0] <= rate['value'] <= rate['ci95'][1]
    assert set(rate['reference']) == {'pibt_swap'}
    assert rows['conflicts/lacam/4x8/0.10']['met'] is True
    assert rows['mean_steps/pibt_swap/4x8/0.10']['unit'] == 'steps'
    assert not list(tmp_path.glob('*.partial'))


def test_two_runs_give_the_same_numbers_whatever_the_number_of_processes(tmp_path):
    bodies = []
    for index, jobs in enumerate(('1', '2')):
        path = tmp_path / f'{index}.json'
        assert evaluate.main([*SMALL, '--methods', 'pibt,independent', '--jobs', jobs, '--json', str(path)]) == 0
        bodies.append(json.loads(path.read_text())['rows'])
    assert bodies[0] == bodies[1]


def test_learned_methods_without_weights_are_skipped_with_a_reason_and_the_rest_runs(no_policy, capsys):
    assert evaluate.main([*SMALL, '--methods', 'shipped,rmha,pibt']) == 0
    out, err = capsys.readouterr()
    skipped = [line for line in err.splitlines() if line.startswith('skipped')]
    assert len(skipped) == 1
    assert 'shipped, rmha' in skipped[0]
    assert 'pibt_swap' in out


def test_every_learned_method_runs_on_a_stand_in_policy_without_conflict(stand_in, tmp_path):
    methods = [method for method in LEARNED if method != 'rmha_values']  # asks the network itself for values
    for network in ('rmha', 'content_only', 'no_comm'):
        (tmp_path / f'{network}.safetensors').touch()
    path = tmp_path / 'rows.json'
    arguments = ['--methods', ','.join(methods), '--weights', str(tmp_path), '--json', str(path)]
    assert evaluate.main([*SMALL, *arguments]) == 0
    rows = {row['name']: row['value'] for row in json.loads(path.read_text())['rows']}
    for method in methods:
        assert rows[f'conflicts/{method}/4x8/0.10'] == 0
    assert rows['success_rate/shipped/4x8/0.10'] == 1.0
    assert 'success_gain/rmha-content_only/4x8/0.10' in rows


def test_the_policy_hears_which_actions_were_executed():
    policy = DescentPolicy()
    method = LearnedMethod(policy, 'all_stay')
    instance = random_instance(6, 0.0, 1, 3)
    method.reset(instance, 0)
    first = method.act(instance.starts)
    method.act(instance.starts)  # the world refused the move
    method.act(instance.starts + MOVES[first])
    assert policy.told == [None, [4], first.tolist()]


def test_a_method_that_breaks_its_promise_is_caught_at_the_step():
    class Careless:
        conflict_free = True

        def reset(self, instance, seed):
            pass

        def act(self, cells):
            return np.full(len(cells), RIGHT, np.int8)

    with pytest.raises(RuntimeError, match='conflict was chosen at step'):
        evaluate.run_episode(Careless(), random_instance(5, 0.0, 3, 0), 0, 20)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--methods', 'magic'], "no method 'magic'"),
        (['--instances', 'absent.npz'], 'absent.npz is not an instance file'),
        (['--robots', '100', '--size', '4'], 'no room for 100 robots'),
    ],
)
def test_bad_requests_get_one_line_and_an_exit_code(arguments, message, capsys):
    assert evaluate.main([*arguments]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith('evaluate:')]
    assert len(error) == 1
    assert message in error[0]


def test_seeds_are_read_as_ranges_and_lists():
    assert evaluate.parse_seeds('0-3,7') == (0, 1, 2, 3, 7)
    with pytest.raises(SystemExit):
        evaluate.main(['--seeds', 'all'])


def test_frozen_instances_survive_the_file_and_are_evaluated(tmp_path, capsys):
    drawn = [random_instance((7, 9), 0.2, 5, seed) for seed in range(3)]
    frozen = suites.FrozenSet(
        np.stack([instance.grid for instance in drawn]),
        np.stack([instance.starts for instance in drawn]),
        np.stack([instance.goals for instance in drawn]),
        np.arange(3),
        np.array([True, True, False]),
    )
    path = tmp_path / 'maze.npz'
    frozen.save(path)
    loaded = suites.load(path)
    for index, instance in enumerate(drawn):
        assert (loaded.instance(index).grid == instance.grid).all()
        assert (loaded.instance(index).starts == instance.starts).all()
        assert (loaded.instance(index).goals == instance.goals).all()
    output = tmp_path / 'rows.json'
    assert evaluate.main(['--instances', str(path), '--methods', 'lacam', '--json', str(output)]) == 0
    rows = {row['name']: row for row in json.loads(output.read_text())['rows']}
    assert rows['success_rate_solvable/lacam/5x9/maze']['n'] == 2


def test_a_file_with_objects_or_without_arrays_is_refused(tmp_path):
    path = tmp_path / 'bad.npz'
    np.savez(path, grid=np.array([object()]))
    with pytest.raises(WorldError, match='not an instance file'):
        suites.load(path)
    np.savez(path, grid=np.zeros((2, 2), bool))
    with pytest.raises(WorldError, match='lacks starts, goals'):
        suites.load(path)


def test_the_wilson_interval_has_its_textbook_values_and_rows_their_targets():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(97, 100) == pytest.approx((0.9155, 0.9897), abs=1e-4)
    assert wilson(100, 100)[0] == pytest.approx(0.9630, abs=1e-4)
    slow = Row('mean_steps/shipped/128x40/0.30', 100.0, 'steps', 90)
    assert slow.as_json()['met'] is False
    assert Row('success_rate/shipped/128x40/0.30', 0.97, '', 100).as_json()['met'] is True


def test_suites_hold_the_cases_of_the_results_table():
    names = [case.name for case in suites.build('scale', (0,), drawn=True)]
    assert names[-2:] == ['256x40/0.30', '1024x113/0.30']
    assert [case.name for case in suites.build('paper')] == [
        *('128x40/0.00', '128x40/0.15', '128x40/0.30'),
        *('32x38/warehouse', '32x50/corridor', '32x40/lanes'),
    ]
    assert suites.build('scale', (0,), drawn=True)[-1].steps == 768


def test_shield_settings_are_read_and_checked():
    config = evaluate.parse_shield('distance_weight=0.5,swap=false')
    assert (config.distance_weight, config.swap, config.temperature) == (0.5, False, ShieldConfig().temperature)
    for wrong in ('speed=1', 'swap=maybe', 'temperature=-1'):
        with pytest.raises(SystemExit):
            evaluate.main(['--shield', wrong])


def test_frozen_sets_ship_and_know_which_instances_have_a_solution():
    paths = sorted(suites.SHIPPED.glob('*.npz'))
    assert 'pogema_128x40_0.30.npz' in [path.name for path in paths]
    for path in paths:
        frozen = suites.load(path)
        assert frozen.instance(int(frozen.seeds[0])).robots == frozen.starts.shape[1]
    crowded = suites.build('paper')[2]
    assert crowded.name == '128x40/0.30'
    assert sum(crowded.solvable()) == 97
    with pytest.raises(WorldError, match='seed 100 is not in the frozen set'):
        suites.build('paper', (100,))[2].instance(0)


def test_a_result_names_the_command_without_the_folders_of_whoever_ran_it() -> None:
    command = 'evaluate --instances /home/me/sets/mine.npz --jobs 2 --weights=/home/me/w --json out/of/tree/rows.json'
    assert plain_command(command) == 'evaluate --instances mine.npz --jobs 2 --weights=w --json rows.json'
    inside = 'evaluate --instances attn_robotics/systems/sparc/instances/lanes_32.npz'
    assert plain_command(inside) == inside


def test_an_interrupted_table_goes_on_from_kept_episodes_and_what_is_not_whole_is_left_out(tmp_path, capsys):
    keep, rows = str(tmp_path / 'kept.jsonl'), tmp_path / 'rows.json'
    assert evaluate.main([*SMALL, '--methods', 'pibt', '--keep', keep]) == 0
    lines = (tmp_path / 'kept.jsonl').read_text().splitlines()
    assert len(lines) == 8
    whole = capsys.readouterr().out
    (tmp_path / 'kept.jsonl').write_text(
        '\n'.join(line for line in lines if not json.loads(line)[0].endswith(' pibt 3')) + '\n'
    )
    assert evaluate.main([*SMALL, '--methods', 'pibt', '--keep', keep, '--kept-only', '--json', str(rows)]) == 0
    assert 'skipped pibt' in capsys.readouterr().err
    names = [row['name'] for row in json.loads(rows.read_text())['rows']]
    assert any('/pibt_swap/' in name for name in names) and not any('/pibt/' in name for name in names)
    assert evaluate.main([*SMALL, '--methods', 'pibt', '--keep', keep]) == 0
    assert capsys.readouterr().out == whole
    assert len((tmp_path / 'kept.jsonl').read_text().splitlines()) == 8


def test_the_ablation_suite_runs_out_of_the_box_with_three_networks_of_one_budget():
    cards = {
        name: verify_weights(ABLATION_WEIGHTS / f'{name}.safetensors').card
        for name in ('rmha', 'content_only', 'no_comm')
    }
    assert len({card['robot_steps'] for card in cards.values()}) == 1
    assert len({card['parameters'] for card in cards.values()}) == 1
    assert [cards[name]['config']['content_only'] for name in cards] == [False, True, False]
    assert cards['no_comm']['config']['mask_radius'] == 0
