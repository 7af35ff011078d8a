from __future__ import annotations

import re

import numpy as np
import pytest
from engine_world import Shelf, rows
from hypothesis import given
from hypothesis import strategies as st

from attn_robotics.runtime.engine import Engine
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.metrics import BOUNDS_S, Histogram


@given(st.lists(st.floats(2e-5, 9.0), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_within_one_bucket_of_the_true_one(values: list[float], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    true = float(np.quantile(values, share, method='inverted_cdf'))
    step = BOUNDS_S[1] / BOUNDS_S[0]
    assert true / step <= histogram.quantile(share) * (1 + 1e-6)
    assert histogram.quantile(share) <= true * step * (1 + 1e-6)


def test_an_empty_histogram_has_quantile_zero_and_an_endless_value_the_last_bound() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.5) == 0.0
    histogram.observe(1e9)
    assert histogram.quantile(0.5) == BOUNDS_S[-1]


LINE = re.compile(r'[a-z_]+(_bucket|_sum|_count|_total)?\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\} [0-9.e+-]+')


def test_the_prometheus_text_is_well_formed_and_adds_up(shelf: Shelf, engine: Engine) -> None:
    shelf.put('m')
    engine.load('m').result(30)
    for _ in range(3):
        engine.infer('m', rows(1))
    for wrong in ({}, {'x': np.zeros((1, 4))}):
        with pytest.raises(EngineError):
            engine.infer('m', wrong)
    with pytest.raises(EngineError):
        engine.infer('nobody', rows(1))
    text = engine.prometheus()
    samples = [line for line in text.splitlines() if not line.startswith('#')]
    assert text.endswith('\n')
    assert all(LINE.fullmatch(line) for line in samples)
    assert len({line.split(' ')[0] for line in samples}) == len(samples)
    assert 'attn_runtime_requests_total{model="m"} 3' in samples
    assert 'attn_runtime_dropped_total{model="m",reason="bad_input"} 2' in samples
    assert 'attn_runtime_dropped_total{model="",reason="not_loaded"} 1' in samples
    for phase in ('queue', 'batch', 'transfer', 'compute'):
        assert f'attn_runtime_{phase}_seconds_bucket{{model="m",le="+Inf"}} 3' in samples
        assert f'attn_runtime_{phase}_seconds_count{{model="m"}} 3' in samples
    families = [line.split(' ')[2] for line in text.splitlines() if line.startswith('# TYPE')]
    assert len(families) == len(set(families))
