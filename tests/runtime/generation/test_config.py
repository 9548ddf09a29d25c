"""What a bundle's files say about generating."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapter_export.errors import InputError
from adapter_export.runtime.generation.config import GenerationConfig, read_generation_config


def read(tmp_path: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> GenerationConfig:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    return read_generation_config(tmp_path)


def test_the_generation_config_comes_first(tmp_path: Path) -> None:
    config = {"eos_token_id": 1, "pad_token_id": 7}
    assert read(tmp_path, config) == GenerationConfig((1,), 7)
    generation = {"eos_token_id": [4, 5], "pad_token_id": None}
    assert read(tmp_path, config, generation) == GenerationConfig((4, 5), 7)


def test_nothing_is_known(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path) == GenerationConfig()
    assert read(tmp_path, {"eos_token_id": None, "pad_token_id": -1}) == GenerationConfig()


def test_the_part_for_texts_of_a_model_of_several(tmp_path: Path) -> None:
    assert read(tmp_path, {"text_config": {"eos_token_id": 9}}) == GenerationConfig((9,))


def test_what_an_encoder_decoder_begins_with(tmp_path: Path) -> None:
    pair = {"is_encoder_decoder": True, "bos_token_id": 3}
    assert read(tmp_path, {"bos_token_id": 3, "decoder_start_token_id": 2}).begin == ()
    assert read(tmp_path, pair).begin == (3,)
    assert read(tmp_path, {**pair, "decoder_start_token_id": 2}).begin == (2,)
    assert read(tmp_path, pair, {"decoder_start_token_id": 5, "forced_bos_token_id": 9}).begin == (5,)


def test_suppressed_tokens(tmp_path: Path) -> None:
    found = read(tmp_path, {"suppress_tokens": [1, 2]}, {"suppress_tokens": [-1, 4], "begin_suppress_tokens": [7]})
    assert (found.rules.suppress_tokens, found.rules.begin_suppress_tokens) == ((4,), (7,))


@pytest.mark.parametrize("value", ["end", [1, "a"], 1.5, True, {}])
def test_something_else(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match=r"config.json: field 'eos_token_id': expected a whole number or a list"):
        read(tmp_path, {"eos_token_id": value})
