"""Records of bundles that read images or sounds, and of graphs of other tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_export import graft
from adapter_export.bundle.graphs import MODEL
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.parity.bundle_records import columns
from adapter_export.parity.bundle_records.reader import read_bundle_record
from adapter_export.parity.cases import GreedyCase, ParityCase
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.run import check_parity
from tests.bundles import Exported
from tests.decoders import LARGE
from tests.finished import Finished
from tests.parity.bundle_records.test_judge import assert_agree
from tests.parity.mutants import Mutant, make, swapped
from tests.recorded import Recorded


def test_images(
    record: Callable[..., Recorded],
    export: Callable[..., Exported],
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    task = "image-classification"
    base, info = tiny_model("vit", task), tiny_info("vit", task)
    adapters = {"ia3": save_checkpoint(random_adapter(info, "ia3", 7, labels=("cat", "dog")), info)}
    exported = export(base, adapters, task=task)
    found = record(exported, [ParityCase(1), ParityCase(3)])
    assert found.report.verdict is Verdict.PASS
    read = read_bundle_record(found.file)
    assert {name: value.shape[0] for name, value in read.inputs(ParityCase(3)).items()} == {"pixel_values": 3}
    assert_agree(found.report, check_parity(exported.bundle, references=found.file))
    wrong = make(Mutant("layers", "", "ia3", swapped("layers.0.", "layers.1.")), exported, tmp_path / "wrong")
    assert check_parity(wrong, references=found.file).verdict is Verdict.FAIL


def test_sounds(
    record: Callable[..., Recorded], whisper_bundle: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two graphs: the encoder reads sounds, and the decoder writes texts. All columns are kept, to compare numbers."""
    monkeypatch.setattr(columns, "WIDE", LARGE)
    found = record(whisper_bundle, [ParityCase(2, 5)])
    assert found.report.verdict is Verdict.PASS
    assert any(isinstance(item.case, GreedyCase) and item.judgement.tokens for item in found.report.results)
    assert "input_features" in read_bundle_record(found.file).inputs(ParityCase(2, 5))
    assert_agree(found.report, check_parity(whisper_bundle.bundle, references=found.file))
    wrong = make(Mutant("layers", "", "ia3", swapped("encoder.layers.0.", "encoder.layers.1.")), whisper_bundle,
                 tmp_path / "wrong")  # fmt: skip
    assert check_parity(wrong, references=found.file).verdict is Verdict.FAIL


# GenAI's graphs take padding on the right alone.
CASES = (ParityCase(2, 9, "right"), ParityCase(1, 5))


def grafted(made: Finished, folder: Path) -> Exported:
    adapters = {name: made.adapters[name] for name in ("ia3", "pfeiffer")}
    graft(made.graph, adapters, folder, model=made.model)
    return Exported(folder, made.model, adapters)


@pytest.mark.parametrize(("tool", "model_type", "layer"), [("optimum", "bert", "layer."), ("fp32", "llama", "layers.")])
def test_grafts(
    tool: str,
    model_type: str,
    layer: str,
    record: Callable[..., Recorded],
    finished: Callable[..., Finished],
    tmp_path: Path,
) -> None:
    exported = grafted(finished(tool, model_type), tmp_path / "bundle")
    found = record(exported, CASES)
    assert found.report.verdict is Verdict.PASS
    assert_agree(found.report, check_parity(exported.bundle, references=found.file))
    wrong = make(Mutant("layers", "", "ia3", swapped(f"{layer}0.", f"{layer}1.")), exported, tmp_path / "wrong")
    assert check_parity(wrong, references=found.file).verdict is Verdict.FAIL


def test_a_graft_in_four_bits(
    record: Callable[..., Recorded], finished: Callable[..., Finished], tmp_path: Path
) -> None:
    """T has the weights of the recorded graph, so the record is of that graph alone."""
    exported = grafted(finished("int4", "llama"), tmp_path / "bundle")
    found = record(exported, CASES)
    assert_agree(found.report, check_parity(exported.bundle, references=found.file))
    manifest = json.loads((exported.bundle / MANIFEST).read_text())
    manifest["files"][MODEL] = "0" * 64
    (exported.bundle / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"recorded with model\.onnx \w{12}\.\.\., but the bundle has 000000000000"):
        check_parity(exported.bundle, references=found.file)
