"""Adapter folders changed at random: each loads, or ends in one clear line. Seeded, so that a failure can be had again.

No change may lead to another error, to a warning, to a wait, or to more memory than the folder's files account for.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo

Good = Callable[[str], Path]

ROUNDS = 150
# Of one load. The folders hold some 100 kB; the libraries need their own the first time, which is not measured.
MAX_SECONDS, MAX_BYTES = 5, 8 << 20

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3.5, 1e308, float("nan"), float("inf"), 10**40, "", "x", "(", "[[a]", ".*", r"\1",
    "all-linear", "a" * 5000, "a{99999999999}", "\x00", "\n", "ü\u2028", [],
    [[]], [None], ["x", 3], ["("], {}, {"a": {}},
    {"default": 2}, [1, 2], "relu", "IA3", "learned", ["key"],
)  # fmt: skip
ODD_HEADER_VALUES: tuple[Any, ...] = (
    None, [], {}, "", -1, 0, 1 << 70, [0], [0, 1 << 62], [1 << 40], [-1, 4], [4, 0], [1.5, 2], ["0", "4"], [True, 4],
    "F32",
    "F16", "BF16", "I64", "F8_E4M3", "F4", "C64", "BOOL", [0] * 100, [1 << 31, 1 << 31, 1 << 31], [0, 1 << 40],
)  # fmt: skip


def load(folder: Path, info: ModelInfo) -> str:
    """The message that loading ends with, or "" where it ends well; asserts what holds for either."""
    start = time.monotonic()
    message = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            adapter = load_adapter(folder, info)
        except InputError as error:
            message = str(error)
            assert "\n" not in message
            assert str(folder) in message
            assert len(message) < 2000
        else:
            assert all(
                np.isfinite(t).all() for site_adapter in adapter.sites.values() for t in site_adapter.tensors.values()
            )
    assert time.monotonic() - start < MAX_SECONDS
    return message


def survives(change: Callable[[random.Random, Path], object], folder: Path, info: ModelInfo, copy: Path) -> list[str]:
    """Messages of loads after the change, made anew each time."""
    load(folder, info)
    messages = []
    tracemalloc.start()
    try:
        for seed in range(ROUNDS):
            shutil.copytree(folder, copy)
            change(random.Random(seed), copy)
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            messages.append(load(copy, info))
            assert tracemalloc.get_traced_memory()[1] - before < MAX_BYTES, seed
            shutil.rmtree(copy)
    finally:
        tracemalloc.stop()
    return messages


def json_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def tensor_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])


def change_a_field(rng: random.Random, folder: Path) -> None:
    """One field, at any depth, gets an odd value, goes, or comes anew."""
    file = rng.choice(json_files(folder))
    whole = json.loads(file.read_text())
    owner = whole
    while inside := [value for value in owner.values() if isinstance(value, dict)]:
        if rng.random() < 0.4:
            break
        owner = rng.choice(inside)
    name = rng.choice([*owner, "new"])
    if rng.random() < 0.15 and name in owner:
        del owner[name]
    else:
        owner[name] = rng.choice(ODD_VALUES)
    file.write_text(json.dumps(whole))


def change_bytes(rng: random.Random, files: list[Path]) -> None:
    """Some bytes of a file are flipped, cut out, doubled, or everything after a place is lost."""
    file = rng.choice(files)
    data = bytearray(file.read_bytes())
    # Headers, which are at the start, are what can lie.
    place = rng.randrange(min(len(data), 3000) if rng.random() < 0.8 else len(data))
    match rng.randrange(5):
        case 0:
            data[place] ^= 1 << rng.randrange(8)
        case 1:
            data[place : place + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(1, 9))
        case 2:
            del data[place:]
        case 3:
            del data[place : place + rng.randrange(1, 50)]
        case 4:
            data[place:place] = data[place : place + rng.randrange(1, 50)]
    file.write_bytes(data)


def change_a_header(rng: random.Random, folder: Path) -> None:
    """A safetensors header that parses, and lies: about a dtype, a shape, an offset, a name, or its own length."""
    file = rng.choice(list(folder.glob("*.safetensors")))
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name, other = rng.sample(names, 2)
    text = None
    match rng.randrange(8):
        case 0:
            header[name][rng.choice(["dtype", "shape", "data_offsets"])] = rng.choice(ODD_HEADER_VALUES)
        case 1:
            header[name]["data_offsets"] = header[other]["data_offsets"]
        case 2:
            offset = rng.choice([-8, -4, 4, 8, 1 << 33])
            header[name]["data_offsets"] = [max(0, value + offset) for value in header[name]["data_offsets"]]
        case 3:
            header[rng.choice(["", "x", "\n", "base_model.model.", f"{name}.default", name[1:]])] = header.pop(name)
        case 4:
            text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"
        case 5:
            header["__metadata__"] = rng.choice(ODD_HEADER_VALUES)
        case 6:
            header[name] = rng.choice(ODD_HEADER_VALUES)
        case 7:
            del header[name][rng.choice(["dtype", "shape", "data_offsets"])]
    encoded = (text or json.dumps(header)).encode()
    claimed = rng.choice([len(encoded)] * 6 + [0, len(encoded) + 8, 1 << 40, (1 << 64) - 1])
    file.write_bytes(struct.pack("<Q", claimed) + encoded + rest)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy"


def test_fields(kind: Any, good: Good, info: ModelInfo, copy: Path) -> None:
    messages = survives(change_a_field, good(kind.name), info, copy)
    assert 20 < sum(map(bool, messages)) < ROUNDS - 5
    assert len(set(messages)) > 20


def test_bytes_of_json(kind: Any, good: Good, info: ModelInfo, copy: Path) -> None:
    messages = survives(lambda rng, folder: change_bytes(rng, json_files(folder)), good(kind.name), info, copy)
    assert sum(map(bool, messages)) > ROUNDS // 2


def test_bytes_of_tensors(kind: Any, good: Good, info: ModelInfo, copy: Path) -> None:
    messages = survives(lambda rng, folder: change_bytes(rng, tensor_files(folder)), good(kind.name), info, copy)
    assert sum(map(bool, messages)) > ROUNDS // 2


def test_headers_that_lie(kind: Any, good: Good, info: ModelInfo, copy: Path) -> None:
    messages = survives(change_a_header, good(kind.name), info, copy)
    assert sum(map(bool, messages)) > ROUNDS * 3 // 4
    assert len(set(messages)) > 20


def test_bytes_of_bin(kind: Any, good: Good, info: ModelInfo, copy: Path) -> None:
    import torch

    folder = good(kind.name)
    state = {name: torch.from_numpy(tensor) for name, tensor in load_file(folder / kind.weights).items()}
    (folder / kind.weights).unlink()
    torch.save(state, folder / kind.bin)
    messages = survives(lambda rng, folder: change_bytes(rng, [folder / kind.bin]), folder, info, copy)
    assert sum(map(bool, messages)) > ROUNDS // 4


def test_bytes_of_bin_as_torch_wrote_it_once(kind: Any, good: Good, info: ModelInfo, copy: Path) -> None:
    import torch

    folder = good(kind.name)
    state = {name: torch.from_numpy(tensor) for name, tensor in load_file(folder / kind.weights).items()}
    (folder / kind.weights).unlink()
    torch.save(state, folder / kind.bin, _use_new_zipfile_serialization=False)
    messages = survives(lambda rng, folder: change_bytes(rng, [folder / kind.bin]), folder, info, copy)
    assert sum(map(bool, messages)) > ROUNDS // 4
