"""What the project knows of an architecture, as one record.

All module paths are those of today's transformers, without the prefix of a task class.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

from adapter_export.architectures.adapterhub import HubRecord, HubStack


class Role(str, Enum):
    """What a linear layer does in a transformer layer. A fused projection has several roles."""

    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    ATTENTION_OUTPUT = "attention_output"
    GATE = "gate"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True)
class Sublayer:
    """Attention or the feed-forward, with its residual connection: z = x + h. All fields are paths below the layer.

    output: the module whose output is h, just before the residual is added.
    residual: the module whose input is x.
    norm: of post-norm models, the norm that follows z; empty in pre-norm models.
    """

    output: str
    residual: str
    norm: str = ""


@dataclass(frozen=True)
class Stack:
    """A stack of like layers.

    layer: regular expression of a layer's path in the base model.
    attention, feedforward: its sublayers.
    query, key, value, attention_output, gate, up, down: paths below the layer of the linear layers of each `Role`.
        Where cross-attention has its own, both are listed. Experts that are no modules are not.
    fused: the path of one projection that holds query, key and value, in this order.
    needs: a module of the base model, by its whole path, without which this is not the stack.
    hub: where the library `adapters` keeps the adapters of a layer.
    """

    layer: str
    attention: Sublayer
    feedforward: Sublayer
    query: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    value: tuple[str, ...] = ()
    attention_output: tuple[str, ...] = ()
    gate: tuple[str, ...] = ()
    up: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    fused: str = ""
    needs: str = ""
    hub: HubStack = field(default_factory=HubStack)

    def paths(self, role: Role) -> tuple[str, ...]:
        """Paths below the layer of the linear layers that have this role."""
        if self.fused and role in (Role.QUERY, Role.KEY, Role.VALUE):
            return (self.fused,)
        found: tuple[str, ...] = getattr(self, role.value)
        return found

    def fits(self, layer: str, modules: Collection[str]) -> bool:
        """Whether the layer at path `layer` has every module that is named here."""
        sublayers = (self.attention, self.feedforward)
        below = {path for role in Role for path in self.paths(role)}
        below |= {path for part in sublayers for path in (part.output, part.residual, part.norm) if path}
        return all(f"{layer}.{path}" in modules for path in below) and (not self.needs or self.needs in modules)


@dataclass(frozen=True)
class HeadRecord:
    """The task head of a transformers class.

    layers: its linear layers by path in the task model, in order.
    norms: other modules of it, which keep the values of the base model's checkpoint.
    without_bias: those of the layers that have no bias.
    bias_settings: fields of the config that say whether a layer has a bias, by layer; they are false by default.
    doubled: whether the first layer reads two vectors of the base model side by side.
    """

    layers: tuple[str, ...]
    norms: tuple[str, ...] = ()
    without_bias: tuple[str, ...] = ()
    bias_settings: Mapping[str, str] = field(default_factory=dict)
    doubled: bool = False


@dataclass(frozen=True)
class Positions:
    """How a model numbers the tokens of a text, as far as its config does not say.

    reserved: rows of the table of positions that are none.
    after_padding: the first position follows the padding token's number: that many rows, and one more, are none.
    relative: positions are distances alone, so that the limit in old configs is none of the model's.
    mask_table: the causal mask is cut from a table of all positions.
    """

    reserved: int = 0
    after_padding: bool = False
    relative: bool = False
    mask_table: bool = False


@dataclass(frozen=True)
class Architecture:
    """One `model_type`. A field that is left out is as in most architectures.

    stacks: where adapters stand. Of several stacks that name the same layers, the first whose modules are all there
        counts. Empty for an architecture that is adapted by `--target` alone.
    renames: pairs of module paths (transformers 4, today), see `renames`.
    prefix: what a task class puts before the base model's module paths.
    stem: what the names of its task classes begin with, where the language model's class does not tell.
    transposed: linear layers are transformers' Conv1D, which keeps weights as (in, out).
    heads: by task.
    pooler: the linear layer of the base model, with tanh after it, whose output a classifier of whole texts reads. A
        class without a head does not save it.
    speech: writes what it hears; transformers loads it with AutoModelForSpeechSeq2Seq, not AutoModelForSeq2SeqLM.
    positions: see `Positions`.
    rereads: where its rotary factors change with the length of a text (LongRoPE), transformers' `generate` reads the
        text again, once it is longer than the short factors are for.
    one_row_differs: its classifier looks for the end of texts in a way that is another for a single row.
    end_token: its classifier reads what stands at a text's end token.
    parts: `model_type`s of the models that it is made of.
    hub: what the library `adapters` knows of it.
    """

    stacks: tuple[Stack, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    prefix: str = "model"
    stem: str = ""
    transposed: bool = False
    heads: Mapping[str, HeadRecord] = field(default_factory=dict)
    pooler: str = ""
    speech: bool = False
    positions: Positions = Positions()
    rereads: bool = False
    one_row_differs: bool = False
    end_token: bool = False
    parts: tuple[str, ...] = ()
    hub: HubRecord = field(default_factory=HubRecord)
