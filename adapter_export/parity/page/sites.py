"""The errors inside of the model, at the sites of adapters, in the case that was run again because it failed."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_export.pages.parts import HeatCell, HeatMap, Paragraph, Part
from adapter_export.parity.localizing.departure import ParitySiteError
from adapter_export.parity.page.heat import LEVELS, level
from adapter_export.parity.page.texts import judged_by_means, number
from adapter_export.parity.report import ParityReport


def site_parts(report: ParityReport) -> Iterator[Part]:
    """Yields a heat map of the errors by site and run; in place of one, why there is none."""
    departure = report.departure
    if departure is None or not departure.sites:
        yield Paragraph(_reason(report))
        return
    what = "mean" if judged_by_means(report.manifest) else "largest"
    runs = list(dict.fromkeys(item.run for item in departure.sites))
    # The last run, which has all rows of the others and mostly one more, tells their order.
    rows = [item.site for run in reversed(runs) for item in departure.sites if item.run == run]
    yield HeatMap(
        f"Case {departure.case}, {departure.adapter}: {what} error by site",
        "site",
        runs,
        list(dict.fromkeys(rows)),
        {(item.site, item.run): _cell(item) for item in departure.sites},
        LEVELS,
        "From the inputs of the model at the top to its outputs at the bottom, in the case that was run again to find "
        "where the bundle broke. A row is the value behind an adapter, the output of the model, or the first place "
        f"that departs. The number is the {what} difference from the reference at this place, divided by the root mean "
        "square of the reference there.",
    )


def _cell(item: ParitySiteError) -> HeatCell:
    return HeatCell(number(item.error), level(item.error, item.limit), "" if item.error <= item.limit else "departs")


def _reason(report: ParityReport) -> str:
    if report.departure is not None:
        return "No values inside of the model were compared: see Where it broke."
    return (
        "Values inside of the model, at the sites of adapters, are compared only after a case has failed: the model is "
        "then run again."
    )
