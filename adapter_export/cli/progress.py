"""Shows what a long command is doing.

On a terminal, one line changes. In other output, each step of a command that takes long gets a line.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from adapter_export.terminal import console, visible

# Without a terminal, a command shows its steps only after this many seconds, so that logs of short commands stay empty.
PATIENCE = 15.0


@contextmanager
def stages(command: str) -> Iterator[Callable[[str], None]]:
    """Yields a function that shows on stderr which step begins (`tracing model.onnx`)."""
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
