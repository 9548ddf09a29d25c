"""The files of models and checkpoints and their digests: the recorder's code agrees with that of the package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_export.checkpoints.weights import checkpoint_sha256, weights_sha256
from adapter_export.parity.recording.files import Refused, adapter_sha256, base_sha256, clean_copy
from tests.bundles import Exported

GOLDENS = Path(__file__).parents[2] / "goldens/adapterhub"


@pytest.fixture
def model(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model("bert"), tmp_path / "model"))


def test_recorder_and_package_compute_the_same_digest(model: Path, features_bundle: Exported) -> None:
    assert base_sha256(model) == weights_sha256(model)
    for folder in [*features_bundle.adapters.values(), *GOLDENS.glob("*/adapter")]:
        assert adapter_sha256(folder) == checkpoint_sha256(folder)


def test_every_file_of_a_checkpoint_affects_its_digest(features_bundle: Exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(features_bundle.adapters["ia3"], tmp_path / "adapter"))
    before = adapter_sha256(folder)
    (folder / "README.md").write_text("nothing that matters")
    assert adapter_sha256(folder) == before
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"feedforward_modules": []}))
    assert adapter_sha256(folder) != before


def test_a_clean_copy_contains_only_the_base_model(model: Path, features_bundle: Exported) -> None:
    for path in features_bundle.adapters["ia3"].iterdir():
        shutil.copyfile(path, model / path.name)
    with clean_copy(model) as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
        assert (folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert not folder.exists()


def test_shards(model: Path) -> None:
    (model / "model.safetensors").rename(model / "part.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part.safetensors", "b": "part.safetensors"}}))
    with clean_copy(model) as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", index.name, "part.safetensors"]
    index.write_text(json.dumps({"weight_map": {"a": "../part.safetensors"}}))
    with pytest.raises(Refused, match="names files outside its folder"), clean_copy(model):
        pass
