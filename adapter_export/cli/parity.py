"""`adapter-export parity`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from adapter_export.cli.options import (
    Command,
    ExitCode,
    Invocation,
    debug_option,
    emit,
    follow_links_option,
    json_option,
)
from adapter_export.naming import parse_adapters
from adapter_export.providers import Provider
from adapter_export.terminal import console

EXAMPLE = """\
Example:
  adapter-export parity --bundle bundle --model MiniLM \\
      --adapter injection=adapters/injection --adapter sentiment=adapters/sentiment

Exit code: 0 everything passed, 1 something failed or is inconclusive, 2 bad input.
"""


@click.command("parity", cls=Command, epilog=EXAMPLE)
@click.option("--bundle", required=True, type=click.Path(path_type=Path), help="Bundle folder to check.")
@click.option("--model", type=click.Path(path_type=Path), help="Folder of the base model that it was made from.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="NAME=DIR",
    help="Checkpoint folder of an adapter of the bundle; required for each adapter without a --reference.",
)
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="NAME=FILE",
    help="Record of what an adapter computes, written by the library that trained it (see `adapter-export reference`).",
)
@click.option("--require-witness", is_flag=True, help="Exit with 1 also if a pass has no witness.")
@click.option("--provider", default="cpu", show_default=True, type=click.Choice(Provider.words()), help="Where to run.")
@follow_links_option
@json_option
@debug_option
@click.pass_context
def command(
    ctx: click.Context,
    bundle: Path,
    model: Path | None,
    adapters: tuple[str, ...],
    references: tuple[str, ...],
    require_witness: bool,
    provider: str,
    follow_links: bool,
    as_json: bool,
) -> None:
    """Check that a bundle computes the same as the PyTorch model, with every adapter and without.

    The reference is PyTorch in float64 with unmerged adapters. The witnesses are PEFT itself, for its checkpoints, and
    records, which need neither --model nor torch. A pass without a witness is called 'pass (unwitnessed)'. If the model
    takes longer texts than were judged, the pass is called 'pass (not judged beyond N tokens)'. If an adapter hardly
    changes the output, the verdict is 'inconclusive', which is no pass: a graph without the adapter would look the
    same.
    """
    from adapter_export.parity.judge import Verdict
    from adapter_export.parity.report import as_dict, print_report
    from adapter_export.parity.run import check_parity
    from adapter_export.runtime.provider import quiet_log

    if not ctx.ensure_object(Invocation).debug:
        quiet_log()
    with _progress() as progress:
        report = check_parity(
            bundle,
            model,
            parse_adapters(adapters),
            provider,
            progress,
            references=parse_adapters(references, "--reference", "FILE"),
            follow_links=follow_links,
        )
    emit(as_dict(report), as_json, lambda _: print_report(report))
    if report.verdict is not Verdict.PASS or (require_witness and not report.witnessed):
        ctx.exit(ExitCode.PARITY)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """Shows a progress bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("judging cases", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
