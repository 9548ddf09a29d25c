"""Runs the graphs of a bundle as one forward of the whole model, so that it can be compared with PyTorch.

In PyTorch a model is one forward. In a bundle it is one of these:

- One graph. Inputs and outputs are those of the graph.
- One graph with a KV cache. Inputs and outputs are those of the graph without the cache. A text is computed step by
  step.
- The graphs of an encoder and of a decoder. Inputs are those of the encoder and `decoder_input_ids`; outputs are
  `logits` and `encoder_last_hidden_state`. The encoder runs once, the decoder runs step by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from adapter_export.bundle.graphs import DECODER, ENCODER, is_cache, is_past, past_of
from adapter_export.bundle.manifest import Manifest, TensorInfo
from adapter_export.runtime.generation.cache import CachedDecoder
from adapter_export.runtime.generation.prepare import generates
from adapter_export.runtime.session import AdapterSession

# Names of the encoder's output: in its own graph, and in the forward of the whole model.
_HIDDEN, _ENCODER_HIDDEN = "last_hidden_state", "encoder_last_hidden_state"
# Number of steps of a single token between the first and the last step. With two, each kind of step follows each other
# kind.
_SINGLE_STEPS = 2


def whole_model_inputs(manifest: Manifest) -> dict[str, TensorInfo]:
    """Returns the inputs of the whole model by name, as its forward in transformers names them."""
    if manifest.encoder is not None:
        return {**manifest.encoder.given, "decoder_input_ids": manifest.inputs["input_ids"]}
    given = manifest.graphs[manifest.model].given
    return {name: info for name, info in given.items() if not is_past(name)}


def whole_model_outputs(manifest: Manifest) -> dict[str, TensorInfo]:
    """Returns the outputs of the whole model by name, as its forward in transformers names them."""
    outputs = {name: info for name, info in manifest.outputs.items() if not is_cache(name)}
    if manifest.encoder is not None:
        outputs[_ENCODER_HIDDEN] = manifest.encoder.outputs[_HIDDEN]
    return outputs


def encoder_output(name: str) -> str:
    """Returns the name in the forward of the whole model for an output of the encoder's graph."""
    return _ENCODER_HIDDEN if name == _HIDDEN else name


class WholeModel:
    """Runs the graphs of a bundle as one forward.

    Attributes:
        in_steps: Whether a graph with a cache runs in several steps. If not, it reads the whole text at once.
    """

    def __init__(self, session: AdapterSession) -> None:
        self._session = session
        self.in_steps = True

    def run(self, inputs: Mapping[str, np.ndarray], adapters: Sequence[str | None]) -> dict[str, np.ndarray]:
        """Computes the outputs of the whole model. They must equal those of one forward in PyTorch.

        Args:
            inputs: Arrays by name, see `whole_model_inputs`.
            adapters: The adapter of each row; None for no adapter.

        Returns:
            Arrays by name, see `whole_model_outputs`.
        """
        session, manifest = self._session, self._session.manifest
        if not generates(manifest):
            found = session.run(inputs, adapters=adapters)
            # A graph of another tool may give a cache that it does not take.
            return {name: value for name, value in found.items() if not is_cache(name)}
        graphs = session.bound(adapters)
        decoder = CachedDecoder(graphs[manifest.model], manifest.graphs[manifest.model], len(adapters))
        if ENCODER not in graphs:
            # A cache that was filled by a text shorter than the border differs from what one forward over a longer
            # text computes. So a text beyond the border is run in a single step.
            border = manifest.rotary_border
            single_step = border is not None and inputs["input_ids"].shape[1] > border
            if single_step:
                return {"logits": decoder.logits(inputs).copy()}
            return {"logits": _logits_in_steps(decoder, inputs, self._sizes(inputs["input_ids"].shape[1]))}
        encoder, info = graphs[ENCODER], manifest.graphs[ENCODER]
        encoder.feed({name: inputs[name] for name in info.inputs if name in inputs})
        encoded = encoder.run(list(info.outputs), host=(_HIDDEN,))
        hidden: np.ndarray = encoded.pop(_HIDDEN).numpy().copy()
        for name, states in encoded.items():
            graphs[DECODER].bind(past_of(name), states)
        if "encoder_attention_mask" in manifest.inputs:
            graphs[DECODER].feed({"encoder_attention_mask": inputs["attention_mask"]})
        ids = inputs["decoder_input_ids"]
        logits = _logits_in_steps(decoder, {"input_ids": ids}, self._sizes(ids.shape[1]))
        return {"logits": logits, _ENCODER_HIDDEN: hidden}

    def _sizes(self, length: int) -> list[int]:
        """Returns the sizes, in tokens, of the steps for a text of `length` tokens."""
        if not self.in_steps:
            return [length]
        return single_last_steps(length) if self._session.manifest.shares_cache else step_sizes(length)


def _logits_in_steps(decoder: CachedDecoder, inputs: Mapping[str, np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """Computes the logits of a text with a KV cache, step by step, as generation does.

    Args:
        decoder: The decoder's graph with an empty cache.
        inputs: Arrays [rows, tokens] by name. The attention mask of a step covers all tokens up to its end.
        sizes: Number of tokens of each step.

    Returns:
        Logits [rows, tokens, vocabulary].
    """
    logits, start = [], 0
    for size in sizes:
        end = start + size
        step_inputs = {
            name: value[:, :end] if name == "attention_mask" else value[:, start:end] for name, value in inputs.items()
        }
        logits.append(decoder.logits(step_inputs).copy())
        start = end
    return np.concatenate(logits, axis=1)


def step_sizes(length: int) -> list[int]:
    """Returns the sizes, in tokens, of the steps for a text of `length` tokens: about half, single tokens, the rest."""
    first = max(1, length // 2)
    single_steps = min(_SINGLE_STEPS, length - first)
    rest = length - first - single_steps
    return [first, *[1] * single_steps, *([rest] if rest else [])]


def single_last_steps(length: int) -> list[int]:
    """Returns the sizes of the steps for a graph that takes several rows of several tokens with an empty cache only."""
    single_steps = min(_SINGLE_STEPS, length - 1)
    return [length - single_steps, *[1] * single_steps]
