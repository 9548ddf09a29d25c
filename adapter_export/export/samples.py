"""Example inputs to trace with, and which of their axes stay dynamic."""

from __future__ import annotations

import inspect
import logging
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_export import tasks
from adapter_export.architectures.positions import longest_text
from adapter_export.architectures.registry import facts
from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel
from adapter_export.reading.json_files import optional_json

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)
# Sizes of the example: no axis of size 1, which a trace would bake in, and no two alike.
BATCH, SEQUENCE = 3, 9
# What most models for images of any size were trained on.
_USUAL_IMAGE = 224
_DECODER_SEQUENCE, _IMAGES = 7, 4
# Whisper's two convolutions halve the number of frames.
_FRAMES_PER_POSITION = 2
# Above any model's real limit; the axis is bounded by the model's own where its config tells one.
_MAX_BATCH = 1 << 16
_MAX_SEQUENCE = 1 << 20
# Tables of positions, by name, have some rows more than positions: for padding, or an offset.
_POSITIONS, _OFFSET = re.compile(r"pos_|posi|wpe"), 8


@dataclass(frozen=True)
class Sample:
    """inputs: example tensors by name. axes: for each input the name of each dynamic axis by its index; of a cache a
    list, one item a tensor. limits, least: the largest size of each named axis, and the smallest where it is not 1; the
    size of a name without a limit follows from the others."""

    inputs: dict[str, Any]
    axes: dict[str, Any]
    limits: dict[str, int]
    least: dict[str, int] = field(default_factory=dict)


def sample_for(base: BaseModel) -> Sample:
    """A small example for the model's task, of whatever the model reads: texts (input_ids, attention_mask,
    token_type_ids), pixel_values, Whisper's input_features, and a decoder's decoder_input_ids.

    Raises InputError for a model that takes none of these, and for mBART's classifier.
    """
    parameters = inspect.signature(base.module.forward).parameters
    parts = []
    if "input_ids" in parameters:
        parts.append(_texts(base))
    if "pixel_values" in parameters:
        # Beside texts (CLIP), images are as many as one likes.
        parts.append(_images(base, *(("image_batch", _IMAGES) if parts else ("batch", BATCH))))
    if "input_features" in parameters:
        parts.append(_sounds(base))
    if not parts:
        raise InputError(
            f"model {base.folder}: {base.info.architecture} takes neither input_ids nor pixel_values nor "
            "input_features; only text, vision and speech models can be exported"
        )
    shifts = "decoder_input_ids" in parameters and tasks.get(base.task).labelled
    if shifts and facts(base.info.model_type).one_row_differs:
        raise InputError(
            f"model {base.folder}: {base.info.architecture} cannot be exported: it looks for the end of each text in a "
            "way that becomes another for a single row, which one graph cannot hold"
        )
    if "decoder_input_ids" in parameters and not shifts:
        parts.append(_decoder_texts(base))
    merged = Sample({}, {}, {})
    for part in parts:
        merged = Sample(merged.inputs | part.inputs, merged.axes | part.axes, merged.limits | part.limits)
    # The decoder of such a classifier reads the text less one token, and a trace must not think that only one is left.
    return replace(merged, least={"sequence": 3}) if shifts else merged


def _texts(base: BaseModel) -> Sample:
    import torch

    config = base.module.config.get_text_config()
    ids = _ids(base, SEQUENCE)
    # A padded row: with a full mask the exporter would find the mask unused and drop the input.
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    if (pad := getattr(config, "pad_token_id", None)) is not None:
        ids = torch.where(mask.bool(), ids, pad)
    inputs = {"input_ids": ids, "attention_mask": mask}
    parameters = inspect.signature(base.module.forward).parameters
    if "token_type_ids" in parameters and getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    axes = {name: {0: "batch", 1: "sequence"} for name in inputs}
    return Sample(inputs, axes, {"batch": _MAX_BATCH, "sequence": max_sequence(config)})


def _decoder_texts(base: BaseModel) -> Sample:
    config = base.module.config.get_text_config()
    return Sample(
        {"decoder_input_ids": _ids(base, _DECODER_SEQUENCE)},
        {"decoder_input_ids": {0: "batch", 1: "decoder_sequence"}},
        {"batch": _MAX_BATCH, "decoder_sequence": max_sequence(config)},
    )


def _images(base: BaseModel, axis: str, number: int) -> Sample:
    config = getattr(base.module.config, "vision_config", base.module.config)
    height, width = _image_size(base, config)
    pixels = _noise(base, number, config.num_channels, height, width)
    return Sample({"pixel_values": pixels}, {"pixel_values": {0: axis}}, {axis: _MAX_BATCH})


def _image_size(base: BaseModel, config: Any) -> tuple[int, int]:
    """Height and width: the config's or, of a model for images of any size, those that its image processor makes."""
    size = getattr(config, "image_size", None)
    if size is None:
        size = _processed_size(base.folder / "preprocessor_config.json")
    if size is None:
        size = _USUAL_IMAGE
        _log.warning(
            "model %s: neither config.json nor preprocessor_config.json tells the size of images; exported for %d x %d",
            base.folder, size, size,
        )  # fmt: skip
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _processed_size(path: Path) -> Any:
    values = optional_json(path)
    for name in ("crop_size", "size"):
        value = values.get(name)
        if name == "crop_size" and values.get("do_center_crop") is False:
            continue
        if isinstance(value, int):
            return value
        if isinstance(value, dict) and "height" in value and "width" in value:
            return value["height"], value["width"]
        if isinstance(value, dict) and "shortest_edge" in value:
            return value["shortest_edge"]
    return None


def _sounds(base: BaseModel) -> Sample:
    config = base.module.config
    features = _noise(base, BATCH, config.num_mel_bins, _FRAMES_PER_POSITION * config.max_source_positions)
    return Sample({"input_features": features}, {"input_features": {0: "batch"}}, {"batch": _MAX_BATCH})


def _ids(base: BaseModel, length: int) -> torch.Tensor:
    import torch

    vocabulary = base.module.config.get_text_config().vocab_size
    return torch.randint(
        2, max(3, min(100, vocabulary)), (BATCH, length), generator=torch.Generator().manual_seed(length)
    )


def _noise(base: BaseModel, *shape: int) -> torch.Tensor:
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=base.module.dtype)


def position_table(base: BaseModel) -> int:
    """Tokens that the model's table of positions has room for; 0 for a model without one, whose texts may be longer
    than its config has it."""
    config = base.module.config.get_text_config()
    longest = max_sequence(config)
    if facts(base.info.model_type).positions.mask_table:
        return longest
    tensors = (*base.module.named_parameters(), *base.module.named_buffers())
    found = any(
        _POSITIONS.search(name) and tensor.ndim == 2 and longest <= len(tensor) <= longest + _OFFSET
        for name, tensor in tensors
    )
    return longest if found else 0


def limited(config: Any) -> bool:
    """Whether the config says how long a text may be."""
    return max_sequence(config) < _MAX_SEQUENCE


def max_sequence(config: Any) -> int:
    """Longest text that a graph of the model takes."""
    longest = longest_text(config.model_type, lambda name: getattr(config, name, None))
    if longest is None:
        return _MAX_SEQUENCE
    # A causal mask that is cut from a table: a trace cannot leave the table whole.
    return longest - facts(config.model_type).positions.mask_table
