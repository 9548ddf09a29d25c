"""Example inputs to trace with, and which of their axes stay dynamic."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapter_export.basemodel import BaseModel
from adapter_export.errors import InputError

if TYPE_CHECKING:
    import torch

# Sizes of the example: no axis of size 1, which a trace would bake in, and no two alike.
BATCH, SEQUENCE = 3, 9
# Above any model's real limit; the axis is bounded by the model's own where its config tells one.
_MAX_BATCH = 1 << 16
_MAX_SEQUENCE = 1 << 20


@dataclass(frozen=True)
class Sample:
    """inputs: example tensors by name. axes: for each input the name of each dynamic axis by its index. limits: the
    largest size of each named axis."""

    inputs: dict[str, torch.Tensor]
    axes: dict[str, dict[int, str]]
    limits: dict[str, int]


def sample_for(base: BaseModel) -> Sample:
    """A small example for the model's task: text (input_ids, attention_mask, token_type_ids) or pixel_values.

    Raises InputError for a model that takes neither.
    """
    import torch

    parameters = inspect.signature(base.module.forward).parameters
    config = base.module.config
    generator = torch.Generator().manual_seed(0)
    if "pixel_values" in parameters:
        channels, size = config.num_channels, config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        pixels = torch.randn(BATCH, channels, height, width, generator=generator, dtype=base.module.dtype)
        return Sample({"pixel_values": pixels}, {"pixel_values": {0: "batch"}}, {"batch": _MAX_BATCH})
    if "input_ids" not in parameters:
        raise InputError(
            f"model {base.folder}: {base.info.architecture} takes neither input_ids nor pixel_values; "
            "only text and vision models can be exported"
        )
    text = config.get_text_config()
    ids = torch.randint(2, max(3, min(100, text.vocab_size)), (BATCH, SEQUENCE), generator=generator)
    # A padded row: with a full mask the exporter would find the mask unused and drop the input.
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    if (pad := getattr(text, "pad_token_id", None)) is not None:
        ids = torch.where(mask.bool(), ids, pad)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in parameters and getattr(text, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    axes = {name: {0: "batch", 1: "sequence"} for name in inputs}
    return Sample(inputs, axes, {"batch": _MAX_BATCH, "sequence": max_sequence(text)})


def max_sequence(config: Any) -> int:
    """Longest sequence the model takes: its position table, less the rows that some models keep for padding."""
    positions = int(getattr(config, "max_position_embeddings", None) or _MAX_SEQUENCE)
    match config.model_type:
        case "mpnet":
            return positions - 2  # its padding row is 1, whatever the config says
        case "roberta" | "xlm-roberta" | "camembert":
            return positions - int(config.pad_token_id or 0) - 1
        case _:
            return positions
