"""The four commands that write, on a tiny model, and what their outputs may be afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adapter_export.bundle.manifest import read_manifest
from adapter_export.errors import InputError
from adapter_export.outputs.ownership import first_foreign, listed
from adapter_export.reading.hashes import sha256

COMMANDS = ("merge", "add", "train", "onnx")
ABSENT, OLD, NEW, BROKEN = "absent", "old", "new", "broken"
_TEXTS = ("the movie was lovely", "a terrible day", "one boring story", "the food is good", "we had a sad night")


@dataclass(frozen=True)
class Subject:
    """Inputs in a folder, made once: a model, adapters of it, training data, bundles, and earlier outputs.

    digests: of everything in `folder`, which no trial may change.
    """

    folder: Path

    @staticmethod
    def make(folder: Path) -> Subject:
        """Make the inputs, unless they are there. To be called in a process of its own: it runs PyTorch and ONNX."""
        from adapter_export import export_onnx, merge, train
        from adapter_export.checkpoints.folder import save_adapter
        from adapter_export.models.base_model import load_base
        from tests import tiny

        if (folder / "complete").exists():
            return Subject(folder)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "model").mkdir(parents=True)
        tiny.save_model(folder / "model", "bert", "text-classification", 3, {})
        info = load_base(folder / "model", "text-classification").info
        for seed, (name, method) in enumerate(_ADAPTERS.items(), start=1):
            (folder / name).mkdir()
            save_adapter(folder / name, tiny.random_adapter(info, method, seed, labels=("no", "yes")), info, "model")
        rows = [{"text": text, "label": str(i % 3)} for i, text in enumerate(_TEXTS * 4)]
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        adapters = {name: folder / name for name in _ADAPTERS}
        for mode in ("swappable", "bank"):
            export_onnx(folder / "model", adapters, folder / mode, mode=mode)
        # What the trials replace.
        merge(folder / "model", folder / "old", folder / "before-merge")
        export_onnx(folder / "model", {"old": folder / "old"}, folder / "before-onnx", mode="merged")
        train(folder / "model", "ia3", "text-classification", folder / "train.jsonl", folder / "before-train", seed=9,
              max_steps=1)  # fmt: skip
        shutil.copytree(folder / "swappable", folder / "before-add")
        (folder / "complete").touch()
        return Subject(folder)

    def prepare(self, command: str, work: Path, replaced: bool) -> Path:
        """A fresh place for a trial; returns the output's path in it. replaced: an earlier output is there."""
        shutil.rmtree(work, ignore_errors=True)
        output = work / "deep" / "output"
        if replaced or command == "add":
            shutil.copytree(self.folder / f"before-{command}", output)
        else:
            work.mkdir()
        return output

    def arguments(self, command: str, output: Path) -> list[str]:
        """The command line that writes `output`."""
        folder = self.folder
        model = ["--model", str(folder / "model")]
        written = ["--output", str(output), "--force"]
        return {
            "merge": ["merge", *model, "--adapter", str(folder / "new"), *written],
            "add": ["add", "--bundle", str(output), "--adapter", f"new={folder / 'bottleneck'}", "--adapter",
                    f"old={folder / 'new'}", "--force"],
            "train": ["train", *model, "--method", "ia3", "--task", "text-classification", "--train",
                      str(folder / "train.jsonl"), "--batch-size", "4", "--epochs", "2", *written],
            "onnx": ["onnx", *model, "--adapter", f"new={folder / 'new'}", "--mode", "swappable", *written],
        }[command]  # fmt: skip

    def next_arguments(self, command: str, output: Path) -> list[str]:
        """A quick command on the same output, which finds what another one left."""
        if command == "add":
            return ["add", "--bundle", str(output), "--adapter", f"later={self.folder / 'old'}", "--force"]
        return self.arguments("merge", output)

    def state(self, command: str, output: Path) -> str:
        """What the output is now."""
        if not output.exists():
            return ABSENT
        found, before = content(output), content(self.folder / f"before-{command}")
        if command == "add" and (output / ".adapter-export").exists():
            # Adapters that no manifest lists count for nothing until a manifest does; the next command removes them.
            known = {"manifest.json", *read_manifest(output).files}
            found = {name: digest for name, digest in found.items() if name in known}
            if found.keys() < known:
                return BROKEN
            return OLD if found == before else NEW
        if found == before:
            return OLD
        return NEW if is_whole(output) else BROKEN


_ADAPTERS = {"old": "ia3", "new": "ia3", "bottleneck": "bottleneck"}


def content(folder: Path) -> Mapping[str, str]:
    """sha256 of every file below `folder`, but for a workspace in it."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".adapter-export" not in path.relative_to(folder).parts
    }


def is_whole(folder: Path) -> bool:
    """Whether it is a complete output: every file that its listing names is there, with the content it says, and no
    other."""
    if first_foreign(folder, [".adapter-export"]) is not None or not listed(folder) <= {*content(folder)}:
        return False
    if not (folder / "manifest.json").exists():
        return True
    try:
        manifest = read_manifest(folder)
    except InputError:
        return False
    return all(sha256(folder / name) == digest for name, digest in manifest.files.items())


def leftovers(work: Path, output: Path) -> list[str]:
    """What lies about beside the output. Checkpoints of a training run that can be resumed are none."""
    found = []
    for path in sorted(work.rglob("*")):
        if path == output or output in path.parents or path in output.parents:
            continue
        partial = output.with_name("output.partial")
        if (path == partial or partial in path.parents) and list(partial.glob("checkpoint-*/complete")):
            continue
        found.append(path.relative_to(work).as_posix())
    if (output / ".adapter-export").exists():
        found.append("output/.adapter-export")
    if not output.exists() and output.parent.exists() and not any(output.parent.iterdir()):
        found.append("an empty parent")
    return found
