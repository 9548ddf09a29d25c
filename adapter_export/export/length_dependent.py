"""Refuses models whose computation depends on the length of a text in a way that one graph cannot represent."""

from __future__ import annotations

from adapter_export.errors import InputError
from adapter_export.export.rotary import rotary_kinds
from adapter_export.models.base_model import BaseModel

_DYNAMIC, _BLOCKS = "dynamic", "block_sparse"


def refuse_unsteady(base: BaseModel) -> None:
    """Checks the model before it is traced.

    Args:
        base: The base model.

    Raises:
        InputError: The model has `dynamic` rotary frequencies, which are computed for every length, or sparse attention
            (BigBird), which it does not use for short texts.
    """
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
