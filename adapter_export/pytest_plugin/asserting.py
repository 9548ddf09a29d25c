"""Compares a bundle with PyTorch inside of a test, and fails the test with a few lines where they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from adapter_export.bundle.manifest import Manifest
from adapter_export.errors import AdapterExportError, InputError
from adapter_export.parity.bundle_records.suite import RecordSuite
from adapter_export.parity.cases import ParityCase
from adapter_export.parity.criteria.given import differences
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.localizing.departure import ParityDeparture
from adapter_export.parity.localizing.unpaired import unpaired
from adapter_export.parity.report import NO_ADAPTER
from adapter_export.parity.report_tables import once, reason_lines
from adapter_export.parity.texts import encoded
from adapter_export.parity.whole_model import WholeModel, whole_model_inputs
from adapter_export.runtime.session import AdapterSession

# The most lines of a failure.
_MAX_LINES = 8


@dataclass(frozen=True)
class AdapterCase:
    """One case of the reference.

    Attributes:
        adapter: Name of the adapter; None for the base model.
        case: The shape of the inputs.
    """

    adapter: str | None
    case: ParityCase

    def __str__(self) -> str:
        name = self.case.name.replace(" x ", "x").replace(" + ", "+").replace(" ", "-")
        return f"{self.adapter or 'base'}-{name}"


class AssertParity:
    """Compares the bundle with PyTorch; fails the test with a few lines where they differ.

    assert_parity()                             The whole bundle: all adapters and cases of the reference, and the
                                                checks of `adapter-export parity`.
    assert_parity(case=adapter_case)            One case of one adapter.
    assert_parity(adapter, inputs)              Inputs that were recorded, by `parity --record FILE --text TEXT`. A text
                                                or several, or arrays by name.
    assert_parity(adapter, inputs, expected)    Any inputs, with the outputs that PyTorch gives for them. No reference
                                                is needed. The error must be below the ceiling of the bundle's dtype.
    """

    def __init__(self, suite: Callable[[], RecordSuite], session: Callable[[], AdapterSession]) -> None:
        """Opens nothing yet.

        Args:
            suite: Opens the bundle with its reference. Called on first use.
            session: Returns a session of the bundle.
        """
        self._open_suite, self._session = suite, session
        self._suite: RecordSuite | None = None

    def __call__(
        self,
        adapter: str | None = None,
        inputs: str | Sequence[str] | Mapping[str, Any] | None = None,
        expected: Mapping[str, Any] | None = None,
        *,
        case: AdapterCase | None = None,
    ) -> None:
        """Compares.

        Args:
            adapter: Name of the adapter; None for the base model.
            inputs: A text, texts, or arrays by name; None for all that the reference has.
            expected: Outputs of PyTorch by name.
            case: One case of the reference, in place of all other arguments.
        """
        __tracebackhide__ = True
        try:
            if case is not None:
                self._judge(case)
            elif inputs is None and expected is not None:
                raise InputError("assert_parity: found `expected` without the `inputs` it is for")
            elif inputs is None:
                self._judge_bundle(adapter)
            elif expected is not None:
                self._compare(adapter, inputs, expected)
            else:
                self._judge(self._find(adapter, inputs))
        except AdapterExportError as error:
            message = str(error)
        else:
            return
        # Outside of the handler, so that pytest does not show the error twice.
        _fail([message])

    def close(self) -> None:
        """Closes the session of the bundle."""
        if self._suite is not None:
            self._suite.close()

    @property
    def _opened(self) -> RecordSuite:
        if self._suite is None:
            self._suite = self._open_suite()
        return self._suite

    def _judge(self, case: AdapterCase) -> None:
        suite, name = self._opened, case.adapter or NO_ADAPTER
        results = suite.judge(name, case.case)
        wrong = [item for item in results if item.judgement.verdict is not Verdict.PASS]
        lines = [] if results else [f"inconclusive: {name}, case {case.case.name}: nothing was compared"]
        for item in wrong:
            where = suite.largest_difference(name, case.case, item.output)
            lines += [*reason_lines((item,)), *([f"  largest difference: {where}"] if where else [])]
        if lines:
            # Of a single case, the check of the whole bundle is the way to find out where it broke.
            _fail(lines, [*_where(unpaired(suite.bundle, results)), self._about(suite)])

    def _judge_bundle(self, adapter: str | None) -> None:
        suite = self._opened
        report = suite.report()
        results = report.results if adapter is None else report.of(suite.manifest.adapter(adapter).name)
        checks = [check for check in once(report.checks, results) if check.verdict is not Verdict.PASS]
        lines = [f"{check.verdict.value}: check {check.name}: {check.detail}" for check in checks]
        lines += list(reason_lines(results))
        if lines or not results:
            _fail(lines or ["inconclusive: no case was run"], [*_where(report.departure), self._about(suite)])

    def _find(self, adapter: str | None, inputs: str | Sequence[str] | Mapping[str, Any]) -> AdapterCase:
        suite = self._opened
        _check_adapter(suite.manifest, adapter)
        arrays = _arrays(suite.bundle, suite.manifest, inputs)
        if (case := suite.case_of(arrays)) is None:
            shown = f"{inputs!r:.60}" if isinstance(inputs, str) else "these inputs"
            _fail(
                [
                    f"{suite.record.path}: has no outputs of PyTorch for {shown}",
                    "Record them with `adapter-export parity --record FILE --text TEXT`, or give `expected`.",
                ]
            )
        return AdapterCase(adapter, case)

    def _compare(
        self, adapter: str | None, inputs: str | Sequence[str] | Mapping[str, Any], expected: Mapping[str, Any]
    ) -> None:
        session = self._session()
        _check_adapter(session.manifest, adapter)
        arrays = _arrays(session.bundle, session.manifest, inputs)
        rows = len(next(iter(arrays.values()), ()))
        actual = WholeModel(session).run(arrays, [adapter] * rows)
        if lines := list(differences(session.manifest, arrays, expected, actual)):
            _fail([f"fail: {adapter or 'base'}: {line}" for line in lines])

    def _about(self, suite: RecordSuite) -> str:
        manifest, about = suite.manifest, suite.record.about
        return (
            f"bundle {suite.bundle} ({manifest.mode}, {manifest.dtype}, {suite.provider}), reference "
            f"{suite.record.path} of {about.created}"
        )


def _where(departure: ParityDeparture | None) -> list[str]:
    """Returns where the bundle departs from PyTorch, or how to find out."""
    return [] if departure is None else list(departure.lines())


def _fail(lines: Sequence[str], ending: Sequence[str] = ()) -> NoReturn:
    """Fails the test.

    Args:
        lines: What is wrong. Of many lines the first are shown.
        ending: Lines that are always shown, after them.
    """
    __tracebackhide__ = True
    shown, room = list(lines), _MAX_LINES - len(ending)
    if len(shown) > room:
        shown = [*shown[: room - 1], f"... and {len(shown) - room + 1} more lines"]
    pytest.fail("\n".join([*shown, *ending]), pytrace=False)


def _check_adapter(manifest: Manifest, adapter: str | None) -> None:
    """Raises InputError if the bundle cannot run with this adapter, or without one."""
    if adapter is not None:
        manifest.adapter(adapter)
    elif manifest.in_graph is not None:
        raise InputError(f"the graph always has adapter {manifest.in_graph.name!r}: expected its name, found none")


def _arrays(bundle: Path, manifest: Manifest, inputs: str | Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        wanted = whole_model_inputs(manifest)
        if {*wanted} != {*inputs}:
            raise InputError(f"inputs: expected {', '.join(wanted)}, found {', '.join(inputs) or 'none'}")
        return {name: np.asarray(inputs[name]) for name in wanted}
    return encoded(bundle, manifest, [inputs] if isinstance(inputs, str) else list(inputs))
