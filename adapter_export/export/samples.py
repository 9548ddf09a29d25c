"""Example inputs for tracing, and which of their axes stay dynamic."""

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
# Sizes of the example inputs. All are different, and none is 1, which a trace would make constant.
BATCH, SEQUENCE = 3, 9
# The image size on which most models for images of any size were trained, in pixels.
_USUAL_IMAGE = 224
_DECODER_SEQUENCE, _IMAGES = 7, 4
# Whisper's two convolutions halve the number of frames.
_FRAMES_PER_POSITION = 2
# Upper bounds of axes, above the limit of any model. If the config has a limit for texts, that one is used.
_MAX_BATCH = 1 << 16
_MAX_SEQUENCE = 1 << 20
# Tables of positions are recognized by name. They may have a few rows more than positions, for padding or an offset.
_POSITIONS, _OFFSET = re.compile(r"pos_|posi|wpe"), 8


@dataclass(frozen=True)
class Sample:
    """Example inputs of a stage, with their dynamic axes.

    Attributes:
        inputs: Example tensors by name.
        axes: Names of the dynamic axes, {input: {axis index: axis name}}. For a cache, a list with one such dict per
            tensor.
        limits: Maximum size per axis name. The size of an axis without a limit is derived from the others.
        least: Minimum size per axis name; 1 if absent.
    """

    inputs: dict[str, Any]
    axes: dict[str, Any]
    limits: dict[str, int]
    least: dict[str, int] = field(default_factory=dict)


def sample_for(base: BaseModel) -> Sample:
    """Returns small example inputs for the model's task.

    They are all inputs that the model takes, among: texts (input_ids, attention_mask, token_type_ids), pixel_values,
    input_features (Whisper), and decoder_input_ids.

    Args:
        base: The base model.

    Raises:
        InputError: The model takes none of these inputs, or is a classifier of mBART.
    """
    parameters = inspect.signature(base.module.forward).parameters
    parts = []
    if "input_ids" in parameters:
        parts.append(_texts(base))
    if "pixel_values" in parameters:
        # With texts (CLIP), the number of images is independent of the number of texts.
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
    # The decoder of such a classifier reads one token less than the text has. The trace must not assume that this
    # leaves a single token.
    return replace(merged, least={"sequence": 3}) if shifts else merged


def _texts(base: BaseModel) -> Sample:
    import torch

    config = base.module.config.get_text_config()
    ids = _ids(base, SEQUENCE)
    # One row is padded. With a full mask, the exporter would consider the mask unused and remove the input.
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
    """Returns the height and width of images in pixels, from the config.

    For a model that takes images of any size, they are those of the output of its image processor.
    """
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
    """Returns the size of processed images in preprocessor_config.json: one number, or height and width; or None."""
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
    """Returns the number of positions in the model's table of positions.

    0 for a model without a table. Its texts may be longer than its config says.
    """
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
    """Returns whether the config limits the length of texts."""
    return max_sequence(config) < _MAX_SEQUENCE


def max_sequence(config: Any) -> int:
    """Returns the number of tokens of the longest text that a graph of the model takes."""
    longest = longest_text(config.model_type, lambda name: getattr(config, name, None))
    if longest is None:
        return _MAX_SEQUENCE
    # Some models cut their causal mask from a table. A trace cannot use the complete table.
    return longest - facts(config.model_type).positions.mask_table
