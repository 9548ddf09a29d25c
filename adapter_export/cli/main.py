"""The command group: which commands there are, and how every failure becomes one line and an exit code."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from adapter_export.cli.extras import advice
from adapter_export.cli.options import ExitCode, Invocation, debug_option
from adapter_export.errors import AdapterExportError, InputError
from adapter_export.outputs import signals
from adapter_export.reading import panics
from adapter_export.terminal import written

# Command -> its line in `adapter-export --help`. The command itself is `adapter_export.cli.<name>:command`, imported
# when it is invoked: the help of the group, and of one command, must not wait for the frameworks of the others.
COMMANDS = {
    "train": "Train an adapter on a frozen base model.",
    "merge": "Fold an IA3 adapter into the weights of its base model.",
    "onnx": "Export a model with its adapters to an ONNX bundle.",
    "add": "Add adapters to an existing bundle, without tracing.",
    "remove": "Take adapters out of a bundle.",
    "parity": "Prove that a bundle computes what the model does.",
    "reference": "Print the script that records what an adapter computes.",
    "run": "Run a bundle on texts.",
    "bench": "Measure latency, swapping and memory of a bundle.",
    "inspect": "Describe a checkpoint, a bundle, or an ONNX file.",
}

# Characters of an error's line: whatever a file holds, a terminal shows what is wrong with it.
_MAX_LINE = 4000
_ENDED = {
    ExitCode.HUNG_UP: "ended: the terminal was closed (SIGHUP)",
    ExitCode.INTERRUPTED: "interrupted",
    ExitCode.TERMINATED: "terminated (SIGTERM)",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when used, and whose failures are handled in one place."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        ctx.ensure_object(Invocation).command = cmd_name
        command: click.Command = importlib.import_module(f"adapter_export.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click would import every command to read its help.
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> None:
        # What a command returns is not an exit code; only `ctx.exit(code)` is.
        super().invoke(ctx)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit; with `standalone_mode=False` let everything through, as click does."""
        invocation = extra.setdefault("obj", Invocation())
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        with written(), signals.ending(), panics.in_command():
            try:
                code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            except BaseException as error:
                # A library that gave up outside of where that is expected is a mistake of ours.
                ends = isinstance(error, (Exception, KeyboardInterrupt, signals.Terminated))
                if not ends and not panics.is_panic(error):
                    raise
                _fail(error, invocation)
        sys.exit(code or ExitCode.DONE)


def _fail(error: BaseException, invocation: Invocation) -> NoReturn:
    """Say what went wrong on one line of stderr and exit with the code for it."""
    if (ended := _ended(error)) is not None:
        click.echo(_ENDED[ended], err=True)
        sys.exit(ended)
    code, line = _describe(_advised(error, invocation.command))
    if invocation.debug:
        traceback.print_exception(error)
    elif code is ExitCode.INTERNAL:
        line += " (run again with --debug for the traceback)"
    click.echo(line, err=True)
    sys.exit(code)


def _ended(error: BaseException) -> ExitCode | None:
    """The code for a command that was told to end; None for one that failed by itself."""
    if (number := signals.received()) is not None:
        # Whatever a library made of the interruption.
        return ExitCode(128 + number)
    return ExitCode.INTERRUPTED if isinstance(error, click.Abort | KeyboardInterrupt) else None


def _advised(error: BaseException, command: str | None) -> BaseException:
    """A package that is not installed, where an extra brings it, is told as what to install."""
    if isinstance(error, ModuleNotFoundError) and (line := advice(error.name or "", command)) is not None:
        return InputError(line)
    return error


def _describe(error: BaseException) -> tuple[ExitCode, str]:
    match error:
        case click.UsageError():
            help_hint = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
            return ExitCode.BAD_INPUT, f"error: {_one_line(error.format_message())}{help_hint}"
        case click.ClickException():
            return ExitCode.BAD_INPUT, f"error: {_one_line(error.format_message())}"
        case OSError(strerror=str(reason)) if error.filename is not None:
            return ExitCode.BAD_INPUT, f"error: {error.filename}: {_one_line(reason)}"
        case AdapterExportError() | OSError():
            return ExitCode.BAD_INPUT, f"error: {_one_line(str(error)) or type(error).__name__}"
        case _:
            return ExitCode.INTERNAL, f"internal error: {type(error).__name__}: {_one_line(str(error))}"


def _one_line(text: str) -> str:
    line = " ".join(line.strip() for line in text.splitlines() if line.strip())
    return line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}..."


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@debug_option
@click.version_option(package_name="adapter-export")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Deliver small trained adapters to production inference: merged into the weights, or swappable in ONNX.

    'adapter-export COMMAND --help' explains a command and shows an example.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
