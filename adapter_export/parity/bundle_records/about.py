"""What a bundle's record says about itself: of which model and adapters it is, who made it, and which cases it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from adapter_export.bundle.precision import Quantization
from adapter_export.checkpoints.problem_types import PROBLEM_TYPES
from adapter_export.dtypes import WEIGHT_DTYPES, DType
from adapter_export.parity.cases import BorderCase, GreedyCase, ParityCase, TextCase
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.reading.declared import Between, OneOf, OptionalSha256, Sha256, Size
from adapter_export.tasks import TASKS

FORMAT = "adapter-export bundle record"
FORMAT_VERSION = 1
# Kinds of cases.
_SHAPE, _BORDER, _TEXT, _GENERATION = "shape", "border", "text", "generation"
_KINDS = {ParityCase: _SHAPE, BorderCase: _BORDER, TextCase: _TEXT, GreedyCase: _GENERATION}


@dataclass(frozen=True)
class CaseInfo:
    """A case as JSON.

    Attributes:
        kind: Its class.
        batch, length, padding: See `ParityCase`.
        roundings: Number of roundings of T by which it was judged when the record was made, see `criteria.retries`.
        new: See `GreedyCase`.
        number, text: See `TextCase`.
    """

    kind: Annotated[str, OneOf(tuple(_KINDS.values()))]
    batch: Annotated[int, Between(1, 1 << 16)]
    length: Size
    padding: Annotated[str, OneOf(("none", "left", "right"))]
    roundings: Annotated[int, Between(1, 1 << 8)]
    new: Size = 0
    number: Size = 0
    text: str = ""

    @classmethod
    def of(cls, case: ParityCase, roundings: int) -> CaseInfo:
        """Returns a case as JSON."""
        kind = _KINDS[type(case)]
        new = case.new if isinstance(case, GreedyCase) else 0
        number, text = (case.number, case.text) if isinstance(case, TextCase) else (0, "")
        return cls(kind, case.batch, case.length, case.padding, roundings, new, number, text)

    @property
    def case(self) -> ParityCase:
        """The case."""
        if self.kind == _GENERATION:
            return GreedyCase(self.batch, self.length, self.padding, new=self.new)
        if self.kind == _TEXT:
            return TextCase(self.batch, self.length, self.padding, number=self.number, text=self.text)
        return (BorderCase if self.kind == _BORDER else ParityCase)(self.batch, self.length, self.padding)


@dataclass(frozen=True)
class RecordedAdapter:
    """An adapter of the recorded bundle.

    Attributes:
        source_sha256: Digest of its checkpoint, see `checkpoints.weights.checkpoint_sha256`.
        sha256: Digest of its file in the bundle; empty for an adapter inside the graph.
        witness: The witness, see `ParityReport.witnesses`.
        labels: Class names of its task head; None without one.
        witnessed_labels: Class names as the witness reads them; None if it reads none.
        problem_type: See `AdapterInfo`.
    """

    source_sha256: Sha256
    sha256: OptionalSha256
    witness: str
    labels: tuple[str, ...] | None
    witnessed_labels: tuple[str, ...] | None
    problem_type: Annotated[str, OneOf(PROBLEM_TYPES)] | None


@dataclass(frozen=True)
class RecordedCheck:
    """A check of the bundle that needs PyTorch or transformers, with its result when the record was made."""

    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class About:
    """The content of `meta`.

    Attributes:
        created: Date and time, ISO 8601, UTC.
        versions: Versions of Python and of all libraries that affect the outputs.
        task: Task of the bundle.
        dtype: dtype of the graphs.
        quantize: How the graphs hold the matrices of the base model.
        base_sha256: Digest of the base model's weights, see `checkpoints.weights.weights_sha256`.
        graphs: sha256 of the graphs of the recorded bundle, by file.
        text_files: sha256 of the bundle's files that affect tokens and generation, by file.
        adapters: The adapters by name.
        base_model: Whether outputs without an adapter are recorded.
        cases: The cases. The name of a case in the file is its number here.
        checks: Results of checks that need PyTorch or transformers.
        notes: Notes of the report that concern PyTorch.
        judged_to: See `ParityReport`.
        columns: Number of columns of the outputs of which not all columns are kept.
    """

    created: str
    versions: Mapping[str, str]
    task: Annotated[str, OneOf(tuple(TASKS))]
    dtype: Annotated[DType, OneOf(WEIGHT_DTYPES)]
    quantize: Quantization
    base_sha256: Sha256
    graphs: Mapping[str, Sha256]
    text_files: Mapping[str, Sha256]
    adapters: Mapping[str, RecordedAdapter]
    base_model: bool
    cases: tuple[CaseInfo, ...]
    checks: tuple[RecordedCheck, ...]
    notes: tuple[str, ...]
    judged_to: Size | None
    columns: Mapping[str, Size]
    format: str = FORMAT
    format_version: int = FORMAT_VERSION
