"""Who else says what an adapter computes: PEFT's own model, beside ours, for its checkpoints.

Independent of the rest: it reads the checkpoint and the base model by itself, chooses its class by itself, and knows
nothing of sites or hooks. What it cannot see is in docs/parity.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from adapter_export.errors import InputError
from adapter_export.parity.recording.files import Mismatch, Refused, read_object
from adapter_export.parity.recording.peft_subject import PeftSubject
from adapter_export.parity.recording.subject import Bases, PlainSubject, Subject, class_for

NONE = "none: "
OWN_READING = f"{NONE}our own reading"


@dataclass(frozen=True)
class Witnesses:
    """names: by adapter who its witness is, in words. subjects: those of them that run here, in float64.
    base: the base model without any adapter, as transformers alone loads it. faults: by adapter what PEFT left out.
    """

    names: Mapping[str, str]
    subjects: Mapping[str, Subject] = field(default_factory=dict)
    base: Subject | None = None
    faults: Mapping[str, str] = field(default_factory=dict)


def open_witnesses(model: Path, adapters: Mapping[str, Path], task: str, asked: str | None) -> Witnesses:
    """The witnesses of checkpoint folders by name. task: of the bundle. asked: the task that was asked for by name,
    None where the checkpoints and the base model were to tell it."""
    bases = Bases(model, "float64")
    names: dict[str, str] = {}
    subjects: dict[str, Subject] = {}
    faults: dict[str, str] = {}
    for name, folder in adapters.items():
        if "peft_type" not in read_object(folder / "adapter_config.json"):
            names[name] = OWN_READING
            continue
        if find_spec("peft") is None:
            names[name] = f"{NONE}peft is not installed"
            continue
        try:
            subjects[name] = PeftSubject(bases, folder, asked)
            names[name] = subjects[name].witness
        except Refused as error:
            names[name] = f"{NONE}PEFT refuses this checkpoint ({error})"
        except Mismatch as error:
            names[name] = f"{NONE}PEFT takes only a part of this checkpoint"
            faults[name] = str(error)
    try:
        base: Subject | None = PlainSubject(bases, class_for(bases.config, task))
    except Refused:
        base = None
    return Witnesses(names, subjects, base, faults)


def run_witness(subject: Subject, inputs: Mapping[str, np.ndarray], *, on: bool) -> dict[str, np.ndarray]:
    """A witness' outputs by name, with the adapter or without it. Raises InputError where its model cannot run."""
    try:
        return subject.run(inputs, on=on)
    except Exception as error:  # a model raises what it likes
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        raise InputError(
            f"{subject.witness}: {subject.class_name} cannot run {shapes}: {type(error).__name__}: {error}"
        ) from error
