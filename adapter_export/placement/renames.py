"""Module paths of older transformers versions, and what they are called now.

Checkpoints keep the names of the version they were made with, in tensor names and in target modules. Found by comparing
`named_modules()` of every architecture of the tables under transformers 4.57.6 and 5.23.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# model_type -> pairs (then, now), the first that fits counts. `N` is a number; a pair holds for the module, for all
# below it, and whatever a task class or a library puts before.
RENAMES: Mapping[str, tuple[tuple[str, str], ...]] = {
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
    "dinov2": (
        ("encoder.layer.N.attention.attention.query", "encoder.layer.N.attention.q_proj"),
        ("encoder.layer.N.attention.attention.key", "encoder.layer.N.attention.k_proj"),
        ("encoder.layer.N.attention.attention.value", "encoder.layer.N.attention.v_proj"),
        ("encoder.layer.N.attention.output.dense", "encoder.layer.N.attention.o_proj"),
        ("encoder.layer.N.mlp.weights_out", "encoder.layer.N.mlp.down_proj"),
    ),
    "gpt_neox": (("embed_out", "lm_head"),),
    # The experts themselves are one parameter now: `experts.N.w2` has no counterpart.
    "mixtral": (("layers.N.block_sparse_moe", "layers.N.mlp"),),
    "vit": (
        ("encoder.layer.N.attention.attention.query", "layers.N.attention.q_proj"),
        ("encoder.layer.N.attention.attention.key", "layers.N.attention.k_proj"),
        ("encoder.layer.N.attention.attention.value", "layers.N.attention.v_proj"),
        ("encoder.layer.N.attention.output.dense", "layers.N.attention.o_proj"),
        ("encoder.layer.N.intermediate.dense", "layers.N.mlp.fc1"),
        ("encoder.layer.N.output.dense", "layers.N.mlp.fc2"),
        ("encoder.layer.N", "layers.N"),
    ),
}


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
        pattern = re.escape(source).replace(r"\.N", r"\.(\d+)")
        if match := re.search(rf"(?:^|\.)({pattern})(?:\.|$)", path):
            # No pair has more than one number.
            new = target.replace(".N", f".{match[2]}") if match.re.groups == 2 else target
            return path[: match.start(1)] + new + path[match.end(1) :]
    return path
