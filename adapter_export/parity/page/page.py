"""Writes a parity report as one HTML page: the verdict, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_export.outputs.ownership import MANIFEST
from adapter_export.pages.parts import Facts, Items, Paragraph, Part, Section, Table, Word
from adapter_export.pages.render import machine_facts, machine_line, render
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.page.errors import error_parts
from adapter_export.parity.page.heat import heat_maps
from adapter_export.parity.page.law import law
from adapter_export.parity.page.model import model_parts
from adapter_export.parity.page.sites import site_parts
from adapter_export.parity.page.texts import number, plural, word
from adapter_export.parity.page.tokens import token_parts
from adapter_export.parity.report import NO_ADAPTER, ParityReport, summary
from adapter_export.parity.report_tables import reason_lines

_MEANING = {
    Verdict.PASS: "The bundle computes what the PyTorch model computes, with every adapter and without, as far as the "
    "numbers below reach.",
    Verdict.INCONCLUSIVE: "Nothing was found wrong, but the numbers do not prove the bundle right: a wrong one could "
    "have given the same. This is not a pass.",
    Verdict.FAIL: "The bundle does not compute what the PyTorch model computes, or is not the bundle that its manifest "
    "describes. Do not deploy it.",
}
# A page has at most so many reasons. A wrong graph fails in every case for the same one.
_SHOWN_REASONS = 100


def parity_page(report: ParityReport) -> str:
    """Returns the page as HTML.

    Args:
        report: The report.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    adapters = [name for name in dict.fromkeys(item.adapter for item in report.results) if name != NO_ADAPTER]
    lead = [
        _MEANING[report.verdict],
        f"{report.bundle}: {report.mode}, {report.task}, {report.dtype}, on {report.provider}. "
        f"{plural(len(report.results), 'comparison')} of outputs, of {plural(len(adapters), 'adapter')} "
        f"and {plural(len({item.case for item in report.results}), 'case')}.",
        *machine_line(report.machine),
        *_uncovered(report),
    ]
    sections = [
        Section("summary", "Verdict by adapter and check", list(_summary(report))),
        Section("broke", "Where it broke", list(_departure(report))),
        Section("errors", "Errors, effect and direction", list(error_parts(report))),
        Section("heat", "Error by adapter and case", list(heat_maps(report))),
        Section("sites", "Error by site", list(site_parts(report))),
        Section("tokens", "Tokens that differ", list(token_parts(report))),
        Section("model", "The model and its adapter sites", list(model_parts(report.manifest))),
        Section("run", "What ran where", list(_run(report))),
        Section("law", "How it is judged", list(law(report))),
    ]
    verdict = Word(report.outcome, report.verdict.value)
    return render("Parity with PyTorch", lead, [item for item in sections if item.parts], verdict)


def _uncovered(report: ParityReport) -> Iterator[str]:
    """Yields what a pass does not cover."""
    if report.verdict is not Verdict.PASS:
        return
    if not report.witnessed:
        yield (
            "Unwitnessed: for at least one adapter, no other library computed what is expected. A mistake in reading "
            "its checkpoint would be in the reference as well."
        )
    if report.judged_to is not None:
        yield f"Texts of more than {report.judged_to} tokens were not judged, though the model accepts them."


def _summary(report: ParityReport) -> Iterator[Part]:
    rows = summary(report)
    if rows:
        yield Table(
            "Adapters: the worst of each number over all cases",
            (
                "adapter",
                "verdict",
                "cases passed",
                "error",
                "PyTorch's own",
                "error without",
                "effect",
                "1 \u2212 cosine",
            ),
            [
                (
                    row["adapter"],
                    word(Verdict(row["verdict"])),
                    f"{row['cases']['pass']} of {sum(row['cases'].values())}",
                    *map(number, (row["error"], row["target_error"], row["off_error"], row["effect"])),
                    number(None if row["cosine"] is None else max(0.0, 1 - row["cosine"])),
                )
                for row in rows
            ],
            "Error: the largest difference between ONNX Runtime and float64 PyTorch. PyTorch's own: the same for "
            "PyTorch at the precision of the graph. Error without: with the adapter's body switched off. Effect: how "
            "much the adapter changes the outputs. All four are divided by the root mean square of the reference. 1 "
            "\u2212 cosine: 0 if the adapter changes the outputs in exactly the right direction. A dash: nothing to "
            "measure.",
        )
    yield Table(
        "Checks of the bundle as a whole",
        ("check", "verdict", "found"),
        [(check.name, word(check.verdict), check.detail) for check in report.checks],
        texts=(2,),
    )
    if reasons := list(reason_lines(report.results)):
        yield Paragraph("Why cases did not pass, with the first case and the first reason of each:")
        yield Items(reasons[:_SHOWN_REASONS])
    if len(reasons) > _SHOWN_REASONS:
        yield Paragraph(f"And {len(reasons) - _SHOWN_REASONS} more, which --json has.")
    if report.notes:
        yield Paragraph("Notes: what was checked in another way, or not at all.")
        yield Items(report.notes)


def _departure(report: ParityReport) -> Iterator[Part]:
    if report.departure is not None:
        yield Paragraph(
            "The first place at which the values of the graph depart from those of PyTorch, in a case that failed:"
        )
        yield Items([line.strip() for line in report.departure.lines()])


def _run(report: ParityReport) -> Iterator[Part]:
    placement = [(f"share of nodes on {name}", f"{share:.1%}") for name, share in (report.placement or {}).items()]
    machine = list(machine_facts(report.machine))
    yield Facts("This check", [*machine, ("provider asked for", report.provider), *placement])
    if report.witnesses:
        yield Facts("Witnesses: what computed the reference of each adapter", list(report.witnesses.items()))
    if (manifest := report.manifest) is None:
        return
    adapters = [(info.name, info.source_sha256 or "not recorded") for info in manifest.adapters]
    yield Facts(
        "Origin: SHA-256 of the weights that the bundle was made from",
        [(f"base model, {manifest.base.model_type}", manifest.base.sha256), *adapters],
    )
    own = [] if report.manifest_sha256 is None else [(MANIFEST, report.manifest_sha256)]
    yield Facts("Files of the bundle, with their SHA-256", [*own, *manifest.files.items()])
