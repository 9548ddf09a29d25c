"""What `make venv` installs: all that pyproject.toml asks for, each file with its hash."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-cpu.lock")
ON_3_11 = {**default_environment(), "python_version": "3.11", "python_full_version": "3.11.0"}


def pins(name: str) -> dict[str, list[Requirement]]:
    """By the name of the package; every line that is no comment is one, with hashes where the file has them."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / name).read_text().replace(" \\\n", " ").splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line.split(" --hash=")[0].strip())
            assert [item.operator for item in requirement.specifier] == ["=="], line
            if name in LOCKS:
                assert re.fullmatch(r".*[^ ](\s+--hash=sha256:[0-9a-f]{64})+", line), line
            found.setdefault(requirement.name, []).append(requirement)
    return found


def asked() -> list[Requirement]:
    """What this project requires, with the extras that `make venv` installs, and its build backend."""
    found = [Requirement(line) for line in metadata.requires("adapter-export") or ()]
    environments = [{**ON_3_11, "extra": extra} for extra in ("export", "train", "test", "dev")]
    return [
        Requirement("setuptools>=77.0.3"),
        *(item for item in found if any(item.marker is None or item.marker.evaluate(each) for each in environments)),
    ]


@pytest.mark.parametrize("name", [*LOCKS, "constraints.txt"])
def test_all_that_is_asked_for_is_there(name: str) -> None:
    known = pins(name)
    for requirement in asked():
        versions = [
            next(iter(pin.specifier)).version
            for pin in known[requirement.name.lower().replace("_", "-")]
            if pin.marker is None or pin.marker.evaluate(ON_3_11)
        ]
        assert len(versions) == 1, requirement
        assert requirement.specifier.contains(versions[0]), requirement


def test_the_files_agree() -> None:
    """Constraints and the locks have the same versions, of which PyTorch's may be that of the CPU."""
    lock, cpu, constraints = pins(LOCKS[0]), pins(LOCKS[1]), pins("constraints.txt")
    assert {*cpu} == {*constraints} <= {*lock}
    for name, found in constraints.items():
        for pin in found:
            assert pin.specifier in [item.specifier for item in lock[name]]
    assert {str(pin.specifier) for pin in cpu.pop("torch")} == {f"{constraints['torch'][0].specifier}+cpu"}
    assert {name: list(map(str, found)) for name, found in cpu.items()}.items() <= {
        name: list(map(str, found)) for name, found in lock.items()
    }.items()  # fmt: skip
