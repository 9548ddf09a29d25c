"""Bottlenecks in real models against the published formulas, computed without the package's own machinery.

With h the sublayer's output, x its residual input, LN the layer's norm and B the bottleneck:
    post-norm   Houlsby LN(B(h) + h + x)   Pfeiffer LN(B(LN(h + x)) + h + x)
    pre-norm    Houlsby B(h) + h + x       Pfeiffer B(h + x) + h + x
h is never read from the module that the placement table names: it is what arrives where the next thing in the layer
reads the residual stream, minus the residual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from adapter_export.basemodel import BaseModel
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.injection import inject
from adapter_export.methods.contract import Block
from adapter_export.placement.tables import model_types
from adapter_export.sites import Port, Site

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-12


@dataclass(frozen=True)
class Layer:
    """A layer of an architecture, by what happens in it.

    path: its path. after_attention: the module below it that reads h + x after attention (post-norm: the norm itself).
    before_ffn: likewise before the feed-forward, where that is another (T5's cross-attention lies between).
    ffn: the feed-forward sublayer written out, from the residual stream to h.
    ffn_norm: post-norm only, the norm after the feed-forward.
    houlsby, pfeiffer: names of the sites, attention and feed-forward.
    """

    path: str
    after_attention: str
    ffn: Callable[[Any, torch.Tensor], torch.Tensor]
    houlsby: tuple[str, str]
    ffn_norm: str | None = None
    before_ffn: str | None = None


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
LAYERS: Mapping[str, Layer] = {
    "albert": Layer(
        "encoder.albert_layer_groups.0.albert_layers.0",
        "attention.LayerNorm",
        lambda layer, a: layer.ffn_output(layer.activation(layer.ffn(a))),
        ("attention.dense", "ffn_output"),
        ffn_norm="full_layer_layer_norm",
    ),
    "bert": BERT,
    "distilbert": Layer(
        "transformer.layer.0",
        "sa_layer_norm",
        lambda layer, a: layer.ffn(a),
        ("attention.out_lin", "ffn.lin2"),
        ffn_norm="output_layer_norm",
    ),
    "electra": BERT,
    "gemma": LLAMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "gpt2": Layer("h.0", "ln_2", lambda layer, x: layer.mlp(layer.ln_2(x)), ("attn.c_proj", "mlp.c_proj")),
    "llama": LLAMA,
    "mistral": LLAMA,
    "mpnet": Layer(
        "encoder.layer.0",
        "attention.LayerNorm",
        lambda layer, a: layer.output.dense(layer.intermediate(a)),
        ("attention.attn.o", "output.dense"),
        ffn_norm="output.LayerNorm",
    ),
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "roberta": BERT,
    "t5": Layer(
        "encoder.block.0",
        "layer.1.layer_norm",
        lambda layer, x: layer.layer[1].DenseReluDense(layer.layer[1].layer_norm(x)),
        ("layer.0.SelfAttention.o", "layer.1.DenseReluDense.wo"),
    ),
    "t5-decoder": Layer(
        "decoder.block.0",
        "layer.1.layer_norm",
        lambda layer, x: layer.layer[2].DenseReluDense(layer.layer[2].layer_norm(x)),
        ("layer.0.SelfAttention.o", "layer.2.DenseReluDense.wo"),
        before_ffn="layer.2.layer_norm",
    ),
    "vit": Layer(
        "layers.0",
        "layernorm_after",
        lambda layer, x: layer.mlp(layer.layernorm_after(x)),
        ("attention.o_proj", "mlp.fc2"),
    ),
    "xlm-roberta": BERT,
}


@dataclass(frozen=True)
class Seen:
    """What passed through a layer the first time: its input x, the stream after attention and before the feed-forward
    (as their readers received it), and the layer's output."""

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

    after = root.get_submodule(layer.after_attention)
    before = root.get_submodule(layer.before_ffn or layer.after_attention)
    root.register_forward_pre_hook(received("x"), with_kwargs=True)
    after.register_forward_pre_hook(received("after_attention"), with_kwargs=True)
    before.register_forward_pre_hook(received("before_ffn"), with_kwargs=True)
    root.register_forward_hook(returned)
    with torch.no_grad():
        model(**inputs)
    return Seen(**seen)


def bottleneck(block: Block, u: torch.Tensor) -> torch.Tensor:
    """B(u), written out."""
    import torch

    down, down_bias, up, up_bias = (
        torch.from_numpy(block.tensors[name]).double() for name in ("down", "down_bias", "up", "up_bias")
    )
    z = torch.einsum("btd,dk->btk", u, down) + down_bias
    name = str(getattr(block.operator, "activation", ""))
    activated = {"relu": z.clamp(min=0), "silu": z / (1 + torch.exp(-z))}[name]
    return torch.einsum("btk,kd->btd", activated, up) + up_bias


@pytest.fixture(params=[*model_types(), "t5-decoder"])
def architecture(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def setting(
    architecture: str,
    tiny_base: Callable[..., BaseModel],
    inputs_for: Callable[..., dict[str, np.ndarray]],
) -> tuple[Layer, BaseModel, BaseModel, Mapping[str, Any]]:
    """(layer, the base model, the same for the adapter, inputs), all in float64."""
    import torch

    model_type = architecture.removesuffix("-decoder")
    inputs = {}
    for name, array in inputs_for(model_type).items():
        inputs[name] = torch.from_numpy(array)
        if inputs[name].is_floating_point():
            inputs[name] = inputs[name].double()
    clean, adapted = (tiny_base(model_type, dtype=torch.float64) for _ in range(2))
    return LAYERS[architecture], clean, adapted, inputs


def test_houlsby(
    setting: tuple[Layer, BaseModel, BaseModel, Mapping[str, Any]], random_adapter: Callable[..., Adapter]
) -> None:
    layer, clean, adapted, inputs = setting
    adapter = random_adapter(adapted.info, "bottleneck", placement="houlsby", reduction_factor=4)
    first, second = (adapter.blocks[Site(f"{layer.path}.{name}", Port.OUTPUT)] for name in layer.houlsby)
    base = observe(clean.module, layer, inputs)
    inject(adapted.module, adapter)
    found = observe(adapted.module, layer, inputs)
    assert (found.x - base.x).abs().max() == 0, "nothing acts before the first layer"

    h = base.after_attention - base.x
    z = bottleneck(first, h) + h + base.x
    assert (z - base.after_attention).abs().max() > 0.1
    assert (found.after_attention - z).abs().max() < TOLERANCE

    modules = clean.module.get_submodule(layer.path)
    x = found.before_ffn if layer.ffn_norm is None else modules.get_submodule(layer.after_attention)(found.before_ffn)
    h = layer.ffn(modules, x)
    z = bottleneck(second, h) + h + x
    expected = z if layer.ffn_norm is None else modules.get_submodule(layer.ffn_norm)(z)
    assert (found.output - expected).abs().max() < TOLERANCE


def test_pfeiffer(
    setting: tuple[Layer, BaseModel, BaseModel, Mapping[str, Any]], random_adapter: Callable[..., Adapter]
) -> None:
    layer, clean, adapted, inputs = setting
    adapter = random_adapter(adapted.info, "bottleneck", placement="pfeiffer", reduction_factor=4)
    (block,) = (block for site, block in adapter.blocks.items() if f"{site.module}.".startswith(f"{layer.path}."))
    base = observe(clean.module, layer, inputs)
    inject(adapted.module, adapter)
    found = observe(adapted.module, layer, inputs)
    assert (found.after_attention - base.after_attention).abs().max() == 0, "nothing acts after attention"

    modules = clean.module.get_submodule(layer.path)
    if layer.ffn_norm is None:
        z = layer.ffn(modules, found.before_ffn) + found.before_ffn
        expected = bottleneck(block, z) + z
    else:
        x = modules.get_submodule(layer.after_attention)(found.before_ffn)
        norm = modules.get_submodule(layer.ffn_norm)
        z = layer.ffn(modules, x) + x
        expected = norm(bottleneck(block, norm(z)) + z)
    assert (found.output - expected).abs().max() < TOLERANCE
    assert (found.output - base.output).abs().max() > 0.1


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
        Site(site.module.replace("layer_groups.0", f"layer_groups.{group}"), site.port): block
        for group in range(2)
        for site, block in adapter.blocks.items()
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
