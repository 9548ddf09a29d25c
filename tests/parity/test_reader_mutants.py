"""Mistakes in our reading affect the export and our own reference alike; a witness detects them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapter_export.bundle.add import add_adapter
from adapter_export.checkpoints.adapter import Adapter, HeadLayer
from adapter_export.errors import InputError
from adapter_export.export.export import export_onnx
from adapter_export.methods.contract import SiteAdapter
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.quiet import quiet
from adapter_export.parity import pytorch_models
from adapter_export.parity.cases import ParityCase
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.report import ParityReport
from adapter_export.parity.run import check_parity
from tests.parity.reader_mutants import (
    ReaderMutant,
    at_input,
    base_changed,
    every,
    exchanged,
    head,
    labels_reversed,
    loaded_as,
    reading,
    reading_from,
    taken_for,
    tensors,
    with_config,
    without_head,
)

pytestmark = pytest.mark.slow
GOLDENS = Path(__file__).parents[1] / "goldens"
# A BERT without a head, a BERT with a head, and a RoBERTa, whose head has two layers; PEFT adapters with a head.
BARE, HEADED, TWO_LAYERS = "bert", "bert with a head", "roberta"
# Of AdapterHub's library, with its records.
HUB, HUB_FEATURES = "bert-cls-pfeiffer-bin", "bert-learned-scaling"
HUB_INTERFACE, HUB_NAMED = "qwen2-interface-pfeiffer", "bert-default-head"
# Adapters that PEFT wrote. The second is of layers that store their weights the other way round.
LORA, LORA_TURNED = "bert with LoRA", "gpt2 with LoRA"
LORA_CONFIGS = {
    LORA: {
        "target_modules": ["query", "key", "value"], "r": 4, "lora_alpha": 6, "use_rslora": True,
        "rank_pattern": {"value": 2}, "alpha_pattern": {"key": 3},
    },
    LORA_TURNED: {"target_modules": ["attn.c_proj"], "r": 4, "lora_alpha": 10, "fan_in_fan_out": True},
}  # fmt: skip
L0, L1 = "encoder.layer.0.", "encoder.layer.1."


def backwards(tensor: np.ndarray) -> np.ndarray:
    return tensor[::-1]


def turned(site_adapter: SiteAdapter) -> SiteAdapter:
    """B^T A^T in place of A B, which fits square layers only."""
    a, b = site_adapter.tensors["a"], site_adapter.tensors["b"]
    return replace(site_adapter, tensors={"a": b.T.copy(), "b": a.T.copy()})


def scaled(factor: Callable[[int], float], rank: int | None = None) -> Callable[[SiteAdapter], SiteAdapter]:
    """Multiplies the scale by a factor that depends on the rank; at sites of another than `rank` it is left."""

    def change(site_adapter: SiteAdapter) -> SiteAdapter:
        found = site_adapter.tensors["a"].shape[1]
        wrong = rank is None or rank == found
        return replace(site_adapter, strength=site_adapter.strength * factor(found)) if wrong else site_adapter

    return change


def one_weight(model: torch.nn.Module) -> None:
    """Changes one bias of the base model, as an adapter that was attached to it would."""
    with torch.no_grad():
        dict(model.named_parameters())[next(n for n in dict(model.named_parameters()) if "value.bias" in n)].mul_(1.01)


MUTANTS = [
    ReaderMutant("vectors read backwards", BARE, reading(tensors("l", backwards))),
    ReaderMutant("vector of one site read backwards", BARE, reading(tensors("l", backwards, f"{L1}output.dense"))),
    ReaderMutant("vectors of another layer", BARE, reading(exchanged(L0, L1))),
    ReaderMutant("keys' vectors for values", BARE, reading(exchanged("self.key", "self.value"))),
    ReaderMutant("input side for output side", BARE, reading(at_input(f"{L0}attention.self.key")),
                 exported=True),
    ReaderMutant("vectors rounded to half", BARE, reading(tensors("l", lambda t: np.float32(np.float16(t))))),
    ReaderMutant("adapter left out", BARE, reading(tensors("l", np.ones_like))),
    ReaderMutant("head dropped", HEADED, reading(without_head), exported=True),
    ReaderMutant("head's rows in another order", BARE,
                 reading(head(lambda layer: HeadLayer(layer.weight[::-1].copy(), layer.bias), "classifier"))),
    ReaderMutant("head's bias forgotten", BARE,
                 reading(head(lambda layer: HeadLayer(layer.weight, np.zeros_like(layer.bias)), "classifier"))),
    ReaderMutant("head's layer transposed", TWO_LAYERS,
                 reading(head(lambda layer: HeadLayer(layer.weight.T.copy(), layer.bias), "classifier.dense"))),
    ReaderMutant("labels permuted", BARE, reading(labels_reversed)),
    ReaderMutant("another task", BARE, taken_for("features"), exported=True),
    ReaderMutant("another class", HEADED, loaded_as("AutoModelForTokenClassification"), exported=True),
    ReaderMutant("another base model", BARE, base_changed(one_weight), exported=True),
    ReaderMutant("bottleneck's bias forgotten", HUB, reading(tensors("down_bias", np.zeros_like))),
    ReaderMutant("bottleneck's matrix read backwards", HUB, reading(tensors("up", backwards))),
    ReaderMutant("scaling ignored", HUB_FEATURES, reading(tensors("up", lambda t: t / np.float32(0.7)))),
    ReaderMutant("interface ignored", HUB_INTERFACE, reading_from(lambda folder: replace(folder, interface=None)),
                 exported=True),
    ReaderMutant("AdapterHub's class names permuted", HUB_NAMED, reading(labels_reversed)),
    ReaderMutant("AdapterHub's head: rows in another order", HUB,
                 reading(head(lambda layer: HeadLayer(layer.weight[::-1].copy(), layer.bias), "classifier"))),
    ReaderMutant("LoRA: scale left out", LORA_TURNED, reading(every(lambda item: replace(item, strength=1.0)))),
    ReaderMutant("LoRA: r / alpha", LORA_TURNED,
                 reading(every(lambda item: replace(item, strength=1 / item.strength)))),
    ReaderMutant("LoRA: alpha not divided by r", LORA_TURNED, reading(every(scaled(lambda rank: rank)))),
    ReaderMutant("LoRA: rslora where the config has none", LORA_TURNED, with_config(use_rslora=True)),
    ReaderMutant("LoRA: fan_in_fan_out turns the change", LORA_TURNED, reading(every(turned))),
    ReaderMutant("LoRA: use_rslora ignored", LORA, with_config(use_rslora=False)),
    ReaderMutant("LoRA: alpha_pattern ignored", LORA, with_config(alpha_pattern={})),
    ReaderMutant("LoRA: alpha_pattern of another module", LORA, with_config(alpha_pattern={"query": 3})),
    ReaderMutant("LoRA: rank_pattern ignored", LORA, with_config(rank_pattern={})),
    ReaderMutant("LoRA: rank_pattern ignored in the scale", LORA,
                 reading(every(scaled(lambda rank: (rank / 4) ** 0.5, rank=2)))),
    ReaderMutant("LoRA: A and B exchanged", LORA, reading(every(turned))),
    ReaderMutant("LoRA: ranks of A in another order", LORA, reading(tensors("a", lambda a: a[:, ::-1]))),
    ReaderMutant("LoRA: queries' matrices for keys", LORA, reading(exchanged("self.query", "self.key"))),
    ReaderMutant("LoRA: matrices of another layer", LORA, reading(exchanged(L0, L1))),
]  # fmt: skip


@pytest.fixture
def checkpoints(
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    tmp_path: Path,
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
    for case, settings in LORA_CONFIGS.items():
        source = tiny_model(case.split()[0], "features")
        made[case] = source, saved_by_peft(source, settings, tmp_path / case)
    kept_in = dict.fromkeys((HUB, HUB_FEATURES), "adapterhub")
    for case, kept in (kept_in | dict.fromkeys((HUB_INTERFACE, HUB_NAMED), "adapterhub-borders")).items():
        made[case] = GOLDENS / kept / case / "base", GOLDENS / kept / case / "adapter"
    return made


def saved_by_peft(source: Path, settings: dict[str, Any], folder: Path) -> Path:
    """Writes a LoRA adapter with random tensors."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    torch.manual_seed(0)
    wrapped = get_peft_model(AutoModel.from_pretrained(source), LoraConfig(**settings))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    with quiet():
        wrapped.save_pretrained(folder)
    return folder


@pytest.fixture
def right(checkpoints: dict[str, tuple[Path, Path]], tmp_path: Path) -> dict[str, Path]:
    """Returns the bundles that are exported without a mistake, by case."""
    return {case: exported(case, checkpoints, tmp_path / "right" / case) for case in {item.case for item in MUTANTS}}


def exported(case: str, made: dict[str, tuple[Path, Path]], bundle: Path) -> Path:
    model, adapter = made[case]
    # A graph that scores texts: generation does not depend on the reading.
    export_onnx(model, {"a": adapter}, bundle, mode="swappable", cache=False)
    return bundle


def judged(case: str, made: dict[str, tuple[Path, Path]], bundle: Path) -> ParityReport:
    model, adapter = made[case]
    record = GOLDENS / "records" / f"{case}.npz"
    references = {"a": record} if record.exists() else {}
    return check_parity(bundle, model, {"a": adapter}, references=references)


def judged_with(
    mutant: ReaderMutant, made: dict[str, tuple[Path, Path]], right: dict[str, Path], bundle: Path
) -> ParityReport:
    """Returns the verdict on a bundle of the mutant's reading."""
    if mutant.exported:
        exported(mutant.case, made, bundle)
    else:
        shutil.copytree(right[mutant.case], bundle)
        add_adapter(bundle, {"a": made[mutant.case][1]}, force=True)
    return judged(mutant.case, made, bundle)


def test_mutants(
    checkpoints: dict[str, tuple[Path, Path]],
    right: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(pytorch_models, "cases_for", lambda *_: [ParityCase(2, 9, "left"), ParityCase(1, 1)])
    for case, bundle in right.items():
        report = judged(case, checkpoints, bundle)
        assert report.verdict is Verdict.PASS, (case, report.checks, [item.judgement for item in report.results])
        assert report.witnessed
    alive, refused = [], []
    for number, mutant in enumerate(MUTANTS):
        with monkeypatch.context() as patching:
            mutant.patch(patching)
            try:
                report = judged_with(mutant, checkpoints, right, tmp_path / str(number))
            except InputError as error:
                print(f"refused          {mutant.name:<45} {error}")
                refused.append(mutant.name)
                continue
        killers = [f"{check.name}: {check.detail}" for check in report.checks if check.verdict is Verdict.FAIL]
        print(f"{report.verdict.value:<16} {mutant.name:<45} {'; '.join(killers) or 'the numbers'}")
        if report.verdict is not Verdict.FAIL:
            alive.append(mutant.name)
    print(json.dumps({"mutants": len(MUTANTS), "killed": len(MUTANTS) - len(alive)}))
    assert not alive
    assert refused == ["LoRA: rank_pattern ignored"]
