"""What rows with LoRA adapters of their own cost beside the base model, over ranks and batch sizes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from adapter_export.benchmarking.summary import ratio
from adapter_export.benchmarking.timing import interleaved
from adapter_export.cli.table import print_table
from benchmarks.serving.made import LORA, make, texts

RANKS = (4, 8, 16, 64)
BATCHES = (1, 8, 32)
LENGTH = 64
ROUNDS = 20
_BASE, _AGAIN, _MIXED = "no adapter", "no adapter, again", "each row its own"


def main(folder: Path) -> None:
    rows = []
    for rank in RANKS:
        made = make(folder / str(rank), {LORA: max(BATCHES)}, ("bank",), in_graph=max(BATCHES), rank=rank)
        names, bank = list(made.adapters), made.session("bank", slots=max(BATCHES))
        for batch in BATCHES:
            inputs = texts(batch, LENGTH)
            base = partial(bank.run, inputs)
            calls = {_BASE: base, _AGAIN: base, _MIXED: partial(bank.run, inputs, adapters=names[:batch])}
            seconds = interleaved(calls, ROUNDS)
            found = [ratio(seconds[name], seconds[_BASE], "cpu") for name in (_AGAIN, _MIXED)]
            rows.append(
                [str(rank), str(batch), *(f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" for one in found)]
            )
    print_table(
        f"{LORA} on queries and values, {LENGTH} tokens: CPU time against a run without an adapter ({ROUNDS} rounds)",
        ("rank", "rows", f"{_AGAIN} (control)", _MIXED),
        rows,
    )
