"""Commands given folders of which one file was changed: each ends with 0, 1 or 2, and never with 3.

A bundle's manifest is given the new digest of the changed file, most times: else nothing behind the digests is reached.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from adapter_export.cli import main
from tests.fuzz import mutators

# One command takes a second at most, but for what a child process is given to match an expression.
MAX_SECONDS = 30
MAX_BYTES = 1 << 22
MANIFEST = "manifest.json"
_MUTATORS: Mapping[str, mutators.Mutator] = {
    ".json": mutators.of_json,
    ".safetensors": mutators.of_safetensors,
    ".bin": mutators.of_archive,
}
# What ONNX Runtime and other libraries say on stderr, and our own notes, stand before the last line.
_ENDS = {0: "", 1: "", 2: "error: "}


@dataclass(frozen=True)
class Subject:
    """folder: a valid one, of which a copy is changed. commands: lines with {it} for the copy and {out} for what is not
    there yet. skipped: endings of files that stay as they are."""

    folder: Path
    commands: tuple[tuple[str, ...], ...]
    skipped: tuple[str, ...] = ()


def trial(subject: Subject, seed: str, work: Path) -> str:
    """Change a copy of the folder in `work`, which is made anew, run one command on it -> how it ended, in a line that
    begins with its exit code. Raises AssertionError, naming the seed, for an end that none may have."""
    rng = random.Random(seed)
    shutil.rmtree(work, ignore_errors=True)
    it = work / "it"
    shutil.copytree(subject.folder, it)
    name = change(it, rng, subject.skipped)
    command = [part.format(it=it, out=work / "out") for part in rng.choice(subject.commands)]
    before = contents(work)
    start = time.monotonic()
    result = CliRunner().invoke(main, command)
    took = time.monotonic() - start
    said = result.stderr.strip().splitlines()
    what = f"{seed}: {name}: {' '.join(command)}: exit {result.exit_code}: {said[-1][:500] if said else ''}"
    assert result.exit_code in _ENDS, what
    assert took < MAX_SECONDS, f"{took:.0f} s: {what}"
    if result.exit_code == 2:
        assert said, what
        assert said[-1].startswith("error: "), what
        assert sum(line.startswith(("error: ", "internal error: ", "Traceback")) for line in said) == 1, what
        assert contents(work) == before, f"something was left or changed: {what}"
    return what.removeprefix(f"{seed}: ")


def change(folder: Path, rng: random.Random, skipped: tuple[str, ...] = ()) -> str:
    """Change one file in the folder -> its name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(skipped))
    # Configs are where most can be wrong.
    file = rng.choice([path for path in files if path.suffix == ".json"] if rng.random() < 0.6 else files)
    mutate = _MUTATORS.get(file.suffix, mutators.plain)
    data = file.read_bytes()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = mutate(data, MAX_BYTES, rng, mutators.scramble(rng))
    file.write_bytes(data)
    name = file.relative_to(folder).as_posix()
    if (folder / MANIFEST).exists() and name != MANIFEST and rng.random() < 0.9:
        _list_anew(folder / MANIFEST, name, hashlib.sha256(data).hexdigest())
    return name


def _list_anew(path: Path, name: str, digest: str) -> None:
    manifest = json.loads(path.read_text())
    if name in manifest["files"]:
        manifest["files"][name] = digest
    for info in manifest["adapters"]:
        if info["file"] == name:
            info["sha256"] = digest
    path.write_text(json.dumps(manifest))


def contents(folder: Path) -> dict[str, str]:
    """Digests by path of everything below the folder, hidden files included."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }
