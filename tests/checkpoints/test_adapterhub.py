"""What AdapterHub's library has written over the years; what it computes is held by the golden cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError
from adapter_export.methods.bottleneck import BottleneckOperator
from adapter_export.modelinfo import ModelInfo

Good = Callable[[str], Path]


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    change(config)
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("versioned", "name", "expected"),
    [
        (True, "gelu", "gelu"),
        (True, "swish", "silu"),
        (True, "ReLU", "relu"),
        (True, "leakyrelu", "leaky_relu"),
        (False, "gelu", "gelu_new"),
        (False, "gelu_orig", "gelu"),
        (False, "relu", "relu"),
    ],
)
def test_names_of_activations(versioned: bool, name: str, expected: str, info: ModelInfo, good: Good) -> None:
    folder = good("adapterhub")
    edit_config(folder, lambda config: config["config"].update(non_linearity=name))
    if not versioned:
        edit_config(folder, lambda config: config.pop("version"))
    adapter = load_adapter(folder, info)
    assert {block.operator for block in adapter.blocks.values()} == {BottleneckOperator(expected)}


def test_names_of_tensors_before_they_were_shortened(info: ModelInfo, good: Good) -> None:
    folder = good("adapterhub")
    expected = load_adapter(folder, info)
    tensors = load_file(folder / "adapter.safetensors")
    old = {
        name.replace("attention.output.adapters", "attention.output.attention_text_task_adapters").replace(
            ".output.adapters", ".output.layer_text_lang_adapters"
        ): tensor
        for name, tensor in tensors.items()
    }
    assert not set(old) & set(tensors)
    save_file(old, folder / "adapter.safetensors")
    found = load_adapter(folder, info)
    for site, block in expected.blocks.items():
        for name, tensor in block.tensors.items():
            np.testing.assert_array_equal(found.blocks[site].tensors[name], tensor)


def test_settings_that_are_absent_have_their_defaults(info: ModelInfo, good: Good) -> None:
    folder = good("adapterhub")
    needed = ("mh_adapter", "output_adapter", "non_linearity")
    edit_config(folder, lambda config: config.update(config={name: config["config"][name] for name in needed}))
    assert len(load_adapter(folder, info).blocks) == 4


@pytest.mark.parametrize(("scaling", "factor"), [(1.0, 1.0), (4, 4.0), (0.5, 0.5)])
def test_a_scaling_factor_is_folded_into_the_second_layer(
    scaling: float, factor: float, info: ModelInfo, good: Good
) -> None:
    folder = good("adapterhub")
    before = load_adapter(folder, info)
    edit_config(folder, lambda config: config["config"].update(scaling=scaling))
    after = load_adapter(folder, info)
    for site, block in before.blocks.items():
        found = after.blocks[site].tensors
        np.testing.assert_array_equal(found["down"], block.tensors["down"])
        np.testing.assert_array_equal(found["down_bias"], block.tensors["down_bias"])
        np.testing.assert_array_equal(found["up"], block.tensors["up"] * np.float32(factor))
        np.testing.assert_array_equal(found["up_bias"], block.tensors["up_bias"] * np.float32(factor))


def test_the_prefix_of_the_class_it_was_saved_from_does_not_matter(
    tiny_info: Callable[..., ModelInfo], random_adapter: Callable[..., Adapter], save_checkpoint: Callable[..., Path]
) -> None:
    # T5's generation class is its own base: no prefix, though its family has one.
    for model_type, task in (("bert", "text-classification"), ("llama", "causal-lm"), ("t5", "seq2seq-lm")):
        base, nested = tiny_info(model_type), tiny_info(model_type, task)
        adapter = random_adapter(base, "bottleneck")
        folder = save_checkpoint(adapter, nested)
        names = load_file(folder / "adapter.safetensors").keys()
        assert all(name.startswith(f"{nested.prefix}.") == nested.nested for name in names)
        (folder / "adapter_export.json").unlink()
        assert set(load_adapter(folder, base).blocks) == set(adapter.blocks)
        assert set(load_adapter(folder, nested).blocks) == set(adapter.blocks)


def test_an_adapter_of_mixed_kinds_has_no_such_format(
    tiny_info: Callable[..., ModelInfo], random_adapter: Callable[..., Adapter], save_checkpoint: Callable[..., Path]
) -> None:
    info = tiny_info("bert")
    first, second = (random_adapter(info, "bottleneck", activation=name) for name in ("relu", "tanh"))
    half = dict(list(second.blocks.items())[:1])
    with pytest.raises(InputError, match="one kind of bottleneck only"):
        save_checkpoint(Adapter("bottleneck", {**first.blocks, **half}), info)
