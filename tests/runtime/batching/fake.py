"""A session that computes nothing, and stops where a test wants it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.bundle.graphs import ADAPTER_IDS, MODEL
from adapter_export.bundle.manifest import GraphInfo, Manifest, TensorInfo
from adapter_export.bundle.modes import Mode
from adapter_export.dtypes import DType
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo

PAD = 9
IDS, MASK = (TensorInfo(DType.INT64, ("batch", "sequence")) for _ in range(2))
TEXT = {"input_ids": IDS, "attention_mask": MASK, ADAPTER_IDS: TensorInfo(DType.INT64, ("batch",))}
OUTPUTS = {"logits": TensorInfo(DType.INT64, ("batch", 2)), "hidden": TensorInfo(DType.INT64, ("batch", "sequence"))}


def manifest_of(
    inputs: Mapping[str, TensorInfo] = TEXT, outputs: Mapping[str, TensorInfo] = OUTPUTS, mode: str = "bank"
) -> Manifest:
    graph = GraphInfo(dict(inputs), dict(outputs))
    info = ModelInfo("bert", "BertModel", "bert", False, 4, {}, {})
    return Manifest("1", Mode(mode), "features", DType.FLOAT32, 20, info, {MODEL: graph}, (), (), {})


def folder_of(folder: Path, config: Mapping[str, Any] | None = None, **files: Any) -> Path:
    """A bundle's folder with a config and other JSON files."""
    for name, value in {"config": config if config is not None else {"pad_token_id": PAD}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def text(length: int, first: int = 10) -> dict[str, np.ndarray]:
    return {"input_ids": np.arange(first, first + length), "attention_mask": np.ones(length, np.int64)}


def answer(row: Mapping[str, np.ndarray], adapter: str | None) -> tuple[list[int], list[int]]:
    """Logits and hidden of one row."""
    ids = row["input_ids"][row["attention_mask"] == 1]
    number = 0 if adapter is None else sum(map(ord, adapter))
    return [int(ids.sum()), number], [int(token) + number for token in ids]


class FakeSession:
    """Answers as `answer`; a row with a negative token fails, and so does the adapter `broken`.

    A run waits for `gate`, which is open unless a test closes it. batches: the adapters and padded lengths of all runs.
    """

    def __init__(self, bundle: Path, mode: str = "bank", slots: int | None = 100) -> None:
        self.bundle, self.manifest, self.slots = bundle, manifest_of(mode=mode), slots
        self.adapters: tuple[str, ...] = (*"abcdefgh", "broken")
        self.loads: list[str] = []
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.gate.set()
        self.batches: list[tuple[list[str | None], int]] = []

    def labels(self, adapter: str | None = None) -> tuple[str, ...]:
        if adapter is not None and adapter not in self.adapters:
            raise InputError(f"adapter {adapter!r}: expected one of {', '.join(self.adapters)}")
        return ("x", "y")

    def load(self, name: str) -> None:
        self.loads.append(name)
        if name != "added":
            raise InputError(f"adapter {name!r}: expected one of {', '.join(self.adapters)}")

    def run_rows(self, inputs: Mapping[str, np.ndarray], adapters: Sequence[str | None]) -> list[dict[str, np.ndarray]]:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        self.batches.append((list(adapters), ids.shape[1]))
        self.entered.release()
        assert self.gate.wait(30)
        assert (ids[mask == 0] == PAD).all()
        if (ids < 0).any() or "broken" in adapters:
            raise InputError(f"a batch of {len(adapters)} failed")
        rows = []
        for row, adapter in enumerate(adapters):
            logits, hidden = answer({"input_ids": ids[row], "attention_mask": mask[row]}, adapter)
            padded = np.full(ids.shape[1], -1)
            padded[: len(hidden)] = hidden
            rows.append({"logits": np.array(logits), "hidden": padded})
        return rows
