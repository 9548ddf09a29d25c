"""`adapter-export bench`."""

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
from adapter_export.cli.progress import bar
from adapter_export.cli.table import print_table

EXAMPLE = """\
Examples:
  adapter-export bench --bundle bundle --batch 1 --batch 8 --length 16 --length 128
  adapter-export bench --bundle bank --against swappable --report report.html

A ratio within the control's is no difference: 'control' is the first run measured twice.
"""
_MEGABYTE = 1e6
# What the columns of the tables mean.
_LATENCY_LEGEND = (
    "p50, p90, p99: the time in which 50%, 90% and 99% of the runs were done. CPU: time of all threads together. wall "
    "ratio, CPU ratio: times divided by those of the first run, and the interval of 95% confidence. control: the first "
    "run, measured again; a ratio as near to 1 as its ratio is no difference. -: not measured."
)
_COMPARISON_LEGEND = (
    "wall ratio, CPU ratio: times of --against divided by those of --bundle, and the interval of 95% confidence. Below "
    "1, --against is faster."
)
_SWAP_LEGEND = (
    "load: an adapter from its file into the session. p50, p99: the time in which 50% and 99% were done. first use: a "
    "run that loads it; used again: the run after it. new session: opening the bundle. load : session: load divided by "
    "new session."
)
_MEMORY_LEGEND = (
    "session: memory of the open graphs. adapters: how many were loaded after that. -: the system does not tell."
)


@click.command("bench", cls=Command, epilog=EXAMPLE)
@bundle_option("Bundle folder to measure.")
@click.option("--against", type=PATH, help="Another bundle, measured in the same rounds.")
@click.option(
    "--batch", "batches", multiple=True, type=int, default=(1, 8), show_default=True, help="Rows; repeatable."
)
@click.option(
    "--length", "lengths", multiple=True, type=int, default=(16, 64), show_default=True, help="Tokens; repeatable."
)
@click.option("--repeats", type=click.IntRange(1), help="Rounds of each batch and length, in place of --seconds.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=3.0,
    show_default=True,
    help="Time for each batch and length.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads of an operator; all cores, if not given.")
@provider_option
@click.option("--report", type=PATH, metavar="FILE.html", help="Also write a page with plots, in HTML.")
@force_option
@json_option
@debug_option
def command(
    bundle: Path, against: Path | None, report: Path | None, force: bool, as_json: bool, **settings: Any
) -> None:
    """Measure a bundle's latency and throughput, the time to swap an adapter, and its memory.

    Latency is measured without an adapter, with one adapter of each method, and for a bank with rows of different
    adapters. All runs of one batch size and length take turns, so that other load of the machine affects all of them
    equally. Ratios are medians over rounds.
    """
    from adapter_export.benchmarking.page import page
    from adapter_export.benchmarking.report import as_dict, bench
    from adapter_export.outputs.files import atomic_file, check_new_file
    from adapter_export.pages.render import check_plots

    if report is not None:
        check_new_file(report, "--report", force=force)
        check_plots()
    quiet_unless_debug()
    with bar("measuring") as progress:
        result = as_dict(bench(bundle, against, progress=progress, **settings))
    if report is not None:
        atomic_file(report, page(result).encode())
    emit(result, as_json, _print)


def _print(result: Mapping[str, Any]) -> None:
    two = "against" in result
    for name in ("bundle", "against") if two else ("bundle",):
        of = result[name]
        click.echo(f"{name}: {of['folder']} ({of['mode']}, {of['task']}, {of['dtype']}, {result['provider']})")
    for stage in dict.fromkeys(row["stage"] for row in result["latency"]):
        rows = [row for row in result["latency"] if row["stage"] == stage]
        print_table(
            f"{stage}: milliseconds, and medians over rounds against the first run",
            ("run", "batch", "length", "p50", "p90", "p99", "CPU p50", "rows/s", "tokens/s", "wall ratio", "CPU ratio"),
            [_latency(row, two) for row in rows],
            _LATENCY_LEGEND,
        )
    if result["comparisons"]:
        print_table(
            "against: the other bundle compared with this one",
            ("run", "stage", "batch", "length", "wall ratio", "CPU ratio"),
            [
                (_run(row), row["stage"], str(row["batch"]), _number(row["length"]), *_ratios(row))
                for row in result["comparisons"]
            ],
            _COMPARISON_LEGEND,
        )
    if result["swaps"]:
        print_table(
            "swapping: milliseconds",
            ("adapter", "kB", "load p50", "load p99", "first use", "used again", "new session", "load : session"),
            [_swap(row, two) for row in result["swaps"]],
            _SWAP_LEGEND,
        )
    print_table(
        "memory: MB",
        ("bundle", "session", "adapters", "their memory", "their files"),
        [(name, *_memory(of)) for name, of in result["memory"].items()],
        _MEMORY_LEGEND,
    )


def _latency(row: Mapping[str, Any], two: bool) -> tuple[str, ...]:
    wall, cpu = row["wall"], row["cpu"]
    name = f"{row['bundle']}: {_run(row)}" if two else _run(row)
    return (
        name,
        str(row["batch"]),
        _number(row["length"]),
        *(f"{value:.3g}" for value in (wall["p50"], wall["p90"], wall["p99"], cpu["p50"])),
        _number(row["rows_per_second"]),
        _number(row["tokens_per_second"]),
        *_ratios(row),
    )


def _run(row: Mapping[str, Any]) -> str:
    return f"{row['run']} (control)" if row["control"] else str(row["run"])


def _ratios(row: Mapping[str, Any]) -> tuple[str, str]:
    wall, cpu = (
        f"{of['value']:.3f} ({of['low']:.2f}-{of['high']:.2f})" for of in (row["wall_ratio"], row["cpu_ratio"])
    )
    return wall, cpu


def _swap(row: Mapping[str, Any], two: bool) -> tuple[str, ...]:
    times = [row["load"]["p50"], row["load"]["p99"], *(row[of]["p50"] for of in ("first_use", "steady", "session"))]
    name = f"{row['bundle']}: {row['adapter']}" if two else str(row["adapter"])
    return name, _number(row["bytes"] / 1e3), *(f"{time:.3g}" for time in times), f"1/{1 / row['share']:,.0f}"


def _memory(of: Mapping[str, Any]) -> tuple[str, ...]:
    session, adapters, files = (
        "-" if of[name] is None else f"{of[name] / _MEGABYTE:,.1f}"
        for name in ("session", "adapter_bytes", "adapter_files")
    )
    return session, str(of["adapters"]), adapters, files


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
