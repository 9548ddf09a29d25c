"""The command group: the list of commands, and how every error becomes one line on stderr and an exit code."""

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

# Command -> its line in `adapter-export --help`. The command itself is `adapter_export.cli.<name>:command`. It is
# imported when it is invoked, so that help texts do not wait for the frameworks of other commands.
COMMANDS = {
    "train": "Train an adapter on a frozen base model.",
    "merge": "Fold an IA3 or LoRA adapter into the weights of its base model.",
    "onnx": "Export a model with its adapters to an ONNX bundle.",
    "graft": "Put adapters into a finished ONNX graph of another tool.",
    "add": "Add adapters to an existing bundle, without tracing.",
    "remove": "Remove adapters from a bundle.",
    "extract": "Write an adapter of a bundle for another tool's graph.",
    "parity": "Check that a bundle computes the same as the model.",
    "reference": "Print the script that records what an adapter computes.",
    "run": "Run a bundle on texts.",
    "score": "Run a data set through a bundle, here or on a Ray cluster.",
    "serve": "Serve a bundle over HTTP.",
    "triton": "Write a model repository of NVIDIA's Triton.",
    "bench": "Measure latency, swapping and memory of a bundle.",
    "inspect": "Describe a checkpoint, a bundle, or an ONNX file.",
}

# Largest number of characters of an error message, which may contain text of any length from a file.
_MAX_LINE = 4000
_ENDED = {
    ExitCode.HUNG_UP: "ended: the terminal was closed (SIGHUP)",
    ExitCode.INTERRUPTED: "interrupted",
    ExitCode.TERMINATED: "terminated (SIGTERM)",
}


class LazyGroup(click.Group):
    """A group that imports a command when it is used, and handles the errors of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        ctx.ensure_object(Invocation).command = cmd_name
        command: click.Command = importlib.import_module(f"adapter_export.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # By default, click imports every command to read its help.
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> None:
        # The return value of a command is not an exit code. Only `ctx.exit(code)` sets one.
        super().invoke(ctx)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs the command line and exits. With `standalone_mode=False`, returns and raises, as click does."""
        invocation = extra.setdefault("obj", Invocation())
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        with written(), signals.ending(), panics.in_command():
            try:
                code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            except BaseException as error:
                # A panic of a library that reaches this point is a bug here, so it is reported as an internal error.
                ends = isinstance(error, (Exception, KeyboardInterrupt, signals.Terminated))
                if not ends and not panics.is_panic(error):
                    raise
                _fail(error, invocation)
        sys.exit(code or ExitCode.DONE)


def _fail(error: BaseException, invocation: Invocation) -> NoReturn:
    """Writes the error as one line to stderr, and exits with its code."""
    if (signal_code := _ended(error)) is not None:
        click.echo(_ENDED[signal_code], err=True)
        sys.exit(signal_code)
    code, line = _describe(_advised(error, invocation.command))
    if invocation.debug:
        traceback.print_exception(error)
    elif code is ExitCode.INTERNAL:
        line += " (run again with --debug for the traceback)"
    click.echo(line, err=True)
    sys.exit(code)


def _ended(error: BaseException) -> ExitCode | None:
    """Returns the exit code of a command that was ended by a signal; None for other errors."""
    if (number := signals.received()) is not None:
        # A library may have raised another error because of the signal.
        return ExitCode(128 + number)
    return ExitCode.INTERRUPTED if isinstance(error, click.Abort | KeyboardInterrupt) else None


def _advised(error: BaseException, command: str | None) -> BaseException:
    """Returns an error with installation advice if the error is a missing package that belongs to an extra."""
    if isinstance(error, ModuleNotFoundError) and (line := advice(error.name or "", command)) is not None:
        return InputError(line)
    return error


def _describe(error: BaseException) -> tuple[ExitCode, str]:
    """Returns the exit code and the message of an error."""
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
