"""Which requests run next, together, or not at all: deadline-aware batching without threads or clocks of its own.

Requests go by priority, then by deadline, then by arrival. One that could not be answered in time, judged by measured
costs and the work ahead of it, is refused on arrival: it costs its client nothing and those accepted nothing. One
whose deadline passes while it waits is dropped. What starts therefore starts before its deadline and takes about what
was measured, which bounds the latency of the accepted at any load.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from attn_robotics.runtime.errors import EngineError, Reason

if TYPE_CHECKING:
    from attn_robotics.runtime.requests import Group, Request

_ORDER = attrgetter('order')


class CostModel:
    """Seconds a launch takes, from measurements: mean plus two deviations, by group and power of two of rows."""

    LEARNING_RATE = 0.2
    DRIFT = 0.05  # what is not measured any more drifts this fast to what the measured ones suggest
    OUTLIER = 4.0  # a sample counts as at most this many means: one stall is not a trend
    MAX_GROUPS = 256  # a client that sends ever new shapes must not fill the memory

    def __init__(self) -> None:
        # By bucket: mean, deviation, and the least mean so far, which is the cost on an undisturbed machine [s].
        self._groups: OrderedDict[Group, dict[int, tuple[float, float, float]]] = OrderedDict()

    def observe(self, group: Group, rows: int, seconds: float) -> None:
        """Learn from one launch."""
        seconds = max(seconds, 1e-9)  # a coarse or stopped clock
        # Two lanes may learn at once: each step is atomic, and none relies on the one before.
        buckets = self._groups.pop(group, {})
        self._groups[group] = buckets  # most recently used last
        if len(self._groups) > self.MAX_GROUPS:
            self._groups.popitem(last=False)
        mean, deviation, least = buckets.get(bucket := _bucket(rows), (seconds, 0.0, seconds))
        error = min(seconds, self.OUTLIER * mean) - mean
        rate = self.LEARNING_RATE
        mean += rate * error
        least = min(least, mean)
        buckets[bucket] = (mean, deviation + rate * (abs(error) - deviation), least)
        # Launches once measured as slow must not be avoided for ever, and so never be measured again.
        for other, (its_mean, its_deviation, its_least) in list(buckets.items()):
            if other != bucket:
                its_mean += self.DRIFT * (its_least * mean / least - its_mean)
                buckets[other] = (its_mean, (1 - self.DRIFT) * its_deviation, its_least)

    def estimate(self, group: Group, rows: int) -> float:
        """Upper estimate for one launch [s]; 0 for a group never measured.

        Between measured row counts the larger one's cost is taken; beyond the largest, cost grows with the rows.
        """
        bucket = _bucket(rows)
        buckets = self._groups.get(group)
        if not buckets:
            return 0.0
        if measured := buckets.get(bucket):
            mean, deviation, _ = measured
            return mean + 2 * deviation
        sizes = list(buckets)  # at once: another thread may be learning
        larger = [size for size in sizes if size >= bucket]
        nearest = min(larger) if larger else max(sizes)
        mean, deviation, _ = buckets[nearest]
        return (mean + 2 * deviation) * max(1.0, bucket / nearest)

    def total(self, group: Group, rows: int, max_rows: int) -> float:
        """Upper estimate for `rows` rows in launches of at most `max_rows` [s]."""
        if rows <= max_rows:
            return self.estimate(group, rows)
        full, rest = divmod(rows, max_rows)
        return full * self.estimate(group, max_rows) + (self.estimate(group, rest) if rest else 0.0)


def _bucket(rows: int) -> int:
    return 1 << (rows - 1).bit_length()


@dataclass(eq=False)
class ModelQueue:
    """One model's rules and measured costs; requests that share it may share a launch.

    Attributes:
        max_rows: most rows in one launch.
        wait_s: how long a request may wait for company when the device is idle [s].
        limit: most waiting requests.
    """

    max_rows: int
    wait_s: float
    limit: int
    cost: CostModel = field(default_factory=CostModel)


@dataclass(slots=True)
class Decision:
    """What `Scheduler.take` found.

    Attributes:
        batch: requests to run now, of one queue and group; empty when there is nothing to run yet.
        dropped: requests taken out, each with its reason.
        wake_s: moment at which a waiting batch comes due, or None.
    """

    batch: list[Request]
    dropped: list[tuple[Request, Reason]]
    wake_s: float | None = None


class Scheduler:
    """The waiting requests of one device stream. Not locked; every moment is passed in.

    Args:
        workers: batches that run side by side.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self._pending: dict[ModelQueue, list[Request]] = {}
        self._rows: dict[ModelQueue, dict[Group, int]] = {}  # sums of the above, so that refusing costs little
        self._running: dict[int, float] = {}  # when batches are expected to end, by ticket
        self._tickets = 0

    def is_idle(self) -> bool:
        """Whether a request would start at once."""
        return not self._pending and len(self._running) < self.workers

    def is_hungry(self) -> bool:
        """Whether requests wait although another worker could run them."""
        return bool(self._pending) and len(self._running) < self.workers

    def waiting(self) -> int:
        """Requests not started yet."""
        return sum(map(len, self._pending.values()))

    def offer(self, request: Request, now: float) -> list[tuple[Request, Reason]]:
        """Accept a request, or refuse it.

        Returns:
            Requests that left a full queue for it, each with its reason: the cancelled, or one of lower priority.

        Raises:
            EngineError: `expired`, `queue_full` or `overload`.
        """
        if request.deadline < now:
            raise EngineError('expired', 'the deadline had passed on arrival; send earlier or allow more time')
        queue = request.queue
        if not self.is_idle() and (late := now + self._delay(request, now) + _margin(request) - request.deadline) > 0:
            raise EngineError('overload', f'the answer would come {1e3 * late:.1f} ms too late; send less')
        pending = self._pending.get(queue, [])
        left: list[tuple[Request, Reason]] = []
        if len(pending) >= queue.limit:
            left = [(waiting, 'cancelled') for waiting in pending if waiting.is_cancelled()]
            if not left and pending[-1].order[0] <= request.order[0]:
                raise EngineError('queue_full', f'{queue.limit} requests are waiting; send less or raise queue_limit')
            left = left or [(pending[-1], 'displaced')]
            self._remove(queue, [waiting for waiting, _ in left])
        pending = self._pending.setdefault(queue, [])
        if not pending or pending[-1].order < request.order:  # mostly: equal deadlines go by arrival
            pending.append(request)
        else:
            insort(pending, request, key=_ORDER)
        rows = self._rows.setdefault(queue, {})
        rows[request.group] = rows.get(request.group, 0) + request.rows
        return left

    def take(self, now: float) -> Decision:
        """Choose the next batch and take out what is stale; call `started` before running it."""
        dropped: list[tuple[Request, Reason]] = []
        wake_s: float | None = None
        head: Request | None = None
        for queue in list(self._pending):
            stale = [request for request in self._pending[queue] if request.deadline < now]
            dropped += [(request, 'expired') for request in stale]
            self._remove(queue, stale)
            pending = self._pending.get(queue)
            if not pending:
                continue
            due = self._due(queue, pending)
            if due > now:
                wake_s = due if wake_s is None else min(due, wake_s)
            elif head is None or pending[0].order < head.order:
                head = pending[0]
        # A caller that ran its request in its own thread may hold the last place.
        if head is None or len(self._running) >= self.workers:
            return Decision([], dropped, wake_s)
        batch = self._form(head, now)
        self._remove(head.queue, batch)
        return Decision(batch, dropped, wake_s)

    def take_all(self) -> list[Request]:
        """Empty the queues, for shutting down."""
        left = [request for pending in self._pending.values() for request in pending]
        self._pending.clear()
        self._rows.clear()
        return left

    def started(self, batch: Sequence[Request], now: float) -> int:
        """Note that a batch runs; returns the ticket for `finished`."""
        self._tickets += 1
        head = batch[0]
        rows = head.rows if len(batch) == 1 else sum([request.rows for request in batch])
        self._running[self._tickets] = now + head.queue.cost.estimate(head.group, rows)
        return self._tickets

    def finished(self, ticket: int) -> None:
        """Note that a batch has ended."""
        del self._running[ticket]

    def _delay(self, request: Request, now: float) -> float:
        """Upper estimate of the time until this request is answered: running, ahead of it, and its own batch [s]."""
        work = 0.0
        for end in self._running.values():
            if end > now:
                work += end - now
        own = request.rows
        for queue, pending in self._pending.items():
            if pending[-1].order < request.order:
                rows = self._rows[queue]
            else:
                rows = {}
                for ahead in pending[: bisect_left(pending, request.order, key=_ORDER)]:
                    rows[ahead.group] = rows.get(ahead.group, 0) + ahead.rows
            for group, count in rows.items():
                if own and queue is request.queue and group == request.group:
                    count, own = count + own, 0  # it shares their launches
                work += queue.cost.total(group, count, queue.max_rows)
        if own:
            work += request.queue.cost.total(request.group, own, request.queue.max_rows)
        return work / self.workers

    def _remove(self, queue: ModelQueue, requests: Sequence[Request]) -> None:
        """Take waiting requests out of their queue."""
        if not requests:
            return
        if len(requests) == len(self._pending[queue]):
            del self._pending[queue], self._rows[queue]
            return
        rows = self._rows[queue]
        for request in requests:
            rows[request.group] -= request.rows
            if not rows[request.group]:
                del rows[request.group]
        gone = set(map(id, requests))
        pending = self._pending[queue]
        pending[:] = [request for request in pending if id(request) not in gone]

    @staticmethod
    def _due(queue: ModelQueue, pending: Sequence[Request]) -> float:
        """When the head of a queue should start: at once, or when company, patience or slack runs out."""
        head = pending[0]
        if not queue.wait_s:
            return head.arrived
        rows = sum(request.rows for request in pending if request.group == head.group)
        if rows >= queue.max_rows:
            return head.arrived
        return min(head.arrived + queue.wait_s, head.deadline - queue.cost.estimate(head.group, rows))

    def _form(self, head: Request, now: float) -> list[Request]:
        """Gather company for a head, as long as it makes nobody late, and those late anyway by little."""
        queue, batch, rows = head.queue, [head], head.rows
        pending = self._pending[queue]
        if len(self._rows[queue]) == 1 and (total := self._rows[queue][head.group]) <= queue.max_rows:
            end = now + queue.cost.estimate(head.group, total)
            if all([end <= request.deadline for request in pending]):  # mostly: all that wait, in time
                return pending.copy()
        end = now + queue.cost.estimate(head.group, rows)
        limit = _latest_end(head, end)
        for request in pending:
            if request is head or request.group != head.group or rows + request.rows > queue.max_rows:
                continue
            end = now + queue.cost.estimate(head.group, rows + request.rows)
            if end > limit:
                break
            batch.append(request)
            rows += request.rows
            limit = min(limit, _latest_end(request, end))
        return batch


def _margin(request: Request) -> float:
    """How much earlier than its deadline a request must be expected to end, to be accepted [s].

    A queue that is filled up to the deadline leaves no slack for large launches, and its launches, kept small for the
    sake of its head, do less work: throughput collapses just when it is needed. A full launch of slack (a quarter of
    the request's time at most) keeps them large; half of one does so only where costs are noisy. In simulation of twice
    the capacity without noise 1.00 of it is used instead of 0.24, with noise the same or more.
    """
    full = request.queue.cost.estimate(request.group, request.queue.max_rows)
    return min(full, 0.25 * (request.deadline - request.arrived))


def _latest_end(request: Request, end: float) -> float:
    """When a batch that would end at `end` may end for a request: by its deadline, or within twice its time if late."""
    return request.deadline if end <= request.deadline else 2 * request.deadline - request.arrived
