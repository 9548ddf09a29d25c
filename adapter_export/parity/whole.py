"""A bundle as the whole model it stands for: what one forward in PyTorch takes and gives, whatever the graphs are.

one graph                    the graph's own inputs and outputs
one graph with a cache       those less the cache; computed step by step
an encoder's and a decoder's the encoder's inputs and decoder_input_ids; logits and encoder_last_hidden_state.
                             The encoder runs once, the decoder step by step
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from adapter_export.bundle.manifest import DECODER, ENCODER, Manifest, TensorInfo
from adapter_export.parity.stepping import logits_in_steps
from adapter_export.runtime.generation.bound import PAST, PRESENT, CachedDecoder
from adapter_export.runtime.generation.start import generates
from adapter_export.runtime.session import AdapterSession

# The encoder's output, as its own graph calls it and as the whole model does.
_HIDDEN, _ENCODER_HIDDEN = "last_hidden_state", "encoder_last_hidden_state"


def whole_inputs(manifest: Manifest) -> dict[str, TensorInfo]:
    """What the whole model takes, by the names of its forward in transformers."""
    if ENCODER in manifest.graphs:
        return {**manifest.graphs[ENCODER].given, "decoder_input_ids": manifest.inputs["input_ids"]}
    given = manifest.graphs[manifest.model].given
    return {name: info for name, info in given.items() if not name.startswith(PAST)}


def whole_outputs(manifest: Manifest) -> dict[str, TensorInfo]:
    """What the whole model gives, by the names of its forward in transformers."""
    outputs = {name: info for name, info in manifest.outputs.items() if not name.startswith(PRESENT)}
    if ENCODER in manifest.graphs:
        outputs[_ENCODER_HIDDEN] = manifest.graphs[ENCODER].outputs[_HIDDEN]
    return outputs


def run_whole(
    session: AdapterSession, inputs: Mapping[str, np.ndarray], adapters: Sequence[str | None]
) -> dict[str, np.ndarray]:
    """The whole model's outputs for its inputs: they must equal one forward over everything. adapters: of each row."""
    manifest = session.manifest
    if not generates(manifest):
        return session.run(inputs, adapters=adapters)
    graphs = session.bound(adapters)
    decoder = CachedDecoder(graphs[manifest.model], manifest.graphs[manifest.model], len(adapters))
    if ENCODER not in graphs:
        # What a cache holds of a shorter text is not what one forward over a longer one computes.
        border = manifest.rotary_border
        at_once = border is not None and inputs["input_ids"].shape[1] > border
        return {"logits": decoder.logits(inputs).copy() if at_once else logits_in_steps(decoder, inputs)}
    encoder, info = graphs[ENCODER], manifest.graphs[ENCODER]
    encoder.feed({name: inputs[name] for name in info.inputs if name in inputs})
    encoded = encoder.run(list(info.outputs), host=(_HIDDEN,))
    hidden: np.ndarray = encoded.pop(_HIDDEN).numpy().copy()
    for name, states in encoded.items():
        graphs[DECODER].bind(PAST + name.removeprefix(PRESENT), states)
    if "encoder_attention_mask" in manifest.inputs:
        graphs[DECODER].feed({"encoder_attention_mask": inputs["attention_mask"]})
    logits = logits_in_steps(decoder, {"input_ids": inputs["decoder_input_ids"]})
    return {"logits": logits, _ENCODER_HIDDEN: hidden}
