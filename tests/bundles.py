"""Exported bundles that tests share: each is made once a run, on first use. Do not change them: copy the folder first.

swappable_bundle: text classification on a tiny BERT without a head of its own; adapters, all random in every tensor:
    ia3_two, ia3_three          IA3, 2 and 3 labels
    houlsby_four, houlsby_two   bottlenecks after attention and feed-forward, widths 4 and 8, 4 and 2 labels
    pfeiffer_five               bottlenecks after the feed-forward, width 2, 5 labels
bank_bundle: mode bank, same base, same five checkpoints.
embedded_bundle: houlsby_four alone; merged_bundle: ia3_three alone; same base, same checkpoints.
features_bundle: swappable, task features; adapters `ia3` and `pfeiffer`.
headed_bundle: swappable, on a base model with its own head of 3 labels; adapter `ia3` (IA3, 2 labels).
Each gives .bundle (Path), .base (Path) and .adapters (checkpoint folders by name); `export` makes others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapter_export.basemodel import load_base
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.export.export import export_onnx
from adapter_export.modelinfo import ModelInfo


@dataclass(frozen=True)
class Exported:
    """bundle: the exported folder. base: the model's folder. adapters: checkpoint folders by name."""

    bundle: Path
    base: Path
    adapters: Mapping[str, Path]


# Name -> method, labels, options of the method.
_ADAPTERS = {
    "ia3_two": ("ia3", ("no", "yes"), {}),
    "ia3_three": ("ia3", ("bad", "so so", "good"), {}),
    "houlsby_four": ("bottleneck", ("north", "east", "south", "west"), {"reduction_factor": 8}),
    "houlsby_two": ("bottleneck", ("off", "on"), {"reduction_factor": 4}),
    "pfeiffer_five": ("bottleneck", ("a", "b", "c", "d", "e"), {"reduction_factor": 16, "placement": "pfeiffer"}),
}


@pytest.fixture(scope="session")
def classifier_checkpoints(
    tiny_model: Callable[..., Path], random_adapter: Callable[..., Adapter], save_checkpoint: Callable[..., Path]
) -> dict[str, Path]:
    """Checkpoint folders of the five adapters of `swappable_bundle`, every tensor of them random."""
    info = load_base(tiny_model("bert"), "text-classification").info
    return {
        name: save_checkpoint(random_adapter(info, method, seed, labels=labels, **options), info)
        for seed, (name, (method, labels, options)) in enumerate(_ADAPTERS.items(), start=1)
    }


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """Called as (base, adapters, mode="swappable", task="text-classification") -> Exported. Takes some 10 seconds."""

    def make(
        base: Path, adapters: Mapping[str, Path], mode: str = "swappable", task: str = "text-classification"
    ) -> Exported:
        bundle = tmp_path_factory.mktemp(mode) / "bundle"
        export_onnx(base, adapters, bundle, mode=mode, task=task)
        return Exported(bundle, base, dict(adapters))

    return make


@pytest.fixture(scope="session")
def swappable_bundle(
    export: Callable[..., Exported], tiny_model: Callable[..., Path], classifier_checkpoints: dict[str, Path]
) -> Exported:
    return export(tiny_model("bert"), classifier_checkpoints)


@pytest.fixture(scope="session")
def bank_bundle(
    export: Callable[..., Exported], tiny_model: Callable[..., Path], classifier_checkpoints: dict[str, Path]
) -> Exported:
    return export(tiny_model("bert"), classifier_checkpoints, "bank")


@pytest.fixture(scope="session")
def embedded_bundle(
    export: Callable[..., Exported], tiny_model: Callable[..., Path], classifier_checkpoints: dict[str, Path]
) -> Exported:
    return export(tiny_model("bert"), {"houlsby_four": classifier_checkpoints["houlsby_four"]}, "embedded")


@pytest.fixture(scope="session")
def merged_bundle(
    export: Callable[..., Exported], tiny_model: Callable[..., Path], classifier_checkpoints: dict[str, Path]
) -> Exported:
    return export(tiny_model("bert"), {"ia3_three": classifier_checkpoints["ia3_three"]}, "merged")


@pytest.fixture(scope="session")
def features_bundle(
    export: Callable[..., Exported],
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
) -> Exported:
    info = tiny_info("bert")
    adapters = {
        "ia3": save_checkpoint(random_adapter(info, "ia3", 11), info),
        "pfeiffer": save_checkpoint(random_adapter(info, "bottleneck", 12, placement="pfeiffer"), info),
    }
    return export(tiny_model("bert"), adapters, task="features")


@pytest.fixture(scope="session")
def headed_bundle(
    export: Callable[..., Exported],
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
) -> Exported:
    info = tiny_info("bert", "text-classification")
    adapters = {"ia3": save_checkpoint(random_adapter(info, "ia3", 21, labels=("low", "high")), info)}
    return export(tiny_model("bert", "text-classification"), adapters)
