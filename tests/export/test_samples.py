"""What a model is traced with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from adapter_export.errors import InputError
from adapter_export.export.samples import sample_for
from adapter_export.models.base_model import BaseModel

TEXT = {0: "batch", 1: "sequence"}
DECODER = {0: "batch", 1: "decoder_sequence"}
IMAGES = {0: "batch"}


@pytest.mark.parametrize(
    ("model_type", "task", "axes"),
    [
        ("bert", "features", {"input_ids": TEXT, "attention_mask": TEXT, "token_type_ids": TEXT}),
        ("llama", "causal-lm", {"input_ids": TEXT, "attention_mask": TEXT}),
        ("t5", "seq2seq-lm", {"input_ids": TEXT, "attention_mask": TEXT, "decoder_input_ids": DECODER}),
        ("t5", "features", {"input_ids": TEXT, "attention_mask": TEXT, "decoder_input_ids": DECODER}),
        # A classifier makes the decoder's input from the text.
        ("bart", "text-classification", {"input_ids": TEXT, "attention_mask": TEXT}),
        ("whisper", "seq2seq-lm", {"input_features": {0: "batch"}, "decoder_input_ids": DECODER}),
        ("vit", "image-classification", {"pixel_values": IMAGES}),
        ("clip_text_model", "features", {"input_ids": TEXT, "attention_mask": TEXT}),
        ("clip", "features", {"input_ids": TEXT, "attention_mask": TEXT, "pixel_values": {0: "image_batch"}}),
        ("clip", "image-classification", {"pixel_values": IMAGES}),
    ],
)
def test_inputs_and_their_dynamic_axes(
    model_type: str, task: str, axes: dict[str, Any], tiny_base: Callable[..., BaseModel]
) -> None:
    import torch

    base = tiny_base(model_type, task)
    sample = sample_for(base)
    assert sample.axes == axes
    assert sample.inputs.keys() == axes.keys()
    sizes = {(axis, sample.inputs[name].shape[i]) for name, named in axes.items() for i, axis in named.items()}
    assert len(sizes) == len({axis for axis, _ in sizes}), "one size for each axis"
    assert len(sizes) == len({size for _, size in sizes}), "and no two alike"
    assert min(size for _, size in sizes) > 1
    assert sample.limits.keys() == {axis for axis, _ in sizes}
    if not sample.least:  # those classifiers want one end in each text, which a trace does not look at
        with torch.no_grad():
            base.module(**sample.inputs)


def test_limits_are_the_models_own(tiny_base: Callable[..., BaseModel]) -> None:
    assert sample_for(tiny_base("bert")).limits["sequence"] == 64
    assert sample_for(tiny_base("gpt_neo")).limits["sequence"] == 63
    # Its position table has two rows for padding.
    assert sample_for(tiny_base("mpnet")).limits["sequence"] == 62
    assert sample_for(tiny_base("whisper", "seq2seq-lm", max_target_positions=48)).limits["decoder_sequence"] == 48


def test_a_classifier_that_shifts_its_text_is_not_traced_as_if_one_token_were_left(
    tiny_base: Callable[..., BaseModel],
) -> None:
    assert sample_for(tiny_base("bart", "text-classification")).least == {"sequence": 3}
    assert sample_for(tiny_base("bert", "text-classification")).least == {}
    assert sample_for(tiny_base("t5", "seq2seq-lm")).least == {}


def test_the_classifier_whose_graph_would_fail_on_one_row_is_refused(tiny_base: Callable[..., BaseModel]) -> None:
    with pytest.raises(InputError, match=r"MBartForSequenceClassification cannot be exported: .* for a single row"):
        sample_for(tiny_base("mbart", "text-classification"))


def test_a_model_that_reads_nothing_known_is_refused(tiny_base: Callable[..., BaseModel]) -> None:
    class Taster:
        def forward(self, flavours: Any) -> None: ...

    base = replace(tiny_base("bert"), module=Taster())
    with pytest.raises(InputError, match="takes neither input_ids nor pixel_values nor input_features; only text"):
        sample_for(base)
