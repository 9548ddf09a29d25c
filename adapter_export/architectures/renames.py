"""Module paths of older transformers versions, and what they are called now.

Checkpoints keep the names of the version they were made with, in tensor names and in target modules. Found by comparing
`named_modules()` of every architecture of the tables under transformers 4.57.6 and 5.23.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Of layers as ViT has them.
_VIT_LAYER = (
    ("encoder.layer.N.attention.attention.query", "layers.N.attention.q_proj"),
    ("encoder.layer.N.attention.attention.key", "layers.N.attention.k_proj"),
    ("encoder.layer.N.attention.attention.value", "layers.N.attention.v_proj"),
    ("encoder.layer.N.attention.output.dense", "layers.N.attention.o_proj"),
    ("encoder.layer.N.intermediate.dense", "layers.N.mlp.fc1"),
    ("encoder.layer.N.output.dense", "layers.N.mlp.fc2"),
    ("encoder.layer.N", "layers.N"),
)
_DINOV2_LAYER = (
    ("encoder.layer.N.attention.attention.query", "encoder.layer.N.attention.q_proj"),
    ("encoder.layer.N.attention.attention.key", "encoder.layer.N.attention.k_proj"),
    ("encoder.layer.N.attention.attention.value", "encoder.layer.N.attention.v_proj"),
    ("encoder.layer.N.attention.output.dense", "encoder.layer.N.attention.o_proj"),
    ("encoder.layer.N.mlp.weights_out", "encoder.layer.N.mlp.down_proj"),
)
_SEGFORMER_BLOCK = (
    ("attention.self.query", "attention.q_proj"),
    ("attention.self.key", "attention.k_proj"),
    ("attention.self.value", "attention.v_proj"),
    ("attention.self.sr", "attention.sequence_reduction.sequence_reduction"),
    ("attention.self.layer_norm", "attention.sequence_reduction.layer_norm"),
    ("attention.output.dense", "attention.o_proj"),
    ("mlp.dense1", "mlp.fc1"),
    ("mlp.dense2", "mlp.fc2"),
    ("layer_norm_1", "layernorm_before"),
    ("layer_norm_2", "layernorm_after"),
)
# A language model within a model that reads images, too.
_LANGUAGE_MODEL = (
    ("language_model.model", "language_model"),
    ("language_model.lm_head", "lm_head"),
    ("vision_tower.vision_model", "vision_tower"),
)
# model_type -> pairs (then, now), the first that fits counts. `N` is a number; a pair holds for the module, for all
# below it, and whatever a task class or a library puts before.
RENAMES: Mapping[str, tuple[tuple[str, str], ...]] = {
    **dict.fromkeys(
        ("audio-spectrogram-transformer", "beit", "deit", "ijepa", "vit", "vit_mae", "vit_msn", "vivit"), _VIT_LAYER
    ),
    **dict.fromkeys(("dinov2", "dinov2_with_registers"), _DINOV2_LAYER),
    **dict.fromkeys(
        ("aria", "aya_vision", "gemma3", "got_ocr2", "internvl", "llava", "llava_next", "llava_next_video",
         "llava_onevision", "mistral3", "paligemma", "vipllava"),
        _LANGUAGE_MODEL,
    ),
    "clip_text_model": (
        ("text_model.embeddings", "embeddings"),
        ("text_model.encoder", "encoder"),
        ("text_model.final_layer_norm", "final_layer_norm"),
    ),
    "clip_vision_model": (
        ("vision_model.embeddings", "embeddings"),
        ("vision_model.encoder", "encoder"),
        ("vision_model.pre_layrnorm", "pre_layrnorm"),
        ("vision_model.post_layernorm", "post_layernorm"),
    ),
    "gpt_neox": (("embed_out", "lm_head"),),
    # The experts themselves are one parameter now: `experts.N.w2` has no counterpart.
    "mixtral": (("layers.N.block_sparse_moe", "layers.N.mlp"),),
    "segformer": (
        *((f"encoder.block.N.N.{then}", f"stages.N.blocks.N.{now}") for then, now in _SEGFORMER_BLOCK),
        ("encoder.block.N.N", "stages.N.blocks.N"),
        ("encoder.patch_embeddings.N", "stages.N.patch_embeddings"),
        ("encoder.layer_norm.N", "stages.N.layer_norm"),
    ),
    "swin": (
        ("attention.self.query", "attention.q_proj"),
        ("attention.self.key", "attention.k_proj"),
        ("attention.self.value", "attention.v_proj"),
        ("attention.self.relative_position_bias_table",
         "attention.relative_position_bias.relative_position_bias_table"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ),
}  # fmt: skip


def canonical(model_type: str, path: str) -> str:
    """The module path of today for one of any version; a path that never changed, or is unknown, stays as it is.

    Paths may go on below the module (`....key.weight`) and may start above the base model (`base_model.model.vit....`).
    """
    return _translate(path, RENAMES.get(model_type, ()))


def former(model_type: str, path: str) -> str:
    """The path that transformers 4 had for a module of today, below the base model: what an old checkpoint's target
    modules were matched against."""
    return _translate(path, [(now, then) for then, now in RENAMES.get(model_type, ())])


def _translate(path: str, pairs: Iterable[tuple[str, str]]) -> str:
    for source, target in pairs:
        if match := _pattern(source).search(path):
            new = target
            for number in match.groups()[1:]:
                new = re.sub(r"\.N\b", f".{number}", new, count=1)
            return path[: match.start(1)] + new + path[match.end(1) :]
    return path


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(r"(?:^|\.)(" + re.escape(path).replace(r"\.N", r"\.(\d+)") + r")(?:\.|$)")
