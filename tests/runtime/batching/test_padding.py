"""Rows become a batch and rows again; which rows may share one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapter_export.bundle.manifest import TensorInfo
from adapter_export.dtypes import DType
from adapter_export.errors import InputError
from adapter_export.runtime.batching.padding import Padding, pad_token
from tests.runtime.batching.fake import IDS, OUTPUTS, PAD, TEXT, folder_of, manifest_of, text

PIXELS = TensorInfo(DType.FLOAT32, ("batch", 2, "height"))


@pytest.fixture
def texts(tmp_path: Path) -> Padding:
    return Padding(folder_of(tmp_path), manifest_of({**TEXT, "token_type_ids": IDS}))


def row(length: int) -> dict[str, np.ndarray]:
    return {**text(length), "token_type_ids": np.ones(length, np.int64)}


def test_texts_are_padded_on_the_right(texts: Padding) -> None:
    batch = texts.stack([row(2), row(4)])
    assert batch["input_ids"].tolist() == [[10, 11, PAD, PAD], [10, 11, 12, 13]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert {value.dtype.name for value in batch.values()} == {"int64"}


def test_lengths_share_a_batch(texts: Padding) -> None:
    assert texts.length(row(5)) == 5
    assert texts.group(row(5)) == texts.group(row(2))


def test_outputs_are_cut_to_the_row_and_keep_no_batch(texts: Padding) -> None:
    batch = {"logits": np.arange(2), "hidden": np.arange(6)}
    cut = texts.cut(batch, 4)
    assert cut["logits"].tolist() == [0, 1]
    assert cut["hidden"].tolist() == [0, 1, 2, 3]
    assert not any(np.shares_memory(cut[name], batch[name]) for name in batch)


def test_inputs_without_a_sequence_are_stacked(tmp_path: Path) -> None:
    padding = Padding(folder_of(tmp_path), manifest_of({**TEXT, "pixel_values": PIXELS}))
    rows = [{**text(n), "pixel_values": np.full((2, 3), n, np.float32)} for n in (1, 2)]
    batch = padding.stack(rows)
    np.testing.assert_array_equal(batch["pixel_values"], np.stack([row["pixel_values"] for row in rows]))
    assert batch["input_ids"].shape == (2, 2)


def test_other_named_dims_must_be_equal(tmp_path: Path) -> None:
    padding = Padding(folder_of(tmp_path), manifest_of({"pixel_values": PIXELS}, {"logits": OUTPUTS["logits"]}))
    small, large = ({"pixel_values": np.zeros((2, size), np.float32)} for size in (3, 4))
    assert padding.group(small) != padding.group(large)
    assert padding.length(small) == padding.length(large) == 1


@pytest.mark.parametrize(
    ("inputs", "outputs", "config"),
    [
        ({"input_ids": IDS}, OUTPUTS, {"pad_token_id": PAD}),
        (
            {**TEXT, "inputs_embeds": TensorInfo(DType.FLOAT32, ("batch", "sequence", 4))},
            OUTPUTS,
            {"pad_token_id": PAD},
        ),
        (TEXT, OUTPUTS, {"pad_token_id": None}),
        (TEXT, {"hidden": TensorInfo(DType.FLOAT32, ("batch", "sequence + 1"))}, {"pad_token_id": PAD}),
        (TEXT, OUTPUTS, {"pad_token_id": PAD, "eos_token_id": PAD, "is_encoder_decoder": True}),
    ],
    ids=["no mask", "another input along the sequence", "no padding token", "a longer output", "it pads with its end"],
)
def test_what_cannot_be_padded_shares_no_batch(tmp_path: Path, inputs, outputs, config) -> None:
    manifest = replace(manifest_of(inputs, outputs), task="text-classification")
    padding = Padding(folder_of(tmp_path, config), manifest)
    rows = [
        {name: np.ones((length, *info.shape[2:]), info.dtype) for name, info in inputs.items() if name != "adapter_ids"}
        for length in (3, 3, 4)
    ]
    assert padding.group(rows[0]) == padding.group(rows[1]) != padding.group(rows[2])
    assert padding.stack(rows[:2])["input_ids"].shape == (2, 3)
    whole = {name: np.arange(7) for name in outputs}
    assert all(len(value) == 7 for value in padding.cut(whole, padding.length(rows[0])).values())


def test_rows_with_unequal_numbers_of_end_tokens_do_not_meet_in_an_encoder_decoder(tmp_path: Path) -> None:
    """BART and T5 gather the end tokens of the whole batch and share them out evenly: of 1 and 3, the first row would
    get one of the second's."""
    config = {"pad_token_id": 1, "eos_token_id": 2, "is_encoder_decoder": True}
    padding = Padding(folder_of(tmp_path, config), replace(manifest_of(), task="text-classification"))
    once, thrice = ({**text(4), "input_ids": np.array(ids)} for ids in ([5, 6, 7, 2], [2, 6, 2, 2]))
    assert padding.group(once) != padding.group(thrice)
    assert padding.group(once) == padding.group({**text(3), "input_ids": np.array([8, 8, 2])})
    scoring = Padding(tmp_path, replace(manifest_of(), task="seq2seq-lm"))
    assert scoring.group(once) == scoring.group(thrice)


def test_rows_that_do_not_fit_are_told(texts: Padding) -> None:
    with pytest.raises(InputError, match="input 'token_type_ids' is missing"):
        texts.check(text(3))
    with pytest.raises(InputError, match=r"input 'input_ids': expected 1 dims \['sequence'\], found \(1, 3\)"):
        texts.check({name: value[None] for name, value in row(3).items()})
    with pytest.raises(InputError, match="input 'token_type_ids': sequence is 4, but 3"):
        texts.check({**row(3), "token_type_ids": np.ones(4, np.int64)})
    with pytest.raises(InputError, match="input 'input_ids': expected int64, found int32"):
        texts.check({**row(3), "input_ids": np.ones(3, np.int32)})
    with pytest.raises(InputError, match="input 'adapter_ids': not an input"):
        texts.check({**row(3), "adapter_ids": np.ones(1, np.int64)})
    with pytest.raises(InputError, match=r"input 'input_ids': expected at least one element, found shape \[0\]"):
        texts.check(row(0))


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (
            {**TEXT, "past_key_values.0.key": TensorInfo(DType.FLOAT32, ("batch", 2, "past_sequence", 4))},
            OUTPUTS,
            "steps with a cache",
        ),
        (TEXT, {"logits_per_text": TensorInfo(DType.FLOAT32, ("batch", "batch"))}, "each by itself"),
        ({**TEXT, "pixel_values": TensorInfo(DType.FLOAT32, ("images", 3))}, OUTPUTS, "each by itself"),
    ],
    ids=["cache", "rows against rows", "another batch"],
)
def test_graphs_whose_rows_are_not_their_own_are_refused(tmp_path: Path, inputs, outputs, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Padding(folder_of(tmp_path), manifest_of(inputs, outputs))


@pytest.mark.parametrize(
    ("config", "token", "expected"),
    [
        ({"pad_token_id": 3}, "[PAD]", 3),
        ({"text_config": {"pad_token_id": 4}, "pad_token_id": 3}, "[PAD]", 4),
        ({"pad_token_id": None}, "[PAD]", 7),
        ({"pad_token_id": -1}, {"content": "[PAD]"}, 7),
        ({}, "[UNK]", None),
        ({}, None, None),
    ],
)
def test_the_padding_token(tmp_path: Path, config, token, expected: int | None) -> None:
    folder = folder_of(
        tmp_path,
        config,
        tokenizer_config={"pad_token": token},
        tokenizer={"added_tokens": [{"id": 5}, {"id": 6, "content": "[CLS]"}, {"id": 7, "content": "[PAD]"}]},
    )
    assert pad_token(folder, config) == expected


def test_a_bundle_without_a_tokenizer_has_no_padding_token(tmp_path: Path) -> None:
    assert pad_token(tmp_path, {}) is None
