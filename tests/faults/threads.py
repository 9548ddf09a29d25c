"""Threads that run, load, unload and submit, while another replaces the adapters' files: no answer is wrong."""

from __future__ import annotations

import os
import random
import shutil
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.child import start
from tests.faults.journal import Journal
from tests.faults.subject import Subject

MINUTES = 20.0
# Minutes of one trial; modes take turns.
_PIECE = 1.0
_THREADS = 16
_NAMES = (None, "old", "new", "bottleneck")
_TEXTS, _LENGTH, _WORDS = 6, 7, 40
# Of float32 in batches of other sizes; adapters differ by a thousand times more.
_TOLERANCE = 1e-4


def threads(journal: Journal, subject: Subject, work: Path, seed: int, minutes: float = MINUTES) -> None:
    pieces = max(1, round(minutes / _PIECE))
    for piece in range(pieces):
        mode = ("swappable", "bank")[piece % 2]

        def make(mode: str = mode, piece: int = piece) -> str | None:
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(subject.folder / mode, work / "bundle")
            log = work.with_suffix(".log")
            seconds = minutes / pieces * 60
            child = start(log, lambda: _Soak(subject, work / "bundle", f"{seed} {piece}").run(seconds))
            _, status = os.waitpid(child, 0)
            told = log.read_text(errors="replace")
            return None if status == 0 else f"status {status}: {told[-300:]}"

        journal.trial("threads on sessions and batchers", f"{mode}, {_PIECE:g} minutes, {seed} {piece}", make)


class _Soak:
    def __init__(self, subject: Subject, bundle: Path, seed: str) -> None:
        from adapter_export import AdapterSession
        from adapter_export.runtime.batching.batcher import DynamicBatcher

        self._subject, self._bundle, self._seed = subject, bundle, seed
        rng = np.random.default_rng(len(seed))
        self._inputs = {
            "input_ids": rng.integers(4, _WORDS, (_TEXTS, _LENGTH)),
            "attention_mask": np.ones((_TEXTS, _LENGTH), np.int64),
            "token_type_ids": np.zeros((_TEXTS, _LENGTH), np.int64),
        }
        self._session = AdapterSession(bundle)
        self._batcher = DynamicBatcher(self._session, max_batch=8)
        self._expected: dict[tuple[str | None, int], np.ndarray] = {
            (name, text): self._session.run(self._rows([text]), name)["logits"][0]
            for name in _NAMES
            for text in range(_TEXTS)
        }
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._problems: list[str] = []

    def run(self, seconds: float) -> int:
        end = time.monotonic() + seconds
        workers = [threading.Thread(target=self._work, args=(number, end)) for number in range(_THREADS)]
        for worker in workers:
            worker.start()
        self._replace(end)
        for worker in workers:
            worker.join()
        self._batcher.close()
        self._session.close()
        print(dict(self._counts), file=sys.stderr)
        print(*self._problems[:3], sep="\n", file=sys.stderr)
        return int(bool(self._problems) or not self._counts["rows"])

    def _replace(self, end: float) -> None:
        """Write the adapters' files anew, with what they hold already."""
        from adapter_export import add_adapter

        while time.monotonic() < end:
            add_adapter(self._bundle, {"new": self._subject.folder / "new"}, force=True)
            time.sleep(0.2)

    def _work(self, number: int, end: float) -> None:
        rng = random.Random(f"{self._seed} {number}")
        while time.monotonic() < end:
            try:
                found = getattr(self, rng.choice(("_run", "_submit", "_load")))(rng)
            except Exception as error:
                found, problem = Counter(errors=1), f"{type(error).__name__}: {error}"
                with self._lock:
                    self._problems.append(problem)
            with self._lock:
                self._counts += found

    def _run(self, rng: random.Random) -> Counter[str]:
        texts = [rng.randrange(_TEXTS) for _ in range(rng.randint(1, 4))]
        names = [rng.choice(_NAMES) for _ in texts]
        if self._session.manifest.mode != "bank":
            names = [names[0]] * len(names)
            answers = list(self._session.run(self._rows(texts), names[0])["logits"])
        else:
            answers = [row["logits"] for row in self._session.run_rows(self._rows(texts), names)]
        for name, text, answer in zip(names, texts, answers, strict=True):
            self._check(name, text, answer)
        return Counter(rows=len(texts))

    def _submit(self, rng: random.Random) -> Counter[str]:
        text, name = rng.randrange(_TEXTS), rng.choice(_NAMES)
        inputs = {key: value[text] for key, value in self._inputs.items()}
        self._check(name, text, self._batcher.submit(inputs, name).result(60)["logits"])
        return Counter(rows=1)

    def _load(self, rng: random.Random) -> Counter[str]:
        from adapter_export.errors import InputError

        name = str(rng.choice(_NAMES[1:]))
        if rng.random() < 0.5:
            self._session.load(name)
        else:
            try:
                self._session.unload(name)
            except InputError as error:
                if "not loaded" not in str(error):
                    raise
        return Counter(swaps=1)

    def _rows(self, texts: list[int]) -> dict[str, Any]:
        return {name: value[texts] for name, value in self._inputs.items()}

    def _check(self, name: str | None, text: int, answer: np.ndarray) -> None:
        expected = self._expected[name, text]
        if answer.shape != expected.shape or not np.allclose(
            answer, expected, rtol=0, atol=_TOLERANCE * np.abs(expected).max(initial=1)
        ):
            with self._lock:
                self._problems.append(f"wrong: {name} {text}")
