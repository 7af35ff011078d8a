"""Studies in several processes, and what is kept of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from attn_robotics.systems.sparc.jobs import Kept, run_jobs


@dataclass(frozen=True)
class Square:
    value: int


def square(number: int) -> Square:
    if number == 7:
        raise RuntimeError('seven is refused')
    return Square(number * number)


@pytest.mark.parametrize('jobs', [1, 2])
def test_results_come_in_order_and_finished_runs_are_not_made_again(jobs: int, tmp_path: Path) -> None:
    file = tmp_path / 'kept.jsonl'
    with pytest.raises(RuntimeError, match='seven'):
        list(run_jobs(square, [3, 2, 7], jobs, Kept(file, str, Square)))
    file.write_text(file.read_text() + '["9", {"val')  # cut off in the middle of a line
    file.write_text(file.read_text().replace('"value": 4', '"value": -4'))  # tells a kept result from a new one
    found = [one.value for one in run_jobs(square, [1, 2, 3, 9], jobs, Kept(file, str, Square))]
    assert found == [1, -4, 9, 81]


def test_a_line_that_was_cut_off_does_not_swallow_the_next(tmp_path: Path) -> None:
    file = tmp_path / 'kept.jsonl'
    file.write_text('["9", {"val')
    list(run_jobs(square, [5], 1, Kept(file, str, Square)))
    assert Kept(file, str, Square).find(5) == Square(25)
