"""From texts to batches: labels line up with logits, padding changes nothing, limits are the model's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel
from adapter_export.training.data import prepare
from adapter_export.training.metrics import IGNORED
from adapter_export.training.tables import DataTable
from tests.tiny import CLS, PAD, SEP, WORDS

GOOD, NIGHT = (4 + WORDS.index(word) for word in ("good", "night"))


def table(*rows: tuple[str, str]) -> DataTable:
    texts, labels = zip(*rows, strict=True)
    return DataTable(Path("data.csv"), texts, labels, [f"line {i + 2}" for i in range(len(rows))])


ROWS = table(("good night", "b"), ("night", "a"))


def test_classification(tiny_base: Callable[..., BaseModel]) -> None:
    data = prepare(tiny_base("bert", "text-classification"), ROWS, labels=("a", "b"))
    batch = data.collate(data.train.rows)
    assert batch["input_ids"].tolist() == [[CLS, GOOD, NIGHT, SEP], [CLS, NIGHT, SEP, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert data.train.lengths == [4, 3]
    assert data.evaluation is None
    assert data.collate(data.train.rows[1:])["input_ids"].shape == (1, 3), "padded to the longest of the batch only"


def test_causal_labels_are_the_next_tokens_and_the_text_ends(tiny_base: Callable[..., BaseModel]) -> None:
    data = prepare(tiny_base("gpt2", "causal-lm"), replace(ROWS, labels=None))
    batch = data.collate(data.train.rows)
    assert batch["input_ids"].tolist() == [[GOOD, NIGHT, SEP], [NIGHT, SEP, PAD]]
    assert batch["labels"].tolist() == [[NIGHT, SEP, IGNORED], [SEP, IGNORED, IGNORED]]
    assert data.train.lengths == [3, 2]


def test_seq2seq_labels_are_the_target_text(tiny_base: Callable[..., BaseModel]) -> None:
    data = prepare(tiny_base("t5", "seq2seq-lm"), table(("good", "night good"), ("night", "good")))
    batch = data.collate(data.train.rows)
    assert batch["input_ids"].tolist() == [[GOOD, SEP], [NIGHT, SEP]]
    assert batch["labels"].tolist() == [[NIGHT, GOOD, SEP], [GOOD, SEP, IGNORED]]
    assert data.train.lengths == [5, 4]


def test_padding_is_on_the_right_by_the_models_own_token(tiny_base: Callable[..., BaseModel]) -> None:
    data = prepare(tiny_base("llama", "text-classification", pad_token_id=7), ROWS, labels=("a", "b"))
    assert data.collate(data.train.rows)["input_ids"].tolist() == [[GOOD, NIGHT], [NIGHT, 7]]


def test_a_classifier_without_a_padding_token_is_told_one(tiny_base: Callable[..., BaseModel]) -> None:
    base = tiny_base("llama", "text-classification", pad_token_id=None)
    data = prepare(base, ROWS, labels=("a", "b"))
    batch = data.collate(data.train.rows)
    alone = data.collate(data.train.rows[1:])
    for made in (batch, alone):
        made.pop("labels")
    with torch.no_grad():
        assert torch.allclose(base.module(**batch).logits[1], base.module(**alone).logits[0], atol=1e-5)


def test_long_texts_are_cut_and_counted(tiny_base: Callable[..., BaseModel]) -> None:
    long = table(("good " * 9, "a"), ("night", "b"))
    data = prepare(tiny_base("bert", "text-classification"), long, long, max_length=5, labels=("a", "b"))
    assert data.train.rows[0]["input_ids"] == [CLS, GOOD, GOOD, GOOD, SEP]
    assert data.truncated == 2
    causal = prepare(tiny_base("gpt2", "causal-lm"), replace(long, labels=None), max_length=5)
    assert causal.train.rows[0]["input_ids"] == [GOOD] * 5, "no end, since the text did not end"
    assert (causal.truncated, causal.left_out) == (1, 0)


@pytest.mark.parametrize(("model_type", "limit"), [("bert", 64), ("roberta", 63), ("gpt2", 64)])
def test_the_models_limit(tiny_base: Callable[..., BaseModel], model_type: str, limit: int) -> None:
    base = tiny_base(model_type, "causal-lm" if model_type == "gpt2" else "text-classification")
    long = table(("good " * 99, "a"), ("night", "b"))
    long = replace(long, labels=None) if base.task == "causal-lm" else long
    data = prepare(base, long, labels=("a", "b"))
    assert data.max_length == limit
    batch = data.collate(data.train.rows)
    batch.pop("labels")
    with torch.no_grad():
        base.module(**batch)
    with pytest.raises(InputError, match=f"--max-length {limit + 1}: expected 2 to {limit}, the model's limit"):
        prepare(base, long, max_length=limit + 1, labels=("a", "b"))


def test_a_text_the_tokenizer_finds_nothing_in(tiny_base: Callable[..., BaseModel]) -> None:
    base = tiny_base("llama", "text-classification")
    with pytest.raises(InputError, match=r"data\.csv: line 3: expected text, found nothing that the tokenizer knows"):
        prepare(base, table(("good", "a"), (" ", "b")), labels=("a", "b"))


def copied(base: BaseModel, folder: Path, without: tuple[str, ...] = ()) -> BaseModel:
    shutil.copytree(base.folder, folder, ignore=lambda _, names: [name for name in names if name in without])
    return replace(base, folder=folder)


def test_a_model_without_a_tokenizer(tiny_base: Callable[..., BaseModel], tmp_path: Path) -> None:
    base = copied(tiny_base("bert", "text-classification"), tmp_path / "m", ("tokenizer.json", "tokenizer_config.json"))
    with pytest.raises(InputError, match=r"m: expected a tokenizer \(tokenizer\.json, .*\), found none"):
        prepare(base, ROWS, labels=("a", "b"))


def test_a_broken_tokenizer(tiny_base: Callable[..., BaseModel], tmp_path: Path) -> None:
    base = copied(tiny_base("bert", "text-classification"), tmp_path / "m")
    (base.folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"m/tokenizer.json: not a readable tokenizer: ") as caught:
        prepare(base, ROWS, labels=("a", "b"))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_model(tiny_base: Callable[..., BaseModel], tmp_path: Path) -> None:
    base = copied(tiny_base("bert", "text-classification"), tmp_path / "m")
    content = json.loads((base.folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["good"] = 5000
    (base.folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="its tokenizer gives token 5000, but its embeddings end at "):
        prepare(base, ROWS, labels=("a", "b"))


@pytest.mark.parametrize(("model_type", "wanted"), [("bert", True), ("gpt2", False)])
def test_token_types_go_to_models_that_have_them(
    tiny_base: Callable[..., BaseModel], tmp_path: Path, model_type: str, wanted: bool
) -> None:
    base = copied(tiny_base(model_type, "text-classification"), tmp_path / "m")
    path = base.folder / "tokenizer_config.json"
    names = ["input_ids", "token_type_ids", "attention_mask"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_input_names": names}))
    batch = (data := prepare(base, ROWS, labels=("a", "b"))).collate(data.train.rows)
    # GPT-2 would look them up among its words.
    assert ("token_type_ids" in batch) == wanted
    assert not wanted or batch["token_type_ids"].tolist() == [[0] * 4] * 2


def test_evaluation_comes_longest_first(tiny_base: Callable[..., BaseModel]) -> None:
    both = table(("night", "a"), ("good night", "b"), ("good", "a"))
    data = prepare(tiny_base("bert", "text-classification"), ROWS, both, labels=("a", "b"))
    assert data.evaluation is not None
    assert [len(row["input_ids"]) for row in data.evaluation.longest_first()] == [4, 3, 3]
