"""LoRA on architectures that `test_lora` does not have, against PEFT itself in float64.

Each has two adapters of PEFT, with ranks and scales of their own. They name their modules in two of PEFT's ways. One
trace of both is lowered to a swappable graph and a bank, and each adapter is merged as well.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export import merge
from adapter_export.bundle.adapter_file import adapter_tensors, tensors_by_operator
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.export.bank import Bank
from adapter_export.export.head import head_defaults
from adapter_export.export.lower import lower
from adapter_export.export.modes import union_of_sites
from adapter_export.export.storage import Overridable
from adapter_export.export.trace import trace
from adapter_export.models.base_model import load_base
from adapter_export.models.quiet import quiet
from tests.export.test_architectures import batch, session
from tests.methods.peft_lora import PEFT_TASKS, TOLERANCE, as_float64
from tests.tiny import inputs_for

Settings = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """An architecture, and what PEFT is told of the modules of two adapters; nothing is PEFT's own default."""

    model_type: str
    task: str
    first: Settings
    second: Settings
    # Settings of the tiny model: a single layer, where both layers would be treated alike.
    model: Settings = field(default_factory=dict)

    def __str__(self) -> str:
        return self.model_type


def targets(value: str | list[str], **settings: Any) -> Settings:
    return {"target_modules": value, **settings}


TEXT, IMAGE, CAUSAL, SEQ2SEQ = "text-classification", "image-classification", "causal-lm", "seq2seq-lm"
DEFAULT: Settings = {}
ALL = targets("all-linear")
ONE = {"num_hidden_layers": 1}
ONE_EACH = {"encoder_layers": 1, "decoder_layers": 1}
CASES = [
    # One layer that is used for all depths.
    Case("albert", TEXT, targets(["query", "ffn"]), targets(r".*\.(attention\.dense|ffn_output)")),
    Case("clip_text_model", "features", ALL, targets(["out_proj"], alpha_pattern={"layers.0.self_attn.out_proj": 2})),
    Case("clip_vision_model", "features", targets(["q_proj", "fc2"]), targets(r"encoder\.layers\.1\..*v_proj")),
    Case("dinov2", IMAGE, targets(["k_proj", "fc1"]), targets(r".*\.layer\.0\..*o_proj")),
    # Queries, keys and values in one layer.
    Case("falcon", CAUSAL, DEFAULT, ALL, ONE),
    Case(
        "gemma3_text", CAUSAL, ALL, targets(["up_proj", "q_proj"], alpha_pattern={"up_proj": 3}, use_rslora=True), ONE
    ),
    Case("gpt_neo", CAUSAL, DEFAULT, targets(["c_fc", "out_proj"], rank_pattern={r"h\.1\.mlp\.c_fc": 2})),
    Case("gptj", CAUSAL, DEFAULT, targets(r".*\.h\.0\.(attn\.out_proj|mlp\.fc_(in|out))"), {"n_layer": 1}),
    Case("mistral", CAUSAL, DEFAULT, ALL, ONE),
    Case("modernbert", TEXT, targets(["Wqkv", "attn.Wo"]), targets(["Wi"], rank_pattern={"mlp.Wi": 5}), ONE),
    Case("mpnet", TEXT, targets(["q", "v"]), targets(r".*\.layer\.\d\.(attention\.attn\.o|output\.dense)"), ONE),
    Case("phi", CAUSAL, DEFAULT, targets(["dense", "k_proj"], alpha_pattern={r".*\.dense": 7}), ONE),
    Case("whisper", SEQ2SEQ, targets(["q_proj", "encoder_attn.v_proj"]), ALL, ONE_EACH),
    Case("xlm-roberta", TEXT, DEFAULT, targets(r".*\.(key|intermediate\.dense)"), ONE),
]


def saved_by_peft(source: Path, case: Case, seed: int, folder: Path) -> np.ndarray:
    """Writes an adapter of PEFT with random rank, scale and tensors, and returns its output in float64."""
    import torch
    from peft import LoraConfig, get_peft_model

    rng = np.random.default_rng([zlib.crc32(case.model_type.encode()), seed])
    torch.manual_seed(seed)
    settings = {"r": int(rng.integers(1, 7)), "lora_alpha": int(rng.integers(1, 9)), "lora_dropout": 0.1}
    if case.task == IMAGE:
        settings["modules_to_save"] = ["classifier"]
    # PEFT's own class for two stacks takes texts only.
    kind = None if case.model_type == "whisper" else PEFT_TASKS.get(case.task)
    config = LoraConfig(task_type=kind, **settings, **(case.first, case.second)[seed])
    wrapped = get_peft_model(load_base(source, case.task, dtype=torch.float64).module, config).eval()
    trained = [item for name, item in wrapped.named_parameters() if "lora_" in name or "modules_to_save" in name]
    assert trained
    with quiet(), torch.no_grad():
        for parameter in trained:
            # Of single precision, as it is saved.
            parameter.copy_((torch.randn_like(parameter) * 0.3).float())
        expected = first_output(wrapped, case)
        wrapped.float().save_pretrained(folder)
    return expected


def first_output(module: Any, case: Case) -> np.ndarray:
    import torch

    inputs = as_float64(inputs_for(case.model_type))
    with torch.no_grad():
        outputs = module(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    result: np.ndarray = outputs[output_of(case)].numpy()
    return result


def output_of(case: Case) -> str:
    return "last_hidden_state" if case.task == "features" else "logits"


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < TOLERANCE * np.abs(expected).max()


# Each has something that no other has: shared layers, images, packed projections, masks of windows, two graphs.
_FIRST = ("albert", "clip_text_model", "dinov2", "falcon", "mistral", "mpnet", "whisper")


@pytest.mark.parametrize(
    "case",
    [case if case.model_type in _FIRST else pytest.param(case, marks=pytest.mark.thorough) for case in CASES],
    ids=str,
)
def test_swapped_in_a_bank_and_merged(case: Case, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    import torch

    source, output = tiny_model(case.model_type, case.task, **case.model), output_of(case)
    base = load_base(source, case.task)
    folders = [tmp_path / "first", tmp_path / "second"]
    expected = [saved_by_peft(source, case, seed, folder) for seed, folder in enumerate(folders)]
    adapters = [load_adapter(folder, base.info) for folder in folders]

    sites = union_of_sites(adapters)
    traced, defaults = trace(base, sites, base.info.head), head_defaults(base)
    last = base.info.head[-1] if base.info.head else None
    swappable = session(lower(traced, sites, Overridable(), defaults, last))
    bank = session(lower(traced, sites, Bank([tensors_by_operator(one) for one in adapters]), defaults, last))
    fed = batch(inputs_for(case.model_type), {value.name for value in swappable.get_inputs()})
    if "token_type_ids" in fed:
        fed["token_type_ids"] = np.zeros_like(fed["input_ids"])
    for slot, (adapter, right) in enumerate(zip(adapters, expected, strict=True), start=1):
        assert_close(swappable.run([output], {**fed, **adapter_tensors(adapter)})[0], right)
        rows = np.array([3 - slot, slot, 0])
        (found,) = bank.run([output], {**fed, "adapter_ids": rows})
        assert_close(found[:2], np.stack([expected[2 - slot][0], right[1]]))
        # The last row, as all rows of the graph without an adapter, is the base model's.
        (off,) = swappable.run([output], fed)
        assert_close(found[2], off[2].astype(np.float64))
        assert np.abs(off - right).max() > 100 * TOLERANCE * np.abs(right).max()
    for folder, right in zip(folders, expected, strict=True):
        merge(source, folder, folder.with_suffix(".merged"))
        merged = load_base(folder.with_suffix(".merged"), case.task, dtype=torch.float64)
        assert_close(first_output(merged.module, case), right)
