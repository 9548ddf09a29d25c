"""Many threads that run and swap for a minute, with more adapters than slots: no wrong row, no leak, no crash."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from adapter_export.benchmarking.memory import anonymous_bytes
from adapter_export.cli.table import print_table
from adapter_export.runtime.session import AdapterSession
from benchmarks.serving.made import BOTTLENECK, IA3, make, one_row, texts

SECONDS = 60.0
THREADS = 32
SLOTS, COUNTS = 12, {IA3: 24, BOTTLENECK: 12}
TEXTS, LENGTH, ROWS = 6, 8, 3
# One thread in so many loads and unloads besides.
_SWAPPERS = 4
# Of float32 in batches of other sizes; adapters differ by a thousand times more.
_TOLERANCE = 1e-4


def main(folder: Path) -> None:
    made = make(folder, COUNTS, ("bank",))
    session = made.session("bank", SLOTS, threads=1)
    names: list[str | None] = [None, *made.adapters]
    inputs = texts(TEXTS, LENGTH)
    with made.session("bank", len(names), threads=1) as quiet:
        expected = {
            (name, text): quiet.run_rows(one_row(inputs, text), [name])[0]["logits"]
            for name in names
            for text in range(TEXTS)
        }
    soak = Soak(session, names, inputs, expected)
    memory = soak.run()
    found, counts = soak.counts, session.statistics().values()
    if None in memory:
        told = "this system does not tell"
    else:
        told = ", ".join(f"{bytes_ / 1e6:,.0f}" for bytes_ in memory if bytes_ is not None)
    print_table(
        f"{THREADS} threads for {SECONDS:.0f} s: {len(names) - 1} adapters, {SLOTS} slots",
        ("", "value"),
        [
            ("batches", f"{found['batches']:,}"),
            ("rows", f"{found['rows']:,}"),
            ("wrong rows", f"{found['wrong']:,}"),
            ("errors", f"{found['errors']:,}"),
            ("loads and unloads by hand", f"{found['swaps']:,}"),
            ("loads", f"{sum(of.loads for of in counts):,}"),
            ("evictions", f"{sum(of.evictions for of in counts):,}"),
            ("MB of anonymous memory, at each sixth", told),
        ],
    )


class Soak:
    """counts: what happened."""

    def __init__(
        self,
        session: AdapterSession,
        names: list[str | None],
        inputs: dict[str, np.ndarray],
        expected: dict[tuple[str | None, int], np.ndarray],
    ) -> None:
        self._session, self._names, self._inputs, self._expected = session, names, inputs, expected
        self._lock, self._end = threading.Lock(), 0.0
        self.counts: Counter[str] = Counter()

    def run(self) -> list[int | None]:
        """Memory at six moments."""
        self._end = time.monotonic() + SECONDS
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        memory = []
        for _ in range(6):
            time.sleep(SECONDS / 6)
            memory.append(anonymous_bytes())
        for thread in threads:
            thread.join()
        return memory

    def _work(self, number: int) -> None:
        rng = np.random.default_rng(number)
        while time.monotonic() < self._end:
            found: Counter[str] = Counter()
            try:
                if number % _SWAPPERS == 0 and rng.random() < 0.5:
                    self._swap(rng, found)
                else:
                    self._batch(rng, found)
            except Exception as error:
                found["errors"] += 1
                print(f"error: {error}")
            with self._lock:
                self.counts += found

    def _swap(self, rng: np.random.Generator, found: Counter[str]) -> None:
        from adapter_export.errors import InputError

        name = str(rng.choice(self._names[1:]))
        found["swaps"] += 1
        if rng.random() < 0.5:
            self._session.load(name)
            return
        try:
            self._session.unload(name)
        except InputError as error:
            if "not loaded" not in str(error):
                raise

    def _batch(self, rng: np.random.Generator, found: Counter[str]) -> None:
        # ROWS of distinct adapters would wait for each other's slots: 28 threads want more than there are.
        rows = rng.integers(0, TEXTS, rng.integers(1, ROWS + 1))
        adapters = [self._names[index] for index in rng.integers(0, len(self._names), len(rows))]
        batch = {name: value[rows] for name, value in self._inputs.items()}
        answers = self._session.run_rows(batch, adapters)
        found["batches"] += 1
        found["rows"] += len(rows)
        for text, name, answer in zip(rows, adapters, answers, strict=True):
            expected = self._expected[name, int(text)]
            logits = answer["logits"]
            right = logits.shape == expected.shape and (
                logits.size == 0 or np.abs(logits - expected).max() <= _TOLERANCE * np.abs(expected).max()
            )
            found["wrong"] += not right
