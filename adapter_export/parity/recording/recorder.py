"""Writes a record: the outputs of a model with and without an adapter, in float64 and in lower precisions."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.parity.recording.few_bits import STEP, quantize_module
from adapter_export.parity.recording.files import Mismatch, Refused, adapter_sha256, base_sha256, read_object
from adapter_export.parity.recording.hub_subject import HubSubject
from adapter_export.parity.recording.inputs import random_inputs, shapes_for
from adapter_export.parity.recording.peft_subject import PeftSubject
from adapter_export.parity.recording.subject import TASK_CLASSES, Bases, Subject, one_line, silence

FORMAT = "adapter-export reference"
FORMAT_VERSION = 1
EXACT = "exact"
DTYPES = ("float32", "float16", "bfloat16")
ROUNDED = ".rounded"
ROUNDINGS = 8


def open_subject(model: Path, adapter: Path, task: str | None = None, dtype: str = "float64") -> Subject:
    """Loads a checkpoint with its own library, which its config names.

    Args:
        model: Folder of the base model.
        adapter: Folder of the checkpoint.
        task: Task to load the model for; None for that of the checkpoint.
        dtype: Name of the dtype.

    Raises:
        Refused: The library cannot load the checkpoint.
        Mismatch: The library loads a part of the checkpoint only.
    """
    bases = Bases(model, dtype)
    if "peft_type" in read_object(adapter / "adapter_config.json"):
        return PeftSubject(bases, adapter, task)
    return HubSubject(bases, adapter, task)


def record(
    model: Path, adapter: Path, task: str | None = None, lengths: tuple[int, ...] = (), bundle: Path | None = None
) -> dict[str, np.ndarray]:
    """Computes the arrays of a record, including `meta`.

    Args:
        model: Folder of the base model.
        adapter: Folder of the checkpoint.
        task: Task to load the model for; None for that of the checkpoint.
        lengths: Lengths of further texts, in tokens.
        bundle: Folder of a bundle with 8-bit weights, to record T for it; None otherwise.

    Returns:
        Arrays by name. `recording` describes the names.
    """
    exact = open_subject(model, adapter, task)
    shapes = shapes_for(exact.model, lengths)
    cases = {
        f"{number}": random_inputs(exact.model, shape, number, classifies=exact.head and not exact.body_only)
        for number, shape in enumerate(shapes)
    }
    arrays = {f"{case}/input/{name}": value for case, inputs in cases.items() for name, value in inputs.items()}
    for case, inputs in cases.items():
        for state, on in (("on", True), ("off", False)):
            found = _run(exact, inputs, on=on)
            arrays |= {f"{case}/{state}/{EXACT}/{name}": value for name, value in found.items()}
    about = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "witness": exact.witness,
        "versions": _versions(),
        "base_sha256": base_sha256(model),
        "adapter_sha256": adapter_sha256(adapter),
        "class": exact.class_name,
        "labels": list(exact.labels) if exact.labels is not None and not exact.body_only else None,
        "cases": [
            {"name": name, "rows": rows, "length": length, "padding": padding}
            for name, (rows, length, padding) in zip(cases, shapes, strict=True)
        ],
    }
    del exact
    # For each precision: None if its outputs were recorded, else the reason why they were not.
    kinds: dict[str, str | None] = {}
    for kind, make in _lower(model, adapter, task, bundle):
        try:
            subject, step = make()
            for case, inputs in cases.items():
                arrays |= _rounded(subject, inputs, kind, case, arrays, step)
        except Exception as error:  # PyTorch lacks some operators at lower precisions on some processors
            kinds[kind] = f"{type(error).__name__}: {error}"[:300]
        else:
            kinds[kind] = None
    return arrays | {"meta": np.array(json.dumps(about | {"kinds": kinds}))}


def _run(subject: Subject, inputs: Mapping[str, np.ndarray], *, on: bool) -> dict[str, np.ndarray]:
    try:
        return subject.run(inputs, on=on)
    except Exception as error:  # the code of a model may raise anything
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        more = "" if subject.body_only else "; --task features records its body without a head"
        raise Refused(f"{subject.class_name} cannot run {shapes}: {one_line(error)}{more}") from error


# Bits of a weight, by the manifest's word.
_BITS = {"int8": 8, "int4": 4}


def _lower(model: Path, adapter: Path, task: str | None, bundle: Path | None) -> Iterator[tuple[str, Any]]:
    """Yields each lower precision with a function that loads the model in it.

    The function returns the model and the step of its roundings.
    """

    def plain(dtype: str) -> Any:
        return lambda: (open_subject(model, adapter, task, dtype), None)

    yield from ((dtype, plain(dtype)) for dtype in DTYPES)
    manifest = read_object(bundle / "manifest.json") if bundle is not None else {}
    bits = _BITS.get(str(manifest.get("quantize")))
    # What weights a graph of another tool has, only that graph says.
    if bits is not None and not manifest.get("graft"):

        def few_bits() -> tuple[Subject, float]:
            subject = open_subject(model, adapter, task, "float32")
            sites = manifest.get("sites", ())
            # Version 1 of the manifest has the method `head` in place of the role.
            heads = {str(site["module"]) for site in sites if "head" in (site.get("role"), site.get("method"))}
            own = [name for name, _ in subject.model.named_modules() if subject.is_adapter(name)]
            kept = [name for name, _ in subject.model.named_modules() if any(_ends(name, head) for head in heads)]
            if heads:  # AdapterHub stores flexible heads in a module of their own
                kept += [name for name, _ in subject.model.named_modules() if name.startswith("heads.")]
            quantize_module(subject.model, bits, {*own, *kept})
            return subject, STEP

        yield manifest["quantize"], few_bits


def _ends(name: str, head: str) -> bool:
    return f".{name}".removesuffix(".modules_to_save.default").endswith(f".{head}")


def _rounded(
    subject: Subject,
    inputs: Mapping[str, np.ndarray],
    kind: str,
    case: str,
    exact: Mapping[str, np.ndarray],
    step: float | None,
) -> dict[str, np.ndarray]:
    """Computes one case in a lower precision.

    Args:
        subject: The model in this precision.
        inputs: Arrays by name.
        kind: Name of the precision.
        case: Name of the case.
        exact: The arrays of the record so far, with the outputs in float64.
        step: Relative size of a rounding; None for half a unit in the last place of the dtype.

    Returns:
        Arrays of the record: the outputs as PyTorch rounds them and, of other roundings, those furthest from float64.
    """
    found: dict[str, np.ndarray] = {}
    for state, on in (("on", True), ("off", False)):
        where = f"{case}/{state}"
        for name, value in subject.run(inputs, on=on).items():
            found[f"{where}/{kind}/{name}"] = value
        furthest: dict[str, float] = {}
        for rounding in range(1, ROUNDINGS):
            for name, value in subject.run(inputs, on=on, rounding=rounding, step=step).items():
                size = float(np.abs(value.astype(np.float64) - exact[f"{where}/{EXACT}/{name}"]).max())
                if not size <= furthest.get(name, -1.0):
                    furthest[name], found[f"{where}/{kind}{ROUNDED}/{name}"] = size, value
    return found


def _versions() -> dict[str, str]:
    """Returns the versions of Python and of all libraries that affect the outputs."""
    names = ("torch", "transformers", "numpy", "peft", "adapters")
    loaded = {name: str(sys.modules[name].__version__) for name in names if name in sys.modules}
    return {"python": platform.python_version(), **loaded}


def main() -> None:
    """Runs the command line of the script."""
    parser = argparse.ArgumentParser(description="Record what an adapter computes, by the library that trained it.")
    parser.add_argument("--model", type=Path, required=True, help="base model folder")
    parser.add_argument("--adapter", type=Path, required=True, help="adapter folder, of PEFT or AdapterHub")
    parser.add_argument("--output", type=Path, required=True, help="the .npz file to write")
    parser.add_argument("--task", choices=tuple(TASK_CLASSES), help="what to load the model for (default: as recorded)")
    parser.add_argument("--length", type=int, action="append", default=[], help="tokens of more texts; repeatable")
    parser.add_argument("--bundle", type=Path, help="a bundle in 8 bits that the record is for")
    options = parser.parse_args()
    if not options.output.parent.is_dir():
        parser.exit(2, f"error: --output {options.output}: {options.output.parent} is not a folder\n")
    try:
        with silence():
            arrays = record(options.model, options.adapter, options.task, tuple(options.length), options.bundle)
    except (Refused, Mismatch) as error:
        parser.exit(2, f"error: adapter {options.adapter}: {error}\n")
    except ImportError as error:
        parser.exit(2, f"error: adapter {options.adapter}: its library is missing here: {error}\n")
    partial = options.output.with_name(f".{options.output.name}.partial.npz")
    try:
        np.savez_compressed(partial, allow_pickle=False, **arrays)
        partial.replace(options.output)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{options.output}: {json.loads(str(arrays['meta']))['witness']}")  # noqa: T201


if __name__ == "__main__":
    main()
