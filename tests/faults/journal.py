"""What has been tried already, one trial a line: an interrupted campaign goes on from there."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

SURVIVED = "survived"


class Journal:
    """part -> trial -> what came of it: `survived`, or what was lost. Read from files; it goes on in the first."""

    def __init__(self, *paths: Path, until_lost: Path | None = None) -> None:
        """until_lost: a file that appears with the first trial that is lost, and after which none is made."""
        self._path, self._until_lost = paths[0], until_lost
        self.outcomes: dict[str, dict[str, str]] = {}
        self.seconds = 0.0
        for line in "".join(path.read_text() for path in paths if path.exists()).splitlines():
            entry = json.loads(line)
            self._enter(entry["part"], entry["trial"], entry["outcome"], entry["seconds"])

    def trial(self, part: str, name: str, make: Callable[[], str | None]) -> None:
        """Make a trial, unless it has been made. `make` returns what was lost, None if nothing was."""
        if self._until_lost is not None and self._until_lost.exists():
            return
        if name in self.outcomes.get(part, {}):
            return
        begin = time.monotonic()
        lost = make()
        seconds = time.monotonic() - begin
        self._enter(part, name, lost or SURVIVED, seconds)
        entry = {"part": part, "trial": name, "outcome": lost or SURVIVED, "seconds": round(seconds, 3)}
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        if lost:
            print(f"LOST: {part}: {name}: {lost}", flush=True)
            if self._until_lost is not None:
                self._until_lost.touch()

    def counts(self, part: str) -> Counter[str]:
        """How many trials of a part survived, and how many did not (`lost`)."""
        return Counter(SURVIVED if outcome == SURVIVED else "lost" for outcome in self.outcomes.get(part, {}).values())

    def lost(self) -> list[str]:
        """Every trial that was lost, in one line."""
        return [
            f"{part}: {name}: {outcome}"
            for part, trials in self.outcomes.items()
            for name, outcome in trials.items()
            if outcome != SURVIVED
        ]

    def _enter(self, part: str, trial: str, outcome: str, seconds: float) -> None:
        self.outcomes.setdefault(part, {})[trial] = outcome
        self.seconds += seconds
