"""SIGTERM and SIGKILL at random moments, and SIGKILL at every step of the end, where the output is put in its place."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from tests.faults.child import Ended, command, run, start, wait
from tests.faults.journal import Journal
from tests.faults.subject import ABSENT, COMMANDS, NEW, OLD, Subject, leftovers
from tests.outputs.killed import CHANGES

# Trials of each command and signal.
TIMES = 100
# Steps before the end of a command at each of which it is killed.
LAST_STEPS = 40


def at_random(journal: Journal, subject: Subject, work: Path, seed: int, times: int = TIMES) -> None:
    """SIGTERM and SIGKILL, after a part of the time that the command takes."""
    for name in COMMANDS:
        output = subject.prepare(name, work, replaced=False)
        took = run(subject.arguments(name, output), work.with_suffix(".log")).seconds
        for number in (signal.SIGTERM, signal.SIGKILL):
            for trial in range(times):
                rng = random.Random(f"{seed} {name} {number} {trial}")
                after, replaced = rng.uniform(0, took * 1.05), rng.random() < 0.5

                def make(
                    name: str = name, number: int = number, after: float = after, replaced: bool = replaced
                ) -> str | None:
                    output = subject.prepare(name, work, replaced)
                    before = subject.state(name, output)
                    log = work.with_suffix(".log")
                    return judge(
                        subject, name, work, output, before, run(subject.arguments(name, output), log, number, after)
                    )

                journal.trial(f"{signal.Signals(number).name} at a random moment", f"{name} {seed} {trial}", make)


def at_each_step(journal: Journal, subject: Subject, work: Path, steps: int = LAST_STEPS) -> None:
    """SIGKILL before each of the last changes of the file system, with an earlier output in place."""
    log = work.with_suffix(".log")
    for name in COMMANDS:
        output = subject.prepare(name, work, replaced=True)
        counted = wait(start(log, lambda name=name, output=output: _counting(subject, name, output, 0)), log)
        total = int(counted.stderr.rpartition("steps: ")[2])
        for step in range(max(1, total - steps), total + 1):

            def make(name: str = name, step: int = step) -> str | None:
                output = subject.prepare(name, work, replaced=True)
                ended = wait(start(log, lambda: _counting(subject, name, output, step)), log)
                return judge(subject, name, work, output, OLD, ended)

            journal.trial("SIGKILL at each of the last steps", f"{name} {step - total}", make)


def judge(subject: Subject, name: str, work: Path, output: Path, before: str, ended: Ended) -> str | None:  # noqa: PLR0911
    """What was lost, or None."""
    state = subject.state(name, output)
    if ended.code is None:
        return "the command hung"
    allowed = {0: {NEW}, 143: {before}}.get(ended.code, {before, NEW})
    if state not in allowed:
        return f"exit {ended.code}: the output is {state}, it was {before}"
    if ended.code not in (0, 143, -signal.SIGTERM, -signal.SIGKILL):
        return f"exit {ended.code}: {ended.stderr[-200:]}"
    if ended.code in (0, 143) and (left := leftovers(work, output)):
        return f"exit {ended.code}: left behind: {', '.join(left)}"
    if state == ABSENT and name == "add":
        return "the bundle is gone"
    following = run(subject.next_arguments(name, output), work.with_suffix(".log"))
    if following.code != 0 or subject.state(name, output) != NEW:
        return f"the next command: exit {following.code}, {following.stderr[-200:]}"
    if left := leftovers(work, output):
        return f"left behind by the next command: {', '.join(left)}"
    return None


def _counting(subject: Subject, name: str, output: Path, kill_at: int) -> int:
    """The command, killed before its `kill_at`-th change of the output's surroundings; prints how many there were."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or writes) and "output" in str(arguments[0]):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    code = command(subject.arguments(name, output))
    print(f"steps: {count}", file=sys.stderr)
    return code
