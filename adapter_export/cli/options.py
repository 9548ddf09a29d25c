"""Parts that all commands share: options, help with an example, exit codes, and how a result is printed.

A command module looks like this:

    @click.command("merge", cls=Command, epilog=EXAMPLE)
    @click.option("--model", required=True, type=click.Path(path_type=Path))
    @force_option
    @json_option
    @debug_option
    def command(model: Path, force: bool, as_json: bool) -> None: ...
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, TextIO

import click


class ExitCode(IntEnum):
    """The exit codes. A command sets PARITY by `ctx.exit(ExitCode.PARITY)`; `cli.main` sets all others."""

    DONE = 0
    PARITY = 1  # failed or inconclusive
    BAD_INPUT = 2
    INTERNAL = 3
    # 128 + the number of the signal, as in shells.
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


@dataclass
class Invocation:
    """State of one run of the command line.

    Attributes:
        debug: Whether --debug was given.
        command: Name of the command, once it is known.
        stdout: Where the JSON object is written, while other output to stdout is redirected to stderr.
    """

    debug: bool = False
    command: str | None = None
    stdout: TextIO | None = None


class Command(click.Command):
    """A command that prints its example unchanged. With --json, only the result is written to stdout."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click would wrap the epilog again, which breaks shell commands.
        if self.epilog:
            formatter.write("\n" + self.epilog.strip("\n") + "\n")

    def invoke(self, ctx: click.Context) -> Any:
        if not ctx.params.get("as_json"):
            return super().invoke(ctx)
        # Some libraries print to stdout (the ONNX exporter does). A script must still be able to read one JSON object.
        ctx.ensure_object(Invocation).stdout = sys.stdout
        with redirect_stdout(sys.stderr):
            return super().invoke(ctx)


def _remember_debug(ctx: click.Context, _parameter: click.Parameter, debug: bool) -> None:
    if debug:
        ctx.ensure_object(Invocation).debug = True


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
force_option = click.option("--force", is_flag=True, help="Replace an output that exists already.")
follow_links_option = click.option(
    "--follow-links",
    is_flag=True,
    help="Allow symbolic links in the folders of --model and --adapter that lead out of them; otherwise they are "
    "refused.",
)
labels_option = click.option(
    "--labels",
    "labels",
    multiple=True,
    metavar="NAME=A,B,...|NAME=@FILE",
    help="Class names of an adapter's task head, in the order of its outputs; a file has one name per line. NAME= may "
    "be omitted if there is only one adapter. Repeatable.",
)
# Eager, so that it applies to errors in later options.
debug_option = click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show the traceback of an error.",
)


def emit(result: Mapping[str, Any], as_json: bool, human: Callable[[Mapping[str, Any]], None]) -> None:
    """Prints the result of a command.

    Args:
        result: The result.
        as_json: Whether to print it as exactly one JSON object on stdout.
        human: Prints it otherwise.
    """
    if not as_json:
        human(result)
        return
    ctx = click.get_current_context(silent=True)
    invocation = ctx.find_object(Invocation) if ctx else None
    stdout = invocation.stdout if invocation else None
    click.echo(json.dumps(_jsonable(result), indent=2, allow_nan=False), file=stdout)


def _jsonable(value: Any) -> Any:
    """Returns a value that JSON can express: null in place of NaN and infinity, text in place of paths."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


# In seconds. Repeats the value of `bundle.add`, which is imported only when a command needs it.
LOCK_TIMEOUT = 60.0
lock_timeout_option = click.option(
    "--lock-timeout",
    type=click.FloatRange(0),
    default=LOCK_TIMEOUT,
    show_default=True,
    help="Seconds to wait for another command that writes to the bundle.",
)
