"""A thread that does the heavy work, so that subscription callbacks return at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar('T')


class LatestWorker(Generic[T]):
    """Hand the newest items in order to a function in a thread of its own; older ones make room for newer ones.

    Args:
        work: called with each item.
        on_error: called with what `work` raised.
        name: of the thread.
        depth: items that may wait; 1 keeps the newest alone.

    Attributes:
        dropped: items that had to make room before their turn.
    """

    def __init__(
        self, work: Callable[[T], None], on_error: Callable[[BaseException], None], name: str, *, depth: int = 1
    ) -> None:
        self._work = work
        self._on_error = on_error
        self._items: deque[T] = deque()
        self._depth = depth
        self._ready = threading.Condition()
        self._ends = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items that wait for their turn."""
        return len(self._items)

    def put(self, item: T) -> bool:
        """Offer an item; never blocks. False when an older one had to make room."""
        with self._ready:
            is_full = len(self._items) == self._depth
            if is_full:
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._ready.notify()
        return not is_full

    def clear(self) -> None:
        """Forget what waits."""
        with self._ready:
            self._items.clear()

    def close(self) -> None:
        """End the thread after the item in hand and wait for it."""
        with self._ready:
            self._ends = True
            self._items.clear()
            self._ready.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _loop(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._ends or self._items)
                if self._ends:
                    return
                item = self._items.popleft()
            try:
                self._work(item)
            except Exception as error:  # the node reports it; the thread lives on for the next item
                self._on_error(error)
