"""`adapter-export score`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from adapter_export.cli.options import (
    PATH,
    Command,
    bundle_option,
    debug_option,
    emit,
    force_option,
    json_option,
    provider_option,
    quiet_unless_debug,
)
from adapter_export.errors import InputError

EXAMPLE = """\
Examples:
  adapter-export score --bundle bundle --adapter sentiment --input reviews.parquet --output scores.jsonl
  adapter-export score --bundle bundle --input reviews.csv --text-column review --output scores.jsonl --ray auto

A column 'adapter' names the adapter of its row: NAME, or NAME=STRENGTH,... for several at once.
"""


@click.command("score", cls=Command, epilog=EXAMPLE)
@bundle_option("Bundle folder; with --ray, at the same path on every node.")
@click.option("--input", "file", required=True, type=PATH, help="Rows to score: csv, tsv, jsonl or parquet.")
@click.option("--output", required=True, type=PATH, metavar="FILE", help="File for the results, one JSON object a row.")
@click.option("--text-column", default="text", show_default=True, help="Column with the texts.")
@click.option(
    "--adapter",
    metavar="NAME | NAME=STRENGTH,...",
    help="Adapter of rows that name none; the base model, if not given.",
)
@click.option("--head", metavar="NAME", help="Which of several adapters' task heads is used.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="When generating; then it must be given.")
@click.option("--temperature", type=click.FloatRange(0), help="Above 0, tokens are drawn.  [default: 0]")
@click.option("--top-k", type=click.IntRange(1), help="Draw among the K most probable tokens.")
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), help="Draw among the most probable that add up to P."
)
@click.option("--seed", type=click.IntRange(0), help="Draw the same tokens each time; row i uses the seed + i.")
@click.option("--ray", "address", metavar="ADDRESS", help="Score on this Ray cluster: HOST:PORT, or auto.")
@click.option("--actors", type=click.IntRange(1), help="Sessions on the cluster; one on each node, if not given.")
@provider_option
@click.option("--expect-sha256", metavar="DIGEST", help="Refuse a bundle whose manifest.json has another digest.")
@force_option
@json_option
@debug_option
def command(
    bundle: Path,
    file: Path,
    output: Path,
    text_column: str,
    adapter: str | None,
    head: str | None,
    address: str | None,
    actors: int | None,
    provider: str,
    expect_sha256: str | None,
    force: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Run all rows of a data file through a bundle, here or on a Ray cluster.

    The output has one result for each row, in the order of the rows. Results are those of 'run --json'. The output is
    written as a whole or not at all.
    """
    from adapter_export.cli.ray_scoring import score_on_ray
    from adapter_export.cli.scoring import Scoring, read_requests, score_here
    from adapter_export.cli.text_requests import parse_choice
    from adapter_export.outputs.files import atomic_writer, check_new_file

    if actors is not None and address is None:
        raise click.UsageError("--actors: expected only with --ray")
    if head is not None and (adapter is None or "=" not in adapter):
        raise InputError(f"--head {head}: expected with it --adapter NAME=STRENGTH,...")
    check_new_file(output, "--output", force=force)
    quiet_unless_debug()
    choice = None if adapter is None else parse_choice(adapter, head)
    generation = {name: value for name, value in settings.items() if value is not None}
    scoring = Scoring(bundle.resolve(), provider, expect_sha256, generation)
    requests = read_requests(file, text_column, choice)
    found = score_here(scoring, requests) if address is None else score_on_ray(scoring, requests, address, actors)
    rows = 0
    with atomic_writer(output) as written:
        for lines in found:
            written.write(lines)
            rows += lines.count(b"\n")
        if not rows:
            raise InputError(f"{file}: expected rows, found none")
    emit({"bundle": bundle, "output": output, "rows": rows}, as_json, _print)


def _print(result: Mapping[str, Any]) -> None:
    click.echo(f"{result['output']}: {result['rows']} rows")
