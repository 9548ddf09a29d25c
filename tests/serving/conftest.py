"""Servers that the tests of this folder share: each is started once a module, and no test changes its adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported
from tests.served import Client, serving


@pytest.fixture(scope="module")
def classifiers(bank_bundle: Exported) -> Iterator[Client]:
    """A server of `bank_bundle`: five classifiers on a tiny BERT."""
    with serving(bank_bundle.bundle, max_queue=64) as client:
        yield client


@pytest.fixture(scope="module")
def session(bank_bundle: Exported) -> Iterator[AdapterSession]:
    """A session of the same bundle, to compare with."""
    with AdapterSession(bank_bundle.bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def writers(export_cached: Callable[..., Exported]) -> Iterator[Client]:
    """A server of a bank of a tiny LLaMA with the adapters `ia3` and `houlsby`."""
    with serving(export_cached("llama", mode="bank").bundle, max_queue=16) as client:
        yield client


@pytest.fixture(scope="module")
def writing(export_cached: Callable[..., Exported]) -> Iterator[AdapterSession]:
    """A session of the same bundle, to compare with."""
    with AdapterSession(export_cached("llama", mode="bank").bundle) as opened:
        yield opened


@pytest.fixture(scope="session")
def writers_bundle(export_cached: Callable[..., Exported]) -> Path:
    """The bundle of `writers`."""
    return export_cached("llama", mode="bank").bundle
