"""What comes along into a merged model's folder, what stays behind, and where links may lead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapter_export.errors import InputError
from adapter_export.merging.merge import merge
from tests.merging.models import INDEX, write_adapter, write_model


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_all_other_files_come_along_and_other_weights_do_not(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    kept = ("README.md", "vocab.txt", "special_tokens_map.json", "1_Pooling/config.json", "2_Dense/model.safetensors",
            "2_Dense/pytorch_model.bin", "modeling_custom.py", "chat_template.jinja", "spiece.bpe.model")  # fmt: skip
    left = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors", "model.onnx",
            "tf_model.h5", "flax_model.msgpack", "optimizer.pt", "model.gguf", "extra/model.onnx")  # fmt: skip
    unseen = (".git/config", ".cache/x", ".gitattributes", "onnx/config.json", "old-merge/adapter_export.json",
              "old-merge/config.json", "bundle/manifest.json", "bundle/model.txt")  # fmt: skip
    put(model, *kept, *left, *unseen)
    result = merge(model, write_adapter(tmp_path / "adapter"), tmp_path / "out")
    own = {"config.json", "generation_config.json", "tokenizer.json", "model.safetensors", "adapter_export.json"}
    assert files(tmp_path / "out") == own | set(kept) | {"README.base.md"}
    assert set(result.left_out) == set(left)
    for name in kept:
        # The name of the base model's card is that of the new one.
        assert (tmp_path / "out" / name.replace("README.md", "README.base.md")).read_text() == name


def test_a_stale_index_stays_behind(tmp_path: Path) -> None:
    """`from_pretrained` takes the single file where there are both."""
    model = write_model(tmp_path / "model", shards=2)
    write_model(tmp_path / "single")
    (tmp_path / "single" / "model.safetensors").rename(model / "model.safetensors")
    result = merge(model, write_adapter(tmp_path / "adapter"), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("model*")} == {"model.safetensors"}
    assert set(result.left_out) == {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}


def test_output_inside_the_model_folder(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    before = files(model)
    adapter = write_adapter(tmp_path / "adapter")
    for name in ("first", "second"):
        merge(model, adapter, model / name)
        assert files(model / name) == before | {"adapter_export.json", "README.md"}


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    put(tmp_path, "secret/key", "secret/deep/more")
    model = write_model(tmp_path / "model")
    (model / "notes.txt").symlink_to(tmp_path / "secret" / "key")
    (model / "folder").symlink_to(tmp_path / "secret")
    (model / "dangling").symlink_to(tmp_path / "nowhere")
    (model / "alias.txt").symlink_to("tokenizer.json")
    os.mkfifo(model / "pipe")
    result = merge(model, write_adapter(tmp_path / "adapter"), tmp_path / "out")
    assert set(result.left_out) == {"notes.txt", "folder", "dangling", "pipe"}
    assert (tmp_path / "out" / "alias.txt").read_text() == '{"version": "1.0"}'
    assert not (tmp_path / "out" / "alias.txt").is_symlink()
    assert not files(tmp_path / "out") & {"notes.txt", "folder", "dangling", "pipe", "folder/key"}


@pytest.mark.parametrize("name", ["config.json", "model-00001-of-00002.safetensors", INDEX, "adapter_export.json"])
def test_nor_for_what_the_model_is_made_of(name: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", shards=2)
    (tmp_path / "elsewhere").mkdir()
    if (model / name).exists():
        (model / name).rename(tmp_path / "elsewhere" / name)
    else:
        (tmp_path / "elsewhere" / name).write_text("{}")
    (model / name).symlink_to(tmp_path / "elsewhere" / name)
    with pytest.raises(InputError, match=rf"{name}: is a link out of "):
        merge(model, write_adapter(tmp_path / "adapter"), tmp_path / "out")


def test_a_snapshot_of_the_hub_cache_is_all_links(tmp_path: Path) -> None:
    model = write_model(tmp_path / "plain", shards=2)
    put(model, "1_Pooling/config.json")
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "0123abc"
    (repository / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(item for item in model.rglob("*") if item.is_file())):
        blob = repository / "blobs" / f"sha{number}"
        path.rename(blob)
        link = snapshot / path.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (snapshot / "passwd").symlink_to("/etc/passwd")
    (snapshot / "refs").symlink_to(repository / "blobs")
    result = merge(snapshot, write_adapter(tmp_path / "adapter"), tmp_path / "out")
    assert set(result.left_out) == {"passwd", "refs"}
    assert files(tmp_path / "out") == files(snapshot) - {"passwd", "refs"} | {"adapter_export.json", "README.md"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
