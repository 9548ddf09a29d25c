"""LoRA of embeddings and convolutions of whole models, against PEFT in float64: written again, merged, exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from adapter_export import check_parity, export_onnx, merge, plan_export
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import CannotMerge, InputError
from adapter_export.merging.model import merge_into
from adapter_export.methods.lora_embedding import LoRAEmbeddingOperator
from adapter_export.models.base_model import load_base
from adapter_export.models.heads import load_head
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.sites import Port, Site
from tests.methods.peft_lora import TOLERANCE, Case, Trained, check_read_and_written_again, trained_by_peft

TinyModel = Callable[..., Path]
# Embeddings that are read by numbers of words, positions and kinds; of another width than the model; tied to the output
# layer; scaled; of an encoder and a decoder. A convolution that makes patches. All but one are beside linear layers.
BERT = Case(
    "bert",
    "text-classification",
    {
        "target_modules": ["word_embeddings", "position_embeddings", "token_type_embeddings", "query"], "r": 4,
        "lora_alpha": 6, "rank_pattern": {"word_embeddings": 3}, "alpha_pattern": {"position_embeddings": 2},
    },
    "embeddings",
)  # fmt: skip
ELECTRA = Case("electra", "features", {"target_modules": ["word_embeddings", "value"], "use_rslora": True}, "narrow")
LLAMA = Case(
    "llama", "causal-lm", {"target_modules": ["embed_tokens", "q_proj"]}, "untied", {"tie_word_embeddings": False}
)
GPT2 = Case("gpt2", "causal-lm", {"target_modules": ["wte", "wpe", "c_attn"], "fan_in_fan_out": True}, "tied")
GEMMA3 = Case("gemma3_text", "causal-lm", {"target_modules": ["embed_tokens"]}, "tied-and-scaled")
T5 = Case("t5", "seq2seq-lm", {"target_modules": ["embed_tokens", "relative_attention_bias", "q"]}, "shared")
VIT = Case("vit", "image-classification", {"target_modules": ["projection", "q_proj"], "r": 3}, "patches")
CASES = [BERT, ELECTRA, LLAMA, GPT2, GEMMA3, T5, VIT]
TIED = [GPT2, GEMMA3, T5]

pytestmark = pytest.mark.filterwarnings(
    "ignore:Setting `save_embedding_layers` to `True`:UserWarning",
    "ignore:Model has `tie_word_embeddings=True`:UserWarning",
)


@pytest.fixture
def trained(request: pytest.FixtureRequest, tiny_model: TinyModel, tmp_path: Path) -> Trained:
    return trained_by_peft(request.param, tiny_model, tmp_path / "lora")


def cases(*chosen: Case) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("trained", chosen, ids=str, indirect=True)


@cases(*CASES)
def test_it_computes_what_peft_computes_and_is_written_again(trained: Trained, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    check_read_and_written_again(trained, tmp_path / "again")
    module = load_base(trained.base.folder, trained.case.task, dtype=torch.float64).module
    again = PeftModel.from_pretrained(module, str(tmp_path / "again"))
    # The scale of rsLoRA is written as an alpha of 9 decimals.
    assert trained.error(trained.computed(again)) < 1e-9


@cases(*[case for case in CASES if case not in TIED])
def test_it_is_merged(trained: Trained, tmp_path: Path) -> None:
    import torch

    merge(trained.base.folder, trained.folder, tmp_path / "model")
    assert trained.error_of(tmp_path / "model") < TOLERANCE
    base = load_base(trained.base.folder, trained.case.task, dtype=torch.float64)
    adapter = load_adapter(trained.folder, base.info)
    load_head(base.module, adapter)
    merge_into(base.module, adapter)
    assert trained.error(trained.computed(base.module)) < 1e-12


@cases(BERT)
def test_a_merge_rounds_once(trained: Trained, tmp_path: Path) -> None:
    """E' = E + (alpha / r) (B A)^T."""
    merge(trained.base.folder, trained.folder, tmp_path / "model")
    name = "bert.embeddings.word_embeddings"
    tensors = load_file(trained.folder / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{name}.lora_embedding_{part}"].astype(np.float64) for part in "AB")
    table = load_file(trained.base.folder / "model.safetensors")[f"{name}.weight"].astype(np.float64)
    merged = load_file(tmp_path / "model/model.safetensors")[f"{name}.weight"]
    np.testing.assert_array_equal(merged, (table + (b @ a).T * 2.0).astype(np.float32))


@cases(BERT, GPT2, VIT)
def test_it_swaps_in_a_graph(trained: Trained, tmp_path: Path) -> None:
    base, adapters = trained.base.folder, {"a": trained.folder}
    export_onnx(base, adapters, tmp_path / "swappable", mode="swappable", cache=False, tokenizer=False)
    on, off = trained.errors_in(tmp_path / "swappable")
    assert on < TOLERANCE
    assert off > 10 * TOLERANCE
    if trained.case is not GPT2:
        assert check_parity(tmp_path / "swappable", base, adapters).verdict is Verdict.PASS


@cases(VIT)
@pytest.mark.parametrize("mode", ["merged", "embedded"])
def test_it_is_part_of_a_graph(mode: str, trained: Trained, tmp_path: Path) -> None:
    base, adapters = trained.base.folder, {"a": trained.folder}
    export_onnx(base, adapters, tmp_path / mode, mode=mode, tokenizer=False)
    assert trained.errors_in(tmp_path / mode)[0] < TOLERANCE
    if mode == "merged":
        assert check_parity(tmp_path / mode, base, adapters).verdict is Verdict.PASS


@cases(*TIED)
def test_a_table_that_is_the_output_layer_too_is_not_merged(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(CannotMerge, match=r"has this table as its output layer too|its weight is tied to shared"):
        merge(trained.base.folder, trained.folder, tmp_path / "model")
    with pytest.raises(CannotMerge, match=r"is tied to . other module\(s\) of the model"):
        export_onnx(trained.base.folder, {"a": trained.folder}, tmp_path / "merged", mode="merged", tokenizer=False)
    assert not (tmp_path / "model").exists()


@cases(BERT, VIT)
def test_a_bank_has_no_place_for_it(trained: Trained, tmp_path: Path) -> None:
    reason = "a convolution has one kernel for all rows" if trained.case is VIT else "its own copy of a whole table"
    expected = rf"mode bank: adapter a: site embeddings\.\S+: .*{reason}.*mode swappable takes this adapter"
    for function in (export_onnx, plan_export):
        with pytest.raises(InputError, match=expected):
            function(trained.base.folder, {"a": trained.folder}, tmp_path / "bank", mode="bank", tokenizer=False)


@pytest.mark.parametrize("scale", [1.0, 32**0.5])
def test_onnx_computes_what_pytorch_computes(scale: float) -> None:
    import onnx
    import onnxruntime
    import torch
    from onnx import parser

    rng, operator = np.random.default_rng(0), LoRAEmbeddingOperator(scale)
    feeds = {name: rng.standard_normal(shape) for name, shape in {"y": (2, 3, 5), "a": (7, 4), "b": (4, 5)}.items()}
    feeds = {"u": np.array([[0, 6, 3], [6, 1, 1]]), **{name: v.astype(np.float32) for name, v in feeds.items()}}
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20, "d" : 1]> g (int64[2, 3] u, float[2, 3, 5] y, float[7, 4] a, '
        f"float[4, 5] b) => (float[2, 3, 5] out) {{ out = d.{operator.op_type} (u, y, a, b) }} "
        f'<opset_import: ["" : 20], domain: "d"> {operator.op_type} (u, y, a, b) => (out) {{ {operator.body} }}'
    )
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    tensors = {name: torch.from_numpy(value) for name, value in feeds.items()}
    expected = operator.forward(tensors, tensors).numpy()
    np.testing.assert_allclose(session.run(None, feeds)[0], expected, rtol=0, atol=1e-5)
    by_rows = feeds["y"] + scale * (feeds["a"] @ feeds["b"])[feeds["u"]]
    np.testing.assert_allclose(expected, by_rows, rtol=0, atol=1e-5)


def test_the_formula_by_hand() -> None:
    # Three rows of two features; in `merge` the table is W^T.
    table = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    a, b = np.array([[1.0], [10.0], [100.0]]), np.array([[2.0, -1.0]])
    merged, bias = LoRAEmbeddingOperator(5.0).merge(Port.BRANCH, table.T, None, {"a": a, "b": b})
    assert merged.T.tolist() == [[3.0, 1.0], [23.0, -6.0], [205.0, -94.0]]
    assert bias is None


@cases(GEMMA3)
def test_the_scale_of_the_rows_is_the_models(trained: Trained) -> None:
    (site_adapter,) = load_adapter(trained.folder, trained.base.info).sites.values()
    assert isinstance(site_adapter.operator, LoRAEmbeddingOperator)
    assert site_adapter.operator.scale == pytest.approx(32**0.5, rel=1e-6)
    assert trained.base.info.features(Site("embed_tokens", Port.BRANCH)).inputs == 101
