"""Texts to inputs, against transformers' own tokenizer; outputs to answers, by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.architectures.positions import longest_text_of
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import GraphInfo, Manifest, TensorInfo, read_manifest
from adapter_export.dtypes import DType
from adapter_export.errors import InputError
from adapter_export.runtime.text import TextEncoder, at_last_token, mean_pooled, probabilities
from tests.bundles import Exported

TEXTS = ("a good movie", "the dark house was not for me", "bad", "it is cold cold cold night")


def takes(manifest: Manifest, *names: str) -> Manifest:
    inputs = {name: TensorInfo(DType.INT64, ("batch", "sequence")) for name in names}
    return replace(manifest, graphs={MODEL: GraphInfo(inputs, manifest.outputs)})


@pytest.fixture(scope="module")
def manifest(swappable_bundle: Exported) -> Manifest:
    return read_manifest(swappable_bundle.bundle)


@pytest.fixture
def folder(swappable_bundle: Exported, tmp_path: Path) -> Path:
    """A bundle's tokenizer and config, to be changed."""
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copyfile(swappable_bundle.bundle / name, tmp_path / name)
    return tmp_path


def change(path: Path, **values: Any) -> None:
    """Set values of a JSON file; None removes."""
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_the_same_as_transformers(swappable_bundle: Exported, manifest: Manifest) -> None:
    from transformers import AutoTokenizer

    encoded = TextEncoder(swappable_bundle.bundle, manifest).encode(TEXTS)
    wanted = AutoTokenizer.from_pretrained(swappable_bundle.base)(list(TEXTS), padding=True, return_tensors="np")
    assert set(encoded.inputs) == set(manifest.inputs) >= {"input_ids", "attention_mask"}
    for name in ("input_ids", "attention_mask"):
        assert encoded.inputs[name].dtype == np.int64
        assert np.array_equal(encoded.inputs[name], wanted[name])
    assert np.array_equal(encoded.mask, wanted["attention_mask"])
    assert encoded.truncated == (False,) * 4


@pytest.mark.real
def test_the_same_as_transformers_on_a_real_tokenizer(minilm: Path, manifest: Manifest) -> None:
    """Its tokenizer.json asks for 128 tokens of padding and truncation, as sentence-transformers saved it."""
    from transformers import AutoTokenizer

    texts = ["Hello, wörld! 你好", "", "tokens " * 700, "naïve café #1"]
    taken = replace(takes(manifest, "input_ids", "attention_mask", "token_type_ids"), longest_text=512)
    encoded = TextEncoder(minilm, taken).encode(texts)
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    wanted = tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="np")
    for name in encoded.inputs:
        assert np.array_equal(encoded.inputs[name], wanted[name])
    assert encoded.inputs["input_ids"].shape == (4, 512)
    assert encoded.truncated == (False, False, True, False)


@pytest.mark.parametrize("limits", [True, False])
def test_what_the_tokenizer_file_asks_for_does_not_count(folder: Path, manifest: Manifest, limits: bool) -> None:
    if not limits:
        change(folder / "config.json", pad_token_id=None)
        manifest = replace(manifest, longest_text=None)
        change(folder / "tokenizer_config.json", pad_token=None, model_max_length=None)
    plain = TextEncoder(folder, manifest).encode(TEXTS[:1])
    padding = {"strategy": {"Fixed": 20}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 9,
               "pad_type_id": 0, "pad_token": "x"}  # fmt: skip
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    change(folder / "tokenizer.json", padding=padding, truncation=truncation)
    again = TextEncoder(folder, manifest).encode(TEXTS[:1])
    assert all(np.array_equal(again.inputs[name], plain.inputs[name]) for name in plain.inputs)


def test_only_the_inputs_the_graph_takes(folder: Path, manifest: Manifest) -> None:
    for names in (("input_ids", "attention_mask"), ("token_type_ids", "attention_mask", "input_ids")):
        encoded = TextEncoder(folder, takes(manifest, *names)).encode(TEXTS)
        assert tuple(encoded.inputs) == names
        assert all(value.shape == encoded.mask.shape for value in encoded.inputs.values())


@pytest.mark.parametrize(
    ("limit", "config", "longest"),
    [
        (7, {}, 7),
        (10**30, {}, 64),
        (None, {"max_position_embeddings": None, "n_positions": 9}, 9),
        (100, {}, 64),
        (10**30, {"model_type": "roberta", "pad_token_id": 1}, 62),
        (10**30, {"max_position_embeddings": None}, None),
        (10**30, {"model_type": "t5", "max_position_embeddings": None, "n_positions": 9}, None),
    ],
)
def test_truncation_is_at_the_longest_the_model_takes(
    folder: Path, manifest: Manifest, limit: int | None, config: dict[str, Any], longest: int | None
) -> None:
    change(folder / "tokenizer_config.json", model_max_length=limit)
    change(folder / "config.json", **config)
    # What an export records of this config.
    longest_text = longest_text_of(json.loads((folder / "config.json").read_text()))
    encoder = TextEncoder(folder, replace(manifest, longest_text=longest_text))
    assert encoder.max_length == longest
    encoded = encoder.encode(["good " * 200, "bad"])
    assert encoded.inputs["input_ids"].shape == (2, longest or 202)
    assert encoded.truncated == (longest is not None, False)
    assert encoded.mask[1].sum() == 3


def test_the_padding_token_of_the_config_comes_first(folder: Path, manifest: Manifest) -> None:
    change(folder / "config.json", pad_token_id=3)
    assert TextEncoder(folder, manifest).pad_id == 3
    assert TextEncoder(folder, manifest).encode(TEXTS).inputs["input_ids"][2, -1] == 3
    change(folder / "config.json", pad_token_id=None)
    change(folder / "tokenizer_config.json", pad_token={"content": "[UNK]"})
    assert TextEncoder(folder, manifest).pad_id == 1


@pytest.mark.parametrize("pad", [10**30, 1e30, "[PAD]", True])
def test_a_padding_token_that_the_model_has_not(folder: Path, manifest: Manifest, pad: Any) -> None:
    change(folder / "config.json", pad_token_id=pad)
    with pytest.raises(InputError, match=r"config\.json: field 'pad_token_id': expected one of the model's \d+"):
        TextEncoder(folder, manifest)
    change(folder / "config.json", pad_token_id=-1)
    assert TextEncoder(folder, manifest).pad_id == 0, "old configs say -1 for none; the tokenizer has one"


def test_types_are_zero_where_training_gives_none(folder: Path, manifest: Manifest) -> None:
    names = ("input_ids", "attention_mask", "token_type_ids")
    content = json.loads((folder / "tokenizer.json").read_text())
    for part in content["post_processor"]["single"]:
        for item in part.values():
            item["type_id"] = 2
    (folder / "tokenizer.json").write_text(json.dumps(content))
    change(folder / "tokenizer_config.json", model_input_names=list(names))
    assert (TextEncoder(folder, takes(manifest, *names)).encode(["good"]).inputs["token_type_ids"] == 2).all()
    change(folder / "tokenizer_config.json", model_input_names=list(names[:2]))
    assert (TextEncoder(folder, takes(manifest, *names)).encode(["good"]).inputs["token_type_ids"] == 0).all()


def test_padding_is_on_the_right_whatever_the_tokenizer_prefers(folder: Path, manifest: Manifest) -> None:
    change(folder / "tokenizer_config.json", padding_side="left")
    assert TextEncoder(folder, manifest).encode(TEXTS).mask[:, 0].all()


@pytest.mark.parametrize("reason", ["no padding token", "no attention mask"])
def test_without_padding_only_equal_lengths_share_a_batch(folder: Path, manifest: Manifest, reason: str) -> None:
    if reason == "no padding token":
        change(folder / "config.json", pad_token_id=None)
        change(folder / "tokenizer_config.json", pad_token=None)
    else:
        manifest = takes(manifest, "input_ids")
    encoder = TextEncoder(folder, manifest)
    assert encoder.pad_id is None
    assert encoder.encode(["bad day", "good day"]).inputs["input_ids"].shape == (2, 4)
    with pytest.raises(InputError, match="texts of different lengths in one batch: this model has no padding token"):
        encoder.encode(["bad", "good day"])


class TestRefusals:
    def test_no_tokenizer(self, folder: Path, manifest: Manifest) -> None:
        (folder / "tokenizer.json").unlink()
        with pytest.raises(InputError, match=r"expected tokenizer\.json to encode texts with, found none"):
            TextEncoder(folder, manifest)

    def test_a_broken_tokenizer(self, folder: Path, manifest: Manifest) -> None:
        (folder / "tokenizer.json").write_text("{}")
        with pytest.raises(InputError, match=r"tokenizer\.json: not a readable tokenizer: "):
            TextEncoder(folder, manifest)

    @pytest.mark.parametrize("names", [("pixel_values",), ("input_ids", "decoder_input_ids"), ("attention_mask",)])
    def test_a_graph_that_takes_something_else(self, folder: Path, manifest: Manifest, names: tuple[str, ...]) -> None:
        with pytest.raises(InputError, match=f"takes {', '.join(names)}, which no text gives"):
            TextEncoder(folder, takes(manifest, *names))

    def test_a_text_without_tokens(self, tiny_model: Callable[..., Path], manifest: Manifest) -> None:
        encoder = TextEncoder(tiny_model("gpt2"), takes(manifest, "input_ids", "attention_mask"))
        with pytest.raises(InputError, match="text '': the tokenizer makes no token of it"):
            encoder.encode(["good", ""])


def test_probabilities_of_independent_labels() -> None:
    logits = np.array([[0.0, 2.0, -3.0, 800.0, -800.0]], np.float32)
    found = probabilities(logits, problem_type="multi_label_classification")
    assert np.allclose(found[0, :3], [0.5, 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(3))], rtol=1e-12)
    assert found[0, 3:].tolist() == [1.0, 0.0]
    with pytest.raises(InputError, match="problem type 'regression': expected single_label_classification or multi_"):
        probabilities(logits, problem_type="regression")


def test_probabilities() -> None:
    logits = np.log(np.array([[1, 3], [8, 2]], np.float32)) + np.float32(5)
    assert np.allclose(probabilities(logits), [[0.25, 0.75], [0.8, 0.2]], atol=1e-7)
    assert probabilities(np.array([[1e4, 0.0, -1e4]], np.float32)).tolist() == [[1.0, 0.0, 0.0]]


def test_padding_does_not_count() -> None:
    hidden = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    mask = np.array([[True, True, False], [True, True, True]])
    assert mean_pooled(hidden, mask).tolist() == [[1, 2], [8, 9]]
    assert at_last_token(hidden, mask).tolist() == [[2, 3], [10, 11]]
    assert at_last_token(hidden, mask[:, ::-1]).tolist() == [[4, 5], [10, 11]]


def test_a_token_as_text(folder: Path, manifest: Manifest) -> None:
    encoder = TextEncoder(folder, manifest)
    assert [encoder.decode(int(i)) for i in encoder.encode(["good day"]).inputs["input_ids"][0]] == [
        "[CLS]",
        "good",
        "day",
        "[SEP]",
    ]
