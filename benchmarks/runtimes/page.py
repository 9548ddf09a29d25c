"""`docs/runtimes.md`, of the text in words.md and the numbers that were measured. Needs neither torch nor a runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

_DOCS = Path(__file__).parents[2] / "docs"
PAGE, NUMBERS = _DOCS / "runtimes.md", _DOCS / "runtimes.json"
_WORDS = Path(__file__).parent / "words.md"

# Form -> head of its column.
_COLUMNS: Mapping[str, str] = {
    "merged": "merged",
    "embedded": "embedded",
    "swappable": "swappable",
    "swappable, --bind input": "swappable, `--bind input`",
    "bank": "bank",
}


def render(numbers: Mapping[str, Any]) -> str:
    """The whole page."""
    runtimes: Mapping[str, Any] = numbers["runtimes"]
    reasons = {text: number for number, text in enumerate(dict.fromkeys(_refusals(runtimes)), start=1)}
    tables = [_table(model, runtimes, reasons) for model in _models(runtimes)]
    refused = [f"{number}. {_code(text)}" for text, number in reasons.items()]
    not_tried = [f"- **{title}**: {entry['not tried']}." for title, entry in runtimes.items() if "not tried" in entry]
    return Template(_WORDS.read_text(encoding="utf-8")).substitute(
        machine=_machine(numbers["machine"]),
        tables="\n\n".join(tables),
        refused="\n".join(refused or ["Nothing that is named above."]),
        not_tried="\n".join(not_tried or ["Nothing that is named above."]),
    )


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    system = machine["system"].split()[0]
    return (
        f"Measured on {machine['date'][:10]}: {machine['processor']}, {machine['cores']} cores, {system};\n{versions}."
    )


def _models(runtimes: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(model for entry in runtimes.values() for model in entry.get("cells", {})))


def _refusals(runtimes: Mapping[str, Any]) -> Iterator[str]:
    """What runtimes said, in the order of the tables."""
    for model in _models(runtimes):
        for entry in runtimes.values():
            cells = entry.get("cells", {}).get(model, {})
            yield from (cells[form]["refused"] for form in _COLUMNS if "refused" in cells.get(form, {}))


def _table(model: str, runtimes: Mapping[str, Any], reasons: Mapping[str, int]) -> str:
    lines = [f"| {model} | {' | '.join(_COLUMNS.values())} |", f"|---|{'--:|' * len(_COLUMNS)}"]
    for title, entry in runtimes.items():
        if "not tried" in entry:
            row = [title, *["not tried"] * len(_COLUMNS)]
        else:
            row = [f"{title} {entry['version']}", *(_cell(entry["cells"][model][form], reasons) for form in _COLUMNS)]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _cell(found: Mapping[str, Any], reasons: Mapping[str, int]) -> str:
    if "refused" in found:
        return f"refused ({reasons[found['refused']]})"
    if "ignores" in found:
        return f"ignores adapters ({found['ignores']:.0e})"
    return f"{found['error']:.0e}"


def _code(text: str) -> str:
    return f"`{text.removeprefix('-- ').replace('`', chr(39))}`"
