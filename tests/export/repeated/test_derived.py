"""Constants that the exporter computed from weights are recognized, and made for other weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch

from adapter_export.export.repeated.derived import constant_of, form_of

FORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "itself": lambda weight: weight,
    "transposed": lambda weight: weight.t(),
    "reshaped": lambda weight: weight.reshape(1, 4, 1, 3),
    "float32": lambda weight: weight.float(),
    "one more": lambda weight: 1.0 + weight,
    "one more in float32": lambda weight: 1.0 + weight.float(),
}


def weight(seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("made", FORMS)
def test_a_constant_is_made_for_another_weight(made: str, dtype: torch.dtype) -> None:
    known = [(ir.tensor(FORMS[made](weight(seed, dtype)).contiguous()), weight(seed, dtype)) for seed in (0, 1)]
    form = form_of(*known)
    assert form is not None
    constant = constant_of(form, weight(2, dtype), known[0][0], "name")
    expected = FORMS[made](weight(2, dtype))
    assert constant.name == "name"
    assert np.array_equal(constant.numpy(), ir.tensor(expected.contiguous()).numpy())
    assert constant.tobytes() == ir.tensor(expected.contiguous()).tobytes()


def test_what_is_not_known_for_both_is_not_guessed() -> None:
    one, two = weight(0, torch.float32), weight(1, torch.float32)
    assert form_of((ir.tensor(one), one), (ir.tensor(two * 2), two)) is None
    assert form_of((ir.tensor(one), one), (ir.tensor(two.t().contiguous()), two)) is None
    assert form_of((ir.tensor(one.double()), one), (ir.tensor(two.double()), two)) is None
