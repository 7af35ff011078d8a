import json
import subprocess
import sys
from pathlib import Path

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
