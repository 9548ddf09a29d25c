"""ONNX Runtime's own log, as a caller chose it."""

from __future__ import annotations

import pytest

from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported


@pytest.mark.parametrize(("level", "warned"), [(None, False), (3, False), (2, True)])
def test_a_callers_options_are_quiet_unless_they_have_a_level(
    swappable_bundle: Exported, capfd: pytest.CaptureFixture[str], level: int | None, warned: bool
) -> None:
    """Options of the caller's brought a warning for every adapter tensor."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    if level is not None:
        options.log_severity_level = level
    AdapterSession(swappable_bundle.bundle, options=options).close()
    assert ("appears in graph inputs" in capfd.readouterr().err) is warned
    assert options.log_severity_level == (-1 if level is None else level), "they are the caller's"
