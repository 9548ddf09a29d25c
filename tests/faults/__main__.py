"""The campaign: `python -m tests.faults`. Exits with 1 if a trial was lost.

--seed N        of the random moments and damages; printed, and kept for a campaign that goes on
--again         forget an earlier campaign
--plant NAME    plant a fault, which the campaign must find; a short one, which writes no page
--short         a few trials of each part, which writes no page
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

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

    loaded = os.environ.get("LD_PRELOAD", "").endswith("shim.so")
    if not loaded and (options.again or short):
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    writes.preload(folder)
    print(f"seed {options.seed}; what was tried is kept in {folder}", flush=True)
    given = folder / "given"
    _, status = os.waitpid(start(folder / "given.log", lambda: bool(Subject.make(given)) - 1), 0)
    if status:
        print((folder / "given.log").read_text(), file=sys.stderr)
        return 1
    subject, journal, work = Subject(given), Journal(folder / "journal.jsonl"), folder / "work"
    before = content(given)
    import torch
    import transformers.trainer  # noqa: F401

    torch.set_num_threads(1)
    if options.plant:
        PLANTS[options.plant]()
    few = FEW if short else None
    kills.at_each_step(journal, subject, work, few or kills.LAST_STEPS)
    writers.two_at_once(journal, subject, work, options.seed, few)
    damage.damaged_files(journal, subject, work, options.seed, (few and 10 * few) or damage.TIMES)
    absent: dict[str, str] = {}
    if not writes.failing(journal, subject, work, few or writes.MOST):
        absent = dict.fromkeys(("ENOSPC at each write", "EIO at each write"), "it needs Linux and a C compiler")
    kills.at_random(journal, subject, work, options.seed, few or kills.TIMES)
    threads.threads(journal, subject, work, options.seed, 0.1 if short else threads.MINUTES)
    if content(given) != before:
        journal.trial("inputs", "unchanged", lambda: "an input has changed")
    shutil.rmtree(work, ignore_errors=True)
    if not short:
        page.write(journal, options.seed, absent)
    lost = journal.lost()
    trials = sum(len(made) for made in journal.outcomes.values())
    print(f"{trials} trials, {len(lost)} lost, {journal.seconds / 60:.0f} minutes", flush=True)
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
