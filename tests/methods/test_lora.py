"""LoRA against PEFT itself in float64: read, written again, merged, and exported in every mode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from adapter_export import check_parity, export_onnx, merge, train
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError
from adapter_export.methods.lora import LoRAOptions
from adapter_export.models.base_model import load_base
from adapter_export.parity.criteria.judge import Verdict
from tests.checkpoints.oracle import by_ours, by_peft
from tests.methods.peft_lora import TOLERANCE, WEIGHTS, Case, Trained, check_read_and_written_again, trained_by_peft

CASES = [
    # Thirteen architectures: biases on all, some and no layers; Conv1D; fused projections; grouped queries; encoders,
    # decoders, both, and images.
    Case("bert", "text-classification"),
    Case("roberta", "text-classification"),
    Case("distilbert", "text-classification", {"target_modules": ["q_lin", "v_lin", "lin1", "lin2"]}, "named"),
    Case("electra", "features"),
    Case("deberta-v2", "features"),
    Case("gpt2", settings={"fan_in_fan_out": True}),
    Case("gpt_neox"),
    Case("bloom"),
    Case("opt"),
    Case("llama"),
    Case("qwen2"),
    Case("phi3", settings={"target_modules": "all-linear"}, note="all-linear"),
    Case("t5", "seq2seq-lm"),
    Case("vit", "image-classification", {"target_modules": ["q_proj", "v_proj"]}, "named"),
    # What differs by module, and by layer.
    Case("llama", settings={"r": 4, "lora_alpha": 16, "use_rslora": True}, note="rslora"),
    Case(
        "llama",
        settings={
            "target_modules": ["q_proj", "v_proj", "down_proj"], "r": 4, "lora_alpha": 6,
            "rank_pattern": {"down_proj": 2, r"layers\.1\.self_attn\.v_proj": 3}, "alpha_pattern": {"q_proj": 5},
        },
        note="patterns",
    ),
    Case("llama", settings={"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]}, note="layers"),
    Case(
        "llama",
        settings={"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
        note="layers-pattern",
    ),
    Case("gpt2", settings={"target_modules": r".*\.(c_attn|mlp\.c_proj)", "fan_in_fan_out": True}, note="regex"),
    Case("llama", "text-classification", {"target_modules": ["k_proj", "o_proj", "gate_proj"]}, "head"),
]  # fmt: skip
# Of each kind one goes through every mode; the others are swapped.
THROUGH_ALL = {"llama-causal-lm-patterns", "gpt2-causal-lm-regex", "bert-text-classification-defaults"}
# Of the others, these go through a graph in every run: two stacks, images, and a head.
THROUGH_ONE = {"t5-seq2seq-lm-defaults", "vit-image-classification-named", "llama-text-classification-head"}


@pytest.fixture(params=CASES, ids=str)
def trained(request: pytest.FixtureRequest, tiny_model: Callable[..., Path], tmp_path: Path) -> Trained:
    return trained_by_peft(request.param, tiny_model, tmp_path / "lora")


def test_read_injected_and_written_again(trained: Trained, tmp_path: Path) -> None:
    check_read_and_written_again(trained, tmp_path / "again")


@pytest.mark.parametrize(
    "trained",
    [
        pytest.param(case, marks=() if str(case) in THROUGH_ALL | THROUGH_ONE else pytest.mark.thorough)
        for case in CASES
    ],
    ids=str,
    indirect=True,
)
def test_merged_and_exported(trained: Trained, tmp_path: Path) -> None:
    base, through_all = trained.base.folder, str(trained.case) in THROUGH_ALL
    for mode in ("merged", "embedded", "swappable", "bank") if through_all else ("swappable",):
        bundle = tmp_path / mode
        export_onnx(base, {"a": trained.folder}, bundle, mode=mode, cache=False, tokenizer=False)
        on, off = trained.errors_in(bundle)
        assert on < TOLERANCE, mode
        if mode == "swappable":
            assert off > 10 * TOLERANCE
    if through_all:
        assert check_parity(tmp_path / "swappable", base, {"a": trained.folder}).verdict is Verdict.PASS
        merge(base, trained.folder, tmp_path / "model")
        assert trained.error_of(tmp_path / "model") < TOLERANCE


def test_mixed_with_ia3_the_order_counts(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """W' = diag(l) (W + (A B)^T) or diag(l) W + (A B)^T."""
    from safetensors.numpy import save_file

    base = tiny_model("llama", "causal-lm")
    name = "model.layers.0.self_attn.q_proj"
    weight = load_file(base / "model.safetensors")[f"{name}.weight"]
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, weight.shape[1])), rng.standard_normal((weight.shape[0], 2))
    scale = rng.standard_normal((weight.shape[0], 1))
    for folder, config, tensors in (
        ("lora", {"r": 2, "lora_alpha": 2, "peft_type": "LORA"}, {"lora_A.weight": a, "lora_B.weight": b}),
        ("ia3", {"feedforward_modules": [], "peft_type": "IA3"}, {"ia3_l": scale}),
    ):
        (tmp_path / folder).mkdir()
        named = {f"base_model.model.{name}.{part}": value.astype(np.float32) for part, value in tensors.items()}
        save_file(named, tmp_path / folder / WEIGHTS)
        config |= {"task_type": "CAUSAL_LM", "target_modules": ["layers.0.self_attn.q_proj"]}
        (tmp_path / folder / "adapter_config.json").write_text(json.dumps(config))
    a, b, scale = (array.astype(np.float32).astype(np.float64) for array in (a, b, scale))
    for order, expected in ((("lora", "ia3"), scale * (weight + b @ a)), (("ia3", "lora"), scale * weight + b @ a)):
        output = tmp_path / "-".join(order)
        merge(base, [tmp_path / one for one in order], output)
        merged = load_file(output / "model.safetensors")[f"{name}.weight"]
        np.testing.assert_array_equal(merged, expected.astype(np.float32))


def test_a_merge_rounds_once(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """W' = W + (alpha / r) B A, also where the scale is no power of 2."""
    from safetensors.numpy import save_file

    base = tiny_model("llama", "causal-lm")
    name = "model.layers.0.self_attn.q_proj"
    weight = load_file(base / "model.safetensors")[f"{name}.weight"].astype(np.float64)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, weight.shape[1]), (weight.shape[0], 3)))
    folder = tmp_path / "lora"
    folder.mkdir()
    save_file(
        {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}, folder / WEIGHTS
    )
    config = {"r": 3, "lora_alpha": 1, "peft_type": "LORA", "task_type": "CAUSAL_LM"}
    config["target_modules"] = ["layers.0.self_attn.q_proj"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    merge(base, folder, tmp_path / "merged")
    merged = load_file(tmp_path / "merged/model.safetensors")[f"{name}.weight"]
    exact = weight + b.astype(np.float64) @ a.astype(np.float64) / 3
    np.testing.assert_array_equal(merged, exact.astype(np.float32))


def test_trained_it_starts_at_the_base_model_and_is_pefts(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny_model("bert", "text-classification")
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "a good movie,LABEL_0\na bad movie,LABEL_1\nthe house,LABEL_2\n" * 4)
    train(base, "lora", "text-classification", data, tmp_path / "lora", max_steps=3, rank=5, seed=1)
    info = load_base(base, "text-classification").info
    adapter = load_adapter(tmp_path / "lora", info)
    assert {site_adapter.tensors["a"].shape[1] for site_adapter in adapter.sites.values()} == {5}
    assert {site.name.rpartition(".")[2] for site in adapter.sites} == {"query", "value"}
    assert all(site_adapter.tensors["b"].any() for site_adapter in adapter.sites.values())
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(load_base(base, "text-classification").module, str(tmp_path / "lora"))
    assert wrapped.peft_config["default"].r == 5


@pytest.mark.parametrize(("alpha", "written", "scale"), [(None, 5, 1.0), (15, 15, 3.0), (0.7, 0.7, 0.7 / 5)])
def test_training_with_alpha(
    alpha: float | None, written: float, scale: float, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """The checkpoint has the scale, PEFT computes the same with it, and it is what the loss was measured with."""
    import torch
    from transformers import AutoTokenizer

    folder = tiny_model("bert", "text-classification")
    texts = ["a good movie", "a bad movie", "the house"]
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"{text},LABEL_{label}\n" for label, text in enumerate(texts)))
    how: dict[str, Any] = {"max_steps": 3, "rank": 5, "alpha": alpha, "eval": data, "learning_rate": 0.1}
    result = train(folder, "lora", "text-classification", data, tmp_path / "lora", **how)

    config = json.loads((tmp_path / "lora/adapter_config.json").read_text())
    assert (config["lora_alpha"], config["r"]) == (written, 5)
    base = load_base(folder, "text-classification")
    adapter = load_adapter(tmp_path / "lora", base.info)
    strengths = [site_adapter.strength for site_adapter in adapter.sites.values()]
    assert strengths == pytest.approx([scale] * len(strengths), rel=1e-12)

    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="np")
    inputs = {name: np.asarray(value) for name, value in tokens.items()}
    by_library = by_peft(base, tmp_path / "lora", inputs)
    np.testing.assert_allclose(by_ours(base, tmp_path / "lora", inputs), by_library, rtol=0, atol=1e-9)
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(by_library), torch.arange(3))
    assert result.metrics["loss"] == pytest.approx(float(loss), abs=1e-5)


def test_the_scale_acts_in_training(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """The same steps with another scale lead elsewhere."""
    base = tiny_model("bert", "text-classification")
    data = tmp_path / "data.csv"
    data.write_text("text,label\na good movie,LABEL_0\na bad movie,LABEL_1\nthe house,LABEL_2\n")
    losses = []
    for alpha in (5, 50):
        result = train(
            base,
            "lora",
            "text-classification",
            data,
            tmp_path / str(alpha),
            max_steps=2,
            rank=5,
            alpha=alpha,
            eval=data,
        )
        losses.append(result.metrics["loss"])
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("alpha", [0, -1, float("inf"), float("nan")])
def test_a_scale_that_is_none_is_refused(alpha: float) -> None:
    with pytest.raises(InputError, match=r"--alpha \S+: expected a number above 0"):
        LoRAOptions(alpha=alpha)
