"""The campaign: `python -m tests.faults`. Exits with 1 if a trial was lost.

--seed N        of the random moments and damages; printed, and kept for a campaign that goes on
--again         forget an earlier campaign; one of another version of the program is forgotten anyway
--plant NAME    plant a fault, which the campaign must find; a short one, which writes no page and ends when it has
--short         a few trials of each part, which writes no page
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.journal import Journal

# One thread a process: children are forked, and two of them may run side by side.
os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

_FOLDER = Path(__file__).parents[2] / ".cache" / "faults"


def main() -> int:
    from tests.faults.plants import FEW, PLANTS

    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--plant", choices=sorted(PLANTS))
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    short = options.short or options.plant is not None
    folder = _FOLDER / (f"short-{options.plant or ''}" if short else "whole")

    from tests.faults import damage, kills, page, threads, writers, writes
    from tests.faults.child import start
    from tests.faults.journal import Journal
    from tests.faults.subject import Subject, content

    # A campaign goes on only with the program that it began with.
    stamp, program = folder / "program", _program()
    changed = not stamp.exists() or stamp.read_text() != program
    if not writes.can_fail() and (options.again or short or changed):
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.write_text(program)
    writes.preload(folder)
    print(f"seed {options.seed}; what was tried is kept in {folder}", flush=True)
    given = folder / "given"
    _, status = os.waitpid(start(folder / "given.log", lambda: bool(Subject.make(given)) - 1), 0)
    if status:
        print((folder / "given.log").read_text(), file=sys.stderr)
        return 1
    subject, seed = Subject(given), options.seed
    before = content(given)
    import torch
    import transformers.trainer  # noqa: F401

    torch.set_num_threads(1)
    if options.plant:
        PLANTS[options.plant]()
    few = FEW if short else None

    def first(journal: Journal, work: Path) -> None:
        kills.at_each_step(journal, subject, work, few or kills.LAST_STEPS)
        writers.two_at_once(journal, subject, work, seed, few)
        damage.damaged_files(journal, subject, work, seed, (few and 10 * few) or damage.TIMES)
        kills.at_random(journal, subject, work, seed, few or kills.TIMES)

    def second(journal: Journal, work: Path) -> None:
        if writes.can_fail():
            writes.failing(journal, subject, work, few)
        threads.threads(journal, subject, work, seed, 0.1 if short else threads.MINUTES)

    # One that is lost proves the plant found.
    until_lost = folder / "lost" if options.plant else None
    # Side by side: a command leaves one of two cores idle.
    places = {lane: folder / lane.__name__ for lane in (first, second)}
    children = [_fork(lambda lane=lane, place=place: _lane(lane, place, until_lost)) for lane, place in places.items()]
    ended = [os.waitpid(child, 0)[1] for child in children]
    journal = Journal(*(place / "journal.jsonl" for place in places.values()))
    if content(given) != before:
        journal.trial("inputs", "unchanged", lambda: "an input has changed")
    if not short and not any(ended):
        page.write(journal, seed, writes.can_fail())
    lost = journal.lost()
    trials = sum(len(made) for made in journal.outcomes.values())
    print(f"{trials} trials, {len(lost)} lost, {journal.seconds / 60:.0f} minutes of trials", flush=True)
    return int(bool(lost) or any(ended))


def _program() -> str:
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parents[2] / "adapter_export").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _lane(parts: Callable[[Journal, Path], None], place: Path, until_lost: Path | None) -> None:
    from tests.faults.journal import Journal

    place.mkdir(exist_ok=True)
    parts(Journal(place / "journal.jsonl", until_lost=until_lost), place / "work")
    shutil.rmtree(place / "work", ignore_errors=True)


def _fork(action: Callable[[], None]) -> int:
    """A child that does it, and exits with 1 where that fails."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    try:
        action()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
