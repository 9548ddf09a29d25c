"""Models exported without an adapter, merged ones above all: the graph is the model, as parity proves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from adapter_export.bundle.add import add_adapter
from adapter_export.errors import InputError
from adapter_export.export.export import export_onnx
from adapter_export.merging.merge import merge
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.report import NO_ADAPTER
from adapter_export.parity.run import check_parity
from adapter_export.reading.hashes import sha256
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported

# float32.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def merged(
    tiny_model: Callable[..., Path], classifier_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """The tiny BERT with `ia3_three` merged into it, exported as it is."""
    folder = tmp_path_factory.mktemp("plain")
    merge(tiny_model("bert"), classifier_checkpoints["ia3_three"], folder / "model")
    export_onnx(folder / "model", {}, folder / "bundle", mode="merged")
    return Exported(folder / "bundle", folder / "model", {})


def test_a_merged_model_is_what_transformers_makes_of_it(
    merged: Exported, text_batch: Callable[..., dict[str, np.ndarray]]
) -> None:
    import torch
    import transformers

    module = transformers.AutoModelForSequenceClassification.from_pretrained(merged.base, dtype=torch.float64).eval()
    inputs = text_batch(3, 9)
    inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
    with torch.inference_mode():
        expected = module(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.numpy()
    with AdapterSession(merged.bundle) as session:
        found = session.run(inputs)["logits"]
        assert session.adapters == session.loaded == ()
        assert session.labels() == ("bad", "so so", "good")
        assert session.problem_type() == "single_label_classification"
        with pytest.raises(InputError, match="adapter 'ia3_three': expected one of none"):
            session.run(inputs, "ia3_three")
        with pytest.raises(InputError, match="only 'swappable' and 'bank' load"):
            session.load("ia3_three")
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_parity_judges_the_model_alone(merged: Exported) -> None:
    report = check_parity(merged.bundle, merged.base)
    assert report.outcome == "pass"
    assert {item.adapter for item in report.results} == {NO_ADAPTER}
    assert len(report.results) == 32
    assert not [note for note in report.notes if "no state without" in note]


def test_parity_sees_a_changed_weight(merged: Exported, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(merged.bundle, tmp_path / "bundle"))
    model = onnx.load(bundle / "model.onnx")
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "classifier.bias")
    bias.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(bias), bias.name))
    onnx.save(model, bundle / "model.onnx")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = sha256(bundle / "model.onnx")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert check_parity(bundle, merged.base).verdict is Verdict.FAIL


def test_a_decoder_generates_and_is_judged_by_that(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny_model("llama", "causal-lm", num_hidden_layers=1)
    export_onnx(base, {}, tmp_path / "bundle", mode="merged")
    report = check_parity(tmp_path / "bundle", base)
    assert report.outcome == "pass"
    (greedy,) = (check for check in report.checks if check.name == "greedy")
    assert greedy.detail.startswith("64 tokens")


def test_what_has_to_bring_a_head_is_missing(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a task head \(text-classification\), as no adapter brings one"):
        export_onnx(tiny_model("bert"), {}, tmp_path / "out", mode="merged", task="text-classification")
    assert not list(tmp_path.iterdir())


def test_nothing_can_be_added(merged: Exported, classifier_checkpoints: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="mode 'merged'"):
        add_adapter(merged.bundle, {"more": classifier_checkpoints["ia3_two"]})
