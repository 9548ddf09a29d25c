"""Writes benchmarks as one HTML page, whose plots show the spread of every time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from adapter_export.machine import Machine
from adapter_export.pages.parts import Facts, Part, Plot, Plots, Section, Table, Title
from adapter_export.pages.plots.intervals import Interval, interval_plot
from adapter_export.pages.render import machine_facts, machine_line, render

_Row = Mapping[str, Any]
_HOW = (
    "Everything at one batch and length is measured in turns, so that other load of the machine affects all of it "
    "equally. Milliseconds are of this machine, and of the load it had.",
    "Ratios are medians over rounds. The control is the first run measured a second time: what lies within its band is "
    "no difference.",
)
_STAGES = {
    "run": "Runs of the graph",
    "prefill": "Prefill: a prompt, up to its first new token",
    "token": "One more token a row, the cache growing behind a prompt of that length",
}
_TIMES = (
    "Dot: the median (p50) of all rounds. Line: from p10 to p90, so that eight of ten rounds lie on it. Bar: p99. "
    "Further left is faster."
)
_RATIOS = (
    "Dot: the median over rounds. Line: its interval of 95% confidence. Shaded: the same interval of the control, up "
    "to 1. A line within it is no difference. Below 1 is faster than {reference}."
)


def page(result: Mapping[str, Any]) -> str:
    """Returns the page as HTML.

    Args:
        result: A report in the form of `report.as_dict`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    names = [name for name in ("bundle", "against") if name in result]
    title = "Benchmark: " + " against ".join(f"{result[name]['mode']}, {result[name]['task']}" for name in names)
    stages = list(dict.fromkeys(row["stage"] for row in result["latency"]))
    sections = [
        Section(
            f"stage{number}", _STAGES[stage],
            list(_stage(f"s{number}", [row for row in result["latency"] if row["stage"] == stage])),
        )
        for number, stage in enumerate(stages)
    ]  # fmt: skip
    if result["comparisons"]:
        sections.append(Section("against", "The other bundle against the first", _comparisons(result["comparisons"])))
    if result["swaps"]:
        sections.append(Section("swaps", "Swapping adapters", _swaps(result["swaps"])))
    sections.append(Section("memory", "Memory", [_memory(result["memory"])]))
    sections.append(Section("machine", "What ran where", [*_ran(result, names)]))
    return render(title, [*machine_line(Machine(**result["machine"])), *_HOW], sections)


def _ran(result: Mapping[str, Any], names: Sequence[str]) -> Iterator[Part]:
    threads = "one a core" if result["threads"] is None else str(result["threads"])
    machine = list(machine_facts(Machine(**result["machine"])))
    yield Facts("Machine", [*machine, ("provider", result["provider"]), ("threads of an operator", threads)])
    for name in names:
        of = result[name]
        yield Facts(
            f"Bundle called {name}",
            [
                ("folder", str(of["folder"])),
                *((field, of[field]) for field in ("mode", "task", "dtype", "quantize", "fuse")),
                ("adapters", ", ".join(of["adapters"]) or "none"),
                ("SHA-256 of its manifest", of["manifest_sha256"]),
            ],
        )


def _stage(name: str, rows: Sequence[_Row]) -> Iterator[Part]:
    for number, (shape, group) in enumerate(_grouped(rows)):
        yield Title(_shape(*shape))
        label = _shape(*shape)
        yield Plots(
            [
                Plot(
                    "Milliseconds on the clock",
                    interval_plot(f"{name}t{number}", f"{label}: milliseconds", _times(group), "milliseconds"),
                    _TIMES,
                ),
                Plot(
                    "Ratio to the first run",
                    _ratios(f"{name}r{number}", f"{label}: ratio to the first run", group),
                    _RATIOS.format(reference="the first run"),
                ),
            ]
        )
    yield Table(
        "All times in milliseconds",
        ("run", "batch", "length", "rounds", "p10", "p50", "p90", "p99", "CPU p50", "rows/s", "tokens/s"),
        [_times_of(row) for row in rows],
        "p10 to p99: percentiles over all rounds, on the clock. CPU: time of all threads together. Rows and tokens per "
        "second are computed from p50.",
    )
    yield Table(
        "All ratios to the first run",
        ("run", "batch", "length", "on the clock", "CPU"),
        [
            (_name(row), row["batch"], _length(row["length"]), *map(_ratio, (row["wall_ratio"], row["cpu_ratio"])))
            for row in rows
        ],
        "Medians over rounds, with their bounds of 95%.",
    )


def _comparisons(rows: Sequence[_Row]) -> list[Part]:
    plots = [
        Plot(
            f"{_STAGES[stage]}, {_shape(*shape)}",
            _ratios(f"c{number}s{place}", f"{stage}, {_shape(*shape)}: ratio to the first bundle", group),
            _RATIOS.format(reference="the same run of the first bundle"),
        )
        for number, stage in enumerate(dict.fromkeys(row["stage"] for row in rows))
        for place, (shape, group) in enumerate(_grouped([row for row in rows if row["stage"] == stage]))
    ]
    table = Table(
        "All ratios of the other bundle to the first",
        ("run", "stage", "batch", "length", "on the clock", "CPU"),
        [
            (
                _name(row),
                row["stage"],
                row["batch"],
                _length(row["length"]),
                _ratio(row["wall_ratio"]),
                _ratio(row["cpu_ratio"]),
            )
            for row in rows
        ],
        "Medians over rounds, with their bounds of 95%.",
    )
    return [Plots(plots, level=3), table]


def _swaps(rows: Sequence[_Row]) -> list[Part]:
    times = [("load", "load"), ("first use", "first_use"), ("used again", "steady"), ("new session", "session")]
    plots = [
        Plot(
            f"{row['bundle']}: {row['adapter']} ({row['method']})",
            interval_plot(
                f"w{number}",
                f"{row['adapter']}: milliseconds to swap",
                [_interval(what, row[key]) for what, key in times],
                "milliseconds",
                log=True,
            ),
            f"{_TIMES} Load: from a verified file. First use: a run of one row that has to load it. New session: with "
            "all files verified, for comparison.",
        )
        for number, row in enumerate(rows)
    ]
    table = Table(
        "Loading an adapter, in milliseconds",
        ("adapter", "kB", "p10", "p50", "p90", "p99", "of a new session"),
        [
            (
                f"{row['bundle']}: {row['adapter']}",
                f"{row['bytes'] / 1e3:,.0f}",
                *(f"{row['load'][of]:.3g}" for of in ("p10", "p50", "p90", "p99")),
                f"1/{1 / row['share']:,.0f}",
            )
            for row in rows
        ],
        "The last column is the share of the time that a new session takes.",
    )
    return [Plots(plots, level=3), table]


def _memory(memory: Mapping[str, Any]) -> Table:
    def megabytes(value: float | None) -> str:
        return "\u2013" if value is None else f"{value / 1e6:,.1f}"

    return Table(
        "Memory in MB",
        ("bundle", "session", "adapters", "their memory", "their files"),
        [
            (
                name,
                megabytes(of["session"]),
                of["adapters"],
                megabytes(of["adapter_bytes"]),
                megabytes(of["adapter_files"]),
            )
            for name, of in memory.items()
        ],
        "What this process alone has: mapped files do not count. Session: after a first run of one row. Adapters: all "
        "of them, loaded after that. A dash: this system does not tell.",
    )


def _times(rows: Sequence[_Row]) -> list[Interval]:
    return [_interval(_name(row), row["wall"]) for row in rows]


def _interval(name: str, times: Mapping[str, float]) -> Interval:
    return Interval(f"{name}: {times['p50']:.3g} ms", times["p50"], times["p10"], times["p90"], times["p99"])


def _ratios(name: str, label: str, rows: Sequence[_Row]) -> Markup:
    """Returns a plot of wall ratios, with the bounds of the control as a band behind them."""
    control = next(row["wall_ratio"] for row in rows if row["control"])
    intervals = [
        Interval(f"{_name(row)}: {_ratio(of)}", of["value"], of["low"], of["high"])
        for row in rows
        for of in [row["wall_ratio"]]
    ]
    return interval_plot(name, label, intervals, "ratio", band=(min(1.0, control["low"]), max(1.0, control["high"])))


def _grouped(rows: Sequence[_Row]) -> list[tuple[tuple[int, int | None], list[_Row]]]:
    groups: dict[tuple[int, int | None], list[_Row]] = {}
    for row in rows:
        groups.setdefault((row["batch"], row["length"]), []).append(row)
    return list(groups.items())


def _shape(batch: int, length: int | None) -> str:
    return f"batch {batch}" if length is None else f"batch {batch}, length {length}"


def _times_of(row: _Row) -> tuple[object, ...]:
    times = [*(row["wall"][of] for of in ("p10", "p50", "p90", "p99")), row["cpu"]["p50"]]
    rates = [
        "\u2013" if rate is None else f"{rate:,.0f}" for rate in (row["rows_per_second"], row["tokens_per_second"])
    ]
    return (
        _name(row), row["batch"], _length(row["length"]), row["rounds"], *(f"{time:.3g}" for time in times), *rates,
    )  # fmt: skip


def _name(row: _Row) -> str:
    name = f"{row['run']} (control)" if row["control"] else str(row["run"])
    return f"against: {name}" if row.get("bundle") == "against" else name


def _ratio(of: Mapping[str, float]) -> str:
    return f"{of['value']:.3f} ({of['low']:.2f}\u2013{of['high']:.2f})"


def _length(length: int | None) -> str:
    return "\u2013" if length is None else str(length)
