"""`.bin` files are pickles: tensors are read, and nothing else."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from adapter_export.checkpoints.folder import load_adapter
from adapter_export.checkpoints.torch_file import NotTensors, read_torch_file
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo

# See the fixtures of this folder.
Good = Callable[[str], Path]
Refused = Callable[..., str]


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def converted(folder: Path, kind: Any) -> dict[str, Any]:
    """The folder's tensors for torch, their safetensors file removed."""
    import torch

    tensors = load_file(folder / kind.weights)
    (folder / kind.weights).unlink()
    return {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}


def test_tensors_are_read(info: ModelInfo, kind: Any, good: Good) -> None:
    import torch

    folder = good(kind.name)
    before = load_adapter(folder, info)
    state = converted(folder, kind)
    state[kind.tensor] = torch.nn.Parameter(state[kind.tensor])
    torch.save(state, folder / kind.bin)
    after = load_adapter(folder, info)
    for site, site_adapter in before.sites.items():
        for name, tensor in site_adapter.tensors.items():
            np.testing.assert_array_equal(after.sites[site].tensors[name], tensor)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_is_never_run(how: str, kind: Any, good: Good, tmp_path: Path, refused: Refused) -> None:
    import torch

    folder = good(kind.name)
    state = {**converted(folder, kind), "bomb": Bomb(tmp_path / "ran")}
    if how == "torch":
        torch.save(state, folder / kind.bin)
    else:
        (folder / kind.bin).write_bytes(pickle.dumps({"bomb": state["bomb"]}))
    message = refused(folder)
    assert f"{kind.bin}: not readable as tensors only: " in message
    assert not (tmp_path / "ran").exists()


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04", b"hello", bytes(100)])
def test_files_that_are_none(content: bytes, kind: Any, good: Good, refused: Refused) -> None:
    folder = good(kind.name)
    converted(folder, kind)
    (folder / kind.bin).write_bytes(content)
    assert "not readable as tensors only" in refused(folder)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("torch.ones(32, 1, dtype=torch.int64)", "expected floating point, found int64"),
        ("torch.ones(32, 1, dtype=torch.complex64)", "expected floating point, found complex64"),
        ("torch.ones(32, 1).to_sparse()", "found torch._utils._rebuild_sparse_tensor, which is no tensor"),
        ("torch.full((32, 1), torch.nan)", "expected finite values, found NaN or infinity"),
        ("[1.0]", "expected a mapping of names to tensors"),
    ],
)
def test_values_that_are_no_numbers(value: str, message: str, kind: Any, good: Good, refused: Refused) -> None:
    import torch

    folder = good(kind.name)
    state = converted(folder, kind)
    state[kind.tensor] = eval(value, {"torch": torch})
    torch.save(state, folder / kind.bin)
    assert message in refused(folder)


def test_a_list_is_no_mapping(kind: Any, good: Good, refused: Refused) -> None:
    import torch

    folder = good(kind.name)
    torch.save(list(converted(folder, kind).values()), folder / kind.bin)
    assert "expected a mapping of names to tensors" in refused(folder)


@pytest.mark.parametrize("name", ["x" * 1001, "a\nb"])
def test_names_out_of_all_proportion(name: str, kind: Any, good: Good, refused: Refused) -> None:
    import torch

    folder = good(kind.name)
    torch.save({**converted(folder, kind), name: torch.ones(1)}, folder / kind.bin)
    assert "expected a printable name of at most 1,000 characters" in refused(folder)


def test_a_few_bytes_that_look_like_many(kind: Any, good: Good, refused: Refused) -> None:
    import torch

    folder = good(kind.name)
    state = converted(folder, kind)
    state[kind.tensor] = torch.ones(1).expand(1 << 40)
    torch.save(state, folder / kind.bin)
    assert "expected values of its own, found (1099511627776,) repeated" in refused(folder)


def test_an_archive_that_unpacks_to_more_than_it_is(kind: Any, good: Good, refused: Refused) -> None:
    import torch

    folder = good(kind.name)
    plain = folder / "plain"
    torch.save({**converted(folder, kind), "zeros": torch.zeros(1 << 20)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(folder / kind.bin, "w", zipfile.ZIP_DEFLATED) as packed:
        for item in source.infolist():
            packed.writestr(item.filename, source.read(item))
    assert "expected uncompressed contents, found compressed ones" in refused(folder)


def test_files_of_the_older_kind_are_read(info: ModelInfo, kind: Any, good: Good) -> None:
    import torch

    folder = good(kind.name)
    before = load_adapter(folder, info)
    torch.save(converted(folder, kind), folder / kind.bin, _use_new_zipfile_serialization=False)
    after = load_adapter(folder, info)
    for site, site_adapter in before.sites.items():
        for name, tensor in site_adapter.tensors.items():
            np.testing.assert_array_equal(after.sites[site].tensors[name], tensor)


def test_views_are_read(info: ModelInfo, kind: Any, good: Good) -> None:
    import torch

    folder = good(kind.name)
    before = load_adapter(folder, info)
    state = converted(folder, kind)
    # The same values with axes swapped in storage, in the middle of a larger one.
    whole = torch.stack([torch.zeros_like(state[kind.tensor]), state[kind.tensor]], dim=-1)
    torch.save({**state, kind.tensor: whole[..., 1]}, folder / kind.bin)
    after = load_adapter(folder, info)
    for site, site_adapter in before.sites.items():
        for name, tensor in site_adapter.tensors.items():
            np.testing.assert_array_equal(after.sites[site].tensors[name], tensor)


class Call:
    """Pickled as a call of torch's function that makes tensors."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        import torch

        return torch._utils._rebuild_tensor_v2, self.arguments


def archive(path: Path, content: bytes, **files: bytes) -> None:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("a/data.pkl", content)
        for name, data in files.items():
            made.writestr(f"a/data/{name}", data)


class Storages(pickle.Pickler):
    """Writes a text as the reference of a storage of that many floats."""

    def persistent_id(self, value: Any) -> Any:
        import torch

        if isinstance(value, str) and value.startswith("storage:"):
            return ("storage", torch.FloatStorage, "0", "cpu", int(value.partition(":")[2]))
        return None


def pickled(value: Any) -> bytes:
    content = io.BytesIO()
    Storages(content, 2).dump(value)
    return content.getvalue()


HUGE = 1 << 80


@pytest.mark.parametrize(
    "value",
    [
        {"a": Call("storage:4", HUGE, (2,), (1,))},
        {"a": Call("storage:4", 0, (HUGE,), (1,))},
        {"a": Call("storage:4", 0, (2,), (HUGE,))},
        {"a": Call("storage:4", 0, (0, 1 << 61), (1, 1))},
        {"a": Call("storage:4", 0, (1,) * 65, (1,) * 65)},
        {"a": Call("storage:4", 0, [2], [1])},
        {"a": Call("storage:4")},
        {"a": Call()},
        {"a": Call(3, 0, (2,), (1,))},
        {"a": Call(f"storage:{HUGE}", 0, (2,), (1,))},
        {"a": "storage:4"},
        {10**5000: Call("storage:4", 0, (2,), (1,))},
        {"a": 10**5000},
        "storage:4",
        Call("storage:4", 0, (2,), (1,)),
    ],
)
def test_tensors_that_are_none(value: Any, tmp_path: Path) -> None:
    archive(tmp_path / "x.bin", pickled(value), **{"0": bytes(16)})
    with pytest.raises(NotTensors) as caught:
        read_torch_file(tmp_path / "x.bin")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_step_that_is_never_taken_may_be_any(tmp_path: Path) -> None:
    archive(tmp_path / "x.bin", pickled({"a": Call("storage:4", 1, (1, 2), (1 << 60, 1))}),
            **{"0": np.arange(4, dtype=np.float32).tobytes()})  # fmt: skip
    assert read_torch_file(tmp_path / "x.bin")["a"].tolist() == [[1.0, 2.0]]


def test_a_pickle_nested_deeply_ends(tmp_path: Path) -> None:
    content = b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b"."
    archive(tmp_path / "x.bin", content)
    (tmp_path / "y.bin").write_bytes(content)
    for name in ("x.bin", "y.bin"):
        with pytest.raises(NotTensors):
            read_torch_file(tmp_path / name)


class Attributes:
    """Pickled as an ordered dictionary with attributes."""

    def __reduce__(self) -> tuple[Any, ...]:
        values = {"a": Call("storage:4", 0, (2,), (1,))}
        return OrderedDict, (), {"_metadata": 1, "items": 2, "get": 3}, None, iter(values.items())


def test_attributes_of_a_dictionary_are_dropped(tmp_path: Path) -> None:
    """`state_dict` has some, of its own; a stranger's could stand in for methods."""
    archive(tmp_path / "x.bin", pickled(Attributes()), **{"0": bytes(16)})
    assert read_torch_file(tmp_path / "x.bin")["a"].tolist() == [0.0, 0.0]


def test_an_archive_of_holes_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"PK")
    os.truncate(tmp_path / "x.bin", 1 << 40)
    with pytest.raises(InputError, match="at most 8 GiB"):
        read_torch_file(tmp_path / "x.bin")
