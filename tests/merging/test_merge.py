"""Merging: exact weights, the same function, and refusals that give the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import CannotMerge, InputError
from adapter_export.merging.merge import merge
from adapter_export.merging.model import merge_into
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import inject
from adapter_export.models.tokenizer import SAMPLES
from adapter_export.sites import Port
from tests.models.test_tokenizer import bert, raw

# Each has what another lacks: biases, none, Conv1D with a fused projection, shared layers, q/k norms after the
# projection, an encoder and a decoder, images.
CASES = [
    ("bert", "text-classification"),
    ("distilbert", "text-classification"),
    ("albert", "features"),
    ("llama", "causal-lm"),
    ("gpt2", "causal-lm"),
    ("qwen3", "features"),
    ("gemma3_text", "features"),
    ("t5", "seq2seq-lm"),
    ("vit", "image-classification"),
]


@pytest.mark.parametrize(("model_type", "task"), CASES)
def test_merged_folder_computes_what_base_and_adapter_compute(
    model_type: str, task: str, tmp_path: Path, tiny_model: Callable[..., Path], tiny_base: Callable[..., BaseModel],
    random_adapter: Callable[..., Adapter], save_checkpoint: Callable[..., Path], inputs_for: Callable[..., Any],
) -> None:  # fmt: skip
    base = tiny_base(model_type, task, dtype=torch.float64)
    labels = ("a", "b", "c", "d") if base.info.head else None
    folder = save_checkpoint(random_adapter(base.info, "ia3", 5, labels=labels), base.info)
    result = merge(tiny_model(model_type, task), folder, tmp_path / "merged")

    inject(base.module, load_adapter(folder, base.info))
    inputs = {name: torch.from_numpy(array) for name, array in inputs_for(model_type).items()}
    doubled = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    merged_class = getattr(transformers, type(base.module).__name__)
    merged = merged_class.from_pretrained(tmp_path / "merged", dtype=torch.float64).eval()
    with torch.no_grad():
        expected, actual = base.module(**doubled)[0], merged(**doubled)[0]
    # What is left is the rounding of the merged weights to float32.
    assert (actual - expected).abs().max() <= 2e-6 * expected.pow(2).mean().sqrt()
    assert result.architecture == merged_class.__name__
    if labels:
        assert tuple(merged.config.id2label.values()) == labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_weights_are_the_rounded_product(
    model_type: str, dtype: torch.dtype, tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter]
) -> None:
    base = tiny_base(model_type, dtype=dtype)
    adapter = random_adapter(base.info, "ia3", 6)
    before = {name: tensor.clone() for name, tensor in base.module.state_dict().items()}
    changed = merge_into(base.module, adapter)
    after = base.module.state_dict()
    expected = dict(before)
    for site, site_adapter in adapter.sites.items():
        scale = torch.from_numpy(site_adapter.tensors["l"]).double()
        weight = before[f"{site.module}.weight"].double()
        # Conv1D keeps (in, out), Linear (out, in).
        rows = (site.port is Port.INPUT) == (model_type == "gpt2")
        product = weight * (scale[:, None] if rows else scale[None, :])
        expected[f"{site.module}.weight"] = exact(product, dtype)
        if site.port is Port.OUTPUT:
            expected[f"{site.module}.bias"] = exact(before[f"{site.module}.bias"].double() * scale, dtype)
    assert {name for name in after if not torch.equal(after[name], before[name])} == set(changed)
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, expected[name]), name


def exact(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Nearest `dtype` to each value: the better of the plain cast and its two neighbours, ties to the even one."""
    cast = values.to(dtype)
    up, down = torch.tensor(float("inf"), dtype=dtype), torch.tensor(float("-inf"), dtype=dtype)
    choices = torch.stack([cast, torch.nextafter(cast, up), torch.nextafter(cast, down)])
    errors = (choices.double() - values).abs()
    best = errors.min(0)
    tied = (errors == best.values).sum(0)
    assert (tied == 1).all() or dtype is torch.float32, "random products do not lie on midpoints"
    return choices.gather(0, best.indices[None])[0]


def test_dtype_of_the_base_model_is_kept(
    tmp_path: Path, tiny_base: Callable[..., BaseModel], random_adapter: Any, save_checkpoint: Any
) -> None:
    base = tiny_base("bert", dtype=torch.bfloat16)
    base.module.save_pretrained(tmp_path / "base")
    info = load_base(tmp_path / "base").info
    merge(tmp_path / "base", save_checkpoint(random_adapter(info, "ia3"), info), tmp_path / "merged")
    merged = transformers.AutoModel.from_pretrained(tmp_path / "merged")
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}


def test_tokenizer_and_receipt_come_along(
    tmp_path: Path, tiny_model: Callable[..., Path], classifier_checkpoints: dict[str, Path]
) -> None:
    merge(tiny_model("bert"), classifier_checkpoints["ia3_three"], tmp_path / "merged")
    assert (tmp_path / "merged" / "tokenizer.json").read_bytes() == (tiny_model("bert") / "tokenizer.json").read_bytes()
    (entry,) = json.loads((tmp_path / "merged" / "adapter_export.json").read_text())["merged"]
    assert entry["method"] == "ia3"
    assert len(entry["changed"]) == 2 * (2 + 2 + 1)


def test_the_merged_folder_has_the_same_tokenizer(
    tmp_path: Path, tiny_model: Callable[..., Path], classifier_checkpoints: dict[str, Path]
) -> None:
    """Of vocab.txt alone, and of a config that says otherwise than tokenizer.json."""
    base = Path(shutil.copytree(tiny_model("bert"), tmp_path / "base"))
    for number, config in enumerate([None, {"do_lower_case": False}]):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (base / name).unlink(missing_ok=True)
        shutil.copyfile(bert(tmp_path / f"bert{number}", config) / "vocab.txt", base / "vocab.txt")
        if config is not None:
            raw(tmp_path / f"bert{number}", lowercase=True)
            shutil.copyfile(tmp_path / f"bert{number}" / "tokenizer.json", base / "tokenizer.json")
            (base / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **config}))
        merged = tmp_path / f"merged{number}"
        merge(base, classifier_checkpoints["ia3_three"], merged)
        wanted, found = map(transformers.AutoTokenizer.from_pretrained, (base, merged))
        assert [found(text)["input_ids"] for text in SAMPLES] == [wanted(text)["input_ids"] for text in SAMPLES]
        assert (wanted("Hello")["input_ids"] == wanted("hello")["input_ids"]) is (config is None)


def test_the_same_adapter_is_not_merged_twice_but_another_is(
    tmp_path: Path, tiny_model: Callable[..., Path], classifier_checkpoints: dict[str, Path]
) -> None:
    first, second = classifier_checkpoints["ia3_three"], tmp_path / "second"
    shutil.copytree(classifier_checkpoints["ia3_two"], second)
    merge(tiny_model("bert"), first, tmp_path / "once")
    with pytest.raises(CannotMerge, match="already merged into it"):
        merge(tmp_path / "once", first, tmp_path / "twice")
    with pytest.raises(InputError, match="base_sha256"):
        merge(tmp_path / "once", second, tmp_path / "both")
    sidecar = json.loads((second / "adapter_export.json").read_text())
    (second / "adapter_export.json").write_text(json.dumps({**sidecar, "base_sha256": None}))
    merge(tmp_path / "once", second, tmp_path / "both")
    assert len(json.loads((tmp_path / "both" / "adapter_export.json").read_text())["merged"]) == 2
    assert not (tmp_path / "twice").exists()


def test_bottlenecks_cannot_be_merged(
    tmp_path: Path, tiny_model: Callable[..., Path], classifier_checkpoints: dict[str, Path]
) -> None:
    for name in ("houlsby_two", "pfeiffer_five"):
        with pytest.raises(CannotMerge, match=r"not linear \((silu|relu)"):
            merge(tiny_model("bert"), classifier_checkpoints[name], tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_tied_weights_are_not_scaled_for_one_user(
    tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter]
) -> None:
    base = tiny_base("bert")
    layers = base.module.encoder.layer
    layers[1].attention.self.key.weight = layers[0].attention.self.key.weight
    before = {name: tensor.clone() for name, tensor in base.module.state_dict().items()}
    with pytest.raises(CannotMerge, match=r"encoder\.layer\.0\.attention\.self\.key\.weight is tied to 1 other module"):
        merge_into(base.module, random_adapter(base.info, "ia3"))
    assert all(torch.equal(before[name], tensor) for name, tensor in base.module.state_dict().items())


def test_a_result_beyond_the_dtype_is_refused_after_the_cast(
    tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter]
) -> None:
    base = tiny_base("bert", dtype=torch.float16)
    adapter = random_adapter(base.info, "ia3")
    site = next(iter(adapter.sites))
    # Finite in float32, where the product is checked by others; not in float16.
    adapter.sites[site].tensors["l"][:] = 1e6
    before = {name: tensor.clone() for name, tensor in base.module.state_dict().items()}
    with pytest.raises(CannotMerge, match=r"is not finite in torch\.float16 after the merge"):
        merge_into(base.module, adapter)
    assert all(torch.equal(before[name], tensor) for name, tensor in base.module.state_dict().items())


def test_quantized_weights_are_refused(
    tmp_path: Path, tiny_model: Callable[..., Path], classifier_checkpoints: dict[str, Path]
) -> None:
    shutil.copytree(tiny_model("bert"), tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CannotMerge, match="quantized"):
        merge(tmp_path / "base", classifier_checkpoints["ia3_two"], tmp_path / "merged")


def test_norms_cannot_take_a_vector(
    tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter]
) -> None:
    base = tiny_base("bert")
    adapter = random_adapter(base.info, "ia3", target=r"encoder\.layer\.\d\.output\.LayerNorm")
    with pytest.raises(CannotMerge, match="LayerNorm is no linear layer"):
        merge_into(base.module, adapter)


def test_checkpoint_of_the_library_merges_too(
    tmp_path: Path, tiny_model: Callable[..., Path], tiny_base: Callable[..., BaseModel], text_batch: Any
) -> None:
    """PEFT's own folder, with its default targets, which on BERT take in the attention's output as well."""
    from peft import IA3Config, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(
        transformers.AutoModelForSequenceClassification.from_pretrained(tiny_model("bert", "text-classification")),
        IA3Config(task_type="SEQ_CLS"),
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3_l" in name or "modules_to_save" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "peft")
    merge(tiny_model("bert", "text-classification"), tmp_path / "peft", tmp_path / "merged")
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    inputs = {name: torch.from_numpy(array) for name, array in text_batch().items()}
    with torch.no_grad():
        np.testing.assert_allclose(merged(**inputs).logits, model(**inputs).logits, rtol=0, atol=5e-6)
