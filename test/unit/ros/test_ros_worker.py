"""The worker thread: only the newest item, drops counted, errors survived."""

import threading

import pytest

from attn_robotics.ros.worker import LatestWorker

LIMIT_S = 20.0


class Bench:
    """A worker whose work can be held up."""

    def __init__(self):
        self.done, self.errors = [], []
        self.begun, self.go, self.changed = threading.Event(), threading.Event(), threading.Condition()
        self.worker = LatestWorker(self.work, self.fail, 'bench')

    def work(self, item):
        self.begun.set()
        assert self.go.wait(LIMIT_S)
        if item == 'bad':
            raise ValueError('a bad item')
        self.note(self.done, item)

    def fail(self, error):
        self.note(self.errors, str(error))

    def note(self, where, what):
        with self.changed:
            where.append(what)
            self.changed.notify_all()

    def wait(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, LIMIT_S)


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.go.set()
    bench.worker.close()


def test_only_the_newest_item_is_worked_on_and_drops_are_counted(bench):
    bench.worker.put('first')
    assert bench.begun.wait(LIMIT_S)
    for item in ('second', 'third', 'fourth'):
        bench.worker.put(item)
    bench.go.set()
    bench.wait(lambda: len(bench.done) == 2)
    assert bench.done == ['first', 'fourth'] and bench.worker.dropped == 2


def test_an_error_is_reported_and_the_next_item_is_worked_on(bench):
    bench.go.set()
    bench.worker.put('bad')
    bench.wait(lambda: bench.errors)
    bench.worker.put('good')
    bench.wait(lambda: bench.done)
    assert bench.errors == ['a bad item'] and bench.done == ['good']


def test_closing_waits_for_the_item_in_hand_and_forgets_the_next(bench):
    bench.worker.put('in hand')
    assert bench.begun.wait(LIMIT_S)
    bench.worker.put('next')
    closing = threading.Thread(target=bench.worker.close)
    closing.start()
    bench.go.set()
    closing.join(LIMIT_S)
    assert not closing.is_alive() and bench.done == ['in hand']
    assert 'bench' not in {thread.name for thread in threading.enumerate()}


def test_closing_twice_and_from_the_work_itself_does_no_harm():
    closed = threading.Event()
    worker = LatestWorker(lambda item: (worker.close(), closed.set()), lambda error: None, 'self_closing')
    worker.put(1)
    assert closed.wait(LIMIT_S)
    worker.close()
