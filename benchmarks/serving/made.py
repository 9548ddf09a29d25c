"""The bundles that the parts measure: one trace of MiniLM with a task head, lowered to every mode asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapter_export.bundle.adapter_file import adapter_tensors, tensors_by_operator
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.modes import Mode
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.export.bank import Bank
from adapter_export.export.bundle import write_bundle
from adapter_export.export.head import head_defaults
from adapter_export.export.lower import lower
from adapter_export.export.modes import union_of_sites
from adapter_export.export.storage import Constants, Overridable
from adapter_export.export.trace import trace
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.runtime.provider import still_options
from adapter_export.runtime.session import AdapterSession
from benchmarks.models import random_adapter
from samples.assets import minilm

IA3, LORA, BOTTLENECK = "IA3", "LoRA", "bottleneck"
THREADS = 2
ROWS = 8
RANK = 8
# k = 48 of d = 384.
_OPTIONS: Mapping[str, tuple[str, dict[str, int]]] = {
    IA3: ("ia3", {}),
    LORA: ("lora", {"rank": RANK}),
    BOTTLENECK: ("bottleneck", {"reduction_factor": 8}),
}


@dataclass(frozen=True)
class Made:
    """bundles: folders by mode; of mode embedded one for each of the first ROWS adapters, as `embedded 0`, ..."""

    base: BaseModel
    adapters: Mapping[str, Adapter]
    bundles: Mapping[str, Path]

    def session(self, bundle: str, slots: int | None = None, threads: int = THREADS) -> AdapterSession:
        return AdapterSession(self.bundles[bundle], options=still_options(threads), slots=slots)


def make(folder: Path, counts: Mapping[str, int], modes: tuple[str, ...], in_graph: int = ROWS, **changed: int) -> Made:
    """counts: how many random adapters of each method, as files beside the graph. in_graph: of those, how many are
    slots of the bank's own graph. changed: options of the methods in place of those above."""
    base = load_base(minilm(), "text-classification")
    adapters: dict[str, Adapter] = {}
    for method, count in counts.items():
        name, options = _OPTIONS[method]
        for number in range(count):
            adapters[f"{name}{number}"] = random_adapter(base, name, seed=number, **{**options, **changed})
    sites = union_of_sites(adapters.values())
    traced = trace(base, sites, base.info.head)
    defaults, last = head_defaults(base), base.info.head[-1]
    tensors = [adapter_tensors(adapter) for adapter in list(adapters.values())[:in_graph]]
    stacked = Bank([tensors_by_operator(adapter) for adapter in list(adapters.values())[:in_graph]])
    storages = {"bank": ("bank", stacked, adapters), "swappable": ("swappable", Overridable(), adapters)}
    storages |= {
        f"embedded {number}": ("embedded", Constants(tensor), {name: adapters[name]})
        for number, (name, tensor) in enumerate(zip(adapters, tensors, strict=False))
        if "embedded" in modes
    }
    bundles = {}
    for title, (mode, storage, own) in storages.items():
        if mode in modes:
            bundles[title] = folder / title
            bundles[title].mkdir(parents=True)
            graph = lower(traced, sites, storage, defaults, last)
            write_bundle(bundles[title], base, {MODEL: graph}, Mode(mode), own)
    return Made(base, adapters, bundles)


def texts(rows: int, length: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Random tokens without padding."""
    ids = np.random.default_rng(seed).integers(1000, 20000, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def one_row(inputs: Mapping[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
    return {name: value[row : row + 1] for name, value in inputs.items()}
