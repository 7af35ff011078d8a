"""The simulator benchmark writes what the results schema asks for."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / 'benchmarks' / 'simulator.py'


def test_a_small_benchmark_writes_table_json_and_picture(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location('simulator_benchmark', SCRIPT)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    report, picture = tmp_path / 'out.json', tmp_path / 'out.png'
    small = ['--robots', '2', '3', '--size', '6', '--seconds', '0.2', '--repetitions', '2']
    assert benchmark.main([*small, '--json', str(report), '--plot', str(picture)]) == 0
    data = json.loads(report.read_text())
    assert data['schema'] == 1
    assert data['conditions'].keys() >= {'commit', 'versions', 'machine', 'seeds'}
    names = [row['name'] for row in data['rows']]
    assert 'real_time_factor/wheeled/2' in names
    assert 'simulated_per_cpu_second/disc/3' in names
    assert all(row['value'] > 0 and row['n'] == 2 for row in data['rows'])
    assert picture.read_bytes().startswith(b'\x89PNG')
    assert 'real_time_factor/disc/3' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        benchmark.main(['--bodies', 'tracked'])
