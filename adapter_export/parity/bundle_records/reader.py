"""Reads a bundle's record. Without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.errors import InputError
from adapter_export.naming import check_adapter_name
from adapter_export.parity.bundle_records.about import FORMAT, FORMAT_VERSION, About
from adapter_export.parity.bundle_records.columns import Columns
from adapter_export.parity.bundle_records.recorder import EXACT, NEW, NONE, ROUNDED, TARGET
from adapter_export.parity.cases import GreedyCase, ParityCase
from adapter_export.parity.expected import Expected, ExpectedTokens, StateReference
from adapter_export.parity.recording.recorder import FORMAT as ADAPTER_FORMAT
from adapter_export.parity.references.records import read_arrays
from adapter_export.parity.report import NO_ADAPTER
from adapter_export.reading.json_text import NotJson, parse
from adapter_export.reading.typed import WrongField, build

_WHAT = "a record of a bundle (parity --record)"
_MAX_MESSAGE = 1000


@dataclass(frozen=True)
class BundleRecord:
    """The contents of a bundle's record.

    Attributes:
        path: The file.
        about: What it says about itself.
        cases: The cases, with the number of each in the file.
        columns: The columns that are kept of wide outputs.
        groups: All arrays of the file: the part of their names before the last slash -> the part behind it -> array.
    """

    path: Path
    about: About
    cases: Mapping[ParityCase, int]
    columns: Columns
    groups: Mapping[str, Mapping[str, np.ndarray]]

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of what is recorded; NO_ADAPTER comes first, if it is."""
        return (*([NO_ADAPTER] if self.about.base_model else []), *self.about.adapters)

    def roundings(self, case: ParityCase) -> int:
        """Returns the number of roundings of T by which a case was judged when the record was made."""
        return self.about.cases[self.cases[case]].roundings

    def inputs(self, case: ParityCase) -> dict[str, np.ndarray]:
        """Returns the inputs of a case, by name."""
        return self.group(f"{self.cases[case]}/input")

    def prompts(self, case: ParityCase) -> list[Any]:
        """Returns the prompts of a case that generates: lists of tokens, or arrays of features."""
        prompts = self.group(f"{self.cases[case]}/prompt")
        rows = [prompts[str(row)] for row in range(len(prompts))]
        return [row.tolist() if row.dtype.kind in "iu" else row for row in rows]

    def expected(self, case: ParityCase, adapter: str) -> Expected:
        """Returns R and T of one case with one adapter: T as PyTorch rounds it, and the furthest of other roundings."""
        off = None if adapter == NO_ADAPTER else self._state(case, adapter, "off")
        return Expected(adapter, self._state(case, adapter, "on"), off)

    def tokens(self, case: ParityCase, adapter: str) -> ExpectedTokens:
        """Returns what PyTorch computes for the generated texts of one case with one adapter."""
        new = self.group(f"{self.cases[case]}/{_key(adapter)}/new")
        return ExpectedTokens(self.expected(case, adapter), *(new[name] for name in NEW))

    def _state(self, case: ParityCase, adapter: str, state: str) -> StateReference:
        prefix = f"{self.cases[case]}/{_key(adapter)}/{state}"
        exact, *targets = (self.group(f"{prefix}/{kind}") for kind in (EXACT, TARGET, ROUNDED))
        return exact, targets

    def group(self, name: str) -> dict[str, np.ndarray]:
        """Returns the arrays of one group by name; empty if there is none."""
        return dict(self.groups.get(name, {}))


def read_bundle_record(path: str | Path) -> BundleRecord:
    """Reads the record of a bundle.

    Args:
        path: The file.

    Raises:
        InputError: The file is not a complete record of a bundle.
    """
    path = Path(path)
    arrays = read_arrays(path, _WHAT)
    about = parse_about(path, arrays.pop("meta", None))
    cases = {info.case: number for number, info in enumerate(about.cases)}
    columns = Columns(about.columns, {name: arrays.get(f"columns/{name}", np.zeros(0)) for name in about.columns})
    groups: dict[str, dict[str, np.ndarray]] = {}
    for key, value in arrays.items():
        group, _, name = key.rpartition("/")
        groups.setdefault(group, {})[name] = value
    record = BundleRecord(path, about, cases, columns, groups)
    if reason := next(_faults(record), None):
        raise InputError(f"{path}: expected {_WHAT}, found: {reason}")
    return record


def parse_about(path: Path, meta: Any) -> About:
    """Returns what a record says about itself.

    Args:
        path: The file, for error messages.
        meta: The array `meta`; None if there is none.

    Raises:
        InputError: The array is not that of a bundle's record.
    """
    try:
        value = parse(str(meta)) if meta is not None else None
    except NotJson:
        value = None
    found = value.get("format") if isinstance(value, dict) else None
    if not isinstance(value, dict) or found != FORMAT:
        what = "a record of one adapter; give it as --reference NAME=FILE" if found == ADAPTER_FORMAT else "none"
        raise InputError(f"{path}: expected {_WHAT}, which has 'meta' with format {FORMAT!r}; found {what}")
    if (version := value.get("format_version")) != FORMAT_VERSION:
        raise InputError(
            f"{path}: field 'format_version': expected {FORMAT_VERSION}, found {version!r:.40}; record it again with "
            "this version (adapter-export parity --record)"
        )
    try:
        about: About = build(About, value)
        for name in about.adapters:
            check_adapter_name(name)
    except (WrongField, InputError) as error:
        raise InputError(f"{path}: 'meta': {str(error)[:_MAX_MESSAGE]}") from None
    return about


def _key(adapter: str) -> str:
    return NONE if adapter == NO_ADAPTER else adapter


def _faults(record: BundleRecord) -> Iterator[str]:
    """Yields what is missing or has another shape than it must have."""
    if not record.cases or not record.adapters:
        yield "no cases" if not record.cases else "no adapters"
    if len(record.cases) < len(record.about.cases):
        yield "a case twice"
    for output, width in record.about.columns.items():
        numbers = record.columns.numbers[output]
        fits = numbers.ndim == 1 and numbers.dtype.kind == "i" and numbers.size and numbers.min() >= 0
        if not fits or numbers.max() >= width:
            yield f"columns of {output!r:.80} that it does not have"
    for check in ("swap", "rows"):
        yield from _faulty_inputs(f"check {check!r}", record.group(f"check/{check}"))
    for case in record.cases:
        where = f"case {case.name!r:.80}"
        generates = isinstance(case, GreedyCase)
        if generates:
            yield from _faulty_prompts(record, case, where)
        else:
            yield from _faulty_inputs(where, record.inputs(case))
            if {*record.inputs(case)} != {*record.group("check/swap")}:
                yield f"{where}: other inputs than those of the check 'swap'"
        for adapter in record.adapters:
            yield from _faulty_outputs(record.expected(case, adapter), f"{where}: {adapter}")
            if generates:
                yield from _faulty_tokens(record, case, adapter, f"{where}: {adapter}")


def _faulty_inputs(where: str, inputs: Mapping[str, np.ndarray]) -> Iterator[str]:
    if not inputs or any(
        not (value.ndim and value.size) or value.dtype.kind not in "biuf" for value in inputs.values()
    ):
        yield f"{where}: no inputs, or one that is no array of numbers"


def _faulty_prompts(record: BundleRecord, case: ParityCase, where: str) -> Iterator[str]:
    prompts = record.group(f"{record.cases[case]}/prompt")
    if {*prompts} != {str(row) for row in range(case.batch)}:
        yield f"{where}: other prompts than one for each of its {case.batch} rows"
    elif any(not value.size or value.dtype.kind not in "iuf" for value in prompts.values()):
        yield f"{where}: a prompt without tokens"


def _faulty_outputs(expected: Expected, where: str) -> Iterator[str]:
    for state, reference in (("on", expected.on), ("off", expected.off)):
        if reference is None:
            continue
        shapes = {name: value.shape for name, value in reference[0].items()}
        if not shapes:
            yield f"{where}: no outputs {state!r}"
        for outputs in (reference[0], *reference[1]):
            if {name: value.shape for name, value in outputs.items()} != shapes:
                yield f"{where}: outputs {state!r} of T that are not those of R"
            if any(value.dtype.kind != "f" or not value.ndim for value in outputs.values()):
                yield f"{where}: outputs {state!r} that are no numbers"


def _faulty_tokens(record: BundleRecord, case: ParityCase, adapter: str, where: str) -> Iterator[str]:
    found = record.group(f"{record.cases[case]}/{_key(adapter)}/new")
    logits = record.expected(case, adapter).on[0].get("logits")
    if logits is None or {*found} != {*NEW} or logits.ndim != 3:
        yield f"{where}: no new tokens with their logits"
    elif found["scores"].shape != logits.shape or len(logits) != case.batch:
        yield f"{where}: scores of another shape than the logits"
    elif any(found[name].shape != logits.shape[:2] for name in ("tokens", "choice", "margin")):
        yield f"{where}: other new tokens than logits"
    elif any(found[name].dtype.kind != kind for name, kind in zip(NEW, "iiff", strict=True)):
        yield f"{where}: new tokens that are no numbers"
