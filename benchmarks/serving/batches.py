"""What it costs that rows of a batch have adapters of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from adapter_export.benchmarking.summary import Ratio, ratio
from adapter_export.benchmarking.timing import Seconds, interleaved
from adapter_export.cli.table import print_table
from benchmarks.serving.made import BOTTLENECK, IA3, ROWS, make, texts

ROUNDS = 40
LENGTHS = (16, 64)
MANY, SOME, FEW = 64, 16, 8
_AGAIN, _DIFFERENT, _OF_FEW, _OF_MANY = "again", "different", "of few", "of many"


def main(folder: Path) -> None:
    banks = {IA3: {IA3: MANY}, BOTTLENECK: {BOTTLENECK: MANY}, f"{IA3} and {BOTTLENECK}": {IA3: 32, BOTTLENECK: 32}}
    for title, counts in banks.items():
        measured = _measure(folder / title, counts)
        print_table(
            f"Rows with adapters of their own, a bank of {title}: CPU time ({ROUNDS} rounds)",
            ("", *(f"{ROWS} x {length}" for length in measured)),
            [
                [name, *(_verdict(ratio(seconds[what], seconds[against]), most) for seconds in measured.values())]
                for name, what, against, most in _table(list(counts))
            ],
        )


def _table(methods: list[str]) -> list[tuple[str, str, str, float | None]]:
    """Title, what, against what, and the most it may be. Of several methods the last takes most."""
    last = methods[-1]
    modes = [(f"bank, one {name} : swappable, one {name}", _one(name), _swapped(name), 1.05) for name in methods]
    return [
        (f"one {last} again : one {last} (control)", _AGAIN, _one(last), None),
        (f"{ROWS} different : one {last}, {SOME} slots", _DIFFERENT, _one(last), 1.03),
        (f"{MANY} slots : {FEW} slots, {ROWS} different", _OF_MANY, _OF_FEW, 1.03),
        *modes,
    ]


def _one(method: str) -> str:
    return f"one {method}"


def _swapped(method: str) -> str:
    return f"swappable, one {method}"


def _measure(folder: Path, counts: Mapping[str, int]) -> dict[int, dict[str, list[Seconds]]]:
    made = make(folder, counts, ("bank", "swappable"))
    names = list(made.adapters)
    few, some, many = (made.session("bank", slots) for slots in (FEW, SOME, MANY))
    swappable = made.session("swappable")
    # Of every method in the bank, and in the largest one far apart.
    spread = names[:: len(names) // ROWS][:ROWS]
    for session, loaded in ((few, spread), (some, [*spread, *names])):
        for name in dict.fromkeys(loaded[: session.slots]):
            session.load(name)
    for name in names:
        many.load(name)
    ones = dict(zip(counts, (spread[0], spread[-1]), strict=False))
    found = {}
    for length in LENGTHS:
        inputs = texts(ROWS, length)
        calls: dict[str, Callable[[], object]] = {
            _AGAIN: lambda i=inputs: some.run(i, ones[list(counts)[-1]]),
            _DIFFERENT: lambda i=inputs: some.run(i, adapters=spread),
            _OF_FEW: lambda i=inputs: few.run(i, adapters=spread),
            _OF_MANY: lambda i=inputs: many.run(i, adapters=spread),
        }
        for method, name in ones.items():
            calls[_one(method)] = lambda i=inputs, n=name: some.run(i, n)
            calls[_swapped(method)] = lambda i=inputs, n=name: swappable.run(i, n)
        found[length] = interleaved(calls, ROUNDS)
    return found


def _verdict(found: Ratio, most: float | None) -> str:
    text = f"{found.value:.3f} ({found.low:.2f}-{found.high:.2f})"
    return text if most is None else f"{text} {'<=' if found.value <= most else '> '} {most}"
