"""Parity in a test suite of pytest, which loads this module where the package is installed.

    pytest --adapter-bundle=DIR [--adapter-reference=FILE] [--adapter-provider=cpu|cuda]

Write them with `=`: pytest looks for its configuration file before it knows these options, and takes a path that stands
alone for a folder of tests. The three may also stand in that file, as `adapter_bundle`, `adapter_reference` and
`adapter_provider`, with paths from its folder. Fixtures:

    adapter_bundle    Path of the bundle.
    adapter_session   AdapterSession of it.
    adapter_case      One case of one adapter of the reference: a test that takes it becomes one test for each.
    assert_parity     Function that fails where the bundle does not compute what PyTorch does: `asserting.AssertParity`.

The reference is the file that `adapter-export parity --record` writes. torch is not needed.

Nothing but pytest is imported before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adapter_export.pytest_plugin.settings import SETTINGS, path_of, provider_of, record_of

if TYPE_CHECKING:
    from adapter_export.pytest_plugin.asserting import AdapterCase, AssertParity
    from adapter_export.runtime.session import AdapterSession


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options."""
    group = parser.getgroup("adapter-export")
    for name, text in SETTINGS.items():
        group.addoption(f"--adapter-{name}", metavar={"bundle": "DIR", "reference": "FILE"}.get(name), help=text)
        parser.addini(f"adapter_{name}", text)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Makes one test of each case, for tests that take `adapter_case`."""
    if "adapter_case" in metafunc.fixturenames:
        cases = _cases(metafunc.config)
        metafunc.parametrize("adapter_case", cases, ids=[str(case) for case in cases])


@pytest.fixture(scope="session")
def adapter_bundle(pytestconfig: pytest.Config) -> Path:
    """The folder of the bundle."""
    return path_of(pytestconfig, "bundle")


@pytest.fixture(scope="session")
def adapter_session(pytestconfig: pytest.Config, adapter_bundle: Path) -> Iterator[AdapterSession]:
    """A session of the bundle, one for all tests of a process."""
    from adapter_export.runtime.session import AdapterSession

    with AdapterSession(adapter_bundle, provider=provider_of(pytestconfig)) as session:
        yield session


@pytest.fixture(scope="session")
def assert_parity(request: pytest.FixtureRequest) -> Iterator[AssertParity]:
    """A function that fails the test where the bundle does not compute what PyTorch does."""
    from adapter_export.parity.bundle_records.suite import RecordSuite
    from adapter_export.pytest_plugin.asserting import AssertParity

    def suite() -> RecordSuite:
        config = request.config
        return RecordSuite(path_of(config, "bundle"), record_of(config), provider_of(config))

    check = AssertParity(suite, lambda: request.getfixturevalue("adapter_session"))
    yield check
    check.close()


def _cases(config: pytest.Config) -> list[AdapterCase]:
    """Returns the cases of the reference, for each adapter of the bundle."""
    from adapter_export.bundle.manifest import read_manifest
    from adapter_export.errors import InputError
    from adapter_export.parity.bundle_records.belongs import check_belongs
    from adapter_export.pytest_plugin.asserting import AdapterCase

    bundle = path_of(config, "bundle")
    try:
        record, manifest = record_of(config), read_manifest(bundle)
        check_belongs(record, bundle, manifest)
    except InputError as error:
        message = str(error)
    else:
        names: list[str | None] = [None] if manifest.in_graph is None else []
        names += [info.name for info in manifest.adapters]
        return [AdapterCase(name, case) for name in names for case in record.cases]
    pytest.fail(message, pytrace=False)
