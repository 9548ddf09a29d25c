"""Writes benchmarks as one HTML page without scripts, and without fonts or images from other places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from adapter_export.benchmarking.svg import COLOURS, Bar, bars, lines

_Row = Mapping[str, Any]
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #667; --paper: #fff; --rule: #d8dce2; --band: #f0c04055;
  --c0: #3366cc; --c1: #999999; --c2: #d9480f; --c3: #2b8a3e; --c4: #9c36b5; --c5: #0b7285; --c6: #c2255c;
  --c7: #806600; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --dim: #9aa3ad; --paper: #15181c; --rule: #343a42;
  --band: #f0c04044; --c0: #74a0ff; --c1: #888888; --c2: #ff9466; --c3: #69db7c; --c4: #da77f2; --c5: #66d9e8;
  --c6: #faa2c1; --c7: #ffd43b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
p { color: var(--dim); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; max-width: 640px; display: block; } svg text { font-size: 12px; fill: var(--ink); }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; } svg .grid { stroke: var(--rule); }
svg .band { fill: var(--band); } svg .bounds { stroke: var(--ink); stroke-width: 2; }
svg polyline { fill: none; stroke-width: 2; }
.key { display: inline-block; margin-right: 1rem; } .key::before { content: ""; display: inline-block; width: .8em;
  height: .8em; margin-right: .35em; background: var(--of); }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
_HOW = (
    "Everything at one batch and length is measured in turns. Ratios are medians over rounds, with their 95% bounds; "
    "the control is the first run measured a second time: what lies within its band is no difference. "
    "Milliseconds are of this machine, and of the load it had."
)
_STAGES = {
    "run": "Runs of the graph",
    "prefill": "Prefill: a prompt, up to its first new token",
    "token": "One more token a row, the cache growing behind a prompt of that length",
}


def page(result: Mapping[str, Any]) -> str:
    """Returns the page as HTML.

    Args:
        result: A report in the form of `report.as_dict`.
    """
    names = [name for name in ("bundle", "against") if name in result]
    title = "Benchmark: " + " against ".join(f"{result[name]['mode']}, {result[name]['task']}" for name in names)
    colours = "".join(
        f"svg .c{number} {{ fill: var(--c{number}); stroke: none; }} svg .c{number} polyline "
        f"{{ stroke: var(--c{number}); }}\n"
        for number in range(COLOURS)
    )
    body = [f"<p>{escape(_HOW)}</p>", _table(("", "value"), _facts(result, names))]
    for stage in dict.fromkeys(row["stage"] for row in result["latency"]):
        body += _stage(stage, [row for row in result["latency"] if row["stage"] == stage])
    if result["comparisons"]:
        body += ["<h2>Against : bundle</h2>", *_comparisons(result["comparisons"])]
    if result["swaps"]:
        body += ["<h2>Swapping</h2>", *_swaps(result["swaps"])]
    body += [
        "<h2>Memory</h2>",
        _table(("MB", "session", "adapters", "their memory", "their files"), _memory(result)),
    ]
    return _PAGE.format(title=escape(title), style=_STYLE + colours, body="\n".join(body))


def _facts(result: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, ...]]:
    bundles = [
        (name, f"{of['folder']} ({of['mode']}, {of['dtype']}, {len(of['adapters'])} adapters)")
        for name in names
        for of in [result[name]]
    ]
    threads = "one a core" if result["threads"] is None else result["threads"]
    return [*bundles, ("provider", f"{result['provider']}, {threads} threads, {result['cores']} cores")]


def _stage(stage: str, rows: Sequence[_Row]) -> Iterator[str]:
    runs = list(dict.fromkeys(map(_name, rows)))
    lengths = list(dict.fromkeys(row["length"] for row in rows))
    yield f"<h2>{escape(_STAGES[stage])}</h2>"
    yield '<p class="keys">' + "".join(
        f'<span class="key" style="--of: var(--c{number % COLOURS})">{escape(run)}</span>'
        for number, run in enumerate(runs)
    ) + "</p>"  # fmt: skip
    for batch in dict.fromkeys(row["batch"] for row in rows):
        own = {(_name(row), row["length"]): row["wall"]["p50"] for row in rows if row["batch"] == batch}
        label = f"batch {batch}: milliseconds by length (p50)"
        yield f"<h3>{escape(label)}</h3>"
        yield lines(label, [_text(length) for length in lengths], {
            run: [own.get((run, length)) for length in lengths] for run in runs
        })  # fmt: skip
    for (batch, length), group in _grouped(rows):
        label = f"batch {batch}, length {_text(length)}: wall time against the first run"
        yield f"<h3>{escape(label)}</h3>"
        yield _ratios(label, group)
    columns = ("run", "batch", "length", "rounds", "p50", "p90", "p99", "CPU p50", "rows/s", "tokens/s", "wall", "CPU")
    yield _table(columns, [_latency(row) for row in rows])


def _comparisons(rows: Sequence[_Row]) -> Iterator[str]:
    for stage in dict.fromkeys(row["stage"] for row in rows):
        for (batch, length), group in _grouped([row for row in rows if row["stage"] == stage]):
            label = f"{stage}, batch {batch}, length {_text(length)}: wall time"
            yield f"<h3>{escape(label)}</h3>"
            yield _ratios(label, group)


def _swaps(rows: Sequence[_Row]) -> Iterator[str]:
    times = [("load", "load"), ("first use", "first_use"), ("used again", "steady"), ("new session", "session")]
    for row in rows:
        label = f"{row['bundle']}: {row['adapter']} ({row['method']}): milliseconds, p50, on a logarithmic axis"
        yield f"<h3>{escape(label)}</h3>"
        yield bars(label, [Bar(what, row[key]["p50"], f"{row[key]['p50']:.3g}") for what, key in times], log=True)
    yield _table(
        ("adapter", "kB", "load p50", "load p90", "load p99", "load : session"),
        [
            (
                f"{row['bundle']}: {row['adapter']}",
                f"{row['bytes'] / 1e3:,.0f}",
                *(f"{row['load'][of]:.3g}" for of in ("p50", "p90", "p99")),
                f"1/{1 / row['share']:,.0f}",
            )
            for row in rows
        ],
    )


def _memory(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    def megabytes(value: float | None) -> str:
        return "-" if value is None else f"{value / 1e6:,.1f}"

    return [
        (name, megabytes(of["session"]), of["adapters"], megabytes(of["adapter_bytes"]), megabytes(of["adapter_files"]))
        for name, of in result["memory"].items()
    ]


def _ratios(label: str, rows: Sequence[_Row]) -> str:
    """Returns a plot with wall ratios as bars, and the bounds of the control as a band behind them."""
    control = next(row["wall_ratio"] for row in rows if row["control"])
    return bars(
        label,
        [Bar(_name(row), of["value"], _ratio(of), of["low"], of["high"]) for row in rows for of in [row["wall_ratio"]]],
        band=(min(1.0, control["low"]), max(1.0, control["high"])),
    )


def _grouped(rows: Sequence[_Row]) -> list[tuple[tuple[int, int | None], list[_Row]]]:
    groups: dict[tuple[int, int | None], list[_Row]] = {}
    for row in rows:
        groups.setdefault((row["batch"], row["length"]), []).append(row)
    return list(groups.items())


def _latency(row: _Row) -> tuple[str, ...]:
    times = [row["wall"]["p50"], row["wall"]["p90"], row["wall"]["p99"], row["cpu"]["p50"]]
    rates = ["-" if rate is None else f"{rate:,.0f}" for rate in (row["rows_per_second"], row["tokens_per_second"])]
    return (
        _name(row), str(row["batch"]), _text(row["length"]), str(row["rounds"]), *(f"{time:.3g}" for time in times),
        *rates, _ratio(row["wall_ratio"]), _ratio(row["cpu_ratio"]),
    )  # fmt: skip


def _name(row: _Row) -> str:
    name = f"{row['run']} (control)" if row["control"] else str(row["run"])
    return f"against: {name}" if row.get("bundle") == "against" else name


def _ratio(of: Mapping[str, float]) -> str:
    return f"{of['value']:.3f} ({of['low']:.2f}-{of['high']:.2f})"


def _text(length: int | None) -> str:
    return "-" if length is None else str(length)


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
