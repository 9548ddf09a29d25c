"""The record of an architecture: what the project knows about it.

All module paths are those of today's transformers, without the prefix of a task class.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

from adapter_export.architectures.adapterhub import HubRecord, HubStack


class Role(str, Enum):
    """The use of a linear layer within a transformer layer. A fused projection has several roles."""

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

    Attributes:
        output: The module whose output is h, just before the residual is added.
        residual: The module whose input is x.
        norm: In post-norm models, the norm that follows z; empty in pre-norm models.
    """

    output: str
    residual: str
    norm: str = ""


@dataclass(frozen=True)
class Stack:
    """A stack of layers of the same structure.

    The fields query, key, value, attention_output, gate, up and down are the paths, below the layer, of the linear
    layers of each `Role`. If cross-attention has its own, both are listed. Experts that are no modules are not listed.

    Attributes:
        layer: Regular expression of a layer's path in the base model.
        attention: The attention sublayer.
        feedforward: The feed-forward sublayer.
        fused: The path of one projection that holds query, key and value, in this order.
        needs: A module of the base model, by its whole path. A model without it does not have this stack.
        hub: Where the library `adapters` keeps the adapters of a layer.
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
        """Returns the paths, below the layer, of the linear layers that have this role."""
        if self.fused and role in (Role.QUERY, Role.KEY, Role.VALUE):
            return (self.fused,)
        found: tuple[str, ...] = getattr(self, role.value)
        return found

    def fits(self, layer: str, modules: Collection[str]) -> bool:
        """Returns whether the layer at path `layer` has all modules that are named here."""
        sublayers = (self.attention, self.feedforward)
        below = {path for role in Role for path in self.paths(role)}
        below |= {path for part in sublayers for path in (part.output, part.residual, part.norm) if path}
        return all(f"{layer}.{path}" in modules for path in below) and (not self.needs or self.needs in modules)


@dataclass(frozen=True)
class HeadRecord:
    """The task head of a transformers class.

    Attributes:
        layers: Its linear layers by path in the task model, in order.
        norms: Other modules of it, which keep the values of the base model's checkpoint.
        without_bias: Those of the layers that have no bias.
        bias_settings: Config fields that say whether a layer has a bias, by layer. They are false by default.
        doubled: Whether the first layer reads two vectors of the base model, concatenated.
    """

    layers: tuple[str, ...]
    norms: tuple[str, ...] = ()
    without_bias: tuple[str, ...] = ()
    bias_settings: Mapping[str, str] = field(default_factory=dict)
    doubled: bool = False


@dataclass(frozen=True)
class Positions:
    """How a model numbers the tokens of a text, if its config does not say it.

    Attributes:
        reserved: How many rows of the table of positions are not positions.
        after_padding: Whether the first position follows the padding token's number. Then that many rows, and one more,
            are not positions.
        relative: Whether positions are distances only, so that a limit in old configs does not hold for the model.
        mask_table: Whether the causal mask is cut from a table of all positions.
    """

    reserved: int = 0
    after_padding: bool = False
    relative: bool = False
    mask_table: bool = False


@dataclass(frozen=True)
class Architecture:
    """One `model_type`. The defaults of the fields are those of most architectures.

    Attributes:
        stacks: The stacks with places for adapters. If several stacks name the same layers, the first whose modules are
            all there counts. Empty for an architecture that is adapted by `--target` only.
        renames: Pairs of module paths (transformers 4, today), see `renames`.
        prefix: What a task class puts before the base model's module paths.
        stem: What the names of its task classes begin with, if the language model's class does not show it.
        transposed: Whether linear layers are transformers' Conv1D, which keeps weights as (in, out).
        heads: Task heads, by task.
        pooler: The linear layer of the base model, with tanh after it, whose output a classifier of whole texts reads.
            A class without a head does not save it.
        speech: Whether it transcribes speech. transformers then loads it with AutoModelForSpeechSeq2Seq, not
            AutoModelForSeq2SeqLM.
        positions: See `Positions`.
        rereads: Whether its rotary factors change with the length of a text (LongRoPE). Then transformers' `generate`
            reads the text again, once it is longer than the short factors are for.
        one_row_differs: Whether its classifier finds the end of a text in another way if there is only one row.
        end_token: Whether its classifier reads the values at a text's end token.
        parts: The `model_type`s of the models that it consists of.
        hub: What the library `adapters` knows about it.
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
