"""Settings out of range are refused by the option's name."""

from __future__ import annotations

from typing import Any

import pytest

from adapter_export.errors import InputError
from adapter_export.training.settings import TrainingSettings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 2, "max_steps": 5}, "--epochs and --max-steps: expected one of them, found both"),
        ({"epochs": 0}, "--epochs 0: expected a whole number above 0"),
        ({"max_steps": -1}, "--max-steps -1"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"gradient_accumulation": 0}, "--gradient-accumulation 0"),
        ({"patience": 0}, "--early-stopping 0"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0: expected a number above 0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_out_of_range(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingSettings(**{"learning_rate": 1e-3, **given})
