"""The stages of encoder-decoder models, which become two graphs.

The encoder's graph also computes the keys and values of cross-attention for every decoder layer. So they are computed
only once, and the decoder's graph does not read the encoder's output. Adapters act in both graphs. Adapters on the key
and value projections of cross-attention act in the encoder's graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from adapter_export.bundle.graphs import PRESENT
from adapter_export.errors import InputError
from adapter_export.export.decoding import example_ids
from adapter_export.export.samples import Sample, max_sequence, sample_for
from adapter_export.export.stage import Stage
from adapter_export.models.base_model import BaseModel

if TYPE_CHECKING:
    import torch
    from torch import nn

_PAST, _SEQUENCE = 5, 4
_ENCODER_SEQUENCE = "encoder_sequence"


def encoding(base: BaseModel) -> Stage:
    """Returns the stage of the encoder.

    Inputs: those of the encoder. Outputs: last_hidden_state, and for each decoder layer N `present.N.encoder.key` and
    `present.N.encoder.value`.

    Args:
        base: The base model.

    Raises:
        InputError: The model is no encoder-decoder, or cannot be exported.
    """
    sample = sample_for(base)
    inputs, axes = _encoder_part(sample)
    limits = {name: limit for name, limit in sample.limits.items() if name != "decoder_sequence"}
    if "sequence" in limits:
        limits[_ENCODER_SEQUENCE] = limits.pop("sequence")
    return Stage(_encoder(base), Sample(inputs, axes, limits), cache=False)


def cross_decoding(base: BaseModel) -> Stage:
    """Returns the stage of one step of the decoder.

    Inputs: input_ids, encoder_attention_mask if the encoder has a mask, the decoder's own cache, and the keys and
    values of the encoder. Outputs: logits and the decoder's grown cache.

    Args:
        base: The base model.

    Raises:
        InputError: The model is no encoder-decoder, or cannot be exported.
    """
    import torch

    inputs, _ = _encoder_part(sample_for(base))
    mask = inputs.get("attention_mask")
    config = base.module.config.get_text_config()
    ids = example_ids(config.vocab_size, _PAST + _SEQUENCE)
    with torch.no_grad():
        cache = _empty_cache()
        hidden = _get_encoder(base)(**inputs).last_hidden_state
        _run(base, ids[:, :_PAST], hidden, cache, mask)
    layers = len(cache.self_attention_cache.layers)
    step: dict[str, Any] = {"input_ids": ids[:, _PAST:], "past_key_values": cache}
    longest = max_sequence(config)
    limits = {"batch": 1 << 16, "sequence": longest, "past_sequence": longest}
    cross = {0: "batch"}
    if mask is not None:
        step["encoder_attention_mask"] = mask
        cross = {0: "batch", 2: _ENCODER_SEQUENCE}
        limits[_ENCODER_SEQUENCE] = longest
    axes: dict[str, Any] = {
        "input_ids": {0: "batch", 1: "sequence"},
        "past_key_values": [{0: "batch", 2: "past_sequence"}] * (2 * layers) + [cross] * (2 * layers),
        "encoder_attention_mask": {0: "batch", 1: _ENCODER_SEQUENCE},
    }
    return Stage(
        _decoder(base), Sample(step, {name: axes[name] for name in step}, limits, {"past_sequence": 0}), cache=False
    )


def _encoder_part(sample: Sample) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the inputs of the encoder and their axes. The axis `sequence` is renamed to `encoder_sequence`."""
    names = [name for name in sample.inputs if not name.startswith("decoder_")]
    axes = {
        name: {axis: _ENCODER_SEQUENCE if dim == "sequence" else dim for axis, dim in sample.axes[name].items()}
        for name in names
    }
    return {name: sample.inputs[name] for name in names}, axes


def _encoder(base: BaseModel) -> nn.Module:
    import torch
    from torch import nn

    class Encoder(nn.Module):
        """Runs the encoder, and one decoder step that fills the cross-attention cache.

        The exporter removes the other computations of that step, because no output depends on them.
        """

        def __init__(self) -> None:
            super().__init__()
            self.model, self.config = base.module, base.module.config

        def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            hidden = _get_encoder(base)(**inputs).last_hidden_state
            cache = _empty_cache()
            start = torch.zeros((hidden.shape[0], 1), dtype=torch.long, device=hidden.device)
            _run(base, start, hidden, cache, inputs.get("attention_mask"))
            outputs = {"last_hidden_state": hidden}
            for number, layer in enumerate(cache.cross_attention_cache.layers):
                outputs[f"{PRESENT}{number}.encoder.key"] = layer.keys
                outputs[f"{PRESENT}{number}.encoder.value"] = layer.values
            return outputs

    return Encoder().eval()


def _decoder(base: BaseModel) -> nn.Module:
    from torch import nn

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.config = base.module, base.module.config

        def forward(
            self, input_ids: torch.Tensor, past_key_values: Any, encoder_attention_mask: torch.Tensor | None = None
        ) -> dict[str, torch.Tensor]:
            keys = past_key_values.cross_attention_cache.layers[0].keys
            # Not used: the cache says that the keys and values of cross-attention are computed already.
            hidden = keys.new_zeros((keys.shape[0], keys.shape[2], base.info.hidden_size))
            logits = _run(base, input_ids, hidden, past_key_values, encoder_attention_mask).logits
            outputs = {"logits": logits}
            for number, layer in enumerate(past_key_values.self_attention_cache.layers):
                outputs[f"{PRESENT}{number}.decoder.key"] = layer.keys
                outputs[f"{PRESENT}{number}.decoder.value"] = layer.values
            return outputs

    return Decoder().eval()


def _get_encoder(base: BaseModel) -> nn.Module:
    try:
        return cast("nn.Module", base.module.get_encoder())
    except AttributeError:
        raise InputError(f"model {base.folder}: {base.info.architecture} is no encoder-decoder model") from None


def _empty_cache() -> Any:
    from transformers import DynamicCache, EncoderDecoderCache

    return EncoderDecoderCache(DynamicCache(), DynamicCache())


def _run(base: BaseModel, ids: torch.Tensor, hidden: torch.Tensor, cache: Any, mask: torch.Tensor | None) -> Any:
    """Runs the decoder on `ids`, with `hidden` as the output of the encoder."""
    from transformers.modeling_outputs import BaseModelOutput

    masks = {} if mask is None else {"attention_mask": mask}
    return base.module(
        decoder_input_ids=ids,
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
        past_key_values=cache,
        use_cache=True,
        **masks,
    )
