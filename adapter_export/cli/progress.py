"""What a long command is doing: on a terminal a line that changes, elsewhere a line a stage once it takes long."""

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
    """Gives a function that is called with what begins now (`tracing model.onnx`); all of it goes to stderr."""
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
