"""The manifest of a bundle, which describes its files. It is written last; a folder without one is no bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from adapter_export.bundle.graphs import ADAPTER_IDS, DECODER, ENCODER, MODEL
from adapter_export.bundle.modes import Binding, Mode
from adapter_export.bundle.pooling import Pooling
from adapter_export.bundle.precision import Fusion, Quantization
from adapter_export.bundle.versions import upgraded
from adapter_export.checkpoints.problem_types import PROBLEM_TYPES
from adapter_export.choices import Choice
from adapter_export.composition import CompositionRule
from adapter_export.dtypes import WEIGHT_DTYPES, DType
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.naming import CONTRIB, check_adapter_name
from adapter_export.outputs.files import write_json
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.reading.declared import Between, OneOf, OptionalSha256, Real, Sha256, Size
from adapter_export.reading.files import present
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.json_files import read_json
from adapter_export.reading.typed import WrongField, build
from adapter_export.sites import Port
from adapter_export.tasks import TASKS

FORMAT_VERSION = 2
ADAPTERS = "adapters"
ADAPTER_SUFFIX = ".onnx_adapter"
# The file of an adapter that replaces another is named after the adapter, this mark, and so many digits of its sha256.
# Names of adapters do not contain the mark.
VERSION_MARK, VERSION_DIGITS = "@", 12
# The file with tensors of no adapter: for a bank, those that are not one repeated value (the base model's own task
# head); for a graph whose adapter tensors are required inputs, all of them.
NO_ADAPTER_FILE = f"no_adapter{ADAPTER_SUFFIX}"
# Folders with license files of the base model, and of each adapter in a folder of its name.
LICENSES = "licenses"
BASE_LICENSES, ADAPTER_LICENSES = f"{LICENSES}/base", f"{LICENSES}/adapters"
# How many adapters a bank holds at once, by default and at most.
SLOTS, MOST_SLOTS = 64, 1 << 16
# How a site is attached, see `sites.Port`. A task head replaces that of the base model.
PORTS = (*(port.value for port in Port), "replace")
# Largest number of characters of a message about a broken manifest.
_MAX_MESSAGE = 1000


class SiteRole(Choice):
    """What is at a site of the graph: an adapter of some method, or a task head, which belongs to no method."""

    ADAPTER = "adapter"
    HEAD = "head"


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a graph.

    Attributes:
        dtype: Its dtype.
        shape: Its dims: numbers, and names for dims whose size may differ (`batch`, `num_labels`).
    """

    dtype: DType
    shape: tuple[Size | str, ...]


@dataclass(frozen=True)
class AdapterTensorInfo(TensorInfo):
    """A tensor of adapters.

    Attributes:
        default: The value that fills the tensor if there is no adapter; None if it is not one repeated value (the base
            model's own task head).
        composition: How the tensors of several adapters, each with a strength, become one; None if there is no rule,
            and in older bundles, which did not record it.
    """

    default: Real | None
    composition: CompositionRule | None = None


@dataclass(frozen=True)
class GraphInfo:
    """The inputs and outputs of a graph, without the tensors of adapters.

    Attributes:
        inputs: The inputs by name.
        outputs: The outputs by name.
        logits_to_keep: Whether the graph has the overridable initializer `logits_to_keep`, see `bundle.graphs`.
    """

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    logits_to_keep: bool = False

    @property
    def given(self) -> dict[str, TensorInfo]:
        """The inputs that a caller of the runtime passes. `adapter_ids` is not one: callers choose adapters by name."""
        return {name: info for name, info in self.inputs.items() if name != ADAPTER_IDS}


@dataclass(frozen=True)
class SiteInfo:
    """One adapted place of the graph.

    Attributes:
        module: Path of the module in the base model.
        port: How the site is attached to the module; `replace` for a task head.
        role: Whether an adapter or a task head is there.
        op_type: The function of the graph that computes it.
        op_name: The operator in names of tensors, `<site>.<op_name>.<tensor>`. A bank stacks the tensors of one
            operator together.
        method: The adapter's method; None for a task head.
        tensors: The adapter tensors that it reads, by full name.
        reads: Other modules whose values it reads, by the names of `sites.Site`; None in older bundles, which did not
            record it.
    """

    module: str
    port: Annotated[str, OneOf(PORTS)]
    role: SiteRole
    op_type: str
    op_name: str
    method: str | None
    tensors: Mapping[str, AdapterTensorInfo]
    reads: Mapping[str, str] | None = None


@dataclass(frozen=True)
class AdapterInfo:
    """One adapter of the bundle.

    Attributes:
        name: Its name.
        method: Its method.
        source_format: The format of its checkpoint.
        sha256: Hex digest of its file; empty for an adapter inside the graph.
        parameters: Number of its parameters.
        labels: Class names of its task head; None without one.
        slot: Its number in the graph of a bank; None if it was added later.
        file: Path of its file in the bundle, with forward slashes; None for an adapter inside the graph.
        source: `org/name@commit` of a checkpoint from the Hugging Face hub; None for a folder.
        problem_type: What the outputs of its task head mean, see `checkpoints.problem_types`.
        source_sha256: Hex digest of its checkpoint, see `checkpoints.weights.checkpoint_sha256`; None in older bundles,
            which did not record it.
        labels_given: Whether the class names are from the user and not from the checkpoint.
        license: The license that its README.md states, see `checkpoints.licenses.Stated`; None if it states none.
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
    license: str | None = None


# The attention of ONNX Runtime that appends to the cache itself.
SHARES_CACHE = f"{CONTRIB}.GroupQueryAttention"


@dataclass(frozen=True)
class GraftInfo:
    """The graphs of another tool, into which the adapters of the bundle were put.

    Attributes:
        dialect: How its nodes are named, see `grafting.dialects`.
        sha256: Digest of its file, or of the first of its files.
        verified: Whether the weights at the places of the adapters were compared with those of a model folder.
        right_padded: Whether its attention counts the tokens of a row by the sum of its mask, so that texts of
            different lengths must be padded on the right.
        more: Digests of its other files, by name: an encoder and a decoder may be in several files.
    """

    dialect: str
    sha256: Sha256
    verified: bool
    right_padded: bool = False
    more: Mapping[str, Sha256] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest.

    Attributes:
        project_version: Version of adapter-export that made the bundle.
        mode: How the graphs hold adapters.
        task: The task of the bundle.
        dtype: Data type of weights and adapters.
        opset: Version of the ONNX standard.
        base: The base model.
        graphs: The graphs by file name. All graphs of a bundle have the same adapter tensors, whether they read them or
            not, so that one adapter file fits each of them. If adapter tensors are required inputs, each graph has only
            those that it reads.
        sites: The sites of all graphs.
        adapters: The adapters in the order in which they were added. In modes merged and embedded, the only adapter is
            inside the graph and has no file.
        files: The sha256 of every other file of the bundle, by path.
        labels: Class names of the base model's own head; None without one.
        quantize: How the matrices of the base model are stored.
        fuse: The provider for whose fused operators the graphs are made.
        contrib: Operators that are not in the ONNX standard and that only ONNX Runtime has.
        slots: In mode bank, how many adapters a runtime has in memory at once.
        bind: How the graphs take adapter tensors.
        problem_type: What the outputs of the base model's own head mean, see `checkpoints.problem_types`.
        task_asked: Whether the user chose the task. If not, it is from the checkpoints or the base model.
        base_source: `org/name@commit` of a base model from the Hugging Face hub; None for a folder.
        base_name: `org/name` of the base model, from its source or, if all that state one agree, from the adapters'
            README.md; None if it is not known.
        base_license: The license that README.md of the base model states, see `checkpoints.licenses.Stated`; None if it
            states none.
        card: Whether README.md in the folder is the model card that this package writes. It is not among `files`, as it
            cannot change in one step with the manifest. Nothing reads it.
        rotary_border: Number of tokens of the longest text with the short factors of LongRoPE; None without LongRoPE.
        reread_at: Number of tokens of a text beyond which its cache is not valid any more; None if it is always valid.
        positions: Number of positions in the model's table of positions; 0 without a table; None in older bundles,
            which did not record it.
        longest_text: Number of tokens of the longest text by the model's config; None without a limit.
        pooling: How the model's hidden states become the embedding of a text; None if its folder does not say.
        graft: The other tool's graph that has got the adapters; None for a graph of this package.
        format_version: Version of the format of the manifest.
    """

    project_version: str
    mode: Mode
    task: Annotated[str, OneOf(tuple(TASKS))]
    dtype: Annotated[DType, OneOf(WEIGHT_DTYPES)]
    opset: Annotated[int, Between(1, 1000)]
    base: ModelInfo
    graphs: Mapping[str, GraphInfo]
    sites: tuple[SiteInfo, ...]
    adapters: tuple[AdapterInfo, ...]
    files: Mapping[str, Sha256]
    labels: tuple[str, ...] | None = None
    quantize: Quantization = Quantization.NONE
    fuse: Fusion = Fusion.NONE
    contrib: tuple[str, ...] = ()
    slots: Annotated[int, Between(1, MOST_SLOTS)] = SLOTS
    bind: Binding = Binding.INITIALIZER
    problem_type: str | None = None
    task_asked: bool = False
    base_source: str | None = None
    base_name: str | None = None
    base_license: str | None = None
    card: bool = False
    rotary_border: Size | None = None
    reread_at: Size | None = None
    positions: Size | None = None
    longest_text: Size | None = None
    pooling: Pooling | None = None
    graft: GraftInfo | None = None
    format_version: int = field(default=FORMAT_VERSION)

    @property
    def model(self) -> str:
        """File name of the graph that computes the outputs of the task."""
        return DECODER if DECODER in self.graphs else MODEL

    @property
    def encoder(self) -> GraphInfo | None:
        """The encoder's graph; None if the encoder is not a separate graph."""
        return self.graphs.get(ENCODER)

    @property
    def inputs(self) -> Mapping[str, TensorInfo]:
        """The inputs of the graph `model` by name."""
        return self.graphs[self.model].inputs

    @property
    def outputs(self) -> Mapping[str, TensorInfo]:
        """The outputs of the graph `model` by name."""
        return self.graphs[self.model].outputs

    @property
    def tensors(self) -> dict[str, AdapterTensorInfo]:
        """All adapter tensors of the graphs by name."""
        return {name: info for site in self.sites for name, info in site.tensors.items()}

    @property
    def right_padded(self) -> bool:
        """Whether texts of different lengths must be padded on the right, see `GraftInfo`."""
        return self.graft is not None and self.graft.right_padded

    @property
    def shares_cache(self) -> bool:
        """Whether the graph can write new keys and values into the memory from which it reads the old ones.

        It then takes several rows of several tokens with an empty cache only; after that, several rows of one token or
        one row of several.
        """
        return SHARES_CACHE in self.contrib

    @property
    def heads(self) -> tuple[SiteInfo, ...]:
        """The layers of the task head that adapters may replace."""
        return tuple(site for site in self.sites if site.role is SiteRole.HEAD)

    @property
    def in_graph(self) -> AdapterInfo | None:
        """The adapter that every run has, in modes merged and embedded.

        None in the other modes, and for a model that was exported without an adapter.
        """
        return self.adapters[0] if self.mode.in_graph and self.adapters else None

    def adapter(self, name: str) -> AdapterInfo:
        """Returns the adapter of this name.

        Raises:
            InputError: The bundle has no such adapter. The message lists its adapters.
        """
        for info in self.adapters:
            if info.name == name:
                return info
        known = ", ".join(info.name for info in self.adapters) or "none"
        raise InputError(f"adapter {name!r}: not in the bundle (it has: {known})")

    def with_adapter(self, adapter: AdapterInfo, licenses: Mapping[str, str] = MappingProxyType({})) -> Manifest:
        """Returns the manifest with this adapter added, or replaced if there is one of its name.

        Args:
            adapter: The adapter.
            licenses: The sha256 of its license files, by their paths in the bundle.
        """
        old = next((info for info in self.adapters if info.name == adapter.name), None)
        files = dict(self.files) if old is None else self.without_files(old)
        if adapter.file is not None:
            files[adapter.file] = adapter.sha256
        files |= licenses
        kept = self.adapters if old is not None else (*self.adapters, adapter)
        return replace(self, adapters=tuple(adapter if info is old else info for info in kept), files=files)

    def licenses(self, name: str) -> dict[str, str]:
        """Returns the sha256 of the license files of an adapter, by their paths."""
        return {path: digest for path, digest in self.files.items() if license_owner(path) == name}

    def without_files(self, *adapters: AdapterInfo) -> dict[str, str]:
        """Returns `files` without those of the adapters."""
        names = {info.name for info in adapters}
        gone = {info.file for info in adapters}
        return {
            path: digest for path, digest in self.files.items() if path not in gone and license_owner(path) not in names
        }


def license_path(name: str, file: str, digest: str = "") -> str:
    """Returns the path of a license file of an adapter in a bundle.

    Args:
        name: Name of the adapter.
        file: Name of the file.
        digest: The sha256 of the file, if it must have another path than the file that it replaces.
    """
    return f"{ADAPTER_LICENSES}/{name}{VERSION_MARK if digest else ''}{digest[:VERSION_DIGITS]}/{file}"


def license_owner(path: str) -> str | None:
    """Returns the name of the adapter whose license file is at `path` in a bundle; None for any other file."""
    folder, _, rest = path.removeprefix(f"{ADAPTER_LICENSES}/").partition("/")
    return folder.partition(VERSION_MARK)[0] if path.startswith(f"{ADAPTER_LICENSES}/") and rest else None


def adapter_path(name: str, digest: str = "") -> str:
    """Returns the path of an adapter's file in a bundle.

    Args:
        name: Name of the adapter.
        digest: The sha256 of the file, if it must have another name than the file that it replaces.
    """
    return f"{ADAPTERS}/{name}{VERSION_MARK if digest else ''}{digest[:VERSION_DIGITS]}{ADAPTER_SUFFIX}"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest into the folder, completely or not at all."""
    write_json(folder / MANIFEST, asdict(manifest))


def read_manifest(path: str | Path, *, expect_sha256: str | None = None) -> Manifest:
    """Reads the manifest of a bundle.

    Args:
        path: Folder of the bundle.
        expect_sha256: Expected hex digest of the file manifest.json; None to accept any.

    Raises:
        InputError: The folder is no bundle, or the manifest is broken or has another digest.
    """
    folder = existing_folder(path, "bundle")
    file = folder / MANIFEST
    if not present(file):
        raise InputError(f"bundle {folder}: expected {MANIFEST}, found none; the folder is not a bundle")
    value = read_json(file, expect_sha256=expect_sha256)
    try:
        manifest: Manifest = build(Manifest, upgraded(value, FORMAT_VERSION, folder))
        _check(manifest)
    except (WrongField, InputError) as error:
        # The message may contain names and values of any length.
        raise InputError(f"{file}: {str(error)[:_MAX_MESSAGE]}") from None
    return manifest


def _check(manifest: Manifest) -> None:
    """Checks values that their types do not. Manifests are untrusted: no path may lead out of the bundle."""
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
    for name, tensor in manifest.tensors.items():
        free = sum(isinstance(dim, str) for dim in tensor.shape)
        if tensor.composition is not None and (free != int(tensor.composition.joins) or tensor.default is None):
            raise WrongField(
                f"tensor {name!r}: field 'composition': found {tensor.composition!r} with dims {tensor.shape}"
            )
    for info in manifest.adapters:
        check_adapter_name(info.name)
        # `add` replaces and deletes files of adapters, so only these paths are allowed.
        marked = re.escape(f"{ADAPTERS}/{info.name}{VERSION_MARK}") + rf"[0-9a-f]{{{VERSION_DIGITS}}}{ADAPTER_SUFFIX}"
        if info.file not in (None, adapter_path(info.name)) and not re.fullmatch(marked, str(info.file)):
            raise WrongField(
                f"adapter {info.name!r}: field 'file': expected {adapter_path(info.name)!r}, found {info.file!r}"
            )
