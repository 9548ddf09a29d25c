"""An embedding that is the output layer too is found by the files of a model, and is not changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapter_export import plan_merge
from adapter_export.errors import CannotMerge
from tests.merging.models import CONFIG, HIDDEN, VOCABULARY, tensors, write_model


@pytest.mark.parametrize(
    ("config", "outputs", "refused"),
    [
        ({"tie_word_embeddings": True}, False, True),
        ({"tie_word_embeddings": True}, True, True),
        ({"tie_word_embeddings": None}, False, True),
        ({"tie_word_embeddings": None}, True, False),
        ({"tie_word_embeddings": False}, True, False),
        ({"tie_word_embeddings": None, "vocab_size": None}, False, True),
        ({"tie_word_embeddings": True, "architectures": ["LlamaModel"]}, False, False),
        ({"tie_word_embeddings": True, "architectures": ["LlamaForSequenceClassification"]}, False, False),
        ({"tie_word_embeddings": None, "text_config": {"tie_word_embeddings": False}}, False, False),
    ],
)
def test_whether_a_table_is_the_output_layer_is_found_without_the_model(
    config: dict[str, Any], outputs: bool, refused: bool, tmp_path: Path
) -> None:
    base = write_model(tmp_path / "base", **config)
    said = {name: value for name, value in {**CONFIG, **config}.items() if value is not None}
    (base / "config.json").write_text(json.dumps(said))
    held = {name: values for name, values in tensors().items() if outputs or name != "lm_head.weight"}
    save_file(held, base / "model.safetensors", metadata={"format": "pt"})
    adapter, name = tmp_path / "adapter", "base_model.model.model.embed_tokens.lora_embedding"
    adapter.mkdir()
    matrices = {f"{name}_A": np.ones((1, VOCABULARY), np.float32), f"{name}_B": np.ones((HIDDEN, 1), np.float32)}
    save_file(matrices, adapter / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 1, "target_modules": ["embed_tokens"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    if refused:
        with pytest.raises(
            CannotMerge, match=r"model\.embed_tokens\.weight: LlamaForCausalLM has this table as its out"
        ):
            plan_merge(base, adapter, tmp_path / "model", task="features")
    else:
        plan_merge(base, adapter, tmp_path / "model", task="features")
