"""Models for images without a placement table, with IA3 where PEFT is told to put it: exported and merged, against PEFT
in float64.

ConvNeXt, ResNet and SegFormer have no hidden size. Swin, SegFormer and Gemma 3 have other names on disk than in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.errors import InputError
from adapter_export.export.export import export_onnx
from adapter_export.merging.merge import merge
from adapter_export.modelinfo import ModelInfo
from adapter_export.runtime.session import AdapterSession
from adapter_export.sites import Port, Site

# Of float32 against float64; of weights rounded to float32 once.
TOLERANCE = 2e-5
_STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
# Model type -> configuration, targets, those of them scaled at their input.
MODELS: dict[str, tuple[dict[str, Any], str, str]] = {
    "convnext": ({**_STAGES, "num_stages": 2, "image_size": 32}, r".*\.(dwconv|pwconv1|pwconv2)", r".*\.pwconv2"),
    "regnet": ({**_STAGES, "embedding_size": 8, "groups_width": 4}, r".*\.convolution", r".*layer\.1\.convolution"),
    "resnet": ({**_STAGES, "embedding_size": 8}, r".*\.convolution", r".*layer\.1\.convolution"),
    "segformer": (
        {
            "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32],
            "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2],
        },
        r".*\.(k_proj|v_proj|fc2|proj)",
        r".*\.fc2",
    ),
    "swin": (
        {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2},
        r".*\.(k_proj|v_proj|fc2)",
        r".*\.fc2",
    ),
}  # fmt: skip
_IMAGE = 32


def make(folder: Path, model_type: str, task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A base model in `base` and PEFT's adapter in `adapter`; gives images, and PEFT's outputs with and without it."""
    import peft
    import torch
    import transformers

    config, targets, feedforward = MODELS[model_type]
    labelled = task == "image-classification"
    auto = transformers.AutoModelForImageClassification if labelled else transformers.AutoModel
    model = auto.from_config(transformers.AutoConfig.for_model(model_type, **config))
    generator = torch.Generator().manual_seed(1)

    def noise(tensor: Any, size: float) -> Any:
        return size * torch.randn(tensor.shape, generator=generator)

    for name, parameter in model.named_parameters():
        scale = 1.0 if parameter.ndim == 1 and "weight" in name else 0.0
        parameter.data = noise(parameter, 0.2) + scale
    model.save_pretrained(folder / "base")
    (folder / "base/preprocessor_config.json").write_text(json.dumps({"size": {"height": _IMAGE, "width": _IMAGE}}))
    model = auto.from_pretrained(folder / "base", dtype=torch.float64)
    saved = ["classifier"] if labelled else None
    settings = peft.IA3Config(target_modules=targets, feedforward_modules=feedforward, modules_to_save=saved)
    adapted = peft.get_peft_model(model, settings).eval()
    for name, parameter in adapted.named_parameters():
        if "ia3" in name or "modules_to_save.default" in name:
            parameter.data = noise(parameter, 0.3).double() + (1.0 if "ia3" in name else 0.0)
    adapted.save_pretrained(folder / "adapter")
    images = torch.randn(2, 3, _IMAGE, _IMAGE, generator=generator, dtype=torch.float64)
    output = "logits" if labelled else "last_hidden_state"
    with torch.no_grad():
        on = adapted(pixel_values=images)[output].numpy()
        for layer in adapted.modules():
            if isinstance(layer, peft.tuners.tuners_utils.BaseTunerLayer):
                layer.enable_adapters(False)
        off = adapted(pixel_values=images)[output].numpy()
    return images.numpy().astype(np.float32), on, off


def with_old_names(folder: Path, pairs: Mapping[str, str]) -> Path:
    """The adapter, with module names of transformers 4 in its tensors and its configuration."""
    from safetensors.numpy import load_file, save_file

    old = folder / "old"
    old.mkdir()
    tensors = load_file(folder / "adapter/adapter_model.safetensors")

    def renamed(text: str) -> str:
        for now, then in pairs.items():
            text = text.replace(now, then)
        return text

    save_file({renamed(name): value for name, value in tensors.items()}, old / "adapter_model.safetensors")
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    config["target_modules"] = r".*\.(self\.key|self\.value|\d\.output\.dense)"
    config["feedforward_modules"] = r".*\d\.output\.dense"
    (old / "adapter_config.json").write_text(json.dumps(config))
    return old


@pytest.mark.parametrize(
    ("model_type", "task"),
    [
        ("convnext", "features"),
        ("resnet", "image-classification"),
        ("segformer", "image-classification"),
        ("swin", "image-classification"),
    ],
)
def test_exported_and_merged_as_peft_computes_it(model_type: str, task: str, tmp_path: Path) -> None:
    import torch
    import transformers

    images, on, off = make(tmp_path, model_type, task)
    assert np.abs(on - off).max() > 0.1 * np.sqrt(np.square(on).mean()), "the adapter must matter"
    output = "logits" if task == "image-classification" else "last_hidden_state"
    adapters = {"now": tmp_path / "adapter"}
    if model_type == "swin":
        adapters["old"] = with_old_names(
            tmp_path, {"attention.k_proj": "attention.self.key", "attention.v_proj": "attention.self.value",
                       "mlp.fc2": "output.dense"}
        )  # fmt: skip
    export_onnx(tmp_path / "base", adapters, tmp_path / "bundle", mode="swappable", task=task)
    auto = getattr(transformers, "AutoModel" + ("ForImageClassification" if output == "logits" else ""))
    with AdapterSession(tmp_path / "bundle") as session:
        for name, adapter in adapters.items():
            found = session.run({"pixel_values": images}, name)[output]
            np.testing.assert_allclose(found, on, atol=TOLERANCE * np.abs(on).max(), err_msg=name)
            merge(tmp_path / "base", [adapter], tmp_path / f"merged-{name}")
            model, report = auto.from_pretrained(
                tmp_path / f"merged-{name}", dtype=torch.float64, output_loading_info=True
            )
            assert not any(report.values())
            with torch.no_grad():
                merged = model.eval()(pixel_values=torch.tensor(images, dtype=torch.float64))[output].numpy()
            np.testing.assert_allclose(merged, on, atol=TOLERANCE * np.abs(on).max(), err_msg=name)


def test_inputs_of_a_convolution_in_groups_are_not_merged(tmp_path: Path) -> None:
    """RegNet: how many groups there are is not on disk."""
    make(tmp_path, "regnet", "features")
    with pytest.raises(InputError, match="the inputs of a convolution in groups are not merged, only exported"):
        merge(tmp_path / "base", [tmp_path / "adapter"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_gemma_3_with_images(tmp_path: Path) -> None:
    """Its language model's adapter is exported and merged, with the names of any version."""
    import peft
    import torch
    import transformers
    from safetensors.numpy import load_file, save_file

    text = {
        "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 8,
        "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64, "query_pre_attn_scalar": 8,
    }  # fmt: skip
    vision = {
        "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 16,
        "patch_size": 8,
    }  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=98, boi_token_index=96,
        eoi_token_index=97,
    )  # fmt: skip
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "base")
    load = transformers.AutoModelForCausalLM.from_pretrained
    settings = peft.IA3Config(
        target_modules=r".*language_model.*\.(k_proj|v_proj|down_proj)", feedforward_modules=r".*\.down_proj"
    )
    adapted = peft.get_peft_model(load(tmp_path / "base", dtype=torch.float64), settings).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "ia3" in name:
            parameter.data = 1 + torch.randn(parameter.shape, generator=generator).double()
    adapted.save_pretrained(tmp_path / "adapter")
    # As transformers before 4.52 named it.
    old = tmp_path / "old"
    old.mkdir()
    tensors = load_file(tmp_path / "adapter/adapter_model.safetensors")
    save_file(
        {name.replace("model.language_model.", "language_model.model."): tensor for name, tensor in tensors.items()},
        old / "adapter_model.safetensors",
    )
    (old / "adapter_config.json").write_bytes((tmp_path / "adapter/adapter_config.json").read_bytes())
    ids = torch.randint(3, 90, (1, 9), generator=generator)
    with torch.no_grad():
        on = adapted(input_ids=ids).logits.numpy()
    adapters = {"now": tmp_path / "adapter", "old": old}
    export_onnx(tmp_path / "base", adapters, tmp_path / "bundle", mode="swappable", task="causal-lm")
    with AdapterSession(tmp_path / "bundle") as session:
        for name, adapter in adapters.items():
            (step,) = session.generate(ids.tolist(), name, max_new_tokens=1)
            np.testing.assert_allclose(step.logits, on[:, -1], atol=TOLERANCE * np.abs(on).max())
            merge(tmp_path / "base", [adapter], tmp_path / f"merged-{name}")
            with torch.no_grad():
                merged = load(tmp_path / f"merged-{name}", dtype=torch.float64).eval()(input_ids=ids).logits.numpy()
            np.testing.assert_allclose(merged, on, atol=TOLERANCE * np.abs(on).max())


def test_a_module_of_unknown_width_is_refused_by_name() -> None:
    info = ModelInfo("resnet", "ResNetModel", "resnet", False, 0, {"encoder": 0, "conv": 8}, {"conv": 3})
    assert info.features(Site("conv", Port.OUTPUT)).outputs == 8
    with pytest.raises(InputError, match=re.escape("module 'encoder': its output has no size")):
        info.features(Site("encoder", Port.OUTPUT))
