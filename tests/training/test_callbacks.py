"""Early stopping as a function of the log, and the progress bar."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from adapter_export.errors import InputError
from adapter_export.training.callbacks import stopped_early
from adapter_export.training.train import TrainResult


@pytest.mark.parametrize(
    ("losses", "patience", "stopped"),
    [
        ([], 1, False),
        ([3.0], 1, False),
        ([3.0, 2.0], 1, False),
        ([2.0, 3.0], 1, True),
        ([2.0, 2.0], 1, True),  # no better
        ([2.0, 3.0], 2, False),
        ([2.0, 3.0, 2.5], 2, True),
        ([2.0, 3.0, 1.5], 2, False),
        ([2.0, 3.0, 4.0], None, False),
    ],
)
def test_early_stopping(losses: list[float], patience: int | None, stopped: bool) -> None:
    log = [entry for loss in losses for entry in ({"loss": 0.1}, {"eval_loss": loss})]
    assert stopped_early(log, patience) == stopped


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_goes_to_stderr_and_is_put_away(
    trained: Callable[..., TrainResult], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    trained("bert", epochs=2, batch_size=8, eval=True, progress=True)
    drawn = sys.stderr.getvalue()
    assert "6/6" in drawn
    assert "macro f1" in drawn
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(InputError, match="diverged"):
        trained("bert", output="b", epochs=3, learning_rate=1e30, method="bottleneck", progress=True)
    assert sys.stderr.getvalue().rstrip("\n").endswith("\x1b[?25h"), "the cursor is shown again"
    assert capsys.readouterr().out == ""
