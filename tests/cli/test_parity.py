"""`adapter-export parity`: exit codes, one JSON object, and a report for people."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from adapter_export.cli import main
from adapter_export.cli.options import ExitCode
from adapter_export.parity.bundle_records.reader import read_bundle_record
from tests.bundles import Exported
from tests.pages.checked import Page
from tests.parity.mutants import Mutant, make, with_faint, without
from tests.recorded import Recorded


def run(exported: Exported, *more: str, bundle: Path | None = None, only: str | None = None) -> Result:
    given = [f"--adapter={name}={path}" for name, path in exported.adapters.items() if only in (None, name)]
    return CliRunner().invoke(
        main, ["parity", "--bundle", str(bundle or exported.bundle), "--model", str(exported.base), *given, *more]
    )


def test_a_right_bundle(merged_bundle: Exported) -> None:
    result = run(merged_bundle)
    assert result.exit_code == ExitCode.DONE, result.output
    assert result.stdout.splitlines()[-1] == "parity: pass"
    assert result.stderr == ""


def test_json_is_one_object(merged_bundle: Exported) -> None:
    result = run(merged_bundle, "--json")
    assert result.exit_code == ExitCode.DONE
    found = json.loads(result.stdout)
    assert found["verdict"] == "pass"
    assert [row["adapter"] for row in found["adapters"]] == ["ia3_three"]
    assert result.stderr == ""


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_wrong_bundle(more: tuple[str, ...], swappable_bundle: Exported, tmp_path: Path) -> None:
    mutant = Mutant("dropped", "swappable_bundle", "ia3_two", without("encoder.layer.0.", ".ia3."))
    bundle = make(mutant, swappable_bundle, tmp_path / "bundle")
    result = run(swappable_bundle, *more, bundle=bundle, only="ia3_two")
    assert result.exit_code == ExitCode.PARITY
    if more:
        found = json.loads(result.stdout)
        assert found["verdict"] == "fail"
        assert found["where_it_broke"]["site"] == "encoder.layer.0.attention.self.key"
        assert found["where_it_broke"]["cause"]["name"] == "adapter absent"
    else:
        assert result.stdout.splitlines()[-1] == "parity: fail"
        assert "fail: ia3_two, case 1 x 1, logits: e(O) = " in result.stdout
        assert "where it broke: encoder.layer.0.attention.self.key (after the adapter), error " in result.stdout
        assert "first node: Mul, which computes " in result.stdout
        assert "likely cause: adapter absent: " in result.stdout


def test_an_adapter_without_effect(swappable_bundle: Exported, tmp_path: Path) -> None:
    result = run(with_faint(1e-6, swappable_bundle, "ia3_two", tmp_path))
    assert result.exit_code == ExitCode.PARITY
    assert result.stdout.splitlines()[-1] == "parity: inconclusive"
    assert "the adapter changes the output too little to tell" in result.stdout


def test_a_flipped_file(merged_bundle: Exported, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(merged_bundle.bundle, tmp_path / "bundle"))
    (bundle / "config.json").write_text("{}")
    result = run(merged_bundle, "--json", bundle=bundle)
    assert result.exit_code == ExitCode.PARITY
    found = json.loads(result.stdout)
    assert found["verdict"] == "fail"
    assert found["checks"][0]["detail"].startswith(f"{bundle / 'config.json'}: sha256 ")


def test_bad_input_is_one_line(swappable_bundle: Exported) -> None:
    result = run(swappable_bundle, only="ia3_two")
    assert result.exit_code == ExitCode.BAD_INPUT
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: bundle ")
    expected = "expected --adapter houlsby_four=DIR or --reference houlsby_four=FILE for it"
    assert f"holds adapter 'houlsby_four': {expected}" in line


def test_a_name_given_twice(merged_bundle: Exported) -> None:
    result = run(merged_bundle, f"--adapter=ia3_three={merged_bundle.base}")
    assert result.exit_code == ExitCode.BAD_INPUT
    assert result.stderr == "error: --adapter ia3_three: given twice\n"


def test_a_record_is_written_once_and_judged_by(recorded: Recorded, tmp_path: Path) -> None:
    def judged(*references: str | Path) -> Result:
        given = [part for file in references for part in ("--reference", str(file))]
        return CliRunner().invoke(main, ["parity", "--bundle", str(recorded.exported.bundle), *given, "--json"])

    result = judged(recorded.file)
    assert result.exit_code == ExitCode.DONE, result.output
    assert json.loads(result.stdout)["notes"][0].startswith(f"judged by {recorded.file}, recorded 20")
    # A path with "=" in it is no NAME=FILE.
    odd = Path(shutil.copy(recorded.file, tmp_path / "a=b.npz"))
    assert judged(odd).exit_code == ExitCode.DONE
    for references, message in (
        ((recorded.file, odd), "is the only reference, found 2"),
        (("ia3_two=x.npz", recorded.file), "is the only reference, found 2"),
        ((tmp_path / "nowhere.npz",), "nowhere.npz: no such file"),
    ):
        result = judged(*references)
        assert result.exit_code == ExitCode.BAD_INPUT
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_record_is_not_overwritten_unasked(merged_bundle: Exported, tmp_path: Path) -> None:
    file = tmp_path / "parity.npz"
    file.write_text("mine")
    result = run(merged_bundle, f"--record={file}")
    assert result.exit_code == ExitCode.BAD_INPUT
    assert "parity.npz: already there; choose another file or pass --force" in result.stderr
    assert file.read_text() == "mine"
    assert "no such folder" in run(merged_bundle, f"--record={tmp_path / 'nowhere' / 'r.npz'}").stderr
    assert run(merged_bundle, f"--record={file}", "--force", "--text=the cat").exit_code == ExitCode.DONE
    assert [case.name for case in read_bundle_record(file).cases][-1] == "text 1"
    # Nothing else is left behind.
    assert list(tmp_path.iterdir()) == [file]


class TestAPage:
    """`--report`."""

    def test_of_a_pass(self, merged_bundle: Exported, tmp_path: Path) -> None:
        file = tmp_path / "parity.html"
        result = run(merged_bundle, f"--report={file}", "--json")
        assert result.exit_code == ExitCode.DONE, result.output
        found, told = Page(file.read_text(encoding="utf-8")), json.loads(result.stdout)
        (row,) = told["adapters"]
        assert f"\u2713 {told['verdict']}" in found.text
        assert {f"{row['error']:.1e}", f"{row['target_error']:.1e}", f"{row['effect']:.1e}"} <= found.cells
        assert len(found.plots) == 3
        assert {
            told["machine"]["processor"],
            *told["machine"]["versions"].values(),
            *told["files"].values(),
        } <= found.cells
        for case in told["cases"]:
            assert case["counts"]["exact"] + sum(case["counts"]["counts"]) > 0
        assert list(tmp_path.iterdir()) == [file]

    def test_of_a_failure(self, merged_bundle: Exported, tmp_path: Path) -> None:
        """A bundle that is not run, as its files differ from the manifest."""
        bundle = Path(shutil.copytree(merged_bundle.bundle, tmp_path / "bundle"))
        (bundle / "config.json").write_text("{}")
        file = tmp_path / "parity.html"
        assert run(merged_bundle, f"--report={file}", bundle=bundle).exit_code == ExitCode.PARITY
        found = Page(file.read_text(encoding="utf-8"))
        assert "\u2717 fail" in found.text
        assert any(cell.startswith(f"{bundle / 'config.json'}: sha256 ") for cell in found.cells)

    def test_is_not_overwritten_unasked(self, merged_bundle: Exported, tmp_path: Path) -> None:
        file = tmp_path / "parity.html"
        file.write_text("mine")
        result = run(merged_bundle, f"--report={file}")
        assert result.exit_code == ExitCode.BAD_INPUT
        assert result.stderr == f"error: --report {file}: already there; choose another file or pass --force\n"
        assert file.read_text() == "mine"
        assert "no such folder" in run(merged_bundle, f"--report={tmp_path / 'nowhere' / 'p.html'}").stderr
