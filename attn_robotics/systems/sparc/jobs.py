"""Runs of a study in several processes, each kept as soon as it is done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

_T = TypeVar('_T')
_R = TypeVar('_R')


class Kept(Generic[_T, _R]):
    """Finished runs in a file of JSON lines, by which an interrupted study goes on.

    Args:
        path: the file; None keeps nothing.
        name: of a run, the same whenever it is the same run.
        result: the dataclass of results.
    """

    def __init__(self, path: Path | None, name: Callable[[_T], str], result: Callable[..., _R]) -> None:
        self._path, self._name, self._lock = path, name, Lock()
        self._found: dict[str, _R] = {}
        if path is not None and path.is_file():
            text = path.read_text(encoding='utf-8')
            if text and not text.endswith('\n'):
                path.write_text(text + '\n', encoding='utf-8')  # ends a line that was cut off
            for line in text.splitlines():
                try:
                    key, values = json.loads(line)
                    self._found[key] = result(**values)
                except (ValueError, TypeError):
                    continue  # cut off while it was written: that run is made again

    def find(self, run: _T) -> _R | None:
        """The result of a run, None when it was not made yet."""
        return self._found.get(self._name(run))

    def add(self, run: _T, result: Any) -> None:
        """Keep a result."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, self._path.open('a', encoding='utf-8') as file:
            file.write(json.dumps([self._name(run), asdict(result)]) + '\n')


def _one_thread() -> None:
    os.environ['OMP_NUM_THREADS'] = '1'  # read when torch is first imported, in the worker


def run_jobs(run: Callable[[_T], _R], work: Sequence[_T], jobs: int, kept: Kept[_T, _R] | None = None) -> Iterator[_R]:
    """Run jobs in so many processes; the results come in order, and do not depend on the number.

    Args:
        run: a function of a module, since other processes look it up.
        work: what to call it with.
        jobs: processes.
        kept: results that are there already, and where new ones go.
    """
    done = [None if kept is None else kept.find(one) for one in work]
    if jobs == 1:
        for one, before in zip(work, done, strict=True):
            result = run(one) if before is None else before
            if kept is not None and before is None:
                kept.add(one, result)
            yield result
        return
    pool = ProcessPoolExecutor(jobs, mp_context=get_context('spawn'), initializer=_one_thread)

    def keep(one: _T, future: Future[_R]) -> None:
        if kept is not None and not future.cancelled() and future.exception() is None:
            kept.add(one, future.result())

    try:
        futures: list[Future[_R] | None] = []
        for one, before in zip(work, done, strict=True):
            future = None if before is not None else pool.submit(run, one)
            if future is not None:
                future.add_done_callback(lambda future, one=one: keep(one, future))  # type: ignore[misc]
            futures.append(future)
        for before, future in zip(done, futures, strict=True):
            if future is not None:
                yield future.result()
            elif before is not None:
                yield before
    finally:
        pool.shutdown(cancel_futures=True)
