"""Which files of a folder are the base model's weights, and their digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from adapter_export.checkpoints.weights import weights_sha256
from adapter_export.errors import InputError


def digest_of(*files: tuple[str, bytes]) -> str:
    """As documented: over the sorted names, each with the digest of its content."""
    lines = "".join(f"{name}\0{hashlib.sha256(content).hexdigest()}\n" for name, content in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def test_shards_count_in_the_order_of_their_names(tmp_path: Path) -> None:
    files = [("model-2.safetensors", b"two"), ("model-1.safetensors", b"one"), ("config.json", b"{}"), ("x.bin", b"x")]
    for name, content in files:
        (tmp_path / name).write_bytes(content)
    weight_map = {"a": "model-2.safetensors", "b": "model-1.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert weights_sha256(tmp_path) == digest_of(*files[:2])


OTHERS = (
    "adapter_model.safetensors", "adapter_model.bin", "optimizer.bin", "training_args.bin", "consolidated.00.pth",
    "model_head.safetensors", "model.fp16.safetensors", "pytorch_model.bin",
)  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_finding_2_what_lies_beside_the_weights_does_not_count(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / name).write_bytes(b"other")
    assert weights_sha256(tmp_path) == digest_of(("model.safetensors", b"weights"))


def test_bin_files_count_where_there_is_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    assert weights_sha256(tmp_path) == digest_of(("pytorch_model.bin", b"weights"))


@pytest.mark.parametrize(("name", "content"), [("model.safetensors", b"other"), ("pytorch_model.bin", b"weights")])
def test_any_change_shows(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert weights_sha256(tmp_path) != digest_of(("model.safetensors", b"weights"))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected model\.safetensors or pytorch_model\.bin, or shards with"):
        weights_sha256(tmp_path)
