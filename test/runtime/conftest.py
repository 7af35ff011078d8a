"""Fixtures around the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_world import FakeClock, Gate, Shelf, rows

from attn_robotics.runtime.catalogue import Catalogue
from attn_robotics.runtime.engine import Engine


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def make_engine(shelf: Shelf) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def make(**options: Any) -> Engine:
        engines.append(Engine(Catalogue(shelf.folder), **options))
        return engines[-1]

    yield make
    Gate.opened.set()
    for engine in engines:
        engine.close()
    # Only these engines' own threads: engines of other fixtures may rest beside them.
    lanes = [lane for engine in engines for lane in engine._lanes.values()]
    assert not [thread.name for lane in lanes for thread in lane._threads if thread.is_alive()]


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine()


@pytest.fixture
def gate() -> type[Gate]:
    """The gate, open for loading; a test closes it."""
    Gate.opened.set()
    Gate.batches.clear()
    Gate.entered = threading.Semaphore(0)
    return Gate


@pytest.fixture
def closed_gate(gate: type[Gate], shelf: Shelf, engine: Engine) -> type[Gate]:
    """A loaded model 'gate' whose lane is held up by one request of value 0, until the gate opens."""
    shelf.put('gate', 'gate')
    engine.load('gate').result(30)
    gate.opened.clear()
    gate.batches.clear()
    gate.entered = threading.Semaphore(0)
    engine.submit('gate', rows(0))
    assert gate.entered.acquire(timeout=30)
    return gate


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
