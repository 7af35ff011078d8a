"""A lane: one device stream with its queue and its worker threads."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from attn_robotics.runtime.batching import Scheduler
from attn_robotics.runtime.errors import EngineError, Reason
from attn_robotics.runtime.requests import Request


class Lane:
    """Runs requests batch by batch, in worker threads or, when nothing waits, in the caller's.

    Args:
        name: of its threads.
        index: tells a back end which of its streams to use.
        run: runs a batch and settles its requests; must not raise.
        drop: settles a request that won't run.
        workers: batches that run side by side: 1 for a device, more for a remote server.
        clock: gives seconds.
    """

    def __init__(
        self,
        name: str,
        index: int,
        run: Callable[[list[Request], int], None],
        drop: Callable[[Request, Reason], None],
        *,
        workers: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.index = index
        self._run = run
        self._drop = drop
        self._clock = clock
        self._lock = threading.Lock()
        self._scheduler = Scheduler(workers)
        self._stopping = False
        # A token says: look again. SimpleQueue wakes a thread several times faster than a Condition does.
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f'{name}-{number}', daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def waiting(self) -> int:
        """Requests not started yet."""
        with self._lock:
            return self._scheduler.waiting()

    def offer(self, request: Request) -> None:
        """Queue a request for the workers.

        Raises:
            EngineError: `expired`, `queue_full`, `overload` or `stopped`; the request is then the caller's to settle.
        """
        with self._lock:
            if self._stopping:
                raise EngineError('stopped', 'the engine is shutting down')
            left = self._scheduler.offer(request, self._clock())
        if self._tokens.empty():  # one token serves all that was queued before it is taken
            self._tokens.put(None)
        for other, reason in left:
            self._drop(other, reason)

    def run_here(self, request: Request) -> bool:
        """Run a request in the calling thread if the lane is idle: no thread is woken, nothing is queued."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if not self._scheduler.is_idle() or self._stopping:
                return False
            ticket = self._scheduler.started((request,), self._clock())
        finally:
            self._lock.release()
        self._finish([request], ticket)
        return True

    def stop(self) -> None:
        """End the threads after the batches that run now; what waits is dropped."""
        with self._lock:
            self._stopping = True
            left = self._scheduler.take_all()
        for request in left:
            self._drop(request, 'stopped')
        for _ in self._threads:
            self._tokens.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        timeout: float | None = None
        while True:
            try:
                self._tokens.get(timeout=timeout)
                while True:  # one look serves all tokens
                    self._tokens.get_nowait()
            except queue.Empty:
                pass
            ran = True
            while ran:
                if self._stopping:
                    self._tokens.put(None)  # pass it on to the next worker
                    return
                ran, wake_s = self._look()
            timeout = None if wake_s is None else max(0.0, wake_s - self._clock())

    def _look(self) -> tuple[bool, float | None]:
        """Run a batch if there is one; whether there was, and when to look again at the latest.

        A method of its own, so that a resting thread holds no request.
        """
        with self._lock:
            now = self._clock()
            decision = self._scheduler.take(now)
            if decision.batch:
                ticket = self._scheduler.started(decision.batch, now)
            # Only after taking: a batch that waits for company must not make the workers spin.
            more = bool(decision.batch) and self._scheduler.is_hungry()
        if more:
            self._tokens.put(None)
        for request, reason in decision.dropped:
            self._drop(request, reason)
        if not decision.batch:
            return False, decision.wake_s
        self._finish(decision.batch, ticket)
        return True, None

    def _finish(self, batch: list[Request], ticket: int) -> None:
        try:
            self._run(batch, self.index)
        finally:
            with self._lock:
                self._scheduler.finished(ticket)
                more = self._scheduler.waiting() > 0
            if more:
                self._tokens.put(None)
