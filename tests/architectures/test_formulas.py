"""Bottlenecks in real models against the published formulas, computed without the package's own machinery.

With h a sublayer's output, x its residual input, LN the layer's norm and B the bottleneck:
    post-norm   Houlsby LN(B(h) + h + x)   Pfeiffer LN(B(LN(h + x)) + h + x)   parallel LN(h + B(x) + x)
    pre-norm    Houlsby B(h) + h + x       Pfeiffer B(h + x) + h + x           parallel h + B(x) + x
Where attention and feed-forward stand side by side (h, g), the layer gives h + g + x, which is what Pfeiffer's reads.
h is never read from the module that the placement table names: it is what arrives where the next thing in the layer
reads the residual stream, minus the residual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from adapter_export.architectures.registry import model_types
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.methods.contract import SiteAdapter
from adapter_export.models.base_model import BaseModel
from adapter_export.models.injection import inject
from adapter_export.sites import Port, Site

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-12


@dataclass(frozen=True)
class Layer:
    """A layer of an architecture, by what happens in it.

    path: its path. after_attention: the module below it that reads h + x after attention (post-norm: the norm itself),
    or None where attention and feed-forward stand side by side. before_ffn: likewise before the feed-forward, where
    that is another (a decoder's cross-attention lies between). ffn: the feed-forward sublayer written out, from the
    residual stream to h. houlsby: names of the sites, attention and feed-forward. ffn_norm: post-norm only, the norm
    after the feed-forward. settings: of the variant's config.
    """

    path: str
    after_attention: str | None
    ffn: Callable[[Any, torch.Tensor], torch.Tensor]
    houlsby: tuple[str, str]
    ffn_norm: str | None = None
    before_ffn: str | None = None
    settings: Mapping[str, Any] | None = None


BERT = Layer(
    "encoder.layer.0",
    "attention.output.LayerNorm",
    lambda layer, a: layer.output.dense(layer.intermediate(a)),
    ("attention.output.dense", "output.dense"),
    ffn_norm="output.LayerNorm",
)
LLAMA = Layer(
    "layers.0",
    "post_attention_layernorm",
    lambda layer, x: layer.mlp(layer.post_attention_layernorm(x)),
    ("self_attn.o_proj", "mlp.down_proj"),
)
GEMMA2 = Layer(
    "layers.0",
    "pre_feedforward_layernorm",
    lambda layer, x: layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(x))),
    ("post_attention_layernorm", "post_feedforward_layernorm"),
)
NEOX = Layer(
    "layers.0",
    None,
    lambda layer, x: layer.mlp(layer.post_attention_layernorm(x)),
    ("attention.dense", "mlp.dense_4h_to_h"),
)
FALCON = ("self_attention.dense", "mlp.dense_4h_to_h")
T5 = Layer(
    "encoder.block.0",
    "layer.1.layer_norm",
    lambda layer, x: layer.layer[1].DenseReluDense(layer.layer[1].layer_norm(x)),
    ("layer.0.SelfAttention.o", "layer.1.DenseReluDense.wo"),
)
T5_DECODER = Layer(
    "decoder.block.0",
    "layer.1.layer_norm",
    lambda layer, x: layer.layer[2].DenseReluDense(layer.layer[2].layer_norm(x)),
    ("layer.0.SelfAttention.o", "layer.2.DenseReluDense.wo"),
    before_ffn="layer.2.layer_norm",
)
MBART = Layer(
    "encoder.layers.0",
    "final_layer_norm",
    lambda layer, x: layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x)))),
    ("self_attn.out_proj", "fc2"),
)
MBART_DECODER = Layer(
    "decoder.layers.0", "encoder_attn_layer_norm", MBART.ffn, MBART.houlsby, before_ffn="final_layer_norm"
)
BART = Layer(
    "encoder.layers.0",
    "self_attn_layer_norm",
    lambda layer, a: layer.fc2(layer.activation_fn(layer.fc1(a))),
    MBART.houlsby,
    ffn_norm="final_layer_norm",
)
DINOV2 = Layer(
    "encoder.layer.0",
    "norm2",
    lambda layer, x: layer.layer_scale2(layer.mlp(layer.norm2(x))),
    ("layer_scale1", "layer_scale2"),
)
CLIP = Layer(
    "encoder.layers.0",
    "layer_norm2",
    lambda layer, x: layer.mlp(layer.layer_norm2(x)),
    ("self_attn.out_proj", "mlp.fc2"),
)
# By architecture, and below an architecture (`/`) by its other stacks and variants.
LAYERS: Mapping[str, Layer] = {
    "albert": Layer(
        "encoder.albert_layer_groups.0.albert_layers.0",
        "attention.LayerNorm",
        lambda layer, a: layer.ffn_output(layer.activation(layer.ffn(a))),
        ("attention.dense", "ffn_output"),
        ffn_norm="full_layer_layer_norm",
    ),
    "bart": BART,
    "bart/decoder": replace(BART, path="decoder.layers.0", before_ffn="encoder_attn_layer_norm"),
    "bert": BERT,
    "bloom": Layer(
        "h.0",
        "post_attention_layernorm",
        lambda layer, x: layer.mlp(layer.post_attention_layernorm(x), 0 * x),
        FALCON,
    ),
    "clip": replace(CLIP, path="text_model.encoder.layers.0"),
    "clip/vision": replace(CLIP, path="vision_model.encoder.layers.0"),
    "clip_text_model": CLIP,
    "clip_vision_model": CLIP,
    "deberta-v2": BERT,
    "dinov2": DINOV2,
    "dinov2/swiglu": replace(DINOV2, settings={"use_swiglu_ffn": True}),
    "distilbert": Layer(
        "transformer.layer.0",
        "sa_layer_norm",
        lambda layer, a: layer.ffn(a),
        ("attention.out_lin", "ffn.lin2"),
        ffn_norm="output_layer_norm",
    ),
    "electra": BERT,
    "falcon": Layer("h.0", None, lambda layer, x: layer.mlp(layer.ln_mlp(x)), FALCON),
    "falcon/7b": Layer(
        "h.0",
        None,
        lambda layer, x: layer.mlp(layer.input_layernorm(x)),
        FALCON,
        settings={"new_decoder_architecture": False, "multi_query": True},
    ),
    "falcon/11b": Layer(
        "h.0",
        None,
        lambda layer, x: layer.mlp(layer.input_layernorm(x)),
        FALCON,
        settings={"num_ln_in_parallel_attn": 1},
    ),
    "falcon/rw": Layer(
        "h.0",
        "post_attention_layernorm",
        lambda layer, x: layer.mlp(layer.post_attention_layernorm(x)),
        FALCON,
        settings={
            "new_decoder_architecture": False,
            "multi_query": False,
            "parallel_attn": False,
            "num_kv_heads": 4,
            "alibi": True,
            "bias": True,
        },
    ),
    "gemma": LLAMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "gpt2": Layer("h.0", "ln_2", lambda layer, x: layer.mlp(layer.ln_2(x)), ("attn.c_proj", "mlp.c_proj")),
    "gpt_neo": Layer(
        "h.0", "ln_2", lambda layer, x: layer.mlp(layer.ln_2(x)), ("attn.attention.out_proj", "mlp.c_proj")
    ),
    "gpt_neox": NEOX,
    "gpt_neox/sequential": replace(
        NEOX, after_attention="post_attention_layernorm", settings={"use_parallel_residual": False}
    ),
    "gptj": Layer("h.0", None, lambda layer, x: layer.mlp(layer.ln_1(x)), ("attn.out_proj", "mlp.fc_out")),
    "llama": LLAMA,
    "mbart": MBART,
    "mbart/decoder": MBART_DECODER,
    "mistral": LLAMA,
    "mixtral": replace(LLAMA, houlsby=("self_attn.o_proj", "mlp")),
    "modernbert": Layer("layers.1", "mlp_norm", lambda layer, x: layer.mlp(layer.mlp_norm(x)), ("attn.Wo", "mlp.Wo")),
    "mpnet": replace(BERT, after_attention="attention.LayerNorm", houlsby=("attention.attn.o", "output.dense")),
    "mt5": T5,
    "mt5/decoder": T5_DECODER,
    "opt": replace(MBART, path="decoder.layers.0"),
    "opt/350m": replace(
        BART, path="decoder.layers.0", settings={"do_layer_norm_before": False, "word_embed_proj_dim": 16}
    ),
    "phi": Layer(
        "layers.0", None, lambda layer, x: layer.mlp(layer.input_layernorm(x)), ("self_attn.dense", "mlp.fc2")
    ),
    "phi3": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "roberta": BERT,
    "t5": T5,
    "t5/decoder": T5_DECODER,
    "t5/gated": replace(T5, settings={"feed_forward_proj": "gated-gelu"}),
    "vit": Layer(
        "layers.0",
        "layernorm_after",
        lambda layer, x: layer.mlp(layer.layernorm_after(x)),
        ("attention.o_proj", "mlp.fc2"),
    ),
    "whisper": MBART,
    "whisper/decoder": MBART_DECODER,
    "xlm-roberta": BERT,
}


@dataclass(frozen=True)
class Seen:
    """What passed through a layer the first time: its input x, the stream after attention and before the feed-forward
    (as their readers received it; x itself where there is no such reader), and the layer's output."""

    x: torch.Tensor
    after_attention: torch.Tensor
    before_ffn: torch.Tensor
    output: torch.Tensor


def observe(model: Any, layer: Layer, inputs: Mapping[str, torch.Tensor]) -> Seen:
    """Run the model and read the layer's insides."""
    import torch

    root = model.get_submodule(layer.path)
    seen: dict[str, torch.Tensor] = {}

    def received(name: str) -> Callable[..., None]:
        def hook(_: Any, args: tuple[torch.Tensor, ...], kwargs: Mapping[str, torch.Tensor]) -> None:
            seen.setdefault(name, args[0] if args else kwargs["hidden_states"])

        return hook

    def returned(_: Any, __: Any, output: Any) -> None:
        seen.setdefault("output", output[0] if isinstance(output, tuple) else output)

    root.register_forward_pre_hook(received("x"), with_kwargs=True)
    for name, reader in (
        ("after_attention", layer.after_attention),
        ("before_ffn", layer.before_ffn or layer.after_attention),
    ):
        reading = root if reader is None else root.get_submodule(reader)
        reading.register_forward_pre_hook(received(name), with_kwargs=True)
    root.register_forward_hook(returned)
    with torch.no_grad():
        model(**inputs)
    # OPT folds batch and sequence into one axis in between.
    return Seen(**{name: value.reshape(seen["x"].shape) for name, value in seen.items()})


def bottleneck(site_adapter: SiteAdapter, u: torch.Tensor) -> torch.Tensor:
    """B(u), written out."""
    import torch

    down, down_bias, up, up_bias = (
        torch.from_numpy(site_adapter.tensors[name]).double() for name in ("down", "down_bias", "up", "up_bias")
    )
    z = torch.einsum("btd,dk->btk", u, down) + down_bias
    name = str(getattr(site_adapter.operator, "activation", ""))
    activated = {"relu": z.clamp(min=0), "silu": z / (1 + torch.exp(-z))}[name]
    return torch.einsum("btk,kd->btd", activated, up) + up_bias


def test_every_table_is_expected_here() -> None:
    assert sorted({name.partition("/")[0] for name in LAYERS}) == model_types()


@pytest.fixture(params=LAYERS)
def architecture(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


Setting = tuple[Layer, BaseModel, BaseModel, Mapping[str, Any]]


@pytest.fixture
def setting(
    architecture: str,
    tiny_base: Callable[..., BaseModel],
    inputs_for: Callable[..., dict[str, np.ndarray]],
) -> Setting:
    """(layer, the base model, the same for the adapter, inputs), all in float64."""
    import torch

    model_type, layer = architecture.partition("/")[0], LAYERS[architecture]
    inputs = {}
    for name, array in inputs_for(model_type).items():
        inputs[name] = torch.from_numpy(array)
        if inputs[name].is_floating_point():
            inputs[name] = inputs[name].double()
    clean, adapted = (tiny_base(model_type, dtype=torch.float64, **(layer.settings or {})) for _ in range(2))
    return layer, clean, adapted, inputs


def ffn_input(layer: Layer, modules: Any, stream: torch.Tensor) -> torch.Tensor:
    """The feed-forward's residual input x, from what arrives before it: post-norm, the norm is what arrives at."""
    norm = layer.before_ffn or layer.after_attention
    return stream if layer.ffn_norm is None or norm is None else modules.get_submodule(norm)(stream)


def test_houlsby(setting: Setting, random_adapter: Callable[..., Adapter]) -> None:
    layer, clean, adapted, inputs = setting
    adapter = random_adapter(adapted.info, "bottleneck", placement="houlsby", reduction_factor=4)
    first, second = (adapter.sites[Site(f"{layer.path}.{name}", Port.OUTPUT)] for name in layer.houlsby)
    modules = clean.module.get_submodule(layer.path)
    # What the layers before it hand on, adapted already.
    inject(adapted.module, adapter)
    found = observe(adapted.module, layer, inputs)
    base = observe_alone(clean.module, layer, inputs, found.x)

    if layer.after_attention is None:
        g = layer.ffn(modules, found.x)
        h = base.output - g - found.x
        expected = h + bottleneck(first, h) + g + bottleneck(second, g) + found.x
    else:
        h = base.after_attention - base.x
        z = bottleneck(first, h) + h + base.x
        assert (z - base.after_attention).abs().max() > 0.1
        assert (found.after_attention - z).abs().max() < TOLERANCE

        x = ffn_input(layer, modules, found.before_ffn)
        h = layer.ffn(modules, x)
        z = bottleneck(second, h) + h + x
        expected = z if layer.ffn_norm is None else modules.get_submodule(layer.ffn_norm)(z)
    assert (found.output - base.output).abs().max() > 0.1
    assert (found.output - expected).abs().max() < TOLERANCE


def test_pfeiffer(setting: Setting, random_adapter: Callable[..., Adapter]) -> None:
    layer, clean, adapted, inputs = setting
    adapter = random_adapter(adapted.info, "bottleneck", placement="pfeiffer", reduction_factor=4)
    site_adapter = only_site_adapter(adapter, layer)
    inject(adapted.module, adapter)
    found = observe(adapted.module, layer, inputs)
    base = observe_alone(clean.module, layer, inputs, found.x)
    assert (found.after_attention - base.after_attention).abs().max() < TOLERANCE, "nothing acts after attention"

    modules = clean.module.get_submodule(layer.path)
    x = ffn_input(layer, modules, found.before_ffn)
    z = base.output if layer.after_attention is None else layer.ffn(modules, x) + x
    if layer.ffn_norm is None:
        expected = bottleneck(site_adapter, z) + z
    else:
        norm = modules.get_submodule(layer.ffn_norm)
        expected = norm(bottleneck(site_adapter, norm(z)) + z)
    assert (found.output - expected).abs().max() < TOLERANCE
    assert (found.output - base.output).abs().max() > 0.1


def test_parallel(setting: Setting, random_adapter: Callable[..., Adapter]) -> None:
    layer, clean, adapted, inputs = setting
    adapter = random_adapter(adapted.info, "bottleneck", placement="parallel")
    site_adapter = only_site_adapter(adapter, layer)
    inject(adapted.module, adapter)
    found = observe(adapted.module, layer, inputs)
    base = observe_alone(clean.module, layer, inputs, found.x)

    modules = clean.module.get_submodule(layer.path)
    x = ffn_input(layer, modules, found.before_ffn)
    z = base.output if layer.after_attention is None else layer.ffn(modules, x) + x
    expected = z + bottleneck(site_adapter, x)
    if layer.ffn_norm is not None:
        expected = modules.get_submodule(layer.ffn_norm)(expected)
    assert (found.output - expected).abs().max() < TOLERANCE
    assert (found.output - base.output).abs().max() > 0.1


def only_site_adapter(adapter: Adapter, layer: Layer) -> SiteAdapter:
    (site_adapter,) = (
        site_adapter for site, site_adapter in adapter.sites.items() if f"{site.module}.".startswith(f"{layer.path}.")
    )
    return site_adapter


def observe_alone(model: Any, layer: Layer, inputs: Mapping[str, torch.Tensor], x: torch.Tensor) -> Seen:
    """The layer without adapters, given the x that it has with them: what stands before a layer may be adapted."""

    def replaced(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

    model.get_submodule(layer.path).register_forward_pre_hook(replaced, with_kwargs=True)
    return observe(model, layer, inputs)


@pytest.mark.parametrize("method", ["ia3", "bottleneck"])
def test_a_site_of_shared_layers_acts_at_every_application(
    method: str,
    tiny_base: Callable[..., BaseModel],
    random_adapter: Callable[..., Adapter],
    inputs_for: Callable[..., dict[str, np.ndarray]],
) -> None:
    """ALBERT applies one group of layers twice; it equals a model with two groups of the same weights and adapters."""
    import torch

    shared = tiny_base("albert", dtype=torch.float64)
    unshared = tiny_base("albert", dtype=torch.float64, num_hidden_groups=2)
    weights = shared.module.state_dict()
    unshared.module.load_state_dict({
        name: weights[name.replace("layer_groups.1", "layer_groups.0")] for name in unshared.module.state_dict()
    })  # fmt: skip
    adapter = random_adapter(shared.info, method)
    twice = {
        Site(site.module.replace("layer_groups.0", f"layer_groups.{group}"), site.port): site_adapter
        for group in range(2)
        for site, site_adapter in adapter.sites.items()
    }
    inputs = {name: torch.from_numpy(array) for name, array in inputs_for("albert").items()}
    with torch.no_grad():
        off = shared.module(**inputs).last_hidden_state
        inject(shared.module, adapter)
        inject(unshared.module, Adapter(method, twice))
        on = shared.module(**inputs).last_hidden_state
        expected = unshared.module(**inputs).last_hidden_state
    assert (on - expected).abs().max() < TOLERANCE
    assert (on - off).abs().max() > 0.1
