"""Counts in configs: what a published model has is taken, what would be made one by one for hours is refused."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import transformers.models

from adapter_export.checkpoints.counts import check_counts
from adapter_export.errors import InputError

PATH = Path("config.json")


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"n_layer": 10_001}, "n_layer"),
        ({"n_layers": 2**70}, "n_layers"),
        ({"encoder_layers": 10**6}, "encoder_layers"),
        ({"text_config": {"decoder_layers": 10**6}}, "text_config.decoder_layers"),
        ({"depths": [2, 2, 10**8, 2]}, "depths"),
        ({"num_local_experts": 10**9}, "num_local_experts"),
        ({"num_labels": 10**9}, "num_labels"),
    ],
)
def test_refused_by_its_field(config: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"^config.json: field '{field}': expected 0 to [0-9,]+, found -?\d+"):
        check_counts(config, PATH)


@pytest.mark.parametrize("value", [None, True, 1.5, "x", [], {}, [None, "x", 1.5], {"x": [1]}])
def test_what_is_no_count_is_somebody_elses(value: Any) -> None:
    check_counts({"num_hidden_layers": value, "vision_feature_layer": -2}, PATH)


def test_every_architecture_of_transformers() -> None:
    """By its own defaults, which are those of a published model."""
    checked = 0
    for found in pkgutil.iter_modules(transformers.models.__path__):
        name = f"transformers.models.{found.name}.configuration_{found.name}"
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, transformers.PretrainedConfig) and kind.__module__ == name:
                try:
                    config = kind().to_dict()
                except Exception:  # some need another model's config
                    continue
                check_counts(config, PATH)
                checked += 1
    assert checked > 300
