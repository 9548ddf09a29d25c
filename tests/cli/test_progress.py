"""Long commands say what they are doing; short ones leave logs empty."""

from __future__ import annotations

import time

import pytest

from adapter_export.cli import progress


def test_nothing_of_what_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.stages("onnx") as begin:
        begin("loading")
        begin("tracing")
    assert capsys.readouterr().err == ""


def test_lines_once_it_takes_long(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    with progress.stages("onnx") as begin:
        begin("loading")
        deadline = time.monotonic() + 10
        while not (first := capsys.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.01)
        begin("tracing")
    assert first == "onnx: loading (0 s)\n"
    assert capsys.readouterr().err == "onnx: tracing (0 s)\n"


def test_a_terminal_sees_the_stage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress.stages("onnx") as begin:
        begin("tracing model.onnx")
        time.sleep(0.2)
    captured = capsys.readouterr()
    assert "tracing model.onnx" in captured.err
    assert captured.out == ""


def test_the_bar_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("judging cases") as count:
        count(1, 3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress.bar("judging cases") as count:
        count(1, 3)
        time.sleep(0.2)
    captured = capsys.readouterr()
    assert "judging cases" in captured.err
    assert captured.out == ""
