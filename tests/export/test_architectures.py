"""Every architecture's graph, in plain ONNX Runtime, against float64 PyTorch with the adapter unmerged.

One trace an architecture, with the sites of all adapters, lowered to a swappable graph, a bank of all of them, and an
embedded one for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from adapter_export.bundle.adapter_file import adapter_tensors, tensors_by_operator
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import InputError
from adapter_export.export.bank import Bank
from adapter_export.export.head import head_defaults
from adapter_export.export.lower import Lowered, lower
from adapter_export.export.modes import union_of_sites
from adapter_export.export.storage import Constants, Overridable
from adapter_export.export.trace import trace
from adapter_export.methods import registry
from adapter_export.models.base_model import BaseModel
from adapter_export.models.injection import inject

# float32 against float64, relative to the output's size; seen: 2e-7 to 3e-6.
TOLERANCE = 2e-5

# Rows and tokens; the trace has 3 and 9.
SHAPES = ((1, 5), (2, 17))

# One of a kind: `docs/architectures.md` has them all, measured by `python -m benchmarks.architectures`.
CASES = [
    ("bert", "features"),
    ("albert", "text-classification"),
    ("gpt2", "text-classification"),
    ("llama", "causal-lm"),
    # Sublayers side by side, whose outputs are added in place.
    ("falcon", "causal-lm"),
    # Batch and sequence are one axis in its feed-forward.
    ("opt", "causal-lm"),
    ("t5", "seq2seq-lm"),
    ("bart", "text-classification"),
    ("whisper", "seq2seq-lm"),
    ("vit", "image-classification"),
    ("clip", "features"),
]


def expected(base: BaseModel, adapter: Adapter, inputs: Mapping[str, np.ndarray], outputs: list[str]) -> np.ndarray:
    import torch

    base.module.double()
    injection = inject(base.module, adapter)
    floats = {
        name: torch.tensor(array).double() if array.dtype.kind == "f" else torch.tensor(array)
        for name, array in inputs.items()
    }
    with torch.no_grad():
        results = base.module(**floats)
    injection.remove()
    return joined([results[name].numpy() for name in outputs])


def joined(outputs: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(outputs, axis=-1)


def session(lowered: Lowered) -> Any:
    import onnx_ir as ir
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(
        ir.serde.serialize_model(lowered.model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize(("model_type", "task"), CASES)
def test_graphs_match_pytorch(
    model_type: str,
    task: str,
    tiny_base: Callable[..., BaseModel],
    random_adapter: Callable[..., Adapter],
    inputs_for: Callable[..., dict[str, np.ndarray]],
) -> None:
    base = tiny_base(model_type, task)
    outputs = ["last_hidden_state" if task == "features" else "logits"]
    if model_type == "clip":
        # Its logits are cosines, times a constant: near 0 they have the rounding errors of the vectors, and no scale.
        outputs = ["image_embeds", "text_embeds"]
    # Every registered method, as it comes; and bottlenecks of another width and placement.
    adapters = {
        **{
            name: random_adapter(base.info, name, seed, labels=("a", "b")) for seed, name in enumerate(registry.names())
        },
        "wide": random_adapter(base.info, "bottleneck", 7, labels=("a", "b", "c", "d"), reduction_factor=4),
        "pfeiffer": random_adapter(base.info, "bottleneck", 8, placement="pfeiffer", reduction_factor=8),
        "parallel": random_adapter(base.info, "bottleneck", 9, placement="parallel"),
    }
    sites = union_of_sites(adapters.values())
    traced = trace(base, sites, base.info.head)
    last = base.info.head[-1] if base.info.head else None
    defaults = head_defaults(base)
    swappable = session(lower(traced, sites, Overridable(), defaults, last))
    stacked = Bank([tensors_by_operator(adapter) for adapter in adapters.values()])
    bank = None
    if model_type == "clip":
        # Two towers, each with a batch of its own.
        with pytest.raises(InputError, match=r"mode bank: site .*: expected values whose first axis is the batch"):
            lower(traced, sites, stacked, defaults, last)
    else:
        bank = session(lower(traced, sites, stacked, defaults, last))
        assert {value.name for value in bank.get_inputs()} == {value.name for value in swappable.get_inputs()} | {
            "adapter_ids"
        }
    names = {value.name for value in swappable.get_inputs()}
    assert set(outputs) <= {value.name for value in swappable.get_outputs()}
    assert not [value.name for value in swappable.get_outputs() if "past" in value.name or "present" in value.name]
    batches = [batch(inputs_for(model_type, rows=rows, length=length, seed=rows), names) for rows, length in SHAPES]
    for slot, (name, adapter) in enumerate(adapters.items(), start=1):
        tensors = adapter_tensors(adapter)
        assert tensors.keys() <= {value.name for value in swappable.get_overridable_initializers()}
        only = union_of_sites([adapter])
        embedded = session(lower(traced, only, Constants(tensors), defaults, last))
        assert not embedded.get_overridable_initializers()
        for inputs in batches:
            reference = expected(tiny_base(model_type, task), adapter, inputs, outputs)
            mask = unpadded(inputs, reference)
            scale = np.sqrt(np.mean(reference[mask] ** 2))
            for mode, actual in (
                ("swappable", joined(swappable.run(outputs, {**inputs, **tensors}))),
                ("embedded", joined(embedded.run(outputs, inputs))),
            ):
                assert actual.shape == reference.shape, (name, mode)
                assert np.abs(actual - reference)[mask].max() <= TOLERANCE * scale, (name, mode)
            plain = joined(swappable.run(outputs, inputs))
            assert plain.shape != reference.shape or np.abs(plain - reference)[mask].max() > 0.01 * scale, name
            if bank is None:
                continue
            # The last row has this adapter, the first one all others in turn.
            for other in range(len(adapters) + 1):
                ids = np.array([other, slot][-len(mask) :])
                actual = joined(bank.run(outputs, {**inputs, "adapter_ids": ids}))
                own = actual[-1][..., : reference.shape[-1]]
                assert np.abs(own - reference[-1])[mask[-1]].max() <= TOLERANCE * scale, (name, other)
                assert (actual[-1][..., reference.shape[-1] :] == -np.inf).all()
            actual = joined(bank.run(outputs, {**inputs, "adapter_ids": np.zeros(len(mask), np.int64)}))
            base_labels = plain.shape[-1]
            assert np.abs(actual[..., :base_labels] - plain)[unpadded(inputs, plain)].max() <= TOLERANCE * scale
            assert (actual[..., base_labels:] == -np.inf).all()


def batch(inputs: Mapping[str, np.ndarray], names: set[str]) -> dict[str, np.ndarray]:
    """`inputs` as the graph takes them; segments alternate, so that a graph that ignores them is seen."""
    if "token_type_ids" in names:
        ids = inputs["input_ids"]
        inputs = {**inputs, "token_type_ids": np.arange(ids.size).reshape(ids.shape) % 2}
    assert set(inputs) >= names
    return {name: inputs[name] for name in names}


def unpadded(inputs: Mapping[str, np.ndarray], output: np.ndarray) -> np.ndarray:
    """Which entries of the output's leading axes count: per token where there is a token axis, else all."""
    mask = inputs.get("attention_mask")
    if mask is None or output.shape[: mask.ndim] != mask.shape:
        return np.ones(output.shape[:1], bool)
    return mask.astype(bool)
