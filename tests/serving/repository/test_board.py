"""Loading and unloading over HTTP, in one process: what is served after each change, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter_export.bundle.add import add_adapter
from adapter_export.errors import InputError
from adapter_export.runtime.session import AdapterSession
from adapter_export.serving.repository.board import Repository
from tests.bundles import Exported
from tests.served import Client, serving

REQUEST = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["the team won"]}]}


@pytest.fixture
def folder(bank_bundle: Exported, tmp_path: Path) -> Path:
    """A folder with adapters `two`, `four`, and one that is broken."""
    folder = tmp_path / "more"
    folder.mkdir()
    for name, source in {"two": "houlsby_two", "four": "houlsby_four"}.items():
        shutil.copy(bank_bundle.bundle / "adapters" / f"{source}.onnx_adapter", folder / f"{name}.onnx_adapter")
    (folder / "broken.onnx_adapter").write_bytes(b"nothing")
    return folder


@pytest.fixture
def client(bank_bundle: Exported, folder: Path) -> Iterator[Client]:
    with serving(bank_bundle.bundle, adapters=folder) as client:
        yield client


def change(client: Client, action: str, name: str) -> tuple[int, str]:
    answer = client.post(f"/v2/repository/models/{name}/{action}")
    return answer.status, answer.json.get("error", "")


class TestOneWorker:
    def test_load_use_unload(self, client: Client) -> None:
        assert client.post("/v2/models/four/infer", REQUEST).status == 404
        assert change(client, "load", "four") == (200, "")
        answer = client.post("/v2/models/four/infer", REQUEST)
        same = client.post("/v2/models/houlsby_four/infer", REQUEST)
        assert answer.json["outputs"] == same.json["outputs"]
        names = [one["name"] for one in client.post("/v2/repository/index").json]
        assert names[0] == "base"
        assert names[-1] == "four"
        assert change(client, "unload", "four") == (200, "")
        assert client.post("/v2/models/four/infer", REQUEST).status == 404

    def test_what_add_puts_into_the_bundle_is_served(self, bank_bundle: Exported, tmp_path: Path) -> None:
        bundle = Path(shutil.copytree(bank_bundle.bundle, tmp_path / "bundle"))
        with serving(bundle) as client:
            assert client.post("/v2/models/later/infer", REQUEST).status == 404
            add_adapter(bundle, {"later": bank_bundle.adapters["houlsby_four"]})
            answer = client.post("/v2/models/later/infer", REQUEST)
            assert (answer.status, answer.json["outputs"][0]["shape"]) == (200, [1, 4])
            add_adapter(bundle, {"later": bank_bundle.adapters["houlsby_two"]}, force=True)
            end = time.monotonic() + 30
            while client.post("/v2/models/later/infer", REQUEST).json["outputs"][0]["shape"] != [1, 2]:
                assert time.monotonic() < end, "the adapter that replaced it is not served"
                time.sleep(0.1)

    def test_a_file_that_has_changed_is_loaded_again(self, client: Client, folder: Path) -> None:
        assert change(client, "load", "four") == (200, "")
        shutil.copy(folder / "two.onnx_adapter", folder / "four.onnx_adapter")
        assert client.post("/v2/models/four/infer", REQUEST).json["outputs"][0]["shape"] == [1, 4]
        assert change(client, "load", "four") == (200, "")
        assert client.post("/v2/models/four/infer", REQUEST).json["outputs"][0]["shape"] == [1, 2]

    def test_adapters_of_the_bundle(self, client: Client) -> None:
        assert change(client, "load", "ia3_two") == (200, "")
        assert change(client, "unload", "ia3_two") == (200, "")
        # It is still in the bundle, and is loaded when it is used.
        assert client.post("/v2/models/ia3_two/infer", REQUEST).status == 200

    @pytest.mark.parametrize(
        ("action", "name", "status", "message"),
        [
            ("load", "nobody", 400, "adapter 'nobody'"),
            ("load", "broken", 400, "adapters/broken.onnx_adapter"),
            ("load", "base", 400, "model 'base': is always loaded"),
            ("load", "..", 400, "adapter name '..'"),
            ("load", "%2e%2e%2fsecret", 404, ""),
            ("load", "a%00b", 400, ""),
            ("load", "sp%20ace", 400, ""),
            ("unload", "nobody", 404, "model 'nobody': not found"),
        ],
    )
    def test_what_is_refused(self, client: Client, action: str, name: str, status: int, message: str) -> None:
        found, error = change(client, action, name)
        assert found == status, error
        assert message in error
        assert str(Path.cwd().anchor + "tmp") not in error

    def test_a_link_out_of_the_folder(self, client: Client, folder: Path, tmp_path: Path) -> None:
        shutil.move(folder / "two.onnx_adapter", tmp_path / "outside")
        (folder / "two.onnx_adapter").symlink_to(tmp_path / "outside")
        status, error = change(client, "load", "two")
        assert status == 400
        assert "two.onnx_adapter" in error

    def test_without_a_folder_nothing_is_loaded(self, classifiers: Client) -> None:
        assert change(classifiers, "load", "ia3_two")[0] == 403
        assert change(classifiers, "unload", "ia3_two")[0] == 403


class TestSeveralWorkers:
    """Two repositories of one process take the place of two workers."""

    @pytest.fixture
    def sessions(self, bank_bundle: Exported) -> Iterator[tuple[AdapterSession, AdapterSession]]:
        with AdapterSession(bank_bundle.bundle) as one, AdapterSession(bank_bundle.bundle) as two:
            yield one, two

    def test_the_order_of_changes_is_the_same_everywhere(
        self, sessions: tuple[AdapterSession, AdapterSession], folder: Path, tmp_path: Path
    ) -> None:
        board = tmp_path / "board"
        board.mkdir()
        one, two = (Repository(session, folder, board) for session in sessions)

        async def at_once() -> None:
            following = [asyncio.ensure_future(one.follow()), asyncio.ensure_future(two.follow())]
            await one.load("two")
            await two.load("two")
            # Whoever is first in the journal, both end with the same adapters.
            await asyncio.gather(one.load("four"), two.unload("two"), return_exceptions=True)
            await asyncio.gather(one.unload("four"), two.load("four"), return_exceptions=True)
            for task in following:
                task.cancel()

        asyncio.run(at_once())
        for repository in (one, two):
            repository.catch_up()
        assert sessions[0].adapters == sessions[1].adapters
        assert "two" not in sessions[0].adapters

    def test_a_change_waits_for_a_worker_that_lives_and_not_for_one_that_does_not(
        self,
        sessions: tuple[AdapterSession, AdapterSession],
        folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        board = tmp_path / "board"
        board.mkdir()
        repository = Repository(sessions[0], folder, board)
        (board / "worker-999999999.json").write_text(json.dumps({"made": 0, "errors": {}}))
        asyncio.run(repository.load("two"))
        monkeypatch.setattr("adapter_export.serving.repository.board._WAIT_SECONDS", 0.2)
        (board / f"worker-{os.getppid()}.json").write_text(json.dumps({"made": 0, "errors": {}}))
        with pytest.raises(Exception, match=r"not all workers have made the change within 0\.2 seconds"):
            asyncio.run(repository.load("four"))

    def test_a_worker_that_fails_is_told(
        self, sessions: tuple[AdapterSession, AdapterSession], folder: Path, tmp_path: Path
    ) -> None:
        board = tmp_path / "board"
        board.mkdir()
        repository = Repository(sessions[0], folder, board)
        asyncio.run(repository.load("two"))
        (folder / "two.onnx_adapter").unlink()
        with pytest.raises(InputError):
            sessions[1].load("two")
        late = Repository(sessions[1], folder, board)
        assert "two" not in sessions[1].adapters
        late.catch_up()
