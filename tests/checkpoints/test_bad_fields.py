"""Adapter folders with one thing wrong in otherwise readable files: the message names it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_export.checkpoints.folder import load_adapter
from adapter_export.modelinfo import ModelInfo

CONFIG, SIDECAR = "adapter_config.json", "adapter_export.json"

# See the fixtures of this folder.
Good = Callable[[str], Path]
Refused = Callable[..., str]
Break = Callable[[Path], object]


def edit_json(name: str, **changes: Any) -> Break:
    """Set fields of a JSON file; `config.x` is a field inside `config`, and ... removes it."""

    def change(folder: Path) -> None:
        whole = json.loads((folder / name).read_text())
        for field, value in changes.items():
            inside, _, key = field.rpartition("__")
            owner = whole[inside] if inside else whole
            if value is ...:
                del owner[key]
            else:
                owner[key] = value
        (folder / name).write_text(json.dumps(whole))

    return change


def edit_tensors(name: str, change: Callable[[dict[str, np.ndarray]], object]) -> Break:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name)

    return apply


# (format, what to break, parts of the message)
Row = tuple[str, Break, tuple[str, ...]]
P, H = "peft", "adapterhub"
HEAD_WEIGHTS, HEAD_CONFIG = "model_head.safetensors", "head_config.json"
P_WEIGHTS, H_WEIGHTS = "adapter_model.safetensors", "adapter.safetensors"
PREFIX = "base_model.model."
P_KEY = f"{PREFIX}bert.encoder.layer.1.attention.self.key.ia3_l"


def drop(fragment: str) -> Callable[[dict[str, np.ndarray]], object]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        for name in [name for name in tensors if fragment in name]:
            del tensors[name]

    return change


def add(name: str, *shape: int) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda tensors: tensors.update({name: np.ones(shape, np.float32)})


def combined(*changes: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


def disagreeing_norms(tensors: dict[str, np.ndarray]) -> None:
    """The names of an adapter with a norm before it, which is there twice, but with other values."""
    for name in [name for name in tensors if "adapter_down.0" in name]:
        tensors[name.replace("down.0", "down.1")] = tensors.pop(name)
        tensors[name] = np.zeros(32, np.float32)
        tensors[name.replace("adapter_down.0", "adapter_norm_before")] = np.ones(32, np.float32)


# One part of a union.
BOTTLENECK = {"mh_adapter": False, "output_adapter": True, "non_linearity": "relu", "reduction_factor": 16}

ROWS: Mapping[str, Row] = {
    # PEFT
    "peft: another method": (
        P,
        edit_json(CONFIG, peft_type="VERA"),
        (CONFIG, "'peft_type': expected 'IA3' or 'LORA', found 'VERA'"),
    ),
    "peft: no method": (P, edit_json(CONFIG, peft_type=7), (CONFIG, "'peft_type': expected str, found 7")),
    "peft: targets of no kind": (
        P,
        edit_json(CONFIG, target_modules=3),
        ("'target_modules': expected list or str, found 3",),
    ),
    "peft: broken regex": (P, edit_json(CONFIG, target_modules="(a"), ("'target_modules': not a regular expression",)),
    "peft: no vectors": (P, edit_tensors(P_WEIGHTS, drop("ia3_l")), ("expected tensors named *.ia3_l, found none",)),
    "peft: missing vector": (
        P,
        edit_tensors(P_WEIGHTS, drop("layer.1.attention.self.key")),
        ("tensor 'bert.encoder.layer.1.attention.self.key.ia3_l' is missing (1 in all)", "'target_modules'"),
    ),
    "peft: surplus vector": (
        P,
        edit_tensors(P_WEIGHTS, add(f"{PREFIX}bert.encoder.layer.0.attention.self.query.ia3_l", 32, 1)),
        ("tensor 'bert.encoder.layer.0.attention.self.query.ia3_l': 'target_modules' does not name its module",),
    ),
    "peft: foreign tensor": (
        P,
        edit_tensors(P_WEIGHTS, add("lora_A", 2)),
        ("tensor 'lora_A': expected a name that starts",),
    ),
    "peft: unknown module": (
        P,
        edit_tensors(P_WEIGHTS, add(f"{PREFIX}bert.encoder.layer.0.attention.self.kex.ia3_l", 32, 1)),
        (
            "module 'encoder.layer.0.attention.self.kex' is not in the bert model",
            "close ones: encoder.layer.0.attention.self.key,",
        ),
    ),
    "peft: vector turned": (
        P,
        edit_tensors(P_WEIGHTS, lambda t: t.update({P_KEY: t[P_KEY].T.copy()})),
        ("expected shape (32, 1) for this base model, found (1, 32)",),
    ),
    "peft: feed-forward forgotten": (
        P,
        edit_json(CONFIG, feedforward_modules=[]),
        ("output.dense.ia3_l': expected shape (32, 1) for this base model, found (1, 64)",),
    ),
    "peft: head without weight": (
        P,
        edit_tensors(P_WEIGHTS, drop("classifier.weight")),
        ("module 'classifier': expected a task head's weight and bias, found ['bias']",),
    ),
    "peft: head of another class": (
        P,
        edit_tensors(
            P_WEIGHTS,
            lambda t: t.update(
                {
                    f"{PREFIX}score.weight": t.pop(f"{PREFIX}classifier.weight")[:],
                    f"{PREFIX}score.bias": t.pop(f"{PREFIX}classifier.bias")[:],
                }
            ),
        ),
        ("task head: expected classifier for BertForSequenceClassification, found score",),
    ),
    "peft: head is no matrix": (
        P,
        edit_tensors(P_WEIGHTS, add(f"{PREFIX}classifier.weight", 2, 32, 1)),
        ("module 'classifier': expected a linear layer, found weight (2, 32, 1), bias (2,)",),
    ),
    "peft: head of two sizes": (
        P,
        edit_tensors(P_WEIGHTS, add(f"{PREFIX}classifier.bias", 3)),
        ("module 'classifier': expected a linear layer, found weight (2, 32), bias (3,)",),
    ),
    "peft: base module replaced": (
        P,
        edit_tensors(P_WEIGHTS, add(f"{PREFIX}bert.encoder.layer.0.output.dense.weight", 32, 32)),
        ("tensor 'bert.encoder.layer.0.output.dense.weight' replaces a module of the base model",),
    ),
    "peft: half a pooler": (
        P,
        edit_tensors(P_WEIGHTS, add(f"{PREFIX}bert.pooler.dense.weight", 32, 32)),
        ("module 'bert.pooler.dense': expected a task head's weight and bias, found ['weight']",),
    ),
    # AdapterHub
    "hub: no config": (H, edit_json(CONFIG, config=...), (CONFIG, "expected field 'peft_type' (PEFT) or 'config'")),
    "hub: another model type": (
        H,
        edit_json(CONFIG, model_type="roberta"),
        ("'model_type': expected 'bert', found 'roberta'",),
    ),
    "hub: no activation": (
        H,
        edit_json(CONFIG, config__non_linearity=...),
        (CONFIG, "field 'non_linearity' is missing"),
    ),
    "hub: unknown activation": (
        H,
        edit_json(CONFIG, config__non_linearity="nonsense"),
        (CONFIG, "field 'non_linearity': activation 'nonsense': expected one of "),
    ),
    "hub: placement of no kind": (
        H,
        edit_json(CONFIG, config__mh_adapter="yes"),
        ("'mh_adapter': expected bool, found 'yes'",),
    ),
    "hub: layers of no kind": (
        H,
        edit_json(CONFIG, config__leave_out=["a"]),
        ("'leave_out': expected a list of layer numbers",),
    ),
    "hub: layer left out": (
        H,
        edit_json(CONFIG, config__leave_out=[1]),
        (
            "tensors at 'encoder.layer.1.attention.output': no such place for this config in a bert model",
            "(places: encoder.layer.0.attention.output, encoder.layer.0.output)",
        ),
    ),
    "hub: missing place": (
        H,
        edit_tensors(H_WEIGHTS, drop("layer.1.output")),
        ("tensors at 'encoder.layer.1.output' are missing (1 places in all)",),
    ),
    "hub: missing tensor": (
        H,
        edit_tensors(H_WEIGHTS, drop("layer.1.output.adapters.default.adapter_up.bias")),
        ("tensor 'encoder.layer.1.output.adapters.*.adapter_up.bias' is missing",),
    ),
    "hub: surplus tensor": (
        H,
        edit_tensors(H_WEIGHTS, add("bert.encoder.layer.1.output.adapters.default.gate.weight", 1, 32)),
        ("tensor 'encoder.layer.1.output.adapters.*.gate.weight' is not one that this config has",),
    ),
    "hub: foreign tensor": (
        H,
        edit_tensors(H_WEIGHTS, add("bert.encoder.layer.1.output.x", 1, 32)),
        ("tensor 'bert.encoder.layer.1.output.x': not a tensor of a bottleneck adapter",),
    ),
    **{
        f"hub: tensor of {piece}": (
            H,
            edit_tensors(H_WEIGHTS, add(f"bert.{piece}.default.weight", 2)),
            (f"tensor 'bert.{piece}.default.weight': of {kind}, which is not supported",),
        )
        for piece, kind in (
            ("encoder.layer.0.attention.self.prefix_tunings", "prefix tuning"),
            ("encoder.layer.0.output.adapter_fusion_layer", "AdapterFusion"),
            ("invertible_adapters", "an invertible adapter"),
            ("invertible_lang_adapters", "an invertible adapter"),
            ("encoder.layer.0.output.dense.loras", "LoRA or IA3"),
        )
    },
    "hub: shared tensor": (
        H,
        edit_tensors(H_WEIGHTS, add("bert.shared_parameters.default.phm_rule", 2, 2, 2)),
        ("tensors shared by all places, but 'phm_layer' is false",),
    ),
    "hub: unknown place": (
        H,
        edit_tensors(H_WEIGHTS, add("bert.encoder.layer.2.output.adapters.default.adapter_up.bias", 32)),
        ("tensors at 'encoder.layer.2.output': no such place",),
    ),
    "hub: two adapters": (
        H,
        edit_tensors(H_WEIGHTS, add("bert.encoder.layer.1.output.adapters.other.adapter_up.bias", 32)),
        ("adapters.other.adapter_up.bias': expected one adapter in the file, found ['default', 'other']",),
    ),
    "hub: scaling lost": (
        H,
        edit_json(CONFIG, config__scaling="learned"),
        (".adapters.*.scaling' is missing",),
    ),
    "hub: scaling by channel of another size": (
        H,
        combined(
            edit_json(CONFIG, config__scaling="channel"),
            edit_tensors(H_WEIGHTS, add("bert.encoder.layer.0.attention.output.adapters.default.scaling", 1)),
        ),
        (".adapters.*.scaling': expected shape (32,) for this base model and config, found (1,)",),
    ),
    "hub: norm of two minds": (
        H,
        combined(
            edit_json(CONFIG, config__ln_before=True),
            edit_tensors(H_WEIGHTS, disagreeing_norms),
        ),
        ("adapter_down.0.weight': expected the values of 'adapter_norm_before.weight', found others",),
    ),
    "hub: union of two at one place": (
        H,
        edit_json(CONFIG, config__architecture="union", config__configs=[BOTTLENECK, BOTTLENECK]),
        (CONFIG, "field 'configs': two of the union's parts stand at 'encoder.layer.0.output'"),
    ),
    "hub: union with another method": (
        H,
        edit_json(CONFIG, config__architecture="union", config__configs=[BOTTLENECK, {"architecture": "lora"}]),
        (CONFIG, "field 'configs': a union with 'lora' is not supported, only one of bottlenecks"),
    ),
    **{
        f"hub: {field} {value}": (
            H,
            edit_json(CONFIG, **{f"config__{field}": value}),
            (CONFIG, f"'{field}': {problem}"),
        )
        for field, value, problem in (
            ("scaling", float("nan"), "expected a number, 'learned' or 'channel', found nan"),
            ("scaling", True, "expected a number, 'learned' or 'channel', found True"),
            ("scaling", "free", "expected a number, 'learned' or 'channel', found 'free'"),
            ("reduction_factor", 0, "expected numbers above 0, by layer number or 'default' where there are several"),
            ("reduction_factor", True, "expected a number, found True"),
            ("reduction_factor", {"0": -1}, "expected numbers above 0"),
            ("reduction_factor", {"0": 16}, "expected a value for layer 1, or 'default'"),
            ("leave_out", [True], "expected a list of layer numbers, found [True]"),
            ("residual_before_ln", "pre_add", "expected true, false or 'post_add', found 'pre_add'"),
            ("residual_before_ln", 1, "expected true, false or 'post_add', found 1"),
            ("residual_before_ln", "post_add", "'post_add': the library takes this only with original_ln_before"),
            (
                "architecture",
                "prefix_tuning",
                "'prefix_tuning' is not supported, expected null (bottleneck), a union",
            ),
            ("architecture", ["a"], "['a'] is not supported"),
            (
                "use_gating",
                True,
                "True is not supported: the library averages the gate over all positions, padding too",
            ),
            ("inv_adapter", "nice", "'nice' is not supported: an invertible adapter acts on the embeddings"),
            ("invertible_adapter", {"block_type": "nice"}, "{'block_type': 'nice'} is not supported"),
            ("ln_before", 1, "expected bool, found 1"),
        )
    },
    "hub: width of another factor": (
        H,
        edit_json(CONFIG, config__reduction_factor=8),
        (
            "tensor 'encoder.layer.0.attention.output.adapters.*.adapter_down.0.weight': expected shape (4, 32) for ",
            "config, found (2, 32)",
        ),
    ),
    "hub: cross-attention that is not there": (
        H,
        edit_json(CONFIG, config__cross_adapter=True, config__mh_adapter=False),
        ("tensors at 'encoder.layer.0.attention.output': no such place",),
    ),
    "hub: compacter without its tensors": (
        H,
        edit_json(CONFIG, config__phm_layer=True, config__phm_dim=2),
        ("tensor '*.shared_parameters.*.phm_rule' is missing; a base class without a head saves its adapters without",),
    ),
    "hub: compacter of no size": (
        H,
        edit_json(CONFIG, config__phm_layer=True, config__phm_dim=0),
        (CONFIG, "field 'phm_dim': expected at least 1, found 0"),
    ),
    "hub: compacter that does not divide": (
        H,
        edit_json(CONFIG, config__phm_layer=True, config__phm_dim=5),
        ("expected sizes that 'phm_dim' 5 divides, found 32 and 2",),
    ),
    "hub: fusion": (
        H,
        lambda folder: (folder / "adapter_fusion_config.json").write_text("{}"),
        ("adapter_fusion_config.json: AdapterFusion is not supported",),
    ),
    "hub: flexible head": (
        H,
        edit_json(HEAD_CONFIG, config={"head_type": "tagging"}),
        (HEAD_CONFIG, "field 'head_type': 'tagging' is not supported, as no such model is exported (expected one of"),
    ),
    "hub: head without config": (H, lambda folder: (folder / HEAD_CONFIG).unlink(), (HEAD_CONFIG, "no such file")),
    "hub: head without weights": (
        H,
        lambda folder: (folder / HEAD_WEIGHTS).unlink(),
        ("expected model_head.safetensors or pytorch_model_head.bin, found neither",),
    ),
    "hub: labels of no kind": (
        H,
        edit_json(HEAD_CONFIG, label2id={"no": 0, "yes": "one"}),
        (HEAD_CONFIG, "'label2id': expected the numbers 0 to 1, found [0, 'one']"),
    ),
    "hub: labels with a gap": (
        H,
        edit_json(HEAD_CONFIG, label2id={"no": 0, "yes": 2}),
        ("numbers 0 to 1, found [0, 2]",),
    ),
    "hub: a label too many": (
        H,
        edit_json(HEAD_CONFIG, label2id={"no": 0, "yes": 1, "maybe": 2}),
        ("3 label names for a head of 2",),
    ),
    "hub: a head of base modules": (
        H,
        edit_tensors(HEAD_WEIGHTS, add("bert.encoder.layer.0.output.dense.bias", 32)),
        ("tensor 'bert.encoder.layer.0.output.dense.bias' replaces a module of the base model",),
    ),
    # What we write beside either.
    "ours: another base": (
        P,
        edit_json(SIDECAR, base_sha256="0" * 64),
        (SIDECAR, "'base_sha256': trained on a base model with weights 000000000000..., but this one has "),
    ),
    "ours: hash of no kind": (P, edit_json(SIDECAR, base_sha256=5), ("'base_sha256': expected str, found 5",)),
    "ours: a label too few": (P, edit_json(SIDECAR, labels=["only"]), ("1 label names for a head of 2",)),
    "ours: labels of no kind": (P, edit_json(SIDECAR, labels="no"), ("field 'labels': expected list, found 'no'",)),
    "ours: a label of no kind": (
        P,
        edit_json(SIDECAR, labels=["no", 1]),
        ("'labels': expected a list of strings, found",),
    ),
    "ours: unknown task": (P, edit_json(SIDECAR, task="ner"), ("'task': expected one of features, ", "found 'ner'")),
    "ours: task of no kind": (H, edit_json(SIDECAR, task=["ner"]), ("field 'task': expected str, found ['ner']",)),
    "ours: unknown placement": (
        H,
        edit_json(SIDECAR, placement="top"),
        ("field 'placement': expected one of houlsby",),
    ),
    "ours: modules of no kind": (H, edit_json(SIDECAR, modules={"a": 1}), ("field 'modules': expected list, found",)),
    "ours: unknown modules": (
        H,
        edit_json(SIDECAR, modules=["encoder.layer.7"]),
        ("tensors at 'encoder.layer.0.attention.output': no such place",),
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_one_thing_wrong(row: str, info: ModelInfo, good: Good, refused: Refused) -> None:
    kind, break_it, parts = ROWS[row]
    folder = good(kind)
    load_adapter(folder, info)
    break_it(folder)
    message = refused(folder)
    for part in parts:
        assert part in message
