"""Following a bundle that is added to while it is open."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.bundle.add import add_adapter
from adapter_export.errors import AdapterExportError, InputError
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.runtime.adapters.watching import BundleWatch
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported

NEVER = 3600.0
IDS = np.array([[5, 6, 7]])
INPUTS = {"input_ids": IDS, "attention_mask": np.ones_like(IDS), "token_type_ids": np.zeros_like(IDS)}


@pytest.fixture(params=["swappable_bundle", "bank_bundle"])
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> Exported:
    """A copy of one's own."""
    found: Exported = request.getfixturevalue(request.param)
    bundle = Path(shutil.copytree(found.bundle, tmp_path / "bundle"))
    return Exported(bundle, found.base, found.adapters)


def test_a_replaced_adapter_is_loaded_anew(exported: Exported) -> None:
    with AdapterSession(exported.bundle) as session, BundleWatch(session, seconds=NEVER) as watch:
        before = session.run(INPUTS, "ia3_two")["logits"]
        other = session.run(INPUTS, "houlsby_two")["logits"]
        add_adapter(exported.bundle, {"ia3_two": exported.adapters["houlsby_two"]}, force=True)
        assert np.array_equal(session.run(INPUTS, "ia3_two")["logits"], before)
        watch.look()
        assert np.array_equal(session.run(INPUTS, "ia3_two")["logits"], other)
        # Once: nothing has changed since.
        loads = session.statistics()["ia3_two"].loads
        watch.look()
        assert session.statistics()["ia3_two"].loads == loads == 2


def test_what_nobody_uses_is_not_loaded(exported: Exported) -> None:
    with AdapterSession(exported.bundle) as session, BundleWatch(session, seconds=NEVER) as watch:
        add_adapter(exported.bundle, {"new": exported.adapters["ia3_two"]})
        watch.look()
        assert session.loaded == ()
        assert "new" in session.adapters


def test_it_looks_by_itself_until_it_is_stopped(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Event()
    monkeypatch.setattr(BundleWatch, "look", lambda _: looked.set())
    with AdapterSession(exported.bundle) as session:
        watch = BundleWatch(session, seconds=0.001)
        assert looked.wait(60)
        watch.stop()
        assert not watch._thread.is_alive()


def test_what_goes_wrong_is_told_and_what_was_there_stays(exported: Exported) -> None:
    told: list[AdapterExportError] = []
    with AdapterSession(exported.bundle) as session, BundleWatch(session, seconds=NEVER, on_error=told.append) as watch:
        before = session.run(INPUTS, "ia3_two")["logits"]
        add_adapter(exported.bundle, {"ia3_two": exported.adapters["houlsby_two"]}, force=True)
        (exported.bundle / "adapters" / "ia3_two.onnx_adapter").write_bytes(b"broken")
        watch.look()
        (exported.bundle / MANIFEST).unlink()
        watch.look()
        assert np.array_equal(session.run(INPUTS, "ia3_two")["logits"], before)
    assert [type(error) for error in told] == [InputError, InputError]
    assert "ia3_two.onnx_adapter: expected a file with sha256" in str(told[0])


@pytest.mark.parametrize("raised", [ValueError, SystemExit, KeyboardInterrupt])
def test_on_error_that_raises(
    exported: Exported, raised: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The watch goes on: what is whole again is loaded."""
    called = threading.Event()

    def fail(_: AdapterExportError) -> None:
        called.set()
        raise raised("of on_error")

    with AdapterSession(exported.bundle) as session:
        before = session.run(INPUTS, "ia3_two")["logits"]
        other = session.run(INPUTS, "houlsby_two")["logits"]
        file = exported.bundle / "adapters" / "houlsby_two.onnx_adapter"
        with BundleWatch(session, seconds=0.01, on_error=fail):
            manifest = (exported.bundle / MANIFEST).read_bytes()
            (exported.bundle / MANIFEST).write_bytes(b"broken")
            assert called.wait(60)
            (exported.bundle / MANIFEST).write_bytes(manifest)
            add_adapter(exported.bundle, {"ia3_two": exported.adapters["houlsby_two"]}, force=True)
            for _ in range(600):
                if np.array_equal(session.run(INPUTS, "ia3_two")["logits"], other):
                    break
                threading.Event().wait(0.05)
        assert not np.array_equal(before, other)
        assert np.array_equal(session.run(INPUTS, "ia3_two")["logits"], other)
        assert file.exists()
    assert "of on_error" in caplog.text


def test_on_error_that_raises_hides_no_other_adapter(exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: AdapterExportError) -> None:
        raise ValueError("of on_error")

    with AdapterSession(exported.bundle) as session, BundleWatch(session, seconds=NEVER, on_error=fail) as watch:
        session.load("ia3_two")
        session.load("houlsby_four")
        other = session.run(INPUTS, "houlsby_two")["logits"]
        new = dict.fromkeys(("ia3_two", "houlsby_four"), exported.adapters["houlsby_two"])
        add_adapter(exported.bundle, new, force=True)
        names = [info.name for info in session.reread().adapters]
        first, second = sorted(new, key=names.index)
        file = next(exported.bundle / str(info.file) for info in session.manifest.adapters if info.name == first)
        file.write_bytes(b"broken")
        watch.look()
        assert np.array_equal(session.run(INPUTS, second)["logits"], other)
    assert "of on_error" in caplog.text


def test_on_error_may_stop_the_watch(exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    stopped = threading.Event()

    def stop(_: AdapterExportError) -> None:
        watch.stop()
        stopped.set()

    with AdapterSession(exported.bundle) as session:
        watch = BundleWatch(session, seconds=0.05, on_error=stop)
        (exported.bundle / MANIFEST).unlink()
        assert stopped.wait(60)
        watch._thread.join(60)
        assert not watch._thread.is_alive()
    assert caplog.text == ""


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_seconds_that_are_none(seconds: float, exported: Exported) -> None:
    with AdapterSession(exported.bundle) as session, pytest.raises(InputError, match="expected seconds above 0"):
        BundleWatch(session, seconds=seconds)


def test_an_adapter_in_the_graph_cannot_change(merged_bundle: Exported) -> None:
    with AdapterSession(merged_bundle.bundle) as session, pytest.raises(InputError, match="no adapter into its graph"):
        BundleWatch(session)


def test_it_is_off_by_default(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a thread was started")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with AdapterSession(exported.bundle) as session:
        session.run(INPUTS, "ia3_two")


def test_a_link_out_of_the_bundle_is_not_followed(exported: Exported, tmp_path: Path) -> None:
    """Neither the folder of the adapters nor the manifest; runs go on with what is there."""
    told: list[AdapterExportError] = []
    with AdapterSession(exported.bundle) as session, BundleWatch(session, seconds=NEVER, on_error=told.append) as watch:
        before = session.run(INPUTS, "ia3_two")["logits"]
        add_adapter(exported.bundle, {"ia3_two": exported.adapters["houlsby_two"]}, force=True)
        (tmp_path / MANIFEST).write_bytes((exported.bundle / MANIFEST).read_bytes())
        (exported.bundle / "adapters").rename(tmp_path / "adapters")
        for name in ("adapters", MANIFEST):
            (exported.bundle / name).unlink(missing_ok=True)
            (exported.bundle / name).symlink_to(f"../{name}")
            watch.look()
            assert f"{name}: is a link out of" in str(told.pop())
            assert np.array_equal(session.run(INPUTS, "ia3_two")["logits"], before)
        with pytest.raises(InputError, match="is a link out of"):
            session.load("ia3_three")
