"""Refuses a record of something else than the bundle: of other weights, other adapters, or other files of its texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from adapter_export.bundle.manifest import Manifest
from adapter_export.errors import InputError
from adapter_export.parity.bundle_records.reader import BundleRecord
from adapter_export.parity.report import NO_ADAPTER
from adapter_export.parity.whole_model import whole_model_inputs

# The files of a bundle that decide which tokens a text becomes, and which tokens are generated.
_TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


def text_files(manifest: Manifest) -> dict[str, str]:
    """Returns the sha256 of the bundle's files that affect tokens and generation, by file."""
    return {name: manifest.files[name] for name in _TEXT_FILES if name in manifest.files}


def graph_files(manifest: Manifest) -> dict[str, str]:
    """Returns the sha256 of the bundle's graphs, by file."""
    return {name: manifest.files[name] for name in manifest.graphs}


def check_belongs(record: BundleRecord, bundle: Path, manifest: Manifest) -> None:
    """Raises InputError if the record is not one of this bundle's model, adapters and texts.

    The graph may be another one than the recorded one: it is what the record is there to judge.
    """
    if (reason := next(_differences(record, manifest), None)) is not None:
        raise InputError(f"{record.path}: is not a record of bundle {bundle}: {reason}; record it again")


def _differences(record: BundleRecord, manifest: Manifest) -> Iterator[str]:
    about = record.about
    for field, recorded, found in (
        ("task", about.task, manifest.task),
        ("dtype", about.dtype, manifest.dtype),
        ("quantize", about.quantize, manifest.quantize),
    ):
        if recorded != found:
            yield f"field {field!r}: recorded for {recorded}, but the bundle has {found}"
    # Of a graft without a model folder, the weights are not known.
    if manifest.base.sha256 and about.base_sha256 != manifest.base.sha256:
        yield f"recorded with {_digests('base weights', about.base_sha256, manifest.base.sha256)}"
    for info in manifest.adapters:
        recorded_adapter = about.adapters.get(info.name)
        if recorded_adapter is None:
            yield f"it has no adapter {info.name!r} (it has: {', '.join(about.adapters) or 'none'})"
        # Older bundles have no digests of their checkpoints, and are judged by the numbers alone.
        elif info.source_sha256 is not None and info.source_sha256 != recorded_adapter.source_sha256:
            what = f"adapter {info.name!r} of checkpoint"
            yield f"recorded with {_digests(what, recorded_adapter.source_sha256, info.source_sha256)}"
    yield from _different_files(about.text_files, text_files(manifest))
    if manifest.graft is not None and manifest.quantize.used:
        # T has the weights that this graph holds.
        yield from _different_files(about.graphs, graph_files(manifest))
    if manifest.in_graph is None and NO_ADAPTER not in record.adapters:
        yield "recorded from a graph that always has an adapter, so it has no outputs without one"
    inputs = {*whole_model_inputs(manifest)}
    recorded_inputs = {*record.group("check/swap")}
    if inputs != recorded_inputs:
        expected, found_inputs = (", ".join(sorted(names)) for names in (inputs, recorded_inputs))
        yield f"the graph takes {expected}, but the record has {found_inputs}"


def _different_files(recorded: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*recorded, *found}):
        if recorded.get(name) != found.get(name):
            yield f"recorded with {_digests(name, recorded.get(name), found.get(name))}"


def _digests(what: str, recorded: str | None, found: str | None) -> str:
    shown = [f"{digest[:12]}..." if digest else "none" for digest in (recorded, found)]
    return f"{what} {shown[0]}, but the bundle has {shown[1]}"
