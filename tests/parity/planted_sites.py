"""Where the first wrong value of each mutant is, by what the mutant changes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from adapter_export.bundle.adapter_file import read_adapter_file
from adapter_export.bundle.graphs import DECODER, ENCODER, MODEL
from adapter_export.bundle.manifest import read_manifest
from adapter_export.naming import DOMAIN
from tests.bundles import Exported
from tests.parity.mutants import Mutant

_L0, _L1 = "encoder.layer.0.", "encoder.layer.1."
# By the name of a mutant that changes the graph. A value that no module computes is called by its name.
PLANTED = {
    "LoRA absent": "the file of adapter lora",
    "LoRA without the layer's own output": f"{_L0}attention.self.query",
    "IA3 applied twice": f"{_L0}attention.self.key",
    "residual dropped": f"{_L0}attention.output.dense",
    "residual dropped, embedded": f"{_L0}attention.output.dense",
    "wrong activation: relu for silu": f"{_L0}attention.output.dense",
    "wrong activation: gelu for relu": f"{_L0}output.LayerNorm.input",
    "wrong activation: hard sigmoid in silu": f"{_L0}attention.output.dense",
    "bias of the bottleneck dropped": f"{_L0}attention.output.dense",
    "constant of an embedded adapter off by 1%": f"{_L0}output.dense",
    "bias left unscaled": f"{_L0}attention.self.value",
    "merged twice": f"{_L1}attention.self.value",
    "a default that is not the identity": f"{_L0}attention.self.value",
    "a base weight off by 1%": f"{_L1}output.LayerNorm",
    "positions off by one": "embeddings.position_embeddings",
    "somebody's labels without an adapter": "classifier",
    "the base model's own head lost": "classifier",
    "mask ignored": f"{_L0}attention.self",
    "token types baked in": "embeddings.token_type_embeddings",
    "sequence baked in": f"{_L0}attention.self",
    "batch baked in": "logits",
    "every row is the first": "logits",
    "all zero": "logits",
    "constant": "logits",
    "the same for every input": "logits",
    "not a number": "logits",
    "cache off by one": "layers.0.self_attn",
    "one layer's past forgotten": "layers.1.self_attn",
    "cache off by one, two graphs": "decoder.block.0.layer.0.SelfAttention",
    "cross-attention's adapter dropped in the encoder's graph": "decoder.block.0.layer.1.EncDecAttention.k",
    "adapter dropped in the encoder's graph": "encoder.block.0.layer.0.SelfAttention.k",
    "adapter dropped in the decoder's graph": "decoder.block.0.layer.0.SelfAttention.k",
    "the encoder's mask ignored in the decoder": "decoder.block.0.layer.1.EncDecAttention",
    "every row has the first one's adapter": f"{_L0}attention.self.key",
    "every row has the last one's adapter": f"{_L0}attention.output.dense",
    # Without the body of the adapter, its task head alone is chosen by the number of the row.
    "no row has an adapter": "classifier",
    "one tensor of no adapter": f"{_L0}attention.output.dense",
}


def planted_site(mutant: Mutant, exported: Exported) -> str:
    """Returns where the first wrong value of a mutant is: the site of an adapter, a module, or an output."""
    site = mutant.site or PLANTED.get(mutant.name)
    return site if site is not None else _first_changed(mutant, exported)


def _first_changed(mutant: Mutant, exported: Exported) -> str:
    """Returns the first site in the graphs that reads a tensor which the mutant changes."""
    assert mutant.tensors, mutant.name
    manifest = read_manifest(exported.bundle)
    file = manifest.adapter(mutant.adapter).file
    assert file is not None
    before = dict(read_adapter_file(exported.bundle / file))
    after = mutant.tensors(before)
    wrong = {name for name in before if name not in after or not np.array_equal(before[name], after[name])}
    graphs = [name for name in (ENCODER, DECODER, MODEL) if name in manifest.graphs]
    nodes = [node for name in graphs for node in ir.load(exported.bundle / name).graph if node.domain == DOMAIN]
    first = next(node for node in nodes if any(value is not None and value.name in wrong for value in node.inputs))
    name = str(first.name)
    # A node is named by its site and its operator; that of a task head by its module and `head`.
    return name.rpartition(".")[0]
