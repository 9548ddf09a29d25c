"""Shows on stderr what a long command is doing: names of steps, and bars that count."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from adapter_export.terminal import console, visible

# Seconds after which a command without a terminal writes what it is doing. Logs of short commands stay empty.
PATIENCE = 15.0


@contextmanager
def stages(command: str) -> Iterator[Callable[[str], None]]:
    """Shows which step of a command runs. A terminal has one line, which changes. Other output has a line for each
    step, once the command takes long.

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
def bar(title: str, *, of_bytes: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar if stderr is a terminal, and nothing otherwise.

    Args:
        title: What is counted, to the left of the bar.
        of_bytes: Whether bytes are counted, which are shown with their speed.

    Yields:
        A function to call with how many are done, and how many there are.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    bytes_columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    columns = bytes_columns if of_bytes else Progress.get_default_columns()
    with Progress(*columns, console=console(stderr=True), transient=True) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
