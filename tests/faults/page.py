"""docs/reliability.md: what a whole campaign found, and what another program has put behind it."""

from __future__ import annotations

import platform
from pathlib import Path

from tests.faults.journal import SURVIVED, Journal

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
# `python -m benchmarks.server soak` writes the page from this heading on.
SERVER = "## A server under load"

_EXPLAINED = {
    "ENOSPC at each write": "a command of which one change of the file system fails, and all after it: a full disk",
    "EIO at each write": "a command of which one change of the file system fails: a broken disk or network",
    "SIGTERM at a random moment": "a command that is told to end, as containers and batch systems do",
    "SIGKILL at a random moment": "a command that is killed, and a second one on the same output",
    "SIGKILL at each of the last steps": "the same at each change of the file system where the output is put in place",
    "two writers at once": "two commands on one output, started together",
    "damaged files of a bundle": "a byte changed, a file cut or longer; then the bundle is opened and run",
    "threads on sessions and batchers": "16 threads that run, load, unload and submit, while another process or thread "
    "replaces the adapters' files; every answer is compared",
}

_HEAD = """\
# Reliability
What happens to outputs and answers when something goes wrong around them. `make faults` does all of this on a tiny
BERT, and it alone writes this part of the page. It makes `train`, `merge`, `onnx` and `add` fail, half of the times
with an earlier output in place, and looks at what is there afterwards.

A trial is **lost** if the output is neither what it was before nor complete; if something else is left behind, after
SIGKILL by the next command on the same output; if an input has changed; if a command hangs, ends with an internal error
or does not say what failed; if an answer is wrong.

"""


def write(journal: Journal, seed: int, writes_failed: bool) -> None:
    """writes_failed: whether writes could be made to fail here."""
    rows = ["| fault | what is tried | trials | survived | lost |", "|---|---|---|---|---|"]
    for part, what in _EXPLAINED.items():
        counts = journal.counts(part)
        if not counts and not writes_failed:
            rows.append(f"| {part} | not run: it needs Linux and a C compiler | 0 | - | - |")
        else:
            rows.append(f"| {part} | {what} | {counts.total():,} | {counts[SURVIVED]:,} | {counts['lost']:,} |")
    lost = [f"- {line}" for line in journal.lost()]
    tail = [
        "",
        f"Seed {seed}, {journal.seconds / 60:.0f} minutes of trials, {platform.system()} {platform.machine()}, Python "
        f'{platform.python_version()}. `make faults ARGS="--plant NAME"` plants a fault (an exchange in two steps '
        "without a",
        "way back, no lock, no verification of files), which the campaign must find: it then exits with 1.",
        *(["", "## Lost", *lost] if lost else []),
    ]
    _, heading, rest = PAGE.read_text(encoding="utf-8").partition(SERVER)
    PAGE.write_text(_HEAD + "\n".join([*rows, *tail]) + f"\n\n{heading}{rest}", encoding="utf-8")


def write_server(lines: list[str]) -> None:
    """Replaces what is said of a server under load."""
    before = PAGE.read_text(encoding="utf-8").partition(SERVER)[0].rstrip("\n")
    PAGE.write_text(before + "\n\n" + "\n".join([SERVER, *lines]) + "\n", encoding="utf-8")
