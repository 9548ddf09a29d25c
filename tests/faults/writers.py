"""Two commands on one output at once: one has it, the other waits or is refused."""

from __future__ import annotations

import random
from pathlib import Path

from adapter_export.bundle.manifest import read_manifest
from tests.faults.child import command, start, wait
from tests.faults.journal import Journal
from tests.faults.subject import COMMANDS, NEW, Subject, leftovers

TIMES = {"merge": 100, "add": 100, "train": 30, "onnx": 20}


def two_at_once(journal: Journal, subject: Subject, work: Path, seed: int, times: int | None = None) -> None:
    for name in COMMANDS:
        for trial in range(times or TIMES[name]):
            replaced = random.Random(f"{seed} {name} {trial}").random() < 0.5

            def make(name: str = name, replaced: bool = replaced) -> str | None:
                return _trial(subject, work, name, replaced)

            journal.trial("two writers at once", f"{name} {seed} {trial}", make)


def _trial(subject: Subject, work: Path, name: str, replaced: bool) -> str | None:  # noqa: PLR0911
    output = subject.prepare(name, work, replaced)
    lines = [subject.arguments(name, output) for _ in range(2)]
    if name == "add":
        lines = [["add", "--bundle", str(output), "--adapter", f"{new}={subject.folder / 'new'}"] for new in ("x", "y")]
    logs = [work.with_suffix(f".{number}.log") for number in range(2)]
    children = [start(log, lambda line=line: command(line)) for line, log in zip(lines, logs, strict=True)]
    ended = [wait(child, log) for child, log in zip(children, logs, strict=True)]
    codes = [one.code for one in ended]
    if subject.state(name, output) != NEW:
        return f"exits {codes}: the output is {subject.state(name, output)}"
    if name == "add":
        added = {info.name for info in read_manifest(output).adapters}
        if codes != [0, 0] or not {"x", "y"} <= added:
            return f"exits {codes}: the bundle has {sorted(added)}; {ended[0].stderr[-200:]}{ended[1].stderr[-200:]}"
    for one in ended:
        if one.code == 2 and "another command is writing it" not in one.stderr:
            return f"exit 2: {one.stderr[-200:]}"
        if one.code not in (0, 2):
            return f"exit {one.code}: {one.stderr[-200:]}"
    if 0 not in codes:
        return f"exits {codes}: nobody had the output"
    if left := leftovers(work, output):
        return f"left behind: {', '.join(left)}"
    return None
