"""When a batch leaves the queue, who gets a place in it, and how one leaves it otherwise. Time is the test's own."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait

import pytest

from adapter_export.errors import Unavailable
from adapter_export.runtime.batching.grouping import Limits
from adapter_export.runtime.batching.queue import RequestQueue
from adapter_export.runtime.batching.request import Request

# Longer than any test: what needs it to pass hangs.
_LONG = 3600.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def request(length: int = 5) -> Request:
    return Request({}, None, length, None)


def queue_of(*requests: Request, places: int = 100, rows: int = 3, max_wait: float = _LONG, clock: Clock | None = None):
    queue = RequestQueue(places, Limits(rows, None, 0.25), max_wait, clock or Clock())
    for each in requests:
        queue.put(each)
    return queue


def taken(queue: RequestQueue) -> Future[list[Request] | None]:
    """What a worker takes, in a thread of its own."""
    future: Future[list[Request] | None] = Future()
    threading.Thread(target=lambda: future.set_result(queue.take()), daemon=True).start()
    return future


def test_a_full_batch_leaves_at_once() -> None:
    rows = [request() for _ in range(4)]
    queue = queue_of(*rows)
    assert taken(queue).result(30) == rows[:3]
    assert len(queue) == 1


def test_a_worker_waits_until_the_batch_is_full() -> None:
    rows = [request() for _ in range(3)]
    queue = queue_of(rows[0])
    batch = taken(queue)
    queue.put(rows[1])
    queue.put(rows[2])
    assert batch.result(30) == rows


def test_the_oldest_waits_no_longer_than_it_may(clock: Clock) -> None:
    rows = [request() for _ in range(2)]
    queue = queue_of(rows[0], clock=clock)
    clock.now += _LONG / 2
    queue.put(rows[1])
    clock.now += _LONG / 2
    assert taken(queue).result(30) == rows


def test_a_worker_looks_again_when_the_wait_is_over() -> None:
    class Ticking(Clock):
        def __call__(self) -> float:
            self.now += 0.001
            return self.now

    rows = [request()]
    assert taken(queue_of(*rows, max_wait=0.003, clock=Ticking())).result(30) == rows


def test_a_row_that_fits_to_none_of_the_queued_waits_no_longer_than_it_may(clock: Clock) -> None:
    """The oldest may wait for its own kind; who came later never waits longer for that than it may itself."""
    long, short = request(500), [request(5) for _ in range(3)]
    queue = queue_of(long, *short, clock=clock)
    clock.now += _LONG
    assert taken(queue).result(30) == [long]
    assert taken(queue).result(30) == short


def test_nobody_waits_for_company_that_has_no_place() -> None:
    rows = [request(5), request(500)]
    queue = queue_of(*rows, places=2)
    assert taken(queue).result(30) == rows[:1]


def test_without_waiting_what_is_there_goes() -> None:
    rows = [request()]
    assert taken(queue_of(*rows, max_wait=0.0)).result(30) == rows


def test_places_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    rows = [request() for _ in range(5)]
    queue = queue_of(*rows, places=2, rows=1)
    order = []
    for _ in rows:
        order += [row.admitted.done() for row in rows].count(True), *(taken(queue).result(30) or [])
    assert order == [2, rows[0], 3, rows[1], 4, rows[2], 5, rows[3], 5, rows[4]]
    assert all(row.admitted.result(0) for row in rows)


def test_the_cancelled_leave_and_their_places_are_free() -> None:
    rows = [request() for _ in range(4)]
    queue = queue_of(*rows, places=2, rows=2)
    assert rows[0].future.cancel()
    assert rows[2].admitted.done()
    assert rows[3].future.cancel()
    assert not rows[3].admitted.done()
    assert len(queue) == 2
    assert taken(queue).result(30) == rows[1:3]
    assert len(queue) == 0


def test_the_cancelled_count_as_done_for_those_who_wait_for_futures() -> None:
    row = request()
    queue_of(row)
    row.future.cancel()
    assert wait([row.future], timeout=30).done == {row.future}
    with pytest.raises(CancelledError):
        row.future.result(0)


def test_what_runs_is_not_cancelled() -> None:
    row = request()
    assert taken(queue_of(row, rows=1)).result(30) == [row]
    assert not row.future.cancel()
    assert row.future.running()


def test_cancelling_against_taking() -> None:
    """Each row is either cancelled or taken, whatever comes first."""
    for _ in range(30):
        rows = [request() for _ in range(20)]
        queue = queue_of(*rows, max_wait=0.0)
        with ThreadPoolExecutor(3) as pool:
            worker = pool.submit(lambda queue=queue: [row for batch in iter(queue.take, None) for row in batch])
            wait([pool.submit(row.future.cancel) for row in rows[1::2]])
            queue.close(drain=True)
            ran = worker.result(30)
        cancelled = [row for row in rows if row.future.cancelled()]
        assert set(ran) | set(cancelled) == set(rows)
        assert len(ran) + len(cancelled) == len(rows)


def test_a_future_cancelled_before_the_queue_hears_of_it() -> None:
    """Who cancels marks the future first and tells the queue then: in between, a batch or the end may come."""
    rows = [request() for _ in range(3)]
    for row in rows[:2]:
        row.future.cancel()
    queue = queue_of(rows[0], rows[2], max_wait=0.0)
    assert taken(queue).result(30) == rows[2:]
    queue.put(rows[1])
    queue.close(drain=False)
    assert wait([row.future for row in rows[:2]], timeout=30).not_done == set()


def test_closed_and_drained() -> None:
    rows = [request() for _ in range(3)]
    queue = queue_of(*rows, places=2, rows=5)
    queue.close(drain=True)
    assert rows[2].admitted.result(0) is False
    assert taken(queue).result(30) == rows[:2]
    assert taken(queue).result(30) is None
    late = request()
    queue.put(late)
    assert late.admitted.result(0) is False


def test_closed_without_draining() -> None:
    rows = [request() for _ in range(4)]
    queue = queue_of(*rows, places=3, rows=5)
    queue.close(drain=True)  # the second call may want less
    rows[1].future.cancel()
    queue.close(drain=False)
    for row in (rows[0], rows[2]):
        with pytest.raises(Unavailable, match="batcher: closed"):
            row.future.result(0)
    assert rows[1].future.cancelled()
    assert rows[3].admitted.result(0) is False
    assert taken(queue).result(30) is None


def test_a_waiting_worker_hears_that_it_is_over() -> None:
    queue = queue_of()
    batch = taken(queue)
    queue.close(drain=True)
    assert batch.result(30) is None
