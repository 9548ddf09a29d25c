"""The cases have all documented shapes, and the inputs have the documented contents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from adapter_export.bundle.manifest import TensorInfo
from adapter_export.dtypes import DType
from adapter_export.errors import InputError
from adapter_export.export.samples import SEQUENCE
from adapter_export.parity.borders import borders_of
from adapter_export.parity.cases import (
    BATCHES,
    LONGEST,
    PRIME,
    BorderCase,
    ParityCase,
    TextLimits,
    cases_for,
    image_cases,
    kept_positions,
    make_inputs,
    text_cases,
)

LIMITS = TextLimits(vocabulary=50, pad=3, types=2, longest=64, values=32)
TEXT = {
    name: TensorInfo(DType.INT64, ("batch", "sequence")) for name in ("input_ids", "attention_mask", "token_type_ids")
}


def test_every_shape_that_is_judged() -> None:
    cases = text_cases(LIMITS)
    assert len(cases) == len(set(cases)) == len({case.name for case in cases})
    assert {case.batch for case in cases} == {1, 2, 3}
    assert {case.length for case in cases} == {1, SEQUENCE - 1, SEQUENCE, SEQUENCE + 1, PRIME, 64}
    assert {case.padding for case in cases} == {"none", "left", "right"}
    assert all(PRIME % divisor for divisor in range(2, PRIME))
    for length in (SEQUENCE - 1, SEQUENCE, SEQUENCE + 1, PRIME):
        for batch in (1, 2, 3):
            assert {ParityCase(batch, length, "left"), ParityCase(batch, length, "right")} <= set(cases)


def test_long_models_are_judged_up_to_a_limit() -> None:
    assert max(case.length for case in text_cases(TextLimits(50, 0, 0, 131_072, 32))) == LONGEST
    # One output of the longest case: 2 rows of 1 << 17 values per token.
    assert TextLimits(1 << 17, 0, 0, 131_072, 1 << 17).standard_length == 64


def test_short_models() -> None:
    assert {case.length for case in text_cases(TextLimits(50, 0, 0, 8, 32))} == {1, 8}
    assert {case.length for case in text_cases(TextLimits(50, 0, 0, 1, 32))} == {1}


@pytest.mark.parametrize("case", text_cases(LIMITS), ids=lambda case: case.name)
def test_inputs_are_texts_with_padding(case: ParityCase) -> None:
    inputs = make_inputs(case, TEXT, LIMITS, seed=1)
    ids, mask, types = (inputs[name] for name in TEXT)
    assert ids.shape == mask.shape == types.shape == (case.batch, case.length)
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int64)}
    np.testing.assert_array_equal(ids != LIMITS.pad, mask.astype(bool))
    assert ids.min() >= 0
    assert ids.max() < LIMITS.vocabulary
    assert set(np.unique(types)) <= {0, 1}
    assert not types[mask == 0].any()
    lengths = mask.sum(1)
    assert lengths.min() >= 1
    expected_full = case.padding == "none" or case.batch > 1
    assert (lengths[0] == case.length) == expected_full
    if case.padding != "none":
        assert lengths.min() < case.length
        edge = -1 if case.padding == "left" else 0
        assert mask[:, edge].all()
        assert (np.diff(mask, axis=1) != 0).sum(1).max() == 1


def test_inputs_are_the_same_again_and_differ_by_seed() -> None:
    case = ParityCase(3, 13, "left")
    first, again, other = (make_inputs(case, TEXT, LIMITS, seed)["input_ids"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_every_token_but_padding_is_drawn() -> None:
    ids = make_inputs(ParityCase(3, 512), TEXT, LIMITS, seed=1)["input_ids"]
    assert set(np.unique(ids)) == set(range(50)) - {LIMITS.pad}
    assert set(np.unique(make_inputs(ParityCase(3, 512), TEXT, LIMITS, seed=1)["token_type_ids"])) == {0, 1}


def test_images() -> None:
    assert image_cases() == [ParityCase(1), ParityCase(2), ParityCase(3)]
    inputs = make_inputs(ParityCase(2), {"pixel_values": TensorInfo(DType.FLOAT32, ("batch", 3, 16, 8))}, None, seed=0)
    assert inputs["pixel_values"].shape == (2, 3, 16, 8)
    assert inputs["pixel_values"].dtype == np.float32


SOUNDS = {"input_features": TensorInfo(DType.FLOAT32, ("batch", 8, 20)), "decoder_input_ids": TEXT["input_ids"]}


def test_sounds_and_the_texts_of_the_decoder() -> None:
    cases = cases_for(SOUNDS, LIMITS)
    assert {case.padding for case in cases} == {"none"}
    assert {(case.batch, case.length) for case in cases} >= {(batch, n) for batch in BATCHES for n in (1, 9, 64)}
    inputs = make_inputs(ParityCase(2, 64), SOUNDS, LIMITS, seed=0)
    assert inputs["input_features"].shape == (2, 8, 20)
    assert inputs["input_features"].dtype == np.float32
    # The decoder's text has the full length here; next to an encoder's text it is shorter.
    assert inputs["decoder_input_ids"].shape == (2, 64)
    assert make_inputs(ParityCase(2, 64), {**TEXT, **SOUNDS}, LIMITS, seed=0)["decoder_input_ids"].shape == (2, 62)


def test_texts_and_images_differ_in_number() -> None:
    pixels = {"pixel_values": TensorInfo(DType.FLOAT32, ("image_batch", 3, 16, 8))}
    assert cases_for({**TEXT, **pixels}, LIMITS) == text_cases(LIMITS)
    inputs = make_inputs(ParityCase(2, 9, "left"), {**TEXT, **pixels}, LIMITS, seed=0)
    assert (len(inputs["pixel_values"]), len(inputs["input_ids"])) == (3, 2)
    assert cases_for(pixels, None) == image_cases()


@pytest.mark.parametrize("case", text_cases(LIMITS), ids=lambda case: case.name)
@pytest.mark.parametrize("pad", [0, 3])
def test_texts_with_an_end_token(case: ParityCase, pad: int) -> None:
    limits = TextLimits(vocabulary=7, pad=pad, types=0, longest=64, values=32, end=2)
    inputs = make_inputs(case, TEXT, limits, seed=1)
    ids, mask = inputs["input_ids"], inputs["attention_mask"].astype(bool)
    np.testing.assert_array_equal(ids != pad, mask)
    assert ((ids == 2).sum(axis=1) == 1).all()
    for row, kept in zip(ids, mask, strict=True):
        assert row[kept][-1] == 2


@pytest.mark.parametrize("limits", [LIMITS, None])
def test_an_input_of_another_kind_is_refused(limits: TextLimits | None) -> None:
    with pytest.raises(InputError, match="graph input 'bbox': parity can make"):
        make_inputs(ParityCase(1, 4), {"bbox": TensorInfo(DType.INT64, ("batch", "sequence", 4))}, limits, seed=0)


def test_positions_that_are_compared() -> None:
    inputs = make_inputs(ParityCase(2, 9, "left"), TEXT, LIMITS, seed=0)
    kept = kept_positions(inputs, np.zeros((2, 9, 4)))
    assert kept is not None
    np.testing.assert_array_equal(kept, inputs["attention_mask"] == 1)
    assert kept_positions(inputs, np.zeros((2, 4))) is None
    # Two labels for each of nine images are not tokens.
    assert kept_positions({"pixel_values": np.zeros((2, 3, 8, 8))}, np.zeros((2, 9, 4))) is None
    # As many labels as tokens are not tokens either.
    assert kept_positions(inputs, np.zeros((2, 9))) is None


def test_texts_on_both_sides_of_each_border() -> None:
    limits = replace(LIMITS, borders=(20, 40), positions=64)
    assert limits.checked_borders == (20, 40, 64)
    cases = [case for case in text_cases(limits) if isinstance(case, BorderCase)]
    # One token less than the border, as many, and one more; no row has more tokens than there are positions.
    assert {case.kept for case in cases} == {(21, 20, 19), (41, 40, 39), (64, 63)}
    assert {(case.length, case.padding) for case in cases} == {(n, p) for n in (21, 41, 64) for p in ("left", "right")}
    for case in cases:
        mask = make_inputs(case, TEXT, limits, seed=1)["attention_mask"]
        assert tuple(mask.sum(1)) == case.kept
        assert mask[:, -1 if case.padding == "left" else 0].all()
    # The cases at the last position replace those of the longest text.
    assert ParityCase(2, 64, "right") not in text_cases(limits)
    assert ParityCase(2, 64, "right") in text_cases(LIMITS)
    assert limits.checked_length is None


def test_the_length_that_is_checked() -> None:
    # Borders beyond LONGEST are checked as far as parameters and values allow.
    limits = TextLimits(50, 0, 0, 4096, 32, borders=(1024,), parameters=100_000)
    assert (limits.checked_borders, limits.checked_length) == ((1024,), 1025)
    assert TextLimits(50, 0, 0, 1024, 32, positions=1024).checked_length is None
    large = replace(limits, parameters=100_000_000)
    assert (large.checked_borders, large.checked_length) == ((), LONGEST)
    # A border beyond the checked length; a maximum beyond it; neither of them.
    assert (
        TextLimits(50, 0, 0, 1 << 20, 32, borders=(600,), parameters=1 << 30, unbounded=True).checked_length == LONGEST
    )
    assert TextLimits(1 << 17, 0, 0, 131_072, 1 << 17).checked_length == 64
    assert TextLimits(50, 0, 0, 1 << 20, 32, unbounded=True).checked_length is None
    assert LIMITS.checked_length is None
    assert replace(LIMITS, generation_limit=16).checked_length == 16


@pytest.mark.parametrize(
    ("config", "borders"),
    [
        ({"sliding_window": 6}, (6,)),
        ({"sliding_window": 6, "use_sliding_window": False}, ()),
        ({"sliding_window": None}, ()),
        ({"sliding_window": 6, "layer_types": ["full_attention"] * 2}, ()),
        ({"sliding_window": 6, "layer_types": ["full_attention", "sliding_attention"]}, (6,)),
        ({"attention_chunk_size": 8, "layer_types": ["full_attention"]}, ()),
        ({"attention_chunk_size": 8, "floor_scale": 32, "layer_types": ["chunked_attention"]}, (8, 32)),
        ({"window_size": 4, "attention_layers": ["global", "local"]}, (4,)),
        ({"window_size": 4, "attention_layers": ["global"]}, ()),
        ({"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 16}}, (16,)),
        ({"rope_parameters": {"full_attention": {"original_max_position_embeddings": 16}}}, (16,)),
        ({"text_config": {"sliding_window": 6, "layer_types": ["sliding_attention"]}}, (6,)),
        ({"max_position_embeddings": 64}, ()),
    ],
)
def test_borders_of_a_config(config: dict[str, Any], borders: tuple[int, ...]) -> None:
    assert borders_of(config) == borders
