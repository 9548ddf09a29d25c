"""The check of tokens passes for the tokenizer of training. For any other it fails and names the difference."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapter_export.bundle.manifest import GraphInfo, Manifest, TensorInfo, read_manifest
from adapter_export.dtypes import DType
from adapter_export.models.tokenizer import SAMPLES, exportable_tokenizer, write_tokenizer
from adapter_export.parity.checks.tokens import check_tokens
from adapter_export.parity.criteria.judge import Verdict
from tests.bundles import Exported
from tests.models.test_tokenizer import bert, byte_level

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}{{ bos_token }}me"


def text_inputs(manifest: Manifest, *names: str) -> Manifest:
    graph = GraphInfo({name: TensorInfo(DType.INT64, ("batch", "sequence")) for name in names}, manifest.outputs)
    return replace(manifest, graphs={manifest.model: graph})


@pytest.fixture
def manifest(swappable_bundle: Exported) -> Manifest:
    """Returns the manifest of a graph that takes texts with token types, of up to 512 tokens as those of `bert`."""
    found = replace(read_manifest(swappable_bundle.bundle), longest_text=512)
    return text_inputs(found, "input_ids", "attention_mask", "token_type_ids")


@pytest.fixture
def generating(llama_bundle: Exported) -> Manifest:
    return read_manifest(llama_bundle.bundle)


def bundle_of(model: Path, tmp_path: Path) -> Path:
    """Writes the files of a bundle that concern texts, as an export does."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    write_tokenizer(exportable_tokenizer(model), folder)
    shutil.copyfile(model / "config.json", folder / "config.json")
    return folder


@pytest.mark.parametrize("limit", [20, 10**30])
def test_the_tokenizer_of_training_passes(tmp_path: Path, manifest: Manifest, limit: int) -> None:
    model = bert(tmp_path / "model", {"do_lower_case": False, "model_max_length": limit, "truncation_side": "left"})
    check = check_tokens(model, bundle_of(model, tmp_path), manifest)
    assert check.verdict is Verdict.PASS, check.detail
    assert check.name == "tokens"
    assert check.detail == f"{len(SAMPLES) + 6} texts become the tokens that transformers makes of them"


def test_a_file_that_lowercases_fails(tmp_path: Path, manifest: Manifest) -> None:
    """A bundle with an unchanged copy of tokenizer.json would have this mistake."""
    model = bert(tmp_path / "model", {"do_lower_case": False})
    bundle = bundle_of(model, tmp_path)
    content = json.loads((bundle / "tokenizer.json").read_text())
    content["normalizer"]["lowercase"] = True
    (bundle / "tokenizer.json").write_text(json.dumps(content))
    check = check_tokens(model, bundle, manifest)
    assert check.verdict is Verdict.FAIL
    assert check.detail.startswith("'The quick brown fox jumps over the lazy dog.': input_ids 1: expected ")
    assert "\n" not in check.detail


@pytest.mark.parametrize(
    ("file", "change", "reported"),
    [
        ("tokenizer.json", {"added_tokens": []}, "[CLS] [SEP]"),
        ("tokenizer.json", {"post_processor": None}, "''"),
        ("tokenizer_config.json", {"split_special_tokens": True}, "[CLS] [SEP]"),
        ("tokenizer_config.json", {"truncation_side": "left"}, "3.14159"),
        ("manifest.json", {"longest_text": 300}, None),
        ("manifest.json", {"longest_text": 30}, "expected texts to be cut at 50 tokens, found 30"),
        ("tokenizer_config.json", {"model_max_length": 40}, "expected texts to be cut at 50 tokens, found 40"),
    ],
)
def test_other_differences(
    tmp_path: Path, manifest: Manifest, file: str, change: dict[str, Any], reported: str | None
) -> None:
    model = bert(tmp_path / "model", {"model_max_length": 50})
    bundle = bundle_of(model, tmp_path)
    if file == "manifest.json":
        manifest = replace(manifest, **change)
    else:
        content = {**json.loads((bundle / file).read_text()), **change}
        (bundle / file).write_text(json.dumps(content))
    check = check_tokens(model, bundle, manifest)
    assert check.verdict is (Verdict.PASS if reported is None else Verdict.FAIL)
    if reported is not None:
        assert reported in check.detail.partition(": ")[0]


class TestChat:
    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        folder = byte_level(tmp_path / "model")
        config = {"chat_template": TEMPLATE, "bos_token": "<|endoftext|>", "tokenizer_class": "GPT2Tokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return folder

    def test_conversations_pass(self, model: Path, tmp_path: Path, generating: Manifest) -> None:
        check = check_tokens(model, bundle_of(model, tmp_path), generating)
        assert check.verdict is Verdict.PASS, check.detail
        assert " texts and 2 conversations become the tokens" in check.detail

    def test_another_template_fails(self, model: Path, tmp_path: Path, generating: Manifest) -> None:
        bundle = bundle_of(model, tmp_path)
        (bundle / "chat_template.jinja").write_text(TEMPLATE.replace("me", "I"))
        check = check_tokens(model, bundle, generating)
        assert check.verdict is Verdict.FAIL
        assert check.detail.startswith("a conversation of 1 messages: input_ids ")

    def test_a_template_that_is_gone_fails(self, model: Path, tmp_path: Path, generating: Manifest) -> None:
        bundle = bundle_of(model, tmp_path)
        (bundle / "chat_template.jinja").unlink()
        check = check_tokens(model, bundle, generating)
        assert check.verdict is Verdict.FAIL
        assert "as transformers makes, found none" in check.detail


def test_no_tokenizer(tmp_path: Path, manifest: Manifest) -> None:
    from transformers import BertConfig

    without = tmp_path / "without"
    without.mkdir()
    BertConfig(vocab_size=500).save_pretrained(without)
    model = bert(tmp_path / "model")
    check = check_tokens(without, without, manifest)
    assert check.verdict is Verdict.PASS
    assert check.detail == "the bundle has no tokenizer, and takes token ids alone; the model has none either"
    assert check_tokens(model, without, manifest).detail == "the bundle has no tokenizer, and takes token ids alone"
    check = check_tokens(without, bundle_of(model, tmp_path), manifest)
    assert check.verdict is Verdict.INCONCLUSIVE
    assert check.detail.startswith("nothing to compare: model ")


def test_a_whole_bundle(swappable_bundle: Exported) -> None:
    check = check_tokens(swappable_bundle.base, swappable_bundle.bundle, read_manifest(swappable_bundle.bundle))
    assert check.verdict is Verdict.PASS, check.detail
