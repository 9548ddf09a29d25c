"""Models whose computation changes with the length of a text in a way that one graph cannot hold."""

from __future__ import annotations

from adapter_export.basemodel import BaseModel
from adapter_export.errors import InputError
from adapter_export.export.rotary import rotary_kinds

_DYNAMIC, _BLOCKS = "dynamic", "block_sparse"


def refuse_unsteady(base: BaseModel) -> None:
    """Raise InputError for such a model, before anything is traced: for `dynamic` rotary frequencies, computed anew for
    every length, and for sparse attention (BigBird's), which short texts do not have."""
    where, name = base.folder / "config.json", base.info.architecture
    if any(_DYNAMIC in kind for module in base.module.modules() for kind in rotary_kinds(module).values()):
        raise InputError(
            f"{where}: rope_type 'dynamic': {name} computes its rotary frequencies anew for every length of text, "
            "which one graph cannot hold; yarn, linear, llama3 and longrope can be exported"
        )
    if getattr(base.module.config, "attention_type", None) == _BLOCKS:
        raise InputError(
            f"{where}: attention_type 'block_sparse': {name} attends to blocks in long texts and to everything in "
            "short ones, which one graph cannot hold; a model with attention_type 'original_full' can be exported"
        )
