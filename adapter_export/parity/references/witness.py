"""Opens and runs the witnesses of checkpoints: PEFT's own models, independent of our reading of a checkpoint.

A witness reads the checkpoint and the base model with its own code, and chooses the class of the model itself. This
module imports nothing of our reading. docs/parity.md lists what a witness cannot detect.
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
    """The witnesses of a bundle's adapters.

    Attributes:
        names: The witness of each adapter, in words for the report.
        subjects: By adapter, the float64 models of the witnesses that run in this process.
        base: The base model without any adapter, as transformers loads it; None if transformers has no class for it.
        faults: By adapter, what PEFT did not load from the checkpoint.
    """

    names: Mapping[str, str]
    subjects: Mapping[str, Subject] = field(default_factory=dict)
    base: Subject | None = None
    faults: Mapping[str, str] = field(default_factory=dict)


def open_witnesses(model: Path, adapters: Mapping[str, Path], task: str, asked: str | None) -> Witnesses:
    """Opens the witnesses of checkpoints.

    Args:
        model: Folder of the base model.
        adapters: Checkpoint folders by adapter name.
        task: Task of the bundle.
        asked: Task that the user chose at export; None if it followed from the checkpoints and the base model.
    """
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
    """Runs a witness.

    Args:
        subject: The model of the witness.
        inputs: Arrays by name.
        on: Whether the adapter is active.

    Returns:
        Outputs by name.

    Raises:
        InputError: The model cannot run with these inputs.
    """
    try:
        return subject.run(inputs, on=on)
    except Exception as error:  # the code of a model may raise anything
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        raise InputError(
            f"{subject.witness}: {subject.class_name} cannot run {shapes}: {type(error).__name__}: {error}"
        ) from error
