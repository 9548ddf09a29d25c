"""What every command shares: options, help with an example, exit codes, and how a result is printed.

A command module reads:

    @click.command("merge", cls=Command, epilog=EXAMPLE)
    @model_option("Base model folder.")
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

from adapter_export.outputs.lock import LOCK_TIMEOUT
from adapter_export.providers import Provider

# The type of options that are paths.
PATH = click.Path(path_type=Path)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class ExitCode(IntEnum):
    """How a command ends; `ctx.exit(ExitCode.PARITY)` from a command, the rest is set in one place, `cli.main`."""

    DONE = 0
    PARITY = 1  # failed or inconclusive
    BAD_INPUT = 2
    INTERNAL = 3
    # 128 + the signal, as shells count.
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


@dataclass
class Invocation:
    """What one run of the command line must remember outside its commands."""

    debug: bool = False
    command: str | None = None  # its name, once it is known
    stdout: TextIO | None = None  # where the JSON object goes while other prints are sent to stderr


class Command(click.Command):
    """A command that prints its example as written and, under --json, keeps stdout for the result alone."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click rewraps an epilog, which would break shell lines.
        if self.epilog:
            formatter.write("\n" + self.epilog.strip("\n") + "\n")

    def invoke(self, ctx: click.Context) -> Any:
        if not ctx.params.get("as_json"):
            return super().invoke(ctx)
        # Libraries print to stdout as they please (the ONNX exporter does): a script must still read one object.
        ctx.ensure_object(Invocation).stdout = sys.stdout
        with redirect_stdout(sys.stderr):
            return super().invoke(ctx)


def _remember_debug(ctx: click.Context, _parameter: click.Parameter, debug: bool) -> None:
    if debug:
        ctx.ensure_object(Invocation).debug = True


def bundle_option(text: str = "Bundle folder.") -> Decorator:
    """Returns the option --bundle, for a bundle that exists already, with this help text."""
    return click.option("--bundle", required=True, type=PATH, help=text)


def model_option(text: str, *, required: bool = True) -> Decorator:
    """Returns the option --model, for the folder of a base model, with this help text."""
    return click.option("--model", required=required, type=PATH, help=text)


def output_option(text: str) -> Decorator:
    """Returns the option --output, for a folder to write, with this help text."""
    return click.option("--output", required=True, type=PATH, help=text)


def adapters_option(text: str, *, metavar: str = "NAME=DIR", required: bool = False) -> Decorator:
    """Returns the option --adapter, which can be given several times.

    Args:
        text: Its help text.
        metavar: The form of its values.
        required: Whether at least one is required.
    """
    return click.option("--adapter", "adapters", multiple=True, required=required, metavar=metavar, help=text)


def task_option(text: str) -> Decorator:
    """Returns the option --task, with this help text, for commands that can find the task."""
    return click.option("--task", default="auto", show_default=True, help=text)


provider_option = click.option(
    "--provider",
    default=Provider.CPU.value,
    show_default=True,
    type=click.Choice(Provider.words()),
    help="Where to run.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
force_option = click.option("--force", is_flag=True, help="Replace an output that exists already.")
follow_links_option = click.option(
    "--follow-links",
    is_flag=True,
    help="Allow links in the folders of --model and --adapter that lead out of them; otherwise they are refused.",
)
lock_timeout_option = click.option(
    "--lock-timeout",
    type=click.FloatRange(0),
    default=LOCK_TIMEOUT,
    show_default=True,
    help="Seconds to wait for another command that writes to the bundle.",
)
dry_run_option = click.option(
    "--dry-run",
    is_flag=True,
    help="Check the input, and print what would be done; write nothing.",
)
labels_option = click.option(
    "--labels",
    "labels",
    multiple=True,
    metavar="NAME=A,B,...|NAME=@FILE",
    help="Class names of an adapter's task head, in the order of its outputs; a file has one name per line. NAME= may "
    "be omitted if there is only one adapter. Repeatable.",
)
# Eager, so that it counts for errors in the options after it.
debug_option = click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show the traceback of an error.",
)


def quiet_unless_debug() -> None:
    """Keeps ONNX Runtime's own log lines off stderr, unless the command was given --debug."""
    from adapter_export.runtime.provider import quiet_log

    if not click.get_current_context().ensure_object(Invocation).debug:
        quiet_log()


def emit(result: Mapping[str, Any], as_json: bool, human: Callable[[Mapping[str, Any]], None]) -> None:
    """Prints the result of a command, as exactly one JSON object on stdout or by `human(result)`."""
    if not as_json:
        human(result)
        return
    ctx = click.get_current_context(silent=True)
    invocation = ctx.find_object(Invocation) if ctx else None
    stdout = invocation.stdout if invocation else None
    click.echo(json.dumps(jsonable(result), indent=2, allow_nan=False), file=stdout)


def jsonable(value: Any) -> Any:
    """Returns a value without what JSON does not have: NaN and infinities become null, and paths texts."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
