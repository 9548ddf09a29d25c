"""A bundle's manifest: what the exported folder holds, written last; without it the folder is no bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

from adapter_export.bundle.versions import upgraded
from adapter_export.checkpoints.files import existing_folder, read_json
from adapter_export.checkpoints.problem_types import PROBLEM_TYPES
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.naming import check_adapter_name
from adapter_export.outputs.files import write_json
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.reading.declared import Between, OneOf, OptionalSha256, Real, Sha256, Size
from adapter_export.reading.files import present
from adapter_export.reading.typed import WrongField, build
from adapter_export.sites import Port
from adapter_export.tasks import TASKS

FORMAT_VERSION = 2
# The graphs a bundle may hold: one, or of encoder-decoder models two.
MODEL, ENCODER, DECODER = "model.onnx", "encoder_model.onnx", "decoder_model.onnx"
ADAPTERS = "adapters"
ADAPTER_SUFFIX = ".onnx_adapter"
# Between the name of an adapter and digits of its sha256, in the file of a replaced one. Names have no such character.
VERSION_MARK, VERSION_DIGITS = "@", 12
# Tensors of no adapter: of a bank those that are not one repeated value (the base model's own task head); of a graph
# whose tensors are required inputs all of them.
NO_ADAPTER_FILE = f"no_adapter{ADAPTER_SUFFIX}"
# The named dim of a swappable head's outputs.
NUM_LABELS = "num_labels"
# Of a bank: int64 [batch], which adapter each row has.
ADAPTER_IDS = "adapter_ids"
# How the graph of mode swappable takes adapter tensors: as overridable initializers, whose defaults are no adapter's,
# or as required inputs, for runtimes that read no others.
BINDINGS = ("initializer", "input")
# Modes whose adapter, if any, is part of the graph; and those that hold any number of adapters, and take others later.
IN_GRAPH, MANY = ("merged", "embedded"), ("swappable", "bank")
MODES = (*IN_GRAPH, *MANY)
# Adapters that a bank holds at once, unless told otherwise; and at most.
SLOTS, MOST_SLOTS = 64, 1 << 16
# How a site is attached: see `sites.Port`; a task head takes the place of the base model's.
PORTS = (*(port.value for port in Port), "replace")
QUANTIZATIONS = ("none", "int8")
FUSIONS = ("none", "cpu", "cuda")
# Of weights and adapters, and of whatever a graph takes or gives.
WEIGHT_DTYPES = ("float32", "float16", "bfloat16")
DTYPES = (*WEIGHT_DTYPES, "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
# Characters of what is said of a broken manifest.
_MAX_MESSAGE = 1000


@dataclass(frozen=True)
class TensorInfo:
    """A tensor at the graph's boundary. shape: ints, and names for dims that may differ (`batch`, `num_labels`)."""

    dtype: Annotated[str, OneOf(DTYPES)]
    shape: tuple[Size | str, ...]


@dataclass(frozen=True)
class AdapterTensorInfo(TensorInfo):
    """A tensor of adapters. default: the one value that it is filled with where there is no adapter; None where that
    is not one repeated value (the base model's own task head)."""

    default: Real | None


@dataclass(frozen=True)
class GraphInfo:
    """What a graph takes and gives, by name, besides the tensors of adapters."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]

    @property
    def given(self) -> dict[str, TensorInfo]:
        """The inputs that a caller of the runtime gives: not the numbers of adapters, which it knows by name."""
        return {name: info for name, info in self.inputs.items() if name != ADAPTER_IDS}


@dataclass(frozen=True)
class SiteInfo:
    """One adapted place of the graph. tensors: by full name. reads: modules whose values it reads besides, by the names
    of `sites.Site`; None in bundles that did not record it."""

    module: str
    port: Annotated[str, OneOf(PORTS)]
    op_type: str
    method: str
    tensors: Mapping[str, AdapterTensorInfo]
    reads: Mapping[str, str] | None = None


@dataclass(frozen=True)
class AdapterInfo:
    """One adapter of the bundle. file: its path in the bundle, with forward slashes, and its sha256; None and empty for
    an adapter inside the graph. labels: class names of its task head, None without one. slot: its number in a bank's
    graph, None for one added later. labels_given: the names are the user's, not the checkpoint's.
    source: `org/name@commit` of a checkpoint that came from the Hugging Face hub, None of a folder.
    source_sha256: of the checkpoint it was made from, see `checkpoints.weights.checkpoint_sha256`; None in bundles from
    before it was kept. problem_type: what its task head's numbers mean, see `checkpoints.problem_types`.
    """

    name: str
    method: str
    source_format: str
    sha256: OptionalSha256
    parameters: Annotated[int, Between(0, 1 << 53)]
    labels: tuple[str, ...] | None = None
    slot: Size | None = None
    file: str | None = None
    source: str | None = None
    problem_type: str | None = None
    source_sha256: Sha256 | None = None
    labels_given: bool = False


@dataclass(frozen=True)
class Manifest:
    """The whole of it. dtype: of weights and adapters. labels: class names of the base model's own head, None without;
    problem_type: what that head's numbers mean.
    base_source: `org/name@commit` of a base model from the Hugging Face hub, None of a folder.
    rotary_border: tokens of a text up to which it has the short factors of LongRoPE; None without such. reread_at:
    those beyond which what a cache holds of it is no longer valid; None where it always is.
    positions: tokens that the model's table of positions has room for, 0 without a table; None in bundles from before
    it was kept.
    task_asked: whether the task was asked for by name; if not, the checkpoints or the base model told it.

    quantize, fuse: `none`, or what was asked for (see `export.target`). contrib: operators beyond the ONNX standard,
    which only ONNX Runtime has. slots: of a bank, how many adapters a runtime holds in memory at once. bind: see
    `BINDINGS`.
    graphs: by file. Several graphs have the same adapter tensors, whether they read them or not, so that one adapter
    file fits each; not so where those are required inputs. sites: of all graphs.
    files: sha256 of every other file of the bundle by its path. adapters: in the order they were added; in modes
    merged and embedded the one adapter lives inside the graph and has no file.
    """

    project_version: str
    mode: Annotated[str, OneOf(MODES)]
    task: Annotated[str, OneOf(tuple(TASKS))]
    dtype: Annotated[str, OneOf(WEIGHT_DTYPES)]
    opset: Annotated[int, Between(1, 1000)]
    base: ModelInfo
    graphs: Mapping[str, GraphInfo]
    sites: tuple[SiteInfo, ...]
    adapters: tuple[AdapterInfo, ...]
    files: Mapping[str, Sha256]
    labels: tuple[str, ...] | None = None
    quantize: Annotated[str, OneOf(QUANTIZATIONS)] = "none"
    fuse: Annotated[str, OneOf(FUSIONS)] = "none"
    contrib: tuple[str, ...] = ()
    slots: Annotated[int, Between(1, MOST_SLOTS)] = SLOTS
    bind: Annotated[str, OneOf(BINDINGS)] = "initializer"
    problem_type: str | None = None
    task_asked: bool = False
    base_source: str | None = None
    rotary_border: Size | None = None
    reread_at: Size | None = None
    positions: Size | None = None
    format_version: int = field(default=FORMAT_VERSION)

    @property
    def model(self) -> str:
        """File of the graph that gives the task's outputs."""
        return DECODER if DECODER in self.graphs else MODEL

    @property
    def inputs(self) -> Mapping[str, TensorInfo]:
        """What the graph `model` takes."""
        return self.graphs[self.model].inputs

    @property
    def outputs(self) -> Mapping[str, TensorInfo]:
        """What the graph `model` gives."""
        return self.graphs[self.model].outputs

    @property
    def tensors(self) -> dict[str, AdapterTensorInfo]:
        """All adapter tensors of the graph by name."""
        return {name: info for site in self.sites for name, info in site.tensors.items()}

    @property
    def in_graph(self) -> AdapterInfo | None:
        """The one adapter that every run has, of modes merged and embedded; None where a run may have none: in the
        other modes, and of a model that was exported without any."""
        return self.adapters[0] if self.mode not in MANY and self.adapters else None

    def adapter(self, name: str) -> AdapterInfo:
        """The adapter called `name`; raises InputError naming the known ones."""
        for info in self.adapters:
            if info.name == name:
                return info
        known = ", ".join(info.name for info in self.adapters) or "none"
        raise InputError(f"adapter {name!r}: not in the bundle (it has: {known})")

    def with_adapter(self, adapter: AdapterInfo) -> Manifest:
        """The same manifest with `adapter` added, or put in the place of the one of its name."""
        old = next((info for info in self.adapters if info.name == adapter.name), None)
        files = {path: digest for path, digest in self.files.items() if old is None or path != old.file}
        if adapter.file is not None:
            files[adapter.file] = adapter.sha256
        kept = self.adapters if old is not None else (*self.adapters, adapter)
        return replace(self, adapters=tuple(adapter if info is old else info for info in kept), files=files)


def adapter_path(name: str, digest: str = "") -> str:
    """Where the file of an adapter stands in a bundle. digest: of one that stands beside the file it replaces."""
    return f"{ADAPTERS}/{name}{VERSION_MARK if digest else ''}{digest[:VERSION_DIGITS]}{ADAPTER_SUFFIX}"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into the bundle, whole or not at all."""
    write_json(folder / MANIFEST, asdict(manifest))


def read_manifest(path: str | Path, *, expect_sha256: str | None = None) -> Manifest:
    """The manifest of a bundle folder. expect_sha256: hex digest that its file must have.

    Raises InputError for a folder that is no bundle, a broken manifest, and one of another digest.
    """
    folder = existing_folder(path, "bundle")
    file = folder / MANIFEST
    if not present(file):
        raise InputError(f"bundle {folder}: expected {MANIFEST}, found none; the folder is not a bundle")
    value = read_json(file, expect_sha256=expect_sha256)
    try:
        manifest: Manifest = build(Manifest, upgraded(value, FORMAT_VERSION))
        _check(manifest)
    except (WrongField, InputError) as error:
        # Names and values of any length are in it.
        raise InputError(f"{file}: {str(error)[:_MAX_MESSAGE]}") from None
    return manifest


def _check(manifest: Manifest) -> None:
    """A manifest may come from anywhere: nothing in it may lead out of the bundle."""
    if set(manifest.graphs) not in ({MODEL}, {ENCODER, DECODER}):
        found = ", ".join(manifest.graphs) or "none"
        raise WrongField(f"field 'graphs': expected {MODEL}, or {ENCODER} and {DECODER}, found {found}")
    if missing := [name for name in manifest.graphs if name not in manifest.files]:
        raise WrongField(f"field 'files': expected {missing[0]!r} among them")
    for path in manifest.files:
        parts = path.split("/")
        if not all(parts) or {".", ".."} & set(parts) or set("\\:") & set(path) or not path.isprintable():
            raise WrongField(f"path {path!r}: expected a path inside the bundle")
    if MANIFEST in manifest.files:
        raise WrongField(f"field 'files': expected other files than {MANIFEST} itself")
    for problem in (manifest.problem_type, *(info.problem_type for info in manifest.adapters)):
        if problem not in (None, *PROBLEM_TYPES):
            raise WrongField(f"field 'problem_type': expected one of {', '.join(PROBLEM_TYPES)}, found {problem!r}")
    if len({info.name for info in manifest.adapters}) != len(manifest.adapters):
        raise WrongField("field 'adapters': a name is there twice")
    for info in manifest.adapters:
        check_adapter_name(info.name)
        # A file of an adapter is one that `add` replaces and deletes.
        beside = re.escape(f"{ADAPTERS}/{info.name}{VERSION_MARK}") + rf"[0-9a-f]{{{VERSION_DIGITS}}}{ADAPTER_SUFFIX}"
        if info.file not in (None, adapter_path(info.name)) and not re.fullmatch(beside, str(info.file)):
            raise WrongField(
                f"adapter {info.name!r}: field 'file': expected {adapter_path(info.name)!r}, found {info.file!r}"
            )
