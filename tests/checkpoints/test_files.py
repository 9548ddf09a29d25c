from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from adapter_export.checkpoints.files import sha256, weights_sha256
from adapter_export.errors import InputError


def digest_of(*files: tuple[str, bytes]) -> str:
    """As documented: over the sorted names, each with the digest of its content."""
    lines = "".join(f"{name}\0{hashlib.sha256(content).hexdigest()}\n" for name, content in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def test_digest_of_a_file_larger_than_a_chunk(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_weights_are_the_safetensors_files_whatever_their_order(tmp_path: Path) -> None:
    files = [("model-2.safetensors", b"two"), ("model-1.safetensors", b"one"), ("config.json", b"{}"), ("x.bin", b"x")]
    for name, content in files:
        (tmp_path / name).write_bytes(content)
    assert weights_sha256(tmp_path) == digest_of(*files[:2])


def test_bin_files_count_where_there_is_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    assert weights_sha256(tmp_path) == digest_of(("pytorch_model.bin", b"weights"))


@pytest.mark.parametrize(("name", "content"), [("model.safetensors", b"other"), ("renamed.safetensors", b"weights")])
def test_any_change_shows(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert weights_sha256(tmp_path) != digest_of(("model.safetensors", b"weights"))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected \*\.safetensors or \*\.bin weights, found none"):
        weights_sha256(tmp_path)
