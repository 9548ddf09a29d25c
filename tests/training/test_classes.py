"""Which classes a classifier learns, in which order, and what is no class."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapter_export.errors import InputError
from adapter_export.training.classes import classes_of
from adapter_export.training.tables import DataTable, read_table
from adapter_export.training.train import train
from tests.training.conftest import texts

TinyModel = Callable[..., Path]
OWN = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "positive", "1": "negative", "2": "none"}}


def table(*labels: str) -> DataTable:
    return DataTable(Path("data.csv"), ["text"] * len(labels), labels, [f"line {i}" for i in range(len(labels))])


@pytest.mark.parametrize(
    ("labels", "config", "names"),
    [
        (("b", "a", "b"), {}, ("a", "b")),
        (("10", "9"), {}, ("9", "10")),
        (("negative", "positive", "none"), OWN, ("positive", "negative", "none")),
        # Not all of them occur.
        (("negative", "positive"), OWN, ("positive", "negative", "none")),
        # Another task's names say nothing, and a body's neither.
        (("negative", "none", "positive"), {**OWN, "architectures": ["BertForTokenClassification"]},
         ("negative", "none", "positive")),
        (("negative", "none", "positive"), {**OWN, "architectures": ["BertModel"]}, ("negative", "none", "positive")),
        (("1", "0"), {"architectures": OWN["architectures"]}, ("0", "1")),
        (("LABEL_10", "LABEL_2"), {"architectures": OWN["architectures"],
                                   "id2label": {str(i): f"LABEL_{i}" for i in range(11)}},
         tuple(f"LABEL_{i}" for i in range(11))),
    ],
)  # fmt: skip
def test_the_order_of_a_head_that_is_there_stays(
    labels: Sequence[str], config: dict[str, Any], names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    found = classes_of(table(*labels), config)
    assert found.names == names
    assert list(found.of(table(*labels)).labels or ()) == list(labels)
    assert not caplog.text


@pytest.mark.parametrize("labels", [("1", "0", "2"), ("Negative", "POSITIVE", "None")])
def test_classes_that_the_data_spells_otherwise(labels: tuple[str, ...]) -> None:
    found = classes_of(table(*labels), OWN)
    assert found.names == ("positive", "negative", "none")
    assert found.of(table(*labels)).labels == ["negative", "positive", "none"]
    # Of other data, with other classes in it.
    assert found.of(table(labels[2])).labels == ["none"]
    assert found.of(table("unheard of")).labels == ["unheard of"]


def test_other_classes_are_noted(caplog: pytest.LogCaptureFixture) -> None:
    assert classes_of(table("good", "bad", "ugly"), OWN).names == ("bad", "good", "ugly")
    assert "the labels (bad, good, ugly) are not the classes of the base model's own task head" in caplog.text


def test_a_list_of_classes_is_one_class(caplog: pytest.LogCaptureFixture) -> None:
    assert classes_of(table("happy", "happy|other", "other"), {}).names == ("happy", "happy|other", "other")
    assert "label 'happy|other' is one class of its own, beside 'happy' and 'other'" in caplog.text


def written(path: Path, rows: Sequence[tuple[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(
            pyarrow.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), path
        )
    else:
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([("text", "label"), *rows])
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("kind", [float, str])
def test_finding_12_values_are_no_classes_in_any_format(ending: str, kind: Any, tmp_path: Path) -> None:
    path = written(tmp_path / f"data.{ending}", [("good", kind(0.05)), ("bad", kind(0.15)), ("nice", kind(2.0))])
    with pytest.raises(InputError, match=r"data\.\w+: .*0\.05"):
        classes_of(read_table(path, "text", "label"), {})


def test_finding_7_training_starts_where_the_base_model_is(tiny_model: TinyModel, tmp_path: Path) -> None:
    """Against transformers: the data's labels are what the base model itself answers."""
    import transformers

    base = Path(shutil.copytree(tiny_model("bert", "text-classification"), tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    names = ["positive", "negative", "neither"]
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (base / "config.json").write_text(json.dumps(config))
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base).eval()
    read = [row["text"] for row in texts(30)]
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in read])
        # So that it answers with every class.
        model.classifier.bias -= logits.median(0).values
    model.save_pretrained(base)
    rows = [(text, names[int(row.argmax())]) for text, row in zip(read, logits - logits.median(0).values, strict=True)]
    assert len({label for _, label in rows}) > 1
    data = written(tmp_path / "data.csv", rows)
    for name, file in (("names", data), ("numbers", written(tmp_path / "numbers.csv", [
        (text, names.index(label)) for text, label in rows
    ]))):  # fmt: skip
        result = train(
            base, "ia3", "text-classification", file, tmp_path / name, eval=file, max_steps=1, learning_rate=1e-8
        )
        assert result.metrics["accuracy"] == 1.0
        assert result.labels == tuple(names)
        sidecar = json.loads((tmp_path / name / "adapter_export.json").read_text())
        assert sidecar["labels"] == names


@pytest.fixture(scope="module")
def unpadded(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 whose config and tokenizer name no padding token."""
    folder = tmp_path_factory.mktemp("unpadded") / "gpt2"
    shutil.copytree(tiny_model("gpt2"), folder)
    for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            values = json.loads((folder / name).read_text())
            values.pop("pad_token_id", None)
            values.pop("pad_token", None)
            (folder / name).write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def adapter(unpadded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    rows = [(text, "ab"[number % 2]) for number, text in enumerate(row["text"] for row in texts(12))]
    data = written(folder / "data.csv", rows)
    train(unpadded, "ia3", "text-classification", data, folder / "adapter", max_steps=4)
    return folder / "adapter"


class TestPadding:
    """The padding token that training chooses is recorded, and used by what serves the adapter."""

    def test_it_is_recorded(self, adapter: Path) -> None:
        # The tokenizer's end of a text stands for it.
        assert json.loads((adapter / "adapter_export.json").read_text())["pad_token_id"] == 3

    def test_export_and_merge_use_it(self, adapter: Path, unpadded: Path, tmp_path: Path) -> None:
        import peft
        import transformers

        from adapter_export import AdapterSession, check_parity, export_onnx, merge
        from adapter_export.parity.criteria.judge import Verdict

        export_onnx(unpadded, {"a": adapter}, tmp_path / "bundle", mode="swappable")
        assert json.loads((tmp_path / "bundle" / "config.json").read_text())["pad_token_id"] == 3
        ids = np.array([[5, 9, 20, 7], [6, 30, 3, 3]])
        inputs = {"input_ids": ids, "attention_mask": (ids != 3).astype(np.int64)}
        model = transformers.AutoModelForSequenceClassification.from_pretrained(unpadded, num_labels=2)
        model = peft.PeftModel.from_pretrained(model, adapter).eval()
        with torch.no_grad():  # each row alone: no padding, so that nothing depends on what pads it
            rows = [model(input_ids=torch.tensor(ids[i : i + 1, : 4 - 2 * i])).logits for i in range(2)]
        expected = torch.cat(rows).numpy()
        found = AdapterSession(tmp_path / "bundle").run(inputs, adapter="a")["logits"]
        np.testing.assert_allclose(found, expected, atol=1e-5)

        assert check_parity(tmp_path / "bundle", unpadded, {"a": adapter}).verdict is Verdict.PASS

        merge(unpadded, adapter, tmp_path / "merged")
        merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
        assert merged.config.pad_token_id == 3
        with torch.no_grad():
            logits = merged(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits
        np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5)

    def test_without_it_a_line_says_what_to_do(self, adapter: Path, unpadded: Path, tmp_path: Path) -> None:
        from adapter_export import export_onnx

        folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
        (folder / "adapter_export.json").unlink()
        with pytest.raises(InputError, match=r"config\.json: field 'pad_token_id' is missing: .*set it to the token"):
            export_onnx(unpadded, {"a": folder}, tmp_path / "bundle", mode="swappable")

    def test_another_one_is_refused(self, adapter: Path, unpadded: Path, tmp_path: Path) -> None:
        from adapter_export import export_onnx, merge

        base = Path(shutil.copytree(unpadded, tmp_path / "base"))
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({**config, "pad_token_id": 0}))
        with pytest.raises(InputError, match=r"adapter a: was trained with padding token 3, but .* pads with 0"):
            export_onnx(base, {"a": adapter}, tmp_path / "bundle", mode="swappable")
        with pytest.raises(InputError, match="was trained with padding token 3, but the base model pads with 0"):
            merge(base, adapter, tmp_path / "merged")
