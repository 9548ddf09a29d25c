"""Mistakes in our reading affect the export and our own reference alike; a witness detects them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adapter_export.checkpoints.adapter import Adapter, HeadLayer
from adapter_export.errors import InputError
from adapter_export.export.export import export_onnx
from adapter_export.modelinfo import ModelInfo
from adapter_export.parity import pytorch_models
from adapter_export.parity.cases import ParityCase
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.report import ParityReport
from adapter_export.parity.run import check_parity
from tests.parity.reader_mutants import (
    ReaderMutant,
    at_input,
    base_changed,
    exchanged,
    head,
    labels_reversed,
    loaded_as,
    reading,
    reading_from,
    taken_for,
    tensors,
    without_head,
)

pytestmark = pytest.mark.slow
GOLDENS = Path(__file__).parents[1] / "goldens"
# A BERT without a head, a BERT with a head, and a RoBERTa, whose head has two layers; PEFT adapters with a head.
BARE, HEADED, TWO_LAYERS = "bert", "bert with a head", "roberta"
# Of AdapterHub's library, with its records.
HUB, HUB_FEATURES = "bert-cls-pfeiffer-bin", "bert-learned-scaling"
HUB_INTERFACE, HUB_NAMED = "qwen2-interface-pfeiffer", "bert-default-head"
L0, L1 = "encoder.layer.0.", "encoder.layer.1."


def backwards(tensor: np.ndarray) -> np.ndarray:
    return tensor[::-1]


def one_weight(model: torch.nn.Module) -> None:
    """Changes one bias of the base model, as an adapter that was attached to it would."""
    with torch.no_grad():
        dict(model.named_parameters())[next(n for n in dict(model.named_parameters()) if "value.bias" in n)].mul_(1.01)


MUTANTS = [
    ReaderMutant("vectors read backwards", BARE, reading(tensors("l", backwards))),
    ReaderMutant("vector of one site read backwards", BARE, reading(tensors("l", backwards, f"{L1}output.dense"))),
    ReaderMutant("vectors of another layer", BARE, reading(exchanged(L0, L1))),
    ReaderMutant("keys' vectors for values", BARE, reading(exchanged("self.key", "self.value"))),
    ReaderMutant("input side for output side", BARE, reading(at_input(f"{L0}attention.self.key"))),
    ReaderMutant("vectors rounded to half", BARE, reading(tensors("l", lambda t: np.float32(np.float16(t))))),
    ReaderMutant("adapter left out", BARE, reading(tensors("l", np.ones_like))),
    ReaderMutant("head dropped", HEADED, reading(without_head)),
    ReaderMutant("head's rows in another order", BARE,
                 reading(head(lambda layer: HeadLayer(layer.weight[::-1].copy(), layer.bias), "classifier"))),
    ReaderMutant("head's bias forgotten", BARE,
                 reading(head(lambda layer: HeadLayer(layer.weight, np.zeros_like(layer.bias)), "classifier"))),
    ReaderMutant("head's layer transposed", TWO_LAYERS,
                 reading(head(lambda layer: HeadLayer(layer.weight.T.copy(), layer.bias), "classifier.dense"))),
    ReaderMutant("labels permuted", BARE, reading(labels_reversed)),
    ReaderMutant("another task", BARE, taken_for("features")),
    ReaderMutant("another class", HEADED, loaded_as("AutoModelForTokenClassification")),
    ReaderMutant("another base model", BARE, base_changed(one_weight)),
    ReaderMutant("bottleneck's bias forgotten", HUB, reading(tensors("down_bias", np.zeros_like))),
    ReaderMutant("bottleneck's matrix read backwards", HUB, reading(tensors("up", backwards))),
    ReaderMutant("scaling ignored", HUB_FEATURES, reading(tensors("up", lambda t: t / np.float32(0.7)))),
    ReaderMutant("interface ignored", HUB_INTERFACE, reading_from(lambda folder: replace(folder, interface=None))),
    ReaderMutant("AdapterHub's class names permuted", HUB_NAMED, reading(labels_reversed)),
    ReaderMutant("AdapterHub's head: rows in another order", HUB,
                 reading(head(lambda layer: HeadLayer(layer.weight[::-1].copy(), layer.bias), "classifier"))),
]  # fmt: skip


@pytest.fixture
def checkpoints(
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
) -> dict[str, tuple[Path, Path]]:
    """Returns the folders of base model and adapter, by case."""
    made = {}
    for case, (model_type, task) in {
        BARE: ("bert", "features"),
        HEADED: ("bert", "text-classification"),
        TWO_LAYERS: ("roberta", "text-classification"),
    }.items():
        # Without the digest of a base model, because the adapter is used with two base models.
        info = replace(tiny_info(model_type, "text-classification"), sha256="")
        adapter = random_adapter(info, "ia3", 5, labels=("bad", "so so", "good"))
        made[case] = tiny_model(model_type, task), save_checkpoint(adapter, info)
        # What PEFT's own config says of the task has to do.
        beside = made[case][1] / "adapter_export.json"
        beside.write_text(json.dumps({"labels": json.loads(beside.read_text())["labels"]}))
    kept_in = dict.fromkeys((HUB, HUB_FEATURES), "adapterhub")
    for case, kept in (kept_in | dict.fromkeys((HUB_INTERFACE, HUB_NAMED), "adapterhub-borders")).items():
        made[case] = GOLDENS / kept / case / "base", GOLDENS / kept / case / "adapter"
    return made


def judged(case: str, made: dict[str, tuple[Path, Path]], bundle: Path) -> ParityReport:
    model, adapter = made[case]
    # A graph that scores texts: generation does not depend on the reading.
    export_onnx(model, {"a": adapter}, bundle, mode="swappable", cache=False)
    record = GOLDENS / "records" / f"{case}.npz"
    references = {"a": record} if record.exists() else {}
    return check_parity(bundle, model, {"a": adapter}, references=references)


def test_mutants(checkpoints: dict[str, tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pytorch_models, "cases_for", lambda *_: [ParityCase(2, 9, "left"), ParityCase(1, 1)])
    for case in sorted({mutant.case for mutant in MUTANTS}):
        report = judged(case, checkpoints, tmp_path / "right")
        assert report.verdict is Verdict.PASS, (case, report.checks, [item.judgement for item in report.results])
        assert report.witnessed
        shutil.rmtree(tmp_path / "right")
    alive = []
    for number, mutant in enumerate(MUTANTS):
        with monkeypatch.context() as patching:
            mutant.patch(patching)
            try:
                report = judged(mutant.case, checkpoints, tmp_path / str(number))
            except InputError as error:
                print(f"refused          {mutant.name:<45} {error}")
                continue
        killers = [f"{check.name}: {check.detail}" for check in report.checks if check.verdict is Verdict.FAIL]
        print(f"{report.verdict.value:<16} {mutant.name:<45} {'; '.join(killers) or 'the numbers'}")
        if report.verdict is not Verdict.FAIL:
            alive.append(mutant.name)
    print(json.dumps({"mutants": len(MUTANTS), "killed": len(MUTANTS) - len(alive)}))
    assert not alive
