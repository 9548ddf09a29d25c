"""A plugin of pytest for environments without the extras: a test that needs an absent package is skipped, by name.

python -m pytest -p tests.pythons.absent
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from adapter_export.cli.extras import EXTRAS

# What the extras bring, with `dev`, and the base installation does not.
ABSENT = (*EXTRAS, "grimp")
# By file of a test module that could not be imported: the absent package. Others may import from what is left of it.
_unimported: dict[str, str] = {}


def missing(error: BaseException | None) -> str | None:
    """The package of an extra for whose absence an error was raised; None for other errors."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name is not None and error.name.split(".")[0] in ABSENT:
            return error.name.split(".")[0]
        if isinstance(error, ImportError) and error.path in _unimported:
            return _unimported[error.path]
        error = error.__cause__ or error.__context__
    return None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    error = getattr(getattr(report, "call", None), "excinfo", None)
    if report.failed and error is not None and (name := missing(error.value)) is not None:
        _unimported[str(collector.path)] = name
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: needs {name}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.excinfo is not None and (name := missing(call.excinfo.value)) is not None:
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"Skipped: needs {name}")
    return report
