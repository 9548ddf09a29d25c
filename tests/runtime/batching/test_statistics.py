"""What a batcher counts."""

from __future__ import annotations

from adapter_export.runtime.batching import statistics as module
from adapter_export.runtime.batching.statistics import Recorder


def test_nothing_yet() -> None:
    found = Recorder().statistics(queued=0)
    assert (found.requests, found.batches, found.rows_per_batch, found.padding) == (0, 0, 0.0, 0.0)
    assert found.waits == {50: 0.0, 90: 0.0, 99: 0.0}


def test_batches_are_counted() -> None:
    recorder = Recorder()
    recorder.batch([10, 6, 8], [0.1, 0.2, 0.3])
    recorder.batch([4], [0.4])
    recorder.split()
    recorder.failure()
    found = recorder.statistics(queued=7)
    assert (found.requests, found.batches, found.split, found.failed, found.queued) == (4, 2, 1, 1, 7)
    assert found.rows_per_batch == 2.0
    assert found.padding == 1 - 28 / 34
    assert found.waits[50] == 0.25


def test_waits_are_those_of_the_last_requests() -> None:
    recorder = Recorder()
    for wait in (100.0, 1.0):
        for _ in range(module._WAITS):
            recorder.batch([1], [wait])
    assert recorder.statistics(0).waits == {50: 1.0, 90: 1.0, 99: 1.0}
    assert recorder.statistics(0).requests == 2 * module._WAITS
