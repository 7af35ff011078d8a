import json
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / 'benchmarks' / 'results' / 'attention.json'


def run(*arguments):
    command = [sys.executable, 'benchmarks/attention.py', *arguments]
    environment = {'PYTHONPATH': str(ROOT), 'PATH': '', 'CUDA_VISIBLE_DEVICES': ''}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_committed_results_follow_the_schema_and_can_be_shown():
    results = json.loads(RESULTS.read_text())
    assert results['schema'] == 1 and results['conditions']['device']
    for row in results['rows']:
        assert {'name', 'value', 'unit'} <= row.keys()
        assert ('target' in row) == ('met' in row)
    shown = run('--from-json', str(RESULTS))
    assert shown.returncode == 0 and 'neighbour_sets' in shown.stdout


def test_without_a_gpu_the_benchmark_says_so_in_one_line():
    refused = run('--table')
    assert refused.returncode == 2
    assert 'needs a CUDA device' in refused.stderr and 'Traceback' not in refused.stderr


def test_help_explains_every_option():
    text = run('--help').stdout
    options = ('--only', '--json', '--table', '--plot', '--budget', '--parallel', '--from-json', '--gates')
    assert all(option in text for option in options)


def test_a_gate_that_one_of_many_inputs_does_not_pass_is_missed(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import attention

    truth = torch.ones(4, dtype=torch.float64)

    def rows_of(errors):
        left = iter(errors)

        def gate():
            error = next(left)
            if error == 'raised':
                raise RuntimeError('an illegal memory access')
            return truth + error, truth + 0.1, truth  # 0.2 is allowed

        return lambda: iter([attention.Row('probe', '1', lambda: None, gate)])

    for errors, met in (((0.1, 0.15, 0.1), True), ((0.1, 0.3, 0.1), False), ((float('nan'), 0.1, 0.1), False)):
        monkeypatch.setattr(attention, 'ROWS', {'group': rows_of(errors)})
        (found,) = attention.gates(['group'], [], range(3))
        assert (found['name'], found['n'], found['met']) == ('gate/probe/1', 3, met)
    monkeypatch.setattr(attention, 'ROWS', {'group': rows_of((0.1, 'raised', 0.1))})
    (found,) = attention.gates(['group'], [], range(3))
    assert not found['met'] and 'illegal memory access' in found['note']


def test_configurations_are_compared_from_one_state_and_a_wrong_one_does_not_count(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import attention

    state = torch.zeros(1)
    times = {'fast': 1.0, 'slow': 3.0, 'wrong': 0.1}

    def step(by):
        state.add_(by)
        return state.clone()

    works = {'fast': lambda: step(1.0), 'slow': lambda: step(1.0), 'wrong': lambda: step(2.0)}
    monkeypatch.setattr(
        attention,
        'time_replay',
        lambda work: attention.Timing(times[next(name for name, other in works.items() if other is work)], 0, 0),
    )
    row = attention.Row('probe', '1', lambda: step(1.0), lambda: None, variants=works, restore=lambda: state.zero_())
    found = []
    timing, chosen = attention.fastest(row, attention.Timing(2.0, 0, 0), 0.1, found)
    assert (timing.median_us, chosen) == (1.0, 'fast')
    assert 'differs by' in found[2]['note'] and found[2]['value'] is None
