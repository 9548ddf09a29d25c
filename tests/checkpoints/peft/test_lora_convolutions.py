"""LoRA of convolutions against PEFT, in float64: with every stride, padding and number of groups, and merged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export.checkpoints.folder import load_adapter, save_adapter
from adapter_export.errors import CannotMerge
from adapter_export.merging.model import merge_into
from adapter_export.methods.lora_convolution import LoRAConvolutionOperator
from adapter_export.modelinfo import Kernel
from adapter_export.models.base_model import BaseModel
from adapter_export.sites import Port, Site
from tests.checkpoints.convolutional import convolutional, pixels
from tests.checkpoints.oracle import (
    TOLERANCE,
    WEIGHTS,
    assert_same,
    assert_same_tensors,
    by_peft,
    edit_config,
    edit_tensors,
    run,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups > 1:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning"),
]

# Of the first convolution: its spatial axes and its options. PEFT cannot run dilated ones that change sizes.
OPTIONS: list[tuple[int, dict[str, Any]]] = [
    (1, {}),
    (1, {"stride": 2, "padding": 2, "bias": False}),
    (1, {"padding": "same", "kernel_size": 4}),
    (2, {}),
    (2, {"kernel_size": 1}),
    (2, {"stride": (2, 1), "padding": (1, 2), "kernel_size": (2, 3)}),
    (2, {"padding": "valid"}),
    (3, {"stride": 2, "padding": 1}),
]
GROUPED: list[tuple[int, dict[str, Any]]] = [
    (1, {"groups": 2}),
    (2, {"groups": 2, "stride": 2, "padding": 1}),
    (3, {"groups": 2}),
]
UNPLAIN: list[tuple[int, dict[str, Any]]] = [
    (2, {"padding": 1, "padding_mode": "reflect"}),
    (2, {"padding": "same", "dilation": 2}),
]


def train(base: BaseModel, folder: Path, seed: int = 0, **settings: Any) -> None:
    import peft
    import torch

    torch.manual_seed(seed)
    model = peft.get_peft_model(copy.deepcopy(base.module).float(), peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter))
    model.save_pretrained(folder)


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., tuple[BaseModel, Path]]:
    def make(rank: int, options: dict[str, Any]) -> tuple[BaseModel, Path]:
        base = convolutional(rank, **options)
        groups = options.get("groups", 1)
        train(
            base, tmp_path / "theirs", target_modules=["first", "second"], r=4, lora_alpha=6,
            rank_pattern={"second": 3}, alpha_pattern={"first": 5}, use_rslora=groups > 1,
        )  # fmt: skip
        return base, tmp_path / "theirs"

    return make


@pytest.mark.parametrize(("rank", "options"), [*OPTIONS, *GROUPED, *UNPLAIN], ids=str)
def test_it_computes_what_peft_computes_and_is_written_again(
    rank: int, options: dict[str, Any], trained: Callable[..., tuple[BaseModel, Path]], tmp_path: Path
) -> None:
    base, theirs = trained(rank, options)
    assert_same(base, theirs, pixels(rank))
    ours = tmp_path / "ours"
    ours.mkdir()
    save_adapter(ours, load_adapter(theirs, base.info), base.info, "base")
    assert_same_tensors(ours, theirs)
    # The scale of rsLoRA is written as an alpha of 9 decimals.
    np.testing.assert_allclose(by_peft(base, ours, pixels(rank)), by_peft(base, theirs, pixels(rank)), rtol=1e-9)


@pytest.mark.parametrize(("rank", "options"), OPTIONS, ids=str)
def test_it_is_merged_as_by_peft(
    rank: int, options: dict[str, Any], trained: Callable[..., tuple[BaseModel, Path]]
) -> None:
    import peft

    base, folder = trained(rank, options)
    merged = copy.deepcopy(base.module).double()
    assert merge_into(merged, load_adapter(folder, base.info)) == ["first.weight", "second.weight"]
    if rank < 3:  # PEFT fails to merge Conv3d with a kernel of one point
        model = peft.PeftModel.from_pretrained(copy.deepcopy(base.module).double(), folder).double()
        for name, theirs in model.merge_and_unload().named_parameters():
            ours = merged.get_parameter(name).numpy()
            np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=1e-13)
    expected = by_peft(base, folder, pixels(rank))
    assert np.abs(run(merged, pixels(rank)) - expected).max() <= 10 * TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize(
    ("rank", "options", "reason"),
    [
        *((*case, "in 2 groups reads the channels of its group only, and LoRA reads all") for case in GROUPED),
        *((*case, "the convolution is dilated or does not pad with zeros") for case in UNPLAIN),
    ],
    ids=str,
)  # fmt: skip
def test_where_no_kernel_computes_the_same_a_merge_says_why(
    rank: int, options: dict[str, Any], reason: str, trained: Callable[..., tuple[BaseModel, Path]]
) -> None:
    base, folder = trained(rank, options)
    with pytest.raises(CannotMerge, match=reason):
        merge_into(base.module, load_adapter(folder, base.info))


def test_the_formula_by_hand() -> None:
    # Two channels in, one between, two out; a kernel of two points.
    weight = np.arange(8.0).reshape(2, 2, 2)
    a, b = np.array([[[1.0, 2.0], [3.0, 4.0]]]), np.array([[10.0], [-1.0]])
    operator = LoRAConvolutionOperator(Kernel((2,)))
    merged, bias = operator.merge(Port.BRANCH, weight, None, {"a": a[None], "b": b[:, :, None]})
    assert merged.tolist() == [[[10.0, 21.0], [32.0, 43.0]], [[3.0, 3.0], [3.0, 3.0]]]
    assert bias is None


@pytest.mark.parametrize(("rank", "options"), [*OPTIONS, *GROUPED, *UNPLAIN], ids=str)
def test_onnx_computes_what_pytorch_computes(
    rank: int, options: dict[str, Any], trained: Callable[..., tuple[BaseModel, Path]]
) -> None:
    import onnx
    import onnxruntime
    import torch
    from onnx import parser

    base, folder = trained(rank, options)
    site_adapter = load_adapter(folder, base.info).sites[Site("first", Port.BRANCH)]
    operator, u = site_adapter.operator, pixels(rank)["pixels"]
    y = base.module.get_submodule("first")(torch.from_numpy(u)).numpy()
    feeds = {
        "u": u,
        "y": np.random.default_rng(1).standard_normal(y.shape).astype(np.float32),
        **site_adapter.effective,
    }
    feeds = {name: np.ascontiguousarray(value, np.float32) for name, value in feeds.items()}
    shapes = ", ".join(f"float{list(value.shape)} {name}" for name, value in feeds.items())
    model = parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 20, "d" : 1]> g ({shapes}) => (float{list(y.shape)} out) '
        f"{{ out = d.{operator.op_type} ({', '.join(feeds)}) }} "
        f'<opset_import: ["" : 20], domain: "d"> {operator.op_type} ({", ".join(feeds)}) => (out) {{ {operator.body} }}'
    )
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, feeds)
    tensors = {name: torch.from_numpy(value).double() for name, value in feeds.items()}
    expected = operator.forward(tensors, tensors).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_patches_of_vit_round_trip(
    dtype: str, tiny_base: Callable[..., BaseModel], inputs_for: Callable[..., Any], tmp_path: Path
) -> None:
    import ml_dtypes

    base, theirs, ours = tiny_base("vit", "image-classification"), tmp_path / "theirs", tmp_path / "ours"
    train(base, theirs, target_modules=["projection", "q_proj"], r=4, lora_alpha=7)
    edit_tensors(theirs, lambda t: {name: tensor * np.float32(0.1) for name, tensor in t.items()})
    if dtype == "bfloat16":
        edit_tensors(theirs, lambda t: {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in t.items()})
    assert_same(base, theirs, inputs_for("vit"))
    ours.mkdir()
    save_adapter(ours, load_adapter(theirs, base.info), base.info, "base")
    assert_same_tensors(ours, theirs)
    np.testing.assert_array_equal(by_peft(base, ours, inputs_for("vit")), by_peft(base, theirs, inputs_for("vit")))


def test_matrices_that_do_not_fit_are_refused(
    trained: Callable[..., tuple[BaseModel, Path]], refused: Callable[..., str]
) -> None:
    base, folder = trained(2, {})
    before = load_file(folder / WEIGHTS)
    (a,) = (name for name in before if name.endswith("first.lora_A.weight"))
    for shape in ((4, 4, 3), (4, 4, 2, 3), (4, 3, 3, 3)):
        save_file({**before, a: np.ones(shape, np.float32)}, folder / WEIGHTS)
        assert f"lora_A.weight': expected shape (4, 4, 3, 3) for this base model, found {shape}" in refused(
            folder, base.info
        )
    b = a.replace("lora_A", "lora_B")
    save_file({**before, b: np.ones((6, 4), np.float32)}, folder / WEIGHTS)
    assert "lora_B.weight': expected shape (6, 4, 1, 1) for this base model" in refused(folder, base.info)
    renamed = {
        name.replace("A.weight", "embedding_A").replace("B.weight", "embedding_B"): t for name, t in before.items()
    }
    save_file(renamed, folder / WEIGHTS)
    assert "lora_A.weight' is missing; found lora_embedding_A, lora_embedding_B" in refused(folder, base.info)


def test_a_rank_that_is_no_multiple_of_the_groups_is_refused(
    trained: Callable[..., tuple[BaseModel, Path]], refused: Callable[..., str]
) -> None:
    base, folder = trained(2, {"groups": 2})
    edit_config(folder, rank_pattern={"first": 5, "second": 3})
    before = load_file(folder / WEIGHTS)
    (a,) = (name for name in before if name.endswith("first.lora_A.weight"))
    save_file({**before, a: np.ones((5, 4, 3, 3), np.float32)}, folder / WEIGHTS)
    assert "expected shape (4, 4, 3, 3) for this base model, found (5, 4, 3, 3)" in refused(folder, base.info)
