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


ROWS: Mapping[str, Row] = {
    # PEFT
    "peft: another method": (
        P,
        edit_json(CONFIG, peft_type="LORA"),
        (CONFIG, "'peft_type': expected 'IA3', found 'LORA'"),
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
        edit_tensors(P_WEIGHTS, add(f"{PREFIX}bert.pooler.dense.weight", 32, 32)),
        ("tensor 'bert.pooler.dense.weight' replaces a module of the base model",),
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
            "places: encoder.layer.0.attention.output, encoder.layer.0.output)",
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
        ("tensor 'bert.encoder.layer.1.output.adapters.default.gate.weight': not a tensor of a bottleneck adapter",),
    ),
    "hub: unknown place": (
        H,
        edit_tensors(H_WEIGHTS, add("bert.encoder.layer.2.output.adapters.default.adapter_up.bias", 32)),
        ("tensors at 'encoder.layer.2.output': no such place",),
    ),
    "hub: two adapters": (
        H,
        edit_tensors(H_WEIGHTS, add("bert.encoder.layer.1.output.adapters.other.adapter_up.bias", 32)),
        ("adapters.other.adapter_up.bias': expected one adapter in the file, found 'default' and 'other'",),
    ),
    "hub: scaling lost": (
        H,
        edit_json(CONFIG, config__scaling="learned"),
        (".adapters.*.scaling': expected one learned value",),
    ),
    "hub: scaling by channel": (
        H,
        edit_json(CONFIG, config__scaling="channel"),
        ("field 'scaling': 'channel' is not supported, expected a number or 'learned'",),
    ),
    "hub: scaling nan": (
        H,
        edit_json(CONFIG, config__scaling=float("nan")),
        ("field 'scaling': nan is not supported",),
    ),
    "hub: both kinds of place": (
        H,
        edit_json(CONFIG, config__original_ln_before=True),
        ("field 'original_ln_before': true is not supported with mh_adapter",),
    ),
    **{
        f"hub: {name}": (
            H,
            edit_json(CONFIG, **{f"config__{name}": value}),
            (CONFIG, f"field '{name}': {value!r} is not supported, expected {expected!r}"),
        )
        for name, value, expected in (
            ("architecture", "union", None),
            ("architecture", "prefix_tuning", None),
            ("is_parallel", True, False),
            ("use_gating", True, False),
            ("phm_layer", True, False),
            ("inv_adapter", "nice", None),
            ("ln_before", True, False),
            ("ln_after", True, False),
            ("original_ln_after", False, True),
            ("residual_before_ln", False, True),
            ("residual_before_ln", "post_add", True),
            ("adapter_residual_before_ln", True, False),
            ("cross_adapter", True, False),
        )
    },
    "hub: flexible head": (
        H,
        edit_json(HEAD_CONFIG, config={"head_type": "classification"}),
        (HEAD_CONFIG, "field 'config': a flexible head (AutoAdapterModel) is not supported"),
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
        edit_tensors(HEAD_WEIGHTS, add("bert.pooler.dense.weight", 32, 32)),
        ("tensor 'bert.pooler.dense.weight' replaces a module of the base model",),
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
