"""`adapter-export parity`."""

from __future__ import annotations

from pathlib import Path

import click

from adapter_export.cli.options import (
    PATH,
    Command,
    ExitCode,
    adapters_option,
    bundle_option,
    debug_option,
    emit,
    follow_links_option,
    force_option,
    json_option,
    model_option,
    provider_option,
    quiet_unless_debug,
)
from adapter_export.cli.progress import bar
from adapter_export.errors import InputError
from adapter_export.naming import parse_adapters

EXAMPLE = """\
Examples:
  adapter-export parity --bundle bundle --model MiniLM \\
      --adapter injection=adapters/injection --adapter sentiment=adapters/sentiment \\
      --record parity.npz
  adapter-export parity --bundle bundle --reference parity.npz --report parity.html

The second command needs neither PyTorch nor the model nor the adapters.

Exit code: 0 all of it passed, 1 something failed or is inconclusive, 2 bad input.
"""


@click.command("parity", cls=Command, epilog=EXAMPLE)
@bundle_option("Bundle folder to judge.")
@model_option("Base model folder it was made from.", required=False)
@adapters_option("Checkpoint folder of an adapter of the bundle; one for each that has no --reference.")
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="FILE|NAME=FILE",
    help="FILE: what --record wrote; nothing else is needed. NAME=FILE: record of what an adapter computes, by the "
    "library that trained it (see `adapter-export reference`).",
)
@click.option(
    "--record", type=PATH, metavar="FILE", help="Write what PyTorch computes, to judge by it without PyTorch."
)
@click.option(
    "--text", "texts", multiple=True, metavar="TEXT", help="Judge this text as well as random ones. Repeatable."
)
@click.option("--report", "page_file", type=PATH, metavar="FILE.html", help="Also write a page with plots, in HTML.")
@force_option
@click.option("--require-witness", is_flag=True, help="Exit with 1 where a pass rests on our own reading alone.")
@provider_option
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
    record: Path | None,
    texts: tuple[str, ...],
    page_file: Path | None,
    force: bool,
    require_witness: bool,
    provider: str,
    follow_links: bool,
    as_json: bool,
) -> None:
    """Prove that a bundle computes what the PyTorch model does, with every adapter and without.

    Reference is float64 PyTorch with the adapters unmerged: by PEFT itself for its checkpoints, and by records, which
    need neither --model nor torch. --record writes a record of all of it, unless the verdict is 'fail'. A pass without
    a witness is called 'pass (unwitnessed)', one of a model that takes longer texts than were judged 'pass (not judged
    beyond N tokens)'. An adapter that hardly changes the output gives 'inconclusive', which is no pass: a graph that
    dropped it would look the same.
    """
    from adapter_export.outputs.files import atomic_file, check_new_file
    from adapter_export.pages.render import check_plots
    from adapter_export.parity.criteria.judge import Verdict
    from adapter_export.parity.page.page import parity_page
    from adapter_export.parity.report import as_dict
    from adapter_export.parity.report_tables import print_report
    from adapter_export.parity.run import check_parity

    if record is not None:
        check_new_file(record, "--record", force=force)
    if page_file is not None:
        check_new_file(page_file, "--report", force=force)
        check_plots()
    quiet_unless_debug()
    with bar("judging cases") as progress:
        report = check_parity(
            bundle,
            model,
            parse_adapters(adapters),
            provider=provider,
            progress=progress,
            references=_references(references),
            record=record,
            texts=texts,
            follow_links=follow_links,
        )
    if page_file is not None:
        atomic_file(page_file, parity_page(report).encode())
    emit(as_dict(report), as_json, lambda _: print_report(report))
    if report.verdict is not Verdict.PASS or (require_witness and not report.witnessed):
        ctx.exit(ExitCode.PARITY)


def _references(texts: tuple[str, ...]) -> Path | dict[str, str]:
    """Returns the file of a bundle's record, or files of records by adapter name."""
    # The name of an adapter has no slash, so a path with "=" in it can be written with one.
    files = [text for text in texts if "=" not in text or set(text.partition("=")[0]) & set("/\\")]
    if not files:
        return dict(parse_adapters(texts, "--reference", "FILE"))
    if len(texts) > 1:
        raise InputError(f"--reference {files[0]}: the record of a bundle is the only reference, found {len(texts)}")
    return Path(files[0])
