"""Exported bundles that tests share: each is made once a run, on first use, also where several processes run the tests.
Do not change them: copy the folder first.

swappable_bundle: text classification on a tiny BERT without a head of its own; adapters, all random in every tensor:
    ia3_two, ia3_three          IA3, 2 and 3 labels
    houlsby_four, houlsby_two   bottlenecks after attention and feed-forward, widths 4 and 8, 4 and 2 labels
    pfeiffer_five               bottlenecks after the feed-forward, width 2, 5 labels
bank_bundle: mode bank, same base, same five checkpoints.
embedded_bundle: houlsby_four alone; merged_bundle: ia3_three alone; same base, same checkpoints.
features_bundle: swappable, task features; adapters `ia3` and `pfeiffer`.
lora_bundle: swappable, task features; adapter `lora` (rank 4, scale 2.5).
licensed_bundle: swappable; base model and adapters `ia3_two`, `houlsby_two` state licenses and have license files.
headed_bundle: swappable, on a base model with its own head of 3 labels; adapter `ia3` (IA3, 2 labels).
Each gives .bundle (Path), .base (Path) and .adapters (checkpoint folders by name); `export` makes others, and
`exported_once` shares what is made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.export.export import export_onnx
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import load_base


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
def shared_folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder of this run, for all processes of it."""
    own = tmp_path_factory.getbasetemp()
    # pytest-xdist gives each process a folder of its own within the run's.
    folder = (own.parent if hasattr(request.config, "workerinput") else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def exported_once(shared_folder: Path) -> Callable[[str, Callable[[], Exported]], Exported]:
    """Called as (name, make) -> what `make()` gave the first time in this run, whichever process asked for that name.

    The other processes wait for it, and use the same folders, those of the base model and the checkpoints included.
    """

    def once(name: str, make: Callable[[], Exported]) -> Exported:
        from filelock import FileLock

        record = shared_folder / f"{name}.json"
        with FileLock(record.with_suffix(".lock")):
            if not record.exists():
                made = make()
                folders = {adapter: str(folder) for adapter, folder in made.adapters.items()}
                record.write_text(json.dumps([str(made.bundle), str(made.base), folders]))
            bundle, base, adapters = json.loads(record.read_text())
        return Exported(Path(bundle), Path(base), {name: Path(folder) for name, folder in adapters.items()})

    return once


@pytest.fixture(scope="session")
def classifier(
    exported_once: Callable[..., Exported],
    export: Callable[..., Exported],
    tiny_model: Callable[..., Path],
    classifier_checkpoints: dict[str, Path],
) -> Callable[..., Exported]:
    """Called as (mode, *names) -> the tiny BERT with those of the five adapters."""

    def make(mode: str, *names: str) -> Exported:
        adapters = {name: classifier_checkpoints[name] for name in names}
        return exported_once(mode, lambda: export(tiny_model("bert"), adapters, mode))

    return make


@pytest.fixture(scope="session")
def swappable_bundle(classifier: Callable[..., Exported]) -> Exported:
    return classifier("swappable", *_ADAPTERS)


@pytest.fixture(scope="session")
def required_bundle(
    exported_once: Callable[..., Exported],
    tiny_model: Callable[..., Path],
    classifier_checkpoints: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    """As `swappable_bundle`, adapter tensors being required inputs."""

    def make() -> Exported:
        bundle = tmp_path_factory.mktemp("required") / "bundle"
        export_onnx(
            tiny_model("bert"),
            classifier_checkpoints,
            bundle,
            mode="swappable",
            task="text-classification",
            bind="input",
        )
        return Exported(bundle, tiny_model("bert"), classifier_checkpoints)

    return exported_once("required", make)


@pytest.fixture(scope="session")
def bank_bundle(classifier: Callable[..., Exported]) -> Exported:
    return classifier("bank", *_ADAPTERS)


@pytest.fixture(scope="session")
def embedded_bundle(classifier: Callable[..., Exported]) -> Exported:
    return classifier("embedded", "houlsby_four")


@pytest.fixture(scope="session")
def merged_bundle(classifier: Callable[..., Exported]) -> Exported:
    return classifier("merged", "ia3_three")


@pytest.fixture(scope="session")
def features_bundle(
    exported_once: Callable[..., Exported],
    export: Callable[..., Exported],
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
) -> Exported:
    def make() -> Exported:
        info = tiny_info("bert")
        adapters = {
            "ia3": save_checkpoint(random_adapter(info, "ia3", 11), info),
            "pfeiffer": save_checkpoint(random_adapter(info, "bottleneck", 12, placement="pfeiffer"), info),
        }
        return export(tiny_model("bert"), adapters, task="features")

    return exported_once("features", make)


@pytest.fixture(scope="session")
def lora_bundle(
    exported_once: Callable[..., Exported],
    export: Callable[..., Exported],
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
) -> Exported:
    def make() -> Exported:
        info = tiny_info("bert")
        adapters = {"lora": save_checkpoint(random_adapter(info, "lora", 13, rank=4, alpha=10), info)}
        return export(tiny_model("bert"), adapters, task="features")

    return exported_once("lora", make)


def licensed(source: Path, target: Path, front_matter: str, **files: str) -> Path:
    """A copy of a model or an adapter, with this block in README.md, and with these files (`LICENSE="text"`)."""
    shutil.copytree(source, target)
    (target / "README.md").write_text(f"---\n{front_matter}\n---\n# Their card\n")
    for name, text in files.items():
        (target / name).write_bytes(text.encode())
    return target


@pytest.fixture(scope="session")
def licensed_bundle(
    exported_once: Callable[..., Exported],
    export: Callable[..., Exported],
    tiny_model: Callable[..., Path],
    classifier_checkpoints: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    def make() -> Exported:
        folder = tmp_path_factory.mktemp("licensed")
        given = classifier_checkpoints
        base = licensed(tiny_model("bert"), folder / "base", "license: apache-2.0", LICENSE="of base\r\n", NOTICE="n")
        stated = {"ia3_two": "license: mit\nbase_model: org/name", "houlsby_two": "base_model: org/name"}
        adapters = {
            name: licensed(given[name], folder / name, block, LICENSE=f"of {name}\n") for name, block in stated.items()
        }
        return export(base, adapters)

    return exported_once("licensed", make)


@pytest.fixture(scope="session")
def headed_bundle(
    exported_once: Callable[..., Exported],
    export: Callable[..., Exported],
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
) -> Exported:
    def make() -> Exported:
        info = tiny_info("bert", "text-classification")
        adapters = {"ia3": save_checkpoint(random_adapter(info, "ia3", 21, labels=("low", "high")), info)}
        return export(tiny_model("bert", "text-classification"), adapters)

    return exported_once("headed", make)
