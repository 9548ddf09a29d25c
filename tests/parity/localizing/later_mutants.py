"""Wrong bundles that were added after the search for the first wrong value was finished.

They measure how often it names the right place, as it could not be made for them. The search was finished twice: FIRST
was added after the first time, and what it showed was corrected. SECOND was added after that.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from adapter_export.bundle.graphs import DECODER, ENCODER
from adapter_export.grafting.dialects import dialect_named
from adapter_export.naming import DOMAIN
from tests.parity.mutants import ChangeGraph, Mutant, Tensors, changed, function, initializer, of_another, swapped

L0, L1 = "encoder.layer.0.", "encoder.layer.1."
SWAPPABLE, MERGED, EMBEDDED, CACHED, PAIR, BANK, LORA = (
    f"{name}_bundle" for name in ("swappable", "merged", "embedded", "llama", "t5", "bank", "lora")
)


def nodes_of(model: ir.Model, module: str, op_type: str) -> list[ir.Node]:
    """Returns the nodes of this operator in a module, whose path may have a prefix."""
    path_of = dialect_named("adapter-export").path_of
    found = [node for node in model.graph if node.op_type == op_type and path_of(node).endswith(module)]
    assert found, (module, op_type)
    return found


def with_node(module: str, op_type: str, change: Callable[[ir.Model, ir.Node], None]) -> ChangeGraph:
    """Applies `change` to the first node of this operator in a module."""
    return lambda model, _: change(model, nodes_of(model, module, op_type)[0])


def weight_of(module: str, change: Callable[[np.ndarray], np.ndarray]) -> ChangeGraph:
    """Changes the weight that the module multiplies by."""

    def apply(model: ir.Model, base: Tensors) -> None:
        weight = nodes_of(model, module, "MatMul")[0].inputs[1]
        assert weight is not None
        initializer(str(weight.name), change)(model, base)

    return apply


def weights_exchanged(first: str, second: str) -> ChangeGraph:
    """Exchanges the weights of two modules."""

    def apply(model: ir.Model, _: Tensors) -> None:
        one, other = (nodes_of(model, module, "MatMul")[0] for module in (first, second))
        weights = one.inputs[1], other.inputs[1]
        one.replace_input_with(1, weights[1])
        other.replace_input_with(1, weights[0])

    return apply


def inputs_exchanged(_: ir.Model, node: ir.Node) -> None:
    first, second = node.inputs[:2]
    node.replace_input_with(0, second)
    node.replace_input_with(1, first)


def bypassed(model: ir.Model, node: ir.Node) -> None:
    """Makes the readers of a node read its first input."""
    for reader, index in list(node.outputs[0].uses()):
        reader.replace_input_with(index, node.inputs[0])


def attribute(name: str, value: float | int | str) -> Callable[[ir.Model, ir.Node], None]:
    def change(_: ir.Model, node: ir.Node) -> None:
        kinds = {float: ir.AttrFloat32, int: ir.AttrInt64, str: ir.AttrString}
        node.attributes[name] = kinds[type(value)](name, value)

    return change


def operator(name: str) -> Callable[[ir.Model, ir.Node], None]:
    def change(_: ir.Model, node: ir.Node) -> None:
        node.op_type = name

    return change


def again(site: str) -> ChangeGraph:
    """Applies the adapter of a site once more to its result."""

    def apply(model: ir.Model, _: Tensors) -> None:
        node = next(node for node in model.graph if node.domain == DOMAIN and (node.name or "").startswith(site))
        readers = list(node.outputs[0].uses())
        second = ir.node(node.op_type, [node.outputs[0], *node.inputs[1:]], domain=DOMAIN)
        second.outputs[0].name = "again"
        for reader, index in readers:
            reader.replace_input_with(index, second.outputs[0])
        model.graph.insert_after(node, second)

    return apply


def before_the_layer(site: str) -> ChangeGraph:
    """Moves the vector of a site from the output of its layer to the input."""

    def apply(model: ir.Model, _: Tensors) -> None:
        node = next(node for node in model.graph if node.domain == DOMAIN and (node.name or "").startswith(site))
        product = nodes_of(model, site, "MatMul")[0]
        bypassed(model, node)
        node.replace_input_with(0, product.inputs[0])
        product.replace_input_with(0, node.outputs[0])
        model.graph.remove(node)
        model.graph.insert_before(product, node)

    return apply


def unmerged(module: str) -> ChangeGraph:
    """Replaces the merged weight and bias of a linear layer by those of the base model."""

    def apply(model: ir.Model, base: Tensors) -> None:
        weight_of(module, lambda array: base[f"{module}.weight"].T.reshape(array.shape))(model, base)
        initializer(f"bert.{module}.bias", lambda _: base[f"{module}.bias"])(model, base)

    return apply


FIRST = [
    Mutant("base weights of two layers exchanged", SWAPPABLE, "ia3_three", site=f"{L0}intermediate.dense",
           graph=weights_exchanged(f"{L0}intermediate.dense", f"{L1}intermediate.dense")),
    Mutant("a base weight transposed", SWAPPABLE, "houlsby_two", site=f"{L1}attention.output.dense",
           graph=weight_of(f"{L1}attention.output.dense", lambda array: array.T)),
    Mutant("the bias of a base layer dropped", MERGED, "ia3_three", site=f"{L0}intermediate.dense",
           graph=initializer(f"bert.{L0}intermediate.dense.bias", np.zeros_like)),
    Mutant("gelu computed by tanh in one layer", SWAPPABLE, "ia3_two", site=f"{L1}intermediate.intermediate_act_fn",
           graph=with_node(f"{L1}intermediate.intermediate_act_fn", "Gelu", attribute("approximate", "tanh"))),
    Mutant("the residual of a layer missing", SWAPPABLE, "pfeiffer_five", site=f"{L0}attention.output",
           graph=with_node(f"{L0}attention.output", "Add", bypassed)),
    Mutant("the scale of the queries lost in one layer", EMBEDDED, "houlsby_four", site=f"{L1}attention.self",
           graph=with_node(f"{L1}attention.self", "Mul", bypassed)),
    Mutant("one vector applied twice", SWAPPABLE, "ia3_three", site=f"{L1}output.dense.input",
           graph=again(f"{L1}output.dense.input.ia3")),
    Mutant("another epsilon in one norm", SWAPPABLE, "houlsby_four", site=f"{L1}attention.output.LayerNorm",
           graph=with_node(f"{L1}attention.output.LayerNorm", "LayerNormalization", attribute("epsilon", 0.1))),
    Mutant("a vector on the wrong side of its layer", SWAPPABLE, "ia3_two", site=f"{L0}attention.self.value",
           graph=before_the_layer(f"{L0}attention.self.value")),
    Mutant("softmax over the wrong axis in one layer", LORA, "lora", site=f"{L1}attention.self",
           graph=with_node(f"{L1}attention.self", "Softmax", attribute("axis", -2))),
    Mutant("one LoRA matrix of somebody else", LORA, "lora", of_another(f"{L1}attention.self.value.lora.b")),
    Mutant("the sign of one bias of a bottleneck", SWAPPABLE, "pfeiffer_five",
           changed(f"{L1}output.LayerNorm.input.bottleneck_relu.up_bias", np.negative)),
    Mutant("one vector upside down", BANK, "ia3_two", changed(f"{L0}attention.self.value.ia3.l", lambda t: 1 / t)),
    Mutant("one layer not merged", MERGED, "ia3_three", site=f"{L1}attention.self.key",
           graph=unmerged(f"{L1}attention.self.key")),
    Mutant("gate and up exchanged", CACHED, "ia3", site="layers.0.mlp.gate_proj",
           graph=weights_exchanged("layers.0.mlp.gate_proj", "layers.0.mlp.up_proj")),
    Mutant("the two halves of rotated queries exchanged", CACHED, "houlsby", site="layers.1.self_attn",
           graph=with_node("layers.1.self_attn", "Concat", inputs_exchanged)),
    Mutant("distances of another order", PAIR, "houlsby", file=DECODER,
           site="decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
           graph=initializer("model.decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                             lambda table: table[::-1])),
    Mutant("the decoder's last norm left out", PAIR, "ia3", file=DECODER, site="decoder.final_layer_norm",
           graph=initializer("model.decoder.final_layer_norm.weight", np.ones_like)),
]  # fmt: skip

SECOND = [
    Mutant("an activation left out", SWAPPABLE, "ia3_three", site="pooler.activation",
           graph=with_node("pooler.activation", "Tanh", bypassed)),
    Mutant("weights of queries and keys exchanged", SWAPPABLE, "houlsby_four", site=f"{L1}attention.self.query",
           graph=weights_exchanged(f"{L1}attention.self.query", f"{L1}attention.self.key")),
    Mutant("a base weight 2% too large", SWAPPABLE, "ia3_two", site=f"{L0}output.dense",
           graph=weight_of(f"{L0}output.dense", lambda array: 1.02 * array)),
    Mutant("LoRA: the scale in one site twice", LORA, "lora",
           changed(f"{L0}attention.self.query.lora.b", lambda tensor: 2.5 * tensor)),
    Mutant("a matrix of a bottleneck in the reverse order", SWAPPABLE, "houlsby_two",
           changed(f"{L0}output.dense.bottleneck_silu.down", lambda tensor: tensor[::-1])),
    Mutant("the table of tokens off by one", MERGED, "ia3_three", site="embeddings.word_embeddings",
           graph=initializer("bert.embeddings.word_embeddings.weight", lambda table: np.roll(table, 1, 0))),
    Mutant("one vector shifted by a feature", BANK, "ia3_two",
           changed(f"{L1}attention.self.value.ia3.l", lambda tensor: np.roll(tensor, 1, -1))),
    Mutant("the bias of one norm dropped", EMBEDDED, "houlsby_four", site=f"{L1}output.LayerNorm",
           graph=initializer(f"bert.{L1}output.LayerNorm.bias", np.zeros_like)),
    Mutant("one number of a norm's weight negative", CACHED, "houlsby", site="layers.0.post_attention_layernorm",
           graph=initializer("model.layers.0.post_attention_layernorm.weight", lambda t: np.r_[-t[:1], t[1:]])),
    Mutant("the residual around attention missing", CACHED, "ia3", site="layers.1",
           graph=with_node("model.layers.1", "Add", bypassed)),
    Mutant("another activation in the encoder", PAIR, "ia3", file=ENCODER,
           site="encoder.block.1.layer.1.DenseReluDense.act",
           graph=with_node("encoder.block.1.layer.1.DenseReluDense.act", "Relu", operator("Abs"))),
    Mutant("two layers swapped in a bank", BANK, "houlsby_four", swapped(L0, L1)),
    Mutant("the last bias of the bottlenecks missing", EMBEDDED, "houlsby_four", site=f"{L0}attention.output.dense",
           graph=function("BottleneckSilu", "Add (expanded, up_bias)", "Identity (expanded)")),
    Mutant("queries of the decoder's two attentions exchanged", PAIR, "houlsby", file=DECODER,
           site="decoder.block.1.layer.0.SelfAttention.q",
           graph=weights_exchanged("decoder.block.1.layer.0.SelfAttention.q",
                                   "decoder.block.1.layer.1.EncDecAttention.q")),
]  # fmt: skip
