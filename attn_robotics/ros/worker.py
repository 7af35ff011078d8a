"""A thread that does the heavy work, so that subscription callbacks return at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar('T')


class LatestWorker(Generic[T]):
    """Hand the newest item to a function in a thread of its own; items that arrive meanwhile replace one another.

    Attributes:
        dropped: items that were replaced before their turn.
    """

    def __init__(self, work: Callable[[T], None], on_error: Callable[[BaseException], None], name: str) -> None:
        self._work = work
        self._on_error = on_error
        self._item: T | None = None
        self._ready = threading.Condition()
        self._ends = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Offer an item; never blocks."""
        with self._ready:
            if self._item is not None:
                self.dropped += 1
            self._item = item
            self._ready.notify()

    def close(self) -> None:
        """End the thread after the item in hand and wait for it."""
        with self._ready:
            self._ends = True
            self._item = None
            self._ready.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _loop(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._ends or self._item is not None)
                if self._ends:
                    return
                item, self._item = self._item, None
            try:
                self._work(item)  # type: ignore[arg-type]
            except Exception as error:  # the node reports it; the thread lives on for the next item
                self._on_error(error)
