"""Every kernel that ships compiles for compute capability 9.0, with its settings: the interpreter accepts more."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# All kernels are compiled before the first test, once: on one worker.
pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group('compile')]
ROOT = Path(__file__).parents[3]
SHARED_BYTES = 227 * 1024  # what a block may have there
OPERATORS = (
    'neighbour_set', 'neighbour_block', 'relation_sets', 'relation_tiles', 'relation_flash', 'relation_walk',
    'relation_backward',
    'gravity_index', 'gravity_map', 'log_linear', 'log_linear_step', 'polynomial_step', 'random_feature',
    'preference_sparse', 'svd', 'svd_attention', 'sparc_folded', 'sparc_observation',
)  # fmt: skip


def assembler() -> Path | None:
    """Where Triton's ptxas is, without importing Triton, which would take the interpreter's switch of this process."""
    import importlib.util

    spec = importlib.util.find_spec('triton')
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / 'backends' / 'nvidia' / 'bin' / 'ptxas'
    found = os.environ.get('TRITON_PTXAS_PATH') or (path if path.exists() else shutil.which('ptxas'))
    return Path(found) if found else None


@pytest.fixture(scope='module')
def compiled() -> dict[str, dict[str, object]]:
    """What `hopper.py` says of every case, from one process."""
    if assembler() is None:
        pytest.skip('no ptxas: this Triton cannot compile for CUDA')
    path = f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'
    environment = {**os.environ, 'TRITON_INTERPRET': '0', 'PYTHONPATH': path}
    command = [sys.executable, str(Path(__file__).with_name('hopper.py')), *OPERATORS]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return {found['case']: found for found in map(json.loads, ended.stdout.splitlines())}


@pytest.mark.parametrize('case', OPERATORS)
def test_kernels_compile_for_hopper_with_the_settings_that_ship(case, compiled):
    found = compiled[case]
    assert found['error'] is None and found['kernels']
    for kernel in found['kernels']:
        assert kernel['shared'] <= SHARED_BYTES, kernel


def test_no_kernel_is_left_out(compiled):
    found = {kernel['name'] for case in OPERATORS for kernel in compiled[case]['kernels']}
    rooms = (ROOT / 'kernels', ROOT / 'attn_robotics' / 'systems')
    for path in (path for room in rooms for path in room.rglob('*.py')):
        launched = set(re.findall(r'^ +(_\w+)\[.+\]\($', path.read_text(), re.M))
        assert launched <= found, f'{path}: no case of hopper.py compiles {launched - found}'


def test_a_step_is_written_only_after_all_threads_have_read_what_it_replaces(compiled):
    (step,) = compiled['log_linear_step']['kernels']
    # l: load, s: store, b: barrier. Behind the last load come a barrier and then only stores.
    end = step['events'].rpartition('l')[2]
    assert end.startswith('b') and end.count('s') >= 4, step['events']
