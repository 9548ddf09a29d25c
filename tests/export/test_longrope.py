"""Rotary factors that change with the length of a text.

The oracle is transformers on each row alone, without padding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.bundle.manifest import read_manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import InputError
from adapter_export.export.export import export_onnx
from adapter_export.export.length_dependent import refuse_unsteady
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.base_model import load_base
from adapter_export.parity import pytorch_models
from adapter_export.parity.cases import BorderCase, ParityCase
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.run import check_parity
from adapter_export.runtime.generation.decoder_inputs import DecoderFeeds
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported

BORDER, NEW = 16, 8
# Rows far below the border, just below, at, and beyond it.
LENGTHS = (3, 11, BORDER - 1, BORDER, BORDER + 1, 20)
FACTORS = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "rope_theta": 10000.0,
}
MODELS: dict[str, dict[str, Any]] = {
    "phi3": {"rope_parameters": FACTORS, "original_max_position_embeddings": BORDER},
    "phimoe": {
        "rope_parameters": {
            **FACTORS,
            "short_mscale": 1.1,
            "long_mscale": 1.5,
            "original_max_position_embeddings": BORDER,
        },
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
    },
    # transformers keeps the old keys of this one.
    "llama": {
        "rope_parameters": {**FACTORS, "original_max_position_embeddings": BORDER},
        "num_hidden_layers": 1,
    },
}
# Logits are of order 10; of float32 against float64.
TOLERANCE = 5e-5


@pytest.fixture(scope="session")
def long_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    exported_once: Callable[..., Exported],
) -> Callable[..., Exported]:
    """Called as (model_type, mode, task="causal-lm", cache=True, fuse="none") -> two IA3 adapters in a bundle."""

    def make(model_type: str, mode: str, task: str, cache: bool, fuse: str) -> Exported:
        config = MODELS[model_type]
        info = tiny_info(model_type, task, **config)
        target = {"phimoe": {"target": ".*[kv]_proj", "feedforward": "$^"}}.get(model_type, {})
        labels = ("no", "maybe", "yes") if task == "text-classification" else None
        adapters = {
            name: save_checkpoint(random_adapter(info, "ia3", seed, labels=labels, **target), info)
            for name, seed in (("one", 1), ("two", 2))
        }
        base, bundle = tiny_model(model_type, task, **config), tmp_path_factory.mktemp("long") / "bundle"
        export_onnx(base, adapters, bundle, mode=mode, task=task, cache=cache, fuse=fuse)
        return Exported(bundle, base, adapters)

    def once(model_type: str, mode: str, task: str = "causal-lm", cache: bool = True, fuse: str = "none") -> Exported:
        name = f"longrope-{model_type}-{mode}-{task}-{cache}-{fuse}"
        return exported_once(name, lambda: make(model_type, mode, task, cache, fuse))

    return once


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(5)
    return [rng.integers(4, 90, length).tolist() for length in LENGTHS]


def library(exported: Exported, adapter: str | None, auto_class: str = "AutoModelForCausalLM") -> Any:
    """Transformers' own model in float64, with PEFT's adapter in it."""
    import peft
    import torch
    import transformers

    model = getattr(transformers, auto_class).from_pretrained(exported.base, dtype=torch.float64)
    model.set_experts_implementation("eager")  # the faster ways know no float64
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, exported.adapters[adapter], autocast_adapter_dtype=False)
    return model.eval()


def alone(model: Any, prompt: Sequence[int]) -> tuple[list[int], np.ndarray]:
    """Greedy tokens and their logits, by transformers' `generate`."""
    import torch

    with torch.no_grad():
        found = model.generate(
            input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    return found.sequences[0, len(prompt) :].tolist(), torch.stack(found.logits)[:, 0].numpy()


@pytest.mark.parametrize(
    ("model_type", "mode", "fuse"),
    [
        ("phi3", "bank", "none"),
        # Texts are read again into the memory of the cache.
        ("phi3", "swappable", "cpu"),
        ("phimoe", "swappable", "none"),
        ("llama", "swappable", "none"),
    ],
)
def test_generating_across_the_border_is_as_each_row_alone(
    long_bundle: Callable[..., Exported], model_type: str, mode: str, fuse: str
) -> None:
    """Rows below, at and beyond the border in one batch; of a bank with different adapters."""
    exported = long_bundle(model_type, mode, fuse=fuse)
    rows = prompts()
    chosen: list[list[str | None]] = [["one", None, "two"] * 2] if mode == "bank" else [["one"] * 6, [None] * 6]
    models = {name: library(exported, name) for name in (*exported.adapters, None)}
    with AdapterSession(exported.bundle) as session:
        # transformers' own count of new tokens has no end in it, ours with `ignore_eos` neither.
        for adapters in chosen:
            given = {"adapters": adapters} if mode == "bank" else {"adapter": adapters[0]}
            steps = list(session.generate(rows, **given, max_new_tokens=NEW, ignore_eos=True))  # type: ignore[arg-type]
            for row, (prompt, adapter) in enumerate(zip(rows, adapters, strict=True)):
                tokens, logits = alone(models[adapter], prompt)
                own = np.stack([step.logits[row] for step in steps])
                where = (model_type, adapter, len(prompt))
                np.testing.assert_allclose(own, logits, atol=TOLERANCE, err_msg=str(where))
                assert [step.tokens[row] for step in steps] == tokens, where


@pytest.mark.parametrize("task", ["causal-lm", "text-classification"])
def test_scoring_is_as_each_row_alone_on_either_side_of_padding(
    long_bundle: Callable[..., Exported], task: str
) -> None:
    """Graphs without positions among their inputs, of texts on both sides of the border."""
    import torch

    exported = long_bundle("phi3", "swappable", task, False)
    rows, width = prompts(), max(LENGTHS)
    with AdapterSession(exported.bundle) as session:
        assert "position_ids" not in session.manifest.inputs
        for adapter in exported.adapters:
            model = library(
                exported,
                adapter,
                "AutoModelForCausalLM" if task == "causal-lm" else "AutoModelForSequenceClassification",
            )
            for side in ("left", "right"):
                pads = [(width - len(row), 0) if side == "left" else (0, width - len(row)) for row in rows]
                ids = np.stack([np.pad(row, pad) for row, pad in zip(rows, pads, strict=True)])
                mask = np.stack([np.pad(np.ones_like(row), pad) for row, pad in zip(rows, pads, strict=True)])
                logits = session.run({"input_ids": ids, "attention_mask": mask}, adapter)["logits"]
                for own, row, pad in zip(logits, rows, pads, strict=True):
                    with torch.no_grad():
                        expected = model(torch.tensor([row])).logits[0].numpy()
                    kept = own[pad[0] : width - pad[1]] if task == "causal-lm" else own
                    np.testing.assert_allclose(kept, expected, atol=TOLERANCE, err_msg=f"{adapter}, {side}, {len(row)}")


def test_genai_goes_no_further_than_what_its_cache_holds(long_bundle: Callable[..., Exported]) -> None:
    """ONNX Runtime GenAI does not read a text again."""
    bundle = long_bundle("phi3", "swappable").bundle
    config = json.loads((bundle / "genai_config.json").read_text())
    assert (config["model"]["context_length"], config["search"]["max_length"]) == (BORDER, BORDER)
    assert read_manifest(bundle).reread_at == BORDER


def test_frequencies_that_change_with_every_length_are_refused(
    tiny_model: Callable[..., Path],
    tiny_info: Callable[..., ModelInfo],
    random_adapter: Callable[..., Adapter],
    save_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Rope_type dynamic, in one short line, before anything is traced."""
    config = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}, "num_hidden_layers": 1}
    info = tiny_info("llama", "causal-lm", **config)
    adapter = save_checkpoint(random_adapter(info, "ia3"), info)
    for cache in (True, False):
        with pytest.raises(InputError, match=r"config\.json: rope_type 'dynamic': LlamaForCausalLM") as refused:
            export_onnx(
                tiny_model("llama", "causal-lm", **config),
                {"one": adapter},
                tmp_path / "bundle",
                mode="swappable",
                cache=cache,
            )
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 400
        assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("model_type", "outcome"), [("phi3", "pass"), ("llama", "pass (not judged beyond 16 tokens)")])
def test_parity_judges_both_sides_of_the_border(
    long_bundle: Callable[..., Exported], model_type: str, outcome: str
) -> None:
    """Also in batches of rows from both. Of a model whose old keys transformers keeps, no forward over the whole text
    tells what is to be written beyond it."""
    exported = long_bundle(model_type, "bank" if model_type == "phi3" else "swappable")
    report = check_parity(exported.bundle, exported.base, exported.adapters)
    assert report.outcome == outcome, [reason for item in report.results for reason in item.judgement.reasons]
    names = {item.case.name for item in report.results}
    assert {f"3 x {BORDER + 1} {side} border" for side in ("left", "right")} <= names
    assert any(check.name == "rows" for check in report.checks)


def test_parity_fails_a_loop_that_keeps_what_no_longer_holds(
    long_bundle: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = long_bundle("phi3", "bank")
    monkeypatch.setattr(
        pytorch_models, "cases_for", lambda *_: [ParityCase(2, 9, "left"), BorderCase(3, BORDER + 1, "right")]
    )
    begin = DecoderFeeds.__init__
    monkeypatch.setattr(
        DecoderFeeds, "__init__", lambda self, prompts, pad, inputs, _: begin(self, prompts, pad, inputs)
    )
    report = check_parity(exported.bundle, exported.base, exported.adapters)
    assert report.verdict is Verdict.FAIL
    failed = {item.case.name for item in report.results if item.judgement.verdict is Verdict.FAIL}
    assert failed
    assert all(name.endswith("greedy") for name in failed)


def test_sparse_attention_of_long_texts_alone_is_refused(tmp_path: Path) -> None:
    """BigBird attends to everything in short texts: a trace of one is wrong for long ones."""
    import transformers

    config = transformers.BigBirdConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, block_size=4
    )
    transformers.BigBirdModel(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"config\.json: attention_type 'block_sparse': BigBirdModel"):
        refuse_unsteady(load_base(tmp_path, "features"))
    config.attention_type = "original_full"
    transformers.BigBirdModel(config).save_pretrained(tmp_path)
    refuse_unsteady(load_base(tmp_path, "features"))
