"""The scheduler in virtual time: no threads, no clocks, no luck."""

from __future__ import annotations

import heapq
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_robotics.runtime.batching import CostModel, ModelQueue, Scheduler
from attn_robotics.runtime.errors import EngineError
from attn_robotics.runtime.requests import Request

COUNTER = iter(range(10**9))


def request(
    queue: ModelQueue,
    deadline: float,
    *,
    arrived: float = 0.0,
    priority: int = 0,
    rows: int = 1,
    group: tuple[int, ...] = (),
) -> Request:
    order = (-priority, deadline, next(COUNTER))
    return Request(None, queue, {}, rows, group, order, deadline, arrived, future=Future())


def queue_of(max_rows: int = 8, wait_s: float = 0.0, limit: int = 100, **costs: float) -> ModelQueue:
    """A queue whose launches of n rows cost what `rows<n>` says [s]."""
    queue = ModelQueue(max_rows, wait_s, limit)
    for name, seconds in costs.items():
        queue.cost.observe((), int(name.removeprefix('rows')), seconds)
    return queue


def test_requests_of_one_model_share_a_launch_up_to_its_rows() -> None:
    scheduler, queue = Scheduler(), queue_of(max_rows=4)
    requests = [request(queue, 10.0 + i, rows=2) for i in range(3)]
    for one in requests:
        scheduler.offer(one, 0.0)
    assert scheduler.take(0.0).batch == requests[:2]
    assert scheduler.take(0.0).batch == requests[2:]
    assert scheduler.take(0.0).batch == []


def test_other_shapes_and_other_models_do_not_share_a_launch() -> None:
    scheduler, one, other = Scheduler(), queue_of(), queue_of()
    first, second = request(one, 1.0, group=(5,)), request(one, 2.0, group=(6,))
    third = request(other, 3.0, group=(5,))
    for each in (first, second, third):
        scheduler.offer(each, 0.0)
    assert [scheduler.take(0.0).batch for _ in range(3)] == [[first], [second], [third]]


def test_the_earlier_deadline_goes_first_and_priority_goes_before_it() -> None:
    scheduler, queue = Scheduler(), queue_of(max_rows=1)
    late, soon, urgent = request(queue, 9.0), request(queue, 1.0), request(queue, 20.0, priority=5)
    for each in (late, soon, urgent):
        scheduler.offer(each, 0.0)
    assert [scheduler.take(0.0).batch[0] for _ in range(3)] == [urgent, soon, late]


def test_a_request_whose_deadline_passed_while_it_waited_is_dropped_with_the_reason() -> None:
    scheduler, queue = Scheduler(), queue_of()
    stale, fresh = request(queue, 1.0), request(queue, 5.0)
    scheduler.offer(stale, 0.0)
    scheduler.offer(fresh, 0.0)
    decision = scheduler.take(2.0)
    assert decision.dropped == [(stale, 'expired')]
    assert decision.batch == [fresh]


def test_cancelled_requests_make_room_in_a_full_queue() -> None:
    scheduler, queue = Scheduler(), queue_of(limit=2)
    gone, kept, fresh = request(queue, 4.0), request(queue, 5.0), request(queue, 6.0)
    for each in (gone, kept):
        scheduler.offer(each, 0.0)
    assert gone.future is not None
    gone.future.cancel()
    assert scheduler.offer(fresh, 0.0) == [(gone, 'cancelled')]
    assert scheduler.take(0.0).batch == [kept, fresh]


def test_a_stale_request_is_refused_on_arrival() -> None:
    with pytest.raises(EngineError) as caught:
        Scheduler().offer(request(queue_of(), 1.0), 2.0)
    assert caught.value.reason == 'expired'


def test_a_full_queue_refuses_equals_and_makes_room_for_higher_priority() -> None:
    scheduler, queue = Scheduler(), queue_of(limit=2)
    first, second = request(queue, 5.0), request(queue, 6.0)
    scheduler.offer(first, 0.0)
    scheduler.offer(second, 0.0)
    with pytest.raises(EngineError) as caught:
        scheduler.offer(request(queue, 4.0), 0.0)
    assert caught.value.reason == 'queue_full'
    assert scheduler.offer(request(queue, 50.0, priority=1), 0.0) == [(second, 'displaced')]
    assert scheduler.waiting() == 2


def test_what_can_not_be_answered_in_time_is_refused_on_arrival() -> None:
    scheduler, queue = Scheduler(), queue_of(max_rows=1, rows1=1.0)
    running = [request(queue, 100.0)]
    scheduler.started(running, 0.0)
    scheduler.offer(request(queue, 2.7), 0.0)  # runs from 1 to 2, with the quarter of its time that is asked for
    with pytest.raises(EngineError) as caught:
        scheduler.offer(request(queue, 2.8), 0.0)  # would end at 3
    assert caught.value.reason == 'overload'
    scheduler.offer(request(queue, 4.0), 0.0)
    scheduler.offer(request(queue, 2.7, priority=1), 0.0)  # goes first, ends at 2


def test_an_idle_device_tries_even_what_looks_too_slow_so_that_a_wrong_cost_can_not_last() -> None:
    scheduler, queue = Scheduler(), queue_of(rows1=100.0)
    slow = request(queue, 1.0)
    scheduler.offer(slow, 0.0)
    assert scheduler.take(0.0).batch == [slow]


def test_company_is_welcome_only_while_it_makes_nobody_late() -> None:
    scheduler, queue = Scheduler(), queue_of(rows1=1.0, rows2=2.0, rows4=4.0)
    tight = request(queue, 2.5)
    others = [request(queue, 50.0) for _ in range(3)]
    for each in (tight, *others):
        scheduler.offer(each, 0.0)
    assert scheduler.take(0.0).batch == [tight, others[0]]


def test_a_batch_waits_for_company_but_never_beyond_its_slack() -> None:
    scheduler, queue = Scheduler(), queue_of(max_rows=2, wait_s=0.5, rows1=0.1, rows2=0.1)
    patient = request(queue, 10.0)
    scheduler.offer(patient, 0.0)
    decision = scheduler.take(0.0)
    assert decision.batch == []
    assert decision.wake_s == pytest.approx(0.5)
    assert scheduler.take(0.5).batch == [patient]
    urgent = request(queue, 1.3, arrived=1.0)
    scheduler.offer(urgent, 1.0)
    assert scheduler.take(1.0).wake_s == pytest.approx(1.2)
    scheduler.offer(request(queue, 10.0, arrived=1.05), 1.05)
    assert len(scheduler.take(1.05).batch) == 2  # full: no reason to wait


OPERATIONS = st.tuples(
    st.sampled_from(['offer', 'offer', 'offer', 'take', 'cancel']),
    st.integers(0, 1),
    st.integers(1, 4),
    st.integers(0, 2),
    st.integers(0, 3),
    st.floats(0.0, 0.5),
)


@given(st.lists(OPERATIONS, max_size=60))
def test_every_request_leaves_exactly_once_and_the_sums_stay_right(operations: list[tuple[Any, ...]]) -> None:
    scheduler, queues = Scheduler(), [queue_of(limit=5, rows1=0.1), queue_of(max_rows=4, rows4=0.2)]
    inside: dict[int, Request] = {}
    left: list[Request] = []
    now = 0.0
    for what, which, rows, group, priority, step in operations:
        now += step
        if what == 'offer':
            one = request(queues[which], now + 1.0, arrived=now, rows=rows, group=(group,), priority=priority)
            try:
                left += [gone for gone, _ in scheduler.offer(one, now)]
                inside[id(one)] = one
            except EngineError as error:
                assert error.reason in ('queue_full', 'overload')
        elif what == 'take':
            decision = scheduler.take(now)
            left += [*decision.batch, *(gone for gone, _ in decision.dropped)]
            assert len({(one.queue, one.group) for one in decision.batch}) <= 1
            assert sum(one.rows for one in decision.batch) <= 8
        elif inside:
            future = next(iter(inside.values())).future
            assert future is not None
            future.cancel()
        for gone in left:
            del inside[id(gone)]  # not there twice
        left.clear()
        assert scheduler.waiting() == len(inside)
        sums: dict[Any, int] = {}
        for one in inside.values():
            sums[one.queue, one.group] = sums.get((one.queue, one.group), 0) + one.rows
        assert {(queue, group): n for queue, rows_ in scheduler._rows.items() for group, n in rows_.items()} == sums


def test_nothing_is_taken_while_every_worker_runs_and_each_free_one_takes_a_batch() -> None:
    scheduler, queue = Scheduler(workers=2), queue_of(max_rows=1)
    for _ in range(4):
        scheduler.offer(request(queue, 5.0), 0.0)
    tickets = [scheduler.started(scheduler.take(0.0).batch, 0.0) for _ in range(2)]
    assert scheduler.take(0.0).batch == []
    assert not scheduler.is_hungry()
    scheduler.finished(tickets[0])
    assert scheduler.is_hungry()
    assert len(scheduler.take(0.0).batch) == 1


def test_cost_is_taken_from_the_next_larger_launch_and_grows_beyond_the_largest() -> None:
    cost = CostModel()
    assert cost.estimate((), 4) == 0.0
    cost.observe((), 4, 1.0)
    assert cost.estimate((), 3) == 1.0
    assert cost.estimate((), 1) == 1.0
    assert cost.estimate((), 8) == 2.0
    assert cost.total((), 11, 4) == 3.0


def test_one_stall_does_not_spoil_the_cost_and_a_trend_is_learnt() -> None:
    cost = CostModel()
    for _ in range(20):
        cost.observe((), 1, 0.01)
    cost.observe((), 1, 10.0)
    assert cost.estimate((), 1) < 0.04
    for _ in range(40):
        cost.observe((), 1, 0.02)
    assert cost.estimate((), 1) == pytest.approx(0.02, rel=0.1)


def test_a_large_launch_once_slow_is_tried_again_although_only_small_ones_run() -> None:
    cost = CostModel()
    for rows, seconds in ((1, 0.01), (8, 0.02), (8, 0.08), (8, 0.08)):
        cost.observe((), rows, seconds)
    assert cost.estimate((), 8) > 0.04
    for _ in range(100):
        cost.observe((), 1, 0.01)
    assert cost.estimate((), 8) == pytest.approx(0.02, rel=0.05)
    for _ in range(100):
        cost.observe((), 1, 0.03)  # the whole machine is three times slower now
    assert cost.estimate((), 8) == pytest.approx(0.06, rel=0.1)


def test_costs_of_ever_new_shapes_do_not_fill_the_memory() -> None:
    cost = CostModel()
    for size in range(10 * CostModel.MAX_GROUPS):
        cost.observe((size,), 1, 0.01)
    assert len(cost._groups) == CostModel.MAX_GROUPS


def simulate(
    load: float, deadline: float, *, seconds: float = 8.0, seed: int = 0, noise: float = 0.2
) -> tuple[float, float, float]:
    """Poisson arrivals at `load` times the capacity of a device that takes 2 ms + 0.5 ms a row, with noise.

    Returns:
        p99 latency of the answered [s], share of the capacity used in time, share of the accepted that expired.
    """
    rng = np.random.default_rng(seed)

    def cost(rows: int) -> float:
        return (0.002 + 0.0005 * rows) * float(rng.lognormal(0.0, noise))

    queue = ModelQueue(16, 0.0, 256)
    for rows in (1, 2, 4, 8, 16):
        queue.cost.observe((), rows, 0.002 + 0.0005 * rows)
    capacity = 16 / (0.002 + 0.0005 * 16)
    scheduler = Scheduler()
    events: list[tuple[float, int, str]] = []
    now = 0.0
    while now < seconds:
        now += rng.exponential(1 / (load * capacity))
        heapq.heappush(events, (now, next(COUNTER), 'arrival'))
    latencies: list[float] = []
    running: tuple[list[Request], int, float] | None = None
    expired = accepted = 0
    while events:
        now, _, what = heapq.heappop(events)
        if what == 'arrival':
            try:
                scheduler.offer(request(queue, now + deadline, arrived=now), now)
                accepted += 1
            except EngineError:
                pass
        elif running is not None:
            batch, ticket, start = running
            scheduler.finished(ticket)
            queue.cost.observe((), len(batch), now - start)
            latencies += [now - one.arrived for one in batch]
            running = None
        if running is None:
            decision = scheduler.take(now)
            expired += len(decision.dropped)
            if decision.batch:
                running = (decision.batch, scheduler.started(decision.batch, now), now)
                heapq.heappush(events, (now + cost(len(decision.batch)), next(COUNTER), 'end'))
    in_time = sum(latency <= deadline for latency in latencies)
    return float(np.quantile(latencies, 0.99)), in_time / seconds / capacity, expired / accepted


@pytest.mark.parametrize('noise', [0.0, 0.2])
@pytest.mark.parametrize('seed', range(3))
def test_at_twice_the_capacity_the_accepted_are_answered_within_twice_the_deadline(seed: int, noise: float) -> None:
    p99, goodput, expired = simulate(2.0, 0.05, seed=seed, noise=noise)
    assert p99 <= 2 * 0.05
    assert goodput >= 0.9
    assert expired <= 0.01


@pytest.mark.parametrize('load', [1.0, 2.0, 5.0])
@pytest.mark.parametrize('deadline', [0.005, 0.01, 0.02])
def test_the_bound_holds_at_any_load_and_for_deadlines_shorter_than_the_largest_launch(
    load: float, deadline: float
) -> None:
    p99, goodput, _ = simulate(load, deadline, seconds=3.0)
    assert p99 <= 2 * deadline
    assert goodput >= {0.005: 0.15, 0.01: 0.4, 0.02: 0.6}[deadline]  # of the rate of full launches


def test_below_capacity_nearly_everything_is_answered_in_time() -> None:
    p99, goodput, _ = simulate(0.5, 0.05)
    assert p99 <= 0.05
    assert goodput >= 0.49
