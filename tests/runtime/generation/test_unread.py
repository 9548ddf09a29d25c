"""Fields that are not read are named, where they would have changed something."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from adapter_export.runtime.generation.unread import unread, unread_of_draws
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported
from tests.runtime.generation.test_rules import with_config

DRAWN = {"temperature": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.8, "epsilon_cutoff": 3e-4,
         "eta_cutoff": 1e-3}  # fmt: skip
OTHERS = {"num_beams": 4, "penalty_alpha": 0.6, "dola_layers": "high", "guidance_scale": 1.5, "stop_strings": ["."],
          "watermarking_config": {"bias": 2.0}, "max_time": 3.0}  # fmt: skip


def test_each_is_named() -> None:
    assert set(unread({**OTHERS, **DRAWN})) == set(OTHERS)
    assert set(unread({**DRAWN, "do_sample": True})) == {"do_sample", *DRAWN}
    assert set(unread_of_draws({**OTHERS, **DRAWN})) == set(DRAWN)


def test_values_that_change_nothing_are_not() -> None:
    """Transformers' own defaults, with every field written out."""
    from transformers import GenerationConfig

    values: dict[str, Any] = {**GenerationConfig().to_dict(), **GenerationConfig._get_default_generation_params()}
    assert unread(values) == unread_of_draws(values) == ()
    assert unread({"repetition_penalty": 1.2, "max_length": 20, "length_penalty": 2.0, "do_sample": False}) == ()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "num_beams, do_sample, temperature, min_p"),
        ({"temperature": 0.7}, "num_beams, min_p"),
    ],
)
def test_a_session_says_so_once(
    llama_bundle: Exported, tmp_path: Path, caplog: Any, settings: dict[str, Any], named: str
) -> None:
    values = {"num_beams": 3, "do_sample": True, "temperature": 0.5, "min_p": 0.2}
    bundle = with_config(llama_bundle.bundle, tmp_path / "bundle", values)
    with caplog.at_level(logging.WARNING), AdapterSession(bundle) as session:
        for _ in range(2):
            session.generate([[5]], max_new_tokens=1, **settings)
    assert [record.getMessage() for record in caplog.records] == [
        f"bundle {bundle}: generation_config.json: not read: {named}"
    ]
