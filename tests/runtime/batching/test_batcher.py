"""The batcher over a session that the test holds in its hand."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.errors import InputError, Unavailable
from adapter_export.runtime.batching.batcher import DynamicBatcher
from tests.runtime.batching.fake import FakeSession, answer, folder_of, text

# Longer than any test: what needs it to pass hangs.
_LONG = 3600.0


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    return FakeSession(folder_of(tmp_path))


@pytest.fixture
def open_batcher(session: FakeSession) -> Iterator[Callable[..., DynamicBatcher]]:
    """Called with the batcher's settings; it is closed at the end."""
    made: list[DynamicBatcher] = []

    def make(session: Any = session, **settings: Any) -> DynamicBatcher:
        made.append(DynamicBatcher(session, **{"max_wait": 0.0, **settings}))
        return made[-1]

    yield make
    session.gate.set()
    for batcher in made:
        batcher.close(drain=False)


def found(outputs: dict[str, np.ndarray]) -> tuple[list[int], list[int]]:
    return outputs["logits"].tolist(), outputs["hidden"].tolist()


def hold(session: FakeSession, batcher: DynamicBatcher) -> Future[Any]:
    """A batch under way, which stays there until the gate opens."""
    session.gate.clear()
    future = batcher.submit(text(1))
    assert session.entered.acquire(timeout=30)
    return future


def test_rows_of_different_adapters_and_lengths_are_one_batch(session, open_batcher) -> None:
    batcher = open_batcher(max_batch=4, max_wait=_LONG, max_padding=0.5)
    asked = [(text(3), "a"), (text(5), "b"), (text(4, 20), None), (text(5), "a")]
    futures = [batcher.submit(row, adapter) for row, adapter in asked]
    assert [found(future.result(30)) for future in futures] == [answer(row, adapter) for row, adapter in asked]
    assert len(session.batches) == 1
    assert session.batches[0][1] == 5


@pytest.mark.parametrize("mode", ["swappable", "merged", "embedded"])
def test_other_modes_run_one_adapter_a_batch(session, open_batcher, tmp_path: Path, mode: str) -> None:
    other = FakeSession(tmp_path, mode, slots=None)
    batcher = open_batcher(other, max_batch=2, max_wait=_LONG)
    futures = [batcher.submit(text(3), adapter) for adapter in ("a", "b", "b", "a")]
    for future in futures:
        future.result(30)
    assert sorted(adapters for adapters, _ in other.batches) == [["a", "a"], ["b", "b"]]


def test_a_batch_has_no_more_adapters_than_the_bank_has_slots(tmp_path: Path, session, open_batcher) -> None:
    small = FakeSession(tmp_path, slots=2)
    batcher = open_batcher(small, max_batch=8)
    small.gate.clear()
    futures = [batcher.submit(text(3), adapter) for adapter in "abcdabcd"]
    small.gate.set()
    for future in futures:
        future.result(30)
    assert all(len(set(adapters)) <= 2 for adapters, _ in small.batches)
    assert batcher.statistics().split == 0


def test_under_load_a_batch_is_what_came_during_the_last(session, open_batcher) -> None:
    batcher = open_batcher(max_batch=8)
    hold(session, batcher)
    futures = [batcher.submit(text(3), adapter) for adapter in "abcde"]
    session.gate.set()
    for future in futures:
        future.result(30)
    assert [len(adapters) for adapters, _ in session.batches] == [1, 5]


class TestErrors:
    def test_only_the_row_at_fault_gets_one(self, session, open_batcher) -> None:
        batcher = open_batcher(max_batch=5, max_wait=_LONG)
        rows = [text(3), text(3), text(3, -5), text(3), text(3)]
        futures = [batcher.submit(row, "a") for row in rows]
        assert [future.exception(30) is None for future in futures] == [True, True, False, True, True]
        assert str(futures[2].exception()) == "a batch of 1 failed"
        assert [found(futures[i].result()) for i in (0, 1, 3, 4)] == [answer(text(3), "a")] * 4
        assert (batcher.statistics().failed, batcher.statistics().split) == (1, 2)

    def test_each_gets_its_own(self, session, open_batcher) -> None:
        batcher = open_batcher(max_batch=2, max_wait=_LONG)
        futures = [batcher.submit(text(3), "broken") for _ in range(2)]
        first, second = (future.exception(30) for future in futures)
        assert first is not second

    def test_an_adapter_that_does_not_load_hurts_nobody_else(self, session, open_batcher) -> None:
        batcher = open_batcher(max_batch=3, max_wait=_LONG)
        futures = [batcher.submit(text(3), adapter) for adapter in ("a", "broken", "b")]
        assert [future.exception(30) is None for future in futures] == [True, False, True]

    def test_what_cannot_run_is_refused_before_it_is_queued(self, session, open_batcher) -> None:
        batcher = open_batcher()
        with pytest.raises(InputError, match="'attention_mask' is missing"):
            batcher.submit({"input_ids": np.arange(3)})
        with pytest.raises(InputError, match="adapter 'nobody': expected one of"):
            batcher.submit(text(3), "nobody")
        with pytest.raises(InputError, match="adapter 'nobody': expected one of"):
            asyncio.run(batcher.run(text(3), "nobody"))
        assert session.batches == []

    def test_an_adapter_added_to_the_bundle_meanwhile_is_found(self, session, open_batcher) -> None:
        batcher = open_batcher()
        assert found(batcher.submit(text(3), "added").result(30)) == answer(text(3), "added")
        assert found(asyncio.run(batcher.run(text(3), "added"))) == answer(text(3), "added")
        assert session.loads == ["added", "added"]

    def test_an_adapter_in_the_graph_is_not_looked_for_elsewhere(self, tmp_path: Path, session, open_batcher) -> None:
        merged = FakeSession(tmp_path, "merged", None)
        with pytest.raises(InputError, match="adapter 'nobody'"):
            open_batcher(merged).submit(text(3), "nobody")
        assert merged.loads == []

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("max_batch", 0),
            ("max_queue", 0),
            ("workers", 0),
            ("max_wait", -1.0),
            ("max_wait", float("nan")),
            ("max_wait", float("inf")),
            ("max_padding", 1.0),
            ("max_padding", -0.1),
        ],
    )
    def test_settings_out_of_range(self, session, setting: str, value: float) -> None:
        before = threading.active_count()
        with pytest.raises(InputError, match=f"{setting}: expected .*, found {value}"):
            DynamicBatcher(session, **{setting: value})
        assert threading.active_count() == before


class TestBackPressure:
    def test_a_full_queue_refuses_after_the_timeout(self, session, open_batcher) -> None:
        batcher = open_batcher(max_queue=2)
        hold(session, batcher)
        queued = [batcher.submit(text(2)) for _ in range(2)]
        for timeout in (0, 0.01):
            with pytest.raises(Unavailable, match=f"the queue is full, .* within {timeout} s"):
                batcher.submit(text(3), timeout=timeout)
        with pytest.raises(Unavailable, match="the queue is full"):
            asyncio.run(batcher.run(text(3), timeout=0.01))
        assert batcher.statistics().queued == 2
        session.gate.set()
        assert [found(future.result(30)) for future in queued] == [answer(text(2), None)] * 2
        assert batcher.statistics().requests == 3

    def test_a_full_queue_blocks_until_there_is_a_place(self, session, open_batcher) -> None:
        batcher = open_batcher(max_queue=1)
        held = hold(session, batcher)
        with ThreadPoolExecutor(8) as pool:
            blocked = [pool.submit(batcher.submit, text(3), adapter) for adapter in "abcdefgh"]
            session.gate.set()
            results = [future.result(30).result(30) for future in blocked]
        assert held.done()
        assert [found(result) for result in results] == [answer(text(3), adapter) for adapter in "abcdefgh"]

    def test_who_is_interrupted_while_waiting_leaves_nothing_behind(self, session, open_batcher, monkeypatch) -> None:
        batcher = open_batcher(max_queue=1)
        hold(session, batcher)
        queued = batcher.submit(text(2))

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Future, "result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                batcher.submit(text(3))
        queued.cancel()
        assert batcher.statistics().queued == 0

    def test_a_cancelled_row_makes_room(self, session, open_batcher) -> None:
        batcher = open_batcher(max_queue=1)
        hold(session, batcher)
        queued = batcher.submit(text(2))
        assert queued.cancel()
        assert not batcher.submit(text(2), timeout=0).done()

    def test_a_loop_goes_on_while_its_tasks_wait_for_a_place(self, session, open_batcher) -> None:
        batcher = open_batcher(max_queue=1, max_batch=4)

        async def main() -> list[dict[str, np.ndarray]]:
            session.gate.clear()
            tasks = [asyncio.create_task(batcher.run(text(3), adapter)) for adapter in "abcdefgh"]
            await asyncio.sleep(0)
            session.gate.set()  # the loop still turns
            return await asyncio.gather(*tasks)

        assert [found(outputs) for outputs in asyncio.run(main())] == [answer(text(3), each) for each in "abcdefgh"]


class TestCancelling:
    def test_a_row_not_begun_never_runs(self, session, open_batcher) -> None:
        batcher = open_batcher()
        hold(session, batcher)
        futures = [batcher.submit(text(2), adapter) for adapter in "abc"]
        assert futures[1].cancel()
        session.gate.set()
        assert found(futures[2].result(30)) == answer(text(2), "c")
        assert session.batches[1:] == [(["a", "c"], 2)]
        with pytest.raises(CancelledError):
            futures[1].result(0)

    def test_a_batch_under_way_goes_on(self, session, open_batcher) -> None:
        batcher = open_batcher()
        future = hold(session, batcher)
        assert not future.cancel()
        session.gate.set()
        assert found(future.result(30)) == answer(text(1), None)

    def test_a_cancelled_task_takes_its_row_along(self, session, open_batcher) -> None:
        batcher = open_batcher(max_queue=1)

        async def main() -> None:
            hold(session, batcher)
            queued, waiting = (asyncio.create_task(batcher.run(text(2), adapter)) for adapter in "ab")
            while not batcher.statistics().queued:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            for task in (waiting, queued):
                task.cancel()
            assert await asyncio.gather(queued, waiting, return_exceptions=True) != []
            assert queued.cancelled()
            assert waiting.cancelled()

        asyncio.run(main())
        assert batcher.statistics().queued == 0
        session.gate.set()
        batcher.close()
        assert session.batches == [([None], 1)]

    def test_a_cancelled_task_leaves_its_batch_mates_alone(self, session, open_batcher) -> None:
        batcher = open_batcher(max_batch=2, max_wait=_LONG)

        async def main() -> dict[str, np.ndarray]:
            session.gate.clear()
            first, second = (asyncio.create_task(batcher.run(text(2), adapter)) for adapter in "ab")
            assert await asyncio.to_thread(session.entered.acquire, timeout=30)
            first.cancel()
            session.gate.set()
            return await second

        assert found(asyncio.run(main())) == answer(text(2), "b")


class TestClosing:
    def test_draining_finishes_what_is_queued(self, session, open_batcher) -> None:
        batcher = open_batcher(max_wait=_LONG)
        futures = [batcher.submit(text(3), adapter) for adapter in "ab"]
        batcher.close()
        assert [found(future.result(0)) for future in futures] == [answer(text(3), "a"), answer(text(3), "b")]

    def test_without_draining_only_what_has_begun_finishes(self, session, open_batcher) -> None:
        batcher = open_batcher(max_queue=1)
        held = hold(session, batcher)
        queued = batcher.submit(text(3))
        with ThreadPoolExecutor(2) as pool:
            blocked = pool.submit(batcher.submit, text(3))
            closing = pool.submit(batcher.close, drain=False)
            with pytest.raises(Unavailable, match="batcher: closed"):
                queued.result(30)
            with pytest.raises(Unavailable, match="batcher: closed"):
                blocked.result(30)
            session.gate.set()
            closing.result(30)
        assert found(held.result(0)) == answer(text(1), None)
        assert len(session.batches) == 1

    def test_closed_it_takes_nothing(self, session, open_batcher) -> None:
        batcher = open_batcher()
        batcher.close()
        batcher.close(drain=False)
        with pytest.raises(Unavailable, match="batcher: closed"):
            batcher.submit(text(3))
        with pytest.raises(Unavailable, match="batcher: closed"):
            asyncio.run(batcher.run(text(3)))

    def test_a_with_block_drains_unless_it_fails(self, session) -> None:
        with DynamicBatcher(session, max_wait=_LONG) as batcher:
            future = batcher.submit(text(3))
        assert found(future.result(0)) == answer(text(3), None)
        futures = []

        def fail() -> None:
            with DynamicBatcher(session, max_wait=_LONG) as batcher:
                futures.append(batcher.submit(text(3)))
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert isinstance(futures[0].exception(0), Unavailable)

    def test_no_thread_is_left(self, session) -> None:
        before = set(threading.enumerate())
        with DynamicBatcher(session, workers=3):
            assert len(set(threading.enumerate()) - before) == 3
        assert set(threading.enumerate()) <= before

    def test_a_callback_may_close(self, session, open_batcher) -> None:
        batcher = open_batcher()
        closed = threading.Event()

        def close(_: Future[Any]) -> None:
            batcher.close()
            closed.set()

        future = hold(session, batcher)
        future.add_done_callback(close)
        session.gate.set()
        assert closed.wait(30)

    @pytest.mark.parametrize("raised", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
    @pytest.mark.parametrize("kind", ["future", "error", "cancelled"])
    def test_a_callback_that_raises(
        self, session, open_batcher, kind: str, raised: type[BaseException], caplog
    ) -> None:
        """It is told in the log; the callbacks after it, the other rows of the batch and later ones are served."""
        batcher = open_batcher(max_batch=3, max_wait=_LONG, workers=1)
        held = hold(session, open_batcher(max_batch=1)) if kind == "cancelled" else None
        called = []

        def fail(_: Future[Any]) -> None:
            called.append(threading.current_thread().name)
            raise raised("of a callback")

        first = batcher.submit(text(3, -5) if kind == "error" else text(3), "a")
        first.add_done_callback(fail)
        first.add_done_callback(called.append)
        if kind == "cancelled":
            # In a thread of its own: whoever cancels calls back.
            thread = threading.Thread(target=first.cancel)
            thread.start()
            thread.join(30)
        others = [batcher.submit(text(3), "a") for _ in range(3 if kind == "cancelled" else 2)]
        session.gate.set()
        assert [found(future.result(30)) for future in others] == [answer(text(3), "a")] * len(others)
        later = [batcher.submit(text(4), "b") for _ in range(3)]
        assert [found(future.result(30)) for future in later] == [answer(text(4), "b")] * 3
        assert len(called) == 2
        assert called[1] is first
        assert "of a callback" in caplog.text
        assert held is None or held.result(30)

    def test_in_the_thread_of_the_caller_it_is_the_callers(self, session, open_batcher) -> None:
        future = open_batcher(max_batch=1).submit(text(3))
        future.result(30)
        with pytest.raises(SystemExit):
            future.add_done_callback(lambda _: sys.exit(3))

    def test_a_worker_that_fails_by_itself_leaves_nobody_waiting(
        self, session, open_batcher, monkeypatch, caplog
    ) -> None:
        batcher = open_batcher(max_batch=2, max_wait=_LONG)

        def broken(*_: Any) -> None:
            raise SystemExit("a mistake of ours")

        with monkeypatch.context() as patch:
            patch.setattr(session, "run_rows", broken)
            futures = [batcher.submit(text(3), "a") for _ in range(2)]
            assert [str(future.exception(30)) for future in futures] == ["a mistake of ours"] * 2
        later, _ = (batcher.submit(text(3), "a") for _ in range(2))
        assert found(later.result(30)) == answer(text(3), "a")
        assert "a batch of 2 rows is given up" in caplog.text

    def test_a_worker_that_fails_beside_its_batches_closes(self, session, open_batcher, monkeypatch, caplog) -> None:
        batcher = open_batcher(max_batch=1)
        held = hold(session, batcher)
        queued = batcher.submit(text(3), "a")

        def broken(*_: Any) -> None:
            raise ValueError("a mistake of ours")

        monkeypatch.setattr(batcher._queue, "take", broken)
        session.gate.set()
        assert found(held.result(30)) == answer(text(1), None)
        with pytest.raises(Unavailable, match="batcher: closed"):
            queued.result(30)
        with pytest.raises(Unavailable, match="batcher: closed"):
            batcher.submit(text(3), "a")
        assert "a mistake of ours" in caplog.text

    def test_a_clock_that_fails_is_the_answer(self, session, open_batcher, monkeypatch) -> None:
        batcher = open_batcher(max_batch=1)
        monkeypatch.setattr(batcher._recorder, "batch", lambda *_: 1 / 0)
        assert isinstance(batcher.submit(text(3), "a").exception(30), ZeroDivisionError)
        monkeypatch.undo()
        assert found(batcher.submit(text(3), "a").result(30)) == answer(text(3), "a")

    def test_closing_calls_every_callback(self, session, open_batcher, caplog) -> None:
        """Also where they were added by the thread that closes, and raise."""
        batcher = open_batcher(max_batch=1)
        held = hold(session, batcher)
        futures = [batcher.submit(text(3)) for _ in range(3)]
        for future in futures:
            future.add_done_callback(lambda _: sys.exit("of a callback"))
        # By this thread, without its wait for the batch under way.
        batcher._queue.close(drain=False)
        session.gate.set()
        assert [type(future.exception(30)) for future in futures] == [Unavailable] * 3
        assert held.result(30)
        assert caplog.text.count("of a callback") >= 3

    def test_a_loop_that_is_closed_before_the_answer(self, session, open_batcher) -> None:
        batcher = open_batcher(max_batch=1)
        session.gate.clear()
        loop = asyncio.new_event_loop()
        task = loop.create_task(batcher.run(text(3)))
        loop.run_until_complete(asyncio.sleep(0))
        assert session.entered.acquire(timeout=30)
        task._log_destroy_pending = False
        loop.close()
        session.gate.set()
        assert found(batcher.submit(text(3), "a").result(30)) == answer(text(3), "a")
        task.get_coro().close()

    def test_an_interpreter_that_forgets_to_close_ends(self, tmp_path: Path) -> None:
        folder_of(tmp_path)
        code = (
            "import sys; from pathlib import Path\n"
            "from adapter_export.runtime.batching.batcher import DynamicBatcher\n"
            "from tests.runtime.batching.fake import FakeSession, text\n"
            f"batcher = DynamicBatcher(FakeSession(Path({str(tmp_path)!r})), max_wait=3600)\n"
            "future = batcher.submit(text(3))\n"
            "future.add_done_callback(lambda future: print(future.exception()))\n"
        )
        root = Path(__file__).parents[3]
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=root
        )
        assert done.stdout == "batcher: closed\n"
        assert done.stderr == ""


@pytest.mark.parametrize("seed", range(6))
def test_many_threads_and_a_loop(session, open_batcher, seed: int) -> None:
    """Random rows, adapters, faults and cancellations, from threads and tasks: everyone gets the answer to its own
    row, its own error, or is cancelled; and nothing is left."""
    batcher = open_batcher(max_batch=5, max_queue=12, workers=1 + seed % 3, max_padding=0.4)

    def draw(rng: random.Random) -> tuple[dict[str, np.ndarray], str | None, str]:
        fate = rng.choices(["fine", "bad row", "bad adapter", "cancelled"], [6, 1, 1, 2])[0]
        row = text(rng.choice([1, 2, 7, 8, 40]), -3 if fate == "bad row" else rng.randrange(10, 1000))
        return row, "broken" if fate == "bad adapter" else rng.choice([None, *"abcdefgh"]), fate

    def check(outcome: Any, row: dict[str, np.ndarray], adapter: str | None, fate: str) -> None:
        if fate in ("bad row", "bad adapter"):
            assert str(outcome) == "a batch of 1 failed"
        elif not isinstance(outcome, CancelledError | asyncio.CancelledError):
            assert found(outcome) == answer(row, adapter)
        else:
            assert fate == "cancelled"

    def outcome_of(future: Future[Any]) -> Any:
        try:
            return future.exception(30) or future.result(30)
        except CancelledError as error:
            return error

    def thread(number: int) -> None:
        rng = random.Random(seed * 100 + number)
        for _ in range(8):
            asked = [draw(rng) for _ in range(rng.randint(1, 5))]
            futures = [batcher.submit(row, adapter) for row, adapter, _ in asked]
            for future, (_, _, fate) in zip(futures, asked, strict=True):
                if fate == "cancelled":
                    future.cancel()
            for future, each in zip(futures, asked, strict=True):
                check(outcome_of(future), *each)

    async def loop() -> None:
        rng = random.Random(seed)
        for _ in range(8):
            asked = [draw(rng) for _ in range(rng.randint(1, 10))]
            tasks = [asyncio.create_task(batcher.run(row, adapter)) for row, adapter, _ in asked]
            for _ in range(rng.randint(0, 3)):
                await asyncio.sleep(0)
            for task, (_, _, fate) in zip(tasks, asked, strict=True):
                if fate == "cancelled":
                    task.cancel()
            for each, outcome in zip(asked, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
                check(outcome, *each)

    with ThreadPoolExecutor(9) as pool:
        workers = [pool.submit(thread, number) for number in range(8)] + [pool.submit(asyncio.run, loop())]
        for worker in workers:
            worker.result(120)
    assert batcher.statistics().queued == 0
    assert batcher.statistics().padding <= 0.4
    assert all(len(adapters) <= 5 for adapters, _ in session.batches)
    assert any(len(adapters) > 1 for adapters, _ in session.batches)
