"""A batch whose rows have different adapters: a bank against the other ways to get the same answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.benchmarking.summary import ratio
from adapter_export.benchmarking.timing import interleaved
from adapter_export.cli.table import print_table
from adapter_export.models.base_model import load_base
from adapter_export.models.heads import load_head
from adapter_export.models.injection import inject
from benchmarks.models import saved
from benchmarks.serving.made import BOTTLENECK, IA3, LORA, ROWS, THREADS, Made, make, one_row, texts
from samples.assets import minilm

ROUNDS = 30
LENGTHS = (16, 64)
LABELS = ("a", "b")
_MIXED = "bank: one mixed batch"
# float32, by two libraries; adapters differ by a thousand times more.
_TOLERANCE = 1e-4
# All of a batch: logits by row.
Answer = Callable[[Mapping[str, np.ndarray]], np.ndarray]


def main(folder: Path) -> None:
    import torch

    torch.set_num_threads(THREADS)
    for method in (IA3, LORA, BOTTLENECK):
        made = make(folder / method, {method: ROWS}, ("bank", "swappable", "embedded"))
        answers = {**_ours(made), **_torch(made)}
        if method != BOTTLENECK:
            answers |= _peft(made, folder / method / "checkpoints", mixes=method == LORA)
        _check(answers)
        columns, rows = ["of the bank's mixed batch"], [[name] for name in answers]
        for length in LENGTHS:
            inputs = texts(ROWS, length)
            calls = {name: (lambda answer=answer, inputs=inputs: answer(inputs)) for name, answer in answers.items()}
            seconds = interleaved(calls, ROUNDS)
            columns += [f"{length} tokens: wall", "CPU"]
            for row in rows:
                row += [f"{ratio(seconds[row[0]], seconds[_MIXED], clock).value:.2f}" for clock in ("wall", "cpu")]
        print_table(f"{ROWS} rows, each with its own {method} adapter: time ({ROUNDS} rounds)", columns, rows)


def _ours(made: Made) -> dict[str, Answer]:
    names = list(made.adapters)
    bank, swappable = made.session("bank"), made.session("swappable")
    embedded = [made.session(title) for title in made.bundles if title.startswith("embedded")]

    def mixed(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return bank.run(inputs, adapters=names)["logits"]

    def singles(run: Callable[[Mapping[str, np.ndarray], int], np.ndarray]) -> Answer:
        return lambda inputs: np.concatenate([run(one_row(inputs, row), row) for row in range(ROWS)])

    return {
        _MIXED: mixed,
        f"{_MIXED}, again (control)": mixed,
        "bank: a run for each adapter": singles(lambda row, number: bank.run(row, names[number])["logits"]),
        "swappable: a run for each adapter": singles(lambda row, number: swappable.run(row, names[number])["logits"]),
        "a session for each adapter (embedded)": singles(lambda row, number: embedded[number].run(row)["logits"]),
    }


def _torch(made: Made) -> dict[str, Answer]:
    """Our modules in PyTorch: a model for each adapter."""
    import torch

    models = []
    for adapter in made.adapters.values():
        base = load_base(minilm(), "text-classification", labels=LABELS)
        load_head(base.module, adapter)
        inject(base.module, adapter)
        models.append(base.module.eval())

    def answer(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            return torch.cat(
                [model(**_tensors(one_row(inputs, row))).logits for row, model in enumerate(models)]
            ).numpy()

    return {"PyTorch, our modules: a run for each adapter": answer}


def _peft(made: Made, folder: Path, mixes: bool) -> dict[str, Answer]:
    """PEFT with the same adapters, unmerged. mixes: whether it can mix them in a batch; for IA3 it ignores
    `adapter_names` without a word."""
    import torch
    from peft import PeftModel

    folders = {name: saved(folder / name, adapter, made.base) for name, adapter in made.adapters.items()}
    base = load_base(minilm(), "text-classification", labels=LABELS)
    first, *others = folders
    model = PeftModel.from_pretrained(base.module, str(folders[first]), adapter_name=first)
    for name in others:
        model.load_adapter(str(folders[name]), name)
    model.eval()

    def singles(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        found = []
        with torch.inference_mode():
            for row, name in enumerate(folders):
                model.set_adapter(name)
                found.append(model(**_tensors(one_row(inputs, row))).logits)
        return torch.cat(found).numpy()

    def mixed(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            return model(**_tensors(inputs), adapter_names=list(folders)).logits.numpy()

    found: dict[str, Answer] = {"PEFT: a run for each adapter": singles}
    return {**found, "PEFT: one mixed batch": mixed} if mixes else found


def _tensors(inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(value) for name, value in inputs.items()}


def _check(answers: Mapping[str, Answer]) -> None:
    """All of them compute the same."""
    inputs = texts(ROWS, LENGTHS[0])
    expected = answers[_MIXED](inputs)
    for name, answer in answers.items():
        if np.abs(answer(inputs) - expected).max() > _TOLERANCE * np.abs(expected).max():
            raise AssertionError(f"{name}: other numbers than {_MIXED}")
