"""LoRA of convolutions in the files of a model: Wav2Vec2 and ConvNeXt, as PEFT adapts them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from adapter_export import merge
from adapter_export.errors import InputError
from adapter_export.merging import piecewise

WAV2VEC2: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": (8, 8),
    "conv_stride": (2, 2), "conv_kernel": (3, 3), "num_feat_extract_layers": 2, "vocab_size": 10,
    "num_conv_pos_embedding_groups": 2, "num_conv_pos_embeddings": 4,
}  # fmt: skip
CONVNEXT = {"hidden_sizes": [4, 8, 8, 8], "depths": [1, 1, 1, 1], "image_size": 32}
BIT = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "num_groups": 2}
FIRST = "feature_extractor.conv_layers.1.conv"

# Writes a model and an adapter of PEFT; returns their folders.
Made = Callable[..., tuple[Path, Path]]

pytestmark = pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups > 1:UserWarning")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(model_type: str, config: dict[str, Any], **settings: Any) -> tuple[Path, Path]:
        import peft
        import torch
        from transformers import AutoConfig, AutoModel

        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.for_model(model_type, **config)).eval()
        model.save_pretrained(tmp_path / "base")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, **settings)).eval()
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn_like(parameter))
        wrapped.save_pretrained(tmp_path / "adapter")
        return tmp_path / "base", tmp_path / "adapter"

    return make


@pytest.mark.parametrize("piece", [7, 1 << 16])
def test_a_kernel_is_merged_piece_by_piece_and_rounded_once(
    piece: int, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft
    import torch
    from transformers import AutoModel

    monkeypatch.setattr(piecewise, "_PIECE", piece)
    base, adapter = made("wav2vec2", WAV2VEC2, target_modules=["conv_layers.1.conv", "q_proj"])
    changed = merge(base, adapter, tmp_path / "merged").changed
    assert {f"{FIRST}.weight", "encoder.layers.0.attention.q_proj.weight"} == set(changed)
    held = load_file(adapter / "adapter_model.safetensors")
    a, b = (held[f"base_model.model.{FIRST}.lora_{part}.weight"].astype(np.float64) for part in "AB")
    weight = load_file(base / "model.safetensors")[f"{FIRST}.weight"].astype(np.float64)
    expected = weight + 1.5 * np.einsum("or,rik->oik", b[:, :, 0], a)
    merged = load_file(tmp_path / "merged/model.safetensors")[f"{FIRST}.weight"]
    np.testing.assert_allclose(merged, expected, rtol=1e-7)
    sound = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 200)))
    theirs = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(base).double(), str(adapter)).double().eval()
    ours = AutoModel.from_pretrained(tmp_path / "merged").double().eval()
    with torch.no_grad():
        by_peft, by_ours = theirs(sound)[0], ours(sound)[0]
    assert (by_ours - by_peft).abs().max() < 1e-6 * by_peft.abs().max()


@pytest.mark.parametrize(
    ("model_type", "config", "targets", "message"),
    [
        (
            "convnext",
            CONVNEXT,
            r".*stages\.0.*dwconv",
            r"found \(4, 4, 7, 7\); LoRA of a convolution in groups is not merg",
        ),
        (
            "wav2vec2",
            WAV2VEC2,
            r".*pos_conv_embed\.conv",
            "or a convolution or an embedding that has a weight of its own",
        ),
        (
            "bit",
            BIT,
            r".*layers\.0\.conv1",
            "a convolution or an embedding that .* computes what PyTorch's class computes",
        ),
    ],
)
def test_a_kernel_that_cannot_hold_the_change_is_refused(
    model_type: str, config: dict[str, Any], targets: str, message: str, made: Made, tmp_path: Path
) -> None:
    base, adapter = made(model_type, config, target_modules=targets)
    with pytest.raises(InputError, match=message):
        merge(base, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
