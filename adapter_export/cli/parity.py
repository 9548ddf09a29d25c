"""`adapter-export parity`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from adapter_export.cli.options import Command, ExitCode, Invocation, debug_option, emit, json_option
from adapter_export.naming import parse_adapters

EXAMPLE = """\
Example:
  adapter-export parity --bundle bundle --model MiniLM \\
      --adapter injection=adapters/injection --adapter sentiment=adapters/sentiment

Exit code: 0 all of it passed, 1 something failed or is inconclusive, 2 bad input.
"""


@click.command("parity", cls=Command, epilog=EXAMPLE)
@click.option("--bundle", required=True, type=click.Path(path_type=Path), help="Bundle folder to judge.")
@click.option("--model", required=True, type=click.Path(path_type=Path), help="Base model folder it was made from.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="NAME=DIR",
    help="Checkpoint folder of an adapter of the bundle; one for each of them.",
)
@click.option("--provider", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]), help="Where to run.")
@json_option
@debug_option
@click.pass_context
def command(
    ctx: click.Context, bundle: Path, model: Path, adapters: tuple[str, ...], provider: str, as_json: bool
) -> None:
    """Prove that a bundle computes what the PyTorch model does, with every adapter and without.

    Reference is float64 PyTorch with the adapters unmerged. An adapter that hardly changes the output gives
    'inconclusive', which is no pass: a graph that dropped it would look the same.
    """
    from adapter_export.parity.check import check_parity
    from adapter_export.parity.judge import Verdict
    from adapter_export.parity.report import as_dict, print_report
    from adapter_export.runtime.provider import quiet_log

    if not ctx.ensure_object(Invocation).debug:
        quiet_log()
    with _progress() as progress:
        report = check_parity(bundle, model, parse_adapters(adapters), provider, progress)
    emit(as_dict(report), as_json, lambda _: print_report(report))
    if report.verdict is not Verdict.PASS:
        ctx.exit(ExitCode.PARITY)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr where that is a terminal; else nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("judging cases", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
