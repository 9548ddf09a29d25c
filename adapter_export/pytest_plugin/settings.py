"""The settings of a suite: options of the command line, or lines of pytest's configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from adapter_export.parity.bundle_records.reader import BundleRecord

# Name -> help text. An option is --adapter-NAME, a line of the configuration file adapter_NAME.
SETTINGS = {
    "bundle": "Folder of the bundle to test.",
    "reference": "What PyTorch computes for the bundle: a file by adapter-export parity --record.",
    "provider": "Where to run the bundle: cpu (the default) or cuda.",
}
_RECORD = pytest.StashKey["BundleRecord"]()


def path_of(config: pytest.Config, name: str) -> Path:
    """Returns a path of the command line, or of pytest's configuration file.

    A missing one is an error: a suite that would skip its tests would pass without having tested anything.
    """
    given, written = config.getoption(f"adapter_{name}"), config.getini(f"adapter_{name}")
    if not given and not written:
        message = f"expected --adapter-{name}, or adapter_{name} in pytest's configuration; found neither"
        pytest.fail(message, pytrace=False)
    return Path(str(given)) if given else Path(config.rootpath, str(written))


def provider_of(config: pytest.Config) -> str:
    """Returns the provider."""
    return str(config.getoption("adapter_provider") or config.getini("adapter_provider") or "cpu")


def record_of(config: pytest.Config) -> BundleRecord:
    """Returns the reference, which is read once in each process."""
    if _RECORD not in config.stash:
        from adapter_export.parity.bundle_records.reader import read_bundle_record

        config.stash[_RECORD] = read_bundle_record(path_of(config, "reference"))
    return config.stash[_RECORD]
