"""Our reading against the witness: a wrong reading of a checkpoint or a base model is detected, and the place named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from adapter_export.bundle.manifest import read_manifest
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.models.base_model import load_base
from adapter_export.models.heads import complete_head
from adapter_export.parity.checks.agreement import check_agreement, check_base, first_difference, relative_distance
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.references.pytorch import Reference
from adapter_export.parity.references.witness import NONE, Witnesses, open_witnesses
from tests.bundles import Exported

Inputs = dict[str, np.ndarray]
TASK = "text-classification"


@pytest.fixture
def own(swappable_bundle: Exported) -> Reference:
    return Reference(load_base(swappable_bundle.base, TASK, dtype=torch.float64, labels=["a", "b", "c"]))


@pytest.fixture
def witnesses(swappable_bundle: Exported) -> Witnesses:
    return open_witnesses(swappable_bundle.base, {"a": swappable_bundle.adapters["ia3_three"]}, TASK, None)


@pytest.fixture
def inputs(inputs_for: Callable[..., Inputs]) -> Inputs:
    return inputs_for("bert")


def reading(exported: Exported, own: Reference) -> Any:
    info = read_manifest(exported.bundle).base
    return complete_head(own.base.module, own.base.info.head, load_adapter(exported.adapters["ia3_three"], info))


def test_both_agree(swappable_bundle: Exported, own: Reference, witnesses: Witnesses, inputs: Inputs) -> None:
    assert witnesses.names["a"].startswith("peft ")
    found = check_agreement(own, {"a": reading(swappable_bundle, own)}, witnesses, inputs)
    assert found.verdict is Verdict.PASS, found
    assert check_base(own, witnesses, inputs).verdict is Verdict.PASS


def test_the_first_site_that_differs_is_named(
    swappable_bundle: Exported, own: Reference, witnesses: Witnesses, inputs: Inputs
) -> None:
    adapter = reading(swappable_bundle, own)
    site = next(site for site in adapter.sites if site.module == "encoder.layer.1.attention.self.value")
    adapter.sites[site].tensors["l"][3] *= 1 + 1e-6
    found = check_agreement(own, {"a": adapter}, witnesses, inputs)
    assert found.verdict is Verdict.FAIL
    assert found.detail.endswith("the first difference is at module 'encoder.layer.1.attention.self.value'")
    assert "the checkpoint is read otherwise than peft" in found.detail


def test_a_head_that_differs(swappable_bundle: Exported, own: Reference, witnesses: Witnesses, inputs: Inputs) -> None:
    adapter = reading(swappable_bundle, own)
    adapter.head["classifier"].weight[0, 0] += 1e-6
    found = check_agreement(own, {"a": adapter}, witnesses, inputs)
    assert found.detail.endswith("the first difference is at the task head")


def test_a_base_model_that_differs(own: Reference, witnesses: Witnesses, inputs: Inputs) -> None:
    own.base.module.bert.encoder.layer[1].output.LayerNorm.bias[5] += 1e-6
    found = check_base(own, witnesses, inputs)
    assert found.verdict is Verdict.FAIL
    assert found.detail.endswith("the first difference is at module 'encoder.layer.1.output.LayerNorm'")


def test_finding_14_modules_without_weights_are_random_in_both(tmp_path: Path, inputs: Inputs) -> None:
    """ALBERT as a masked language model has no pooler. The pooler's output passes through a module without weights."""
    sizes = {"embedding_size": 16, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.AlbertConfig(vocab_size=101, num_hidden_layers=2, **sizes)
    transformers.AlbertForMaskedLM(config).save_pretrained(tmp_path)
    own = Reference(load_base(tmp_path, "features", dtype=torch.float64))
    assert own.base.info.unread == ("pooler",)
    found = check_base(own, open_witnesses(tmp_path, {}, "features", None), inputs)
    assert found.verdict is Verdict.PASS, found
    # All other modules are compared.
    own.base.module.encoder.albert_layer_groups[0].albert_layers[0].ffn.bias[3] += 1e-6
    found = check_base(own, open_witnesses(tmp_path, {}, "features", None), inputs)
    assert found.verdict is Verdict.FAIL


def test_a_checkpoint_that_peft_loads_in_part(own: Reference, inputs: Inputs) -> None:
    found = check_agreement(own, {}, Witnesses({"a": f"{NONE}..."}, faults={"a": "tensor 'x' is missing"}), inputs)
    assert found.verdict is Verdict.FAIL
    assert found.detail == "adapter a: PEFT takes only a part of the checkpoint: tensor 'x' is missing"


def test_outputs_that_cannot_be_compared_do_not_agree() -> None:
    a = {"x": np.ones(3)}
    assert relative_distance(a, {"y": np.ones(3)}, {}) == np.inf
    assert relative_distance(a, {"x": np.ones(4)}, {}) == np.inf
    assert not relative_distance(a, {"x": np.full(3, np.nan)}, {}) <= 1
    assert first_difference(a, {"y": np.ones(3)}) is not None


def test_the_witness_of_each_adapter(
    swappable_bundle: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    adapters = {name: swappable_bundle.adapters[name] for name in ("ia3_two", "houlsby_two")}
    names = open_witnesses(swappable_bundle.base, adapters, TASK, None).names
    assert names["ia3_two"].startswith("peft 0.")
    assert names["houlsby_two"] == "none: our own reading"
    monkeypatch.setattr("adapter_export.parity.references.witness.find_spec", lambda name: None)
    assert open_witnesses(swappable_bundle.base, adapters, TASK, None).names["ia3_two"] == "none: peft is not installed"
