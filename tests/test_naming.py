from __future__ import annotations

import pytest

from adapter_export.errors import InputError
from adapter_export.naming import check_adapter_name, parse_named_path, tensor_name


@pytest.mark.parametrize("name", ["a", "0", "sst2", "My-Adapter_v1.2", "a" * 64, "console", "com10", "nul_"])
def test_good_names(name: str) -> None:
    assert check_adapter_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "a" * 65, "..", ".hidden", "-x", "_x", "a/b", "a\\b", "a b", "a:b", "ä", "a\n", "a.", "con", "NUL", "aux.txt",
     "com1", "LPT9.x"],
)  # fmt: skip
def test_names_that_no_file_should_have(name: str) -> None:
    with pytest.raises(InputError) as error:
        check_adapter_name(name)
    assert f"adapter name {name!r}: expected 1 to 64 of letters" in str(error.value)


def test_named_paths() -> None:
    assert parse_named_path("sst2=some/dir=1") == ("sst2", "some/dir=1")
    assert parse_named_path("x=C:\\models\\a") == ("x", "C:\\models\\a")


@pytest.mark.parametrize("text", ["", "sst2", "sst2=", "/some/dir"])
def test_named_paths_without_a_side(text: str) -> None:
    with pytest.raises(InputError, match="expected NAME=DIR"):
        parse_named_path(text)


@pytest.mark.parametrize("text", ["=dir", "../x=dir"])
def test_named_paths_with_an_unsafe_name(text: str) -> None:
    with pytest.raises(InputError, match="adapter name"):
        parse_named_path(text)


def test_tensor_names() -> None:
    assert tensor_name("layers.0.mlp.down_proj.input", "ia3", "l") == "layers.0.mlp.down_proj.input.ia3.l"
