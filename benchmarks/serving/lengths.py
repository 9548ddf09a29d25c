"""One mixed batch against a run for each of its rows, by length."""

from __future__ import annotations

from pathlib import Path

from adapter_export.benchmarking.summary import ratio
from adapter_export.benchmarking.timing import interleaved
from adapter_export.cli.table import print_table
from benchmarks.serving.made import BOTTLENECK, IA3, ROWS, Made, make, one_row, texts

LENGTHS = (8, 16, 32, 64, 128, 256)
# Rows times tokens of all rounds of a length: long ones take fewer.
_TOKENS = 8000


def main(folder: Path) -> None:
    banks = {method: make(folder / method, {method: ROWS}, ("bank", "swappable")) for method in (IA3, BOTTLENECK)}
    rows = [[str(length), *(cell for made in banks.values() for cell in _faster(made, length))] for length in LENGTHS]
    print_table(
        f"One mixed batch of {ROWS}: how many times faster, by the clock, than {ROWS} runs of a row each",
        ("tokens", *(f"{method}: {what}" for method in banks for what in ("bank", "swappable", "control"))),
        rows,
    )


def _faster(made: Made, length: int) -> list[str]:
    bank, swappable = made.session("bank"), made.session("swappable")
    names, inputs = list(made.adapters), texts(ROWS, length)
    singles = [(one_row(inputs, row), name) for row, name in enumerate(names)]
    calls = {
        "mixed": lambda: bank.run(inputs, adapters=names),
        "again": lambda: bank.run(inputs, adapters=names),
        "bank": lambda: [bank.run(row, name) for row, name in singles],
        "swappable": lambda: [swappable.run(row, name) for row, name in singles],
    }
    seconds = interleaved(calls, max(12, _TOKENS // (ROWS * length)))
    return [f"{ratio(seconds[what], seconds['mixed'], 'wall').value:.2f}" for what in ("bank", "swappable", "again")]
