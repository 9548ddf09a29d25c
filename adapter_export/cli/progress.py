"""Shows on stderr what a long command is doing: names of steps, and bars that count."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from adapter_export.terminal import console, visible

# Seconds before a command that nobody watches on a terminal says what it is doing: logs of short ones stay empty.
PATIENCE = 15.0


@contextmanager
def stages(command: str) -> Iterator[Callable[[str], None]]:
    """Shows which stage of a command runs: on a terminal a line that changes, elsewhere one a stage if it takes long.

    Args:
        command: The name of the command.

    Yields:
        A function to call with what begins now (`tracing model.onnx`).
    """
    if sys.stderr.isatty():
        with console(stderr=True).status(command) as status:
            yield lambda text: status.update(visible(f"{command}: {text}", lines=False))
        return
    started, current = time.monotonic(), ""

    def say() -> None:
        click.echo(f"{command}: {current} ({time.monotonic() - started:.0f} s)", err=True)

    def begin(text: str) -> None:
        nonlocal current
        current = text
        if time.monotonic() - started > PATIENCE:
            say()

    timer = threading.Timer(PATIENCE, lambda: say() if current else None)
    timer.daemon = True
    timer.start()
    try:
        yield begin
    finally:
        timer.cancel()


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar where stderr is a terminal, and nothing elsewhere.

    Args:
        title: What is counted, to the left of the bar.

    Yields:
        A function to call with how many are done, and how many there are.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.progress import Progress

    with Progress(console=console(stderr=True), transient=True) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
