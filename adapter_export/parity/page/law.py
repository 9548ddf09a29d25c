"""What must hold for a pass, in the words and with the numbers of docs/parity.md."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_export.pages.parts import Items, Paragraph, Part
from adapter_export.parity.criteria.judge import THRESHOLDS
from adapter_export.parity.criteria.quantized import COSINE, FLOOR, LIMITS, SLACK
from adapter_export.parity.report import ParityReport


def law(report: ParityReport) -> Iterator[Part]:
    """Yields the rules that the report was judged by."""
    yield Paragraph(
        "R is the reference: PyTorch in float64. T is PyTorch at the precision of the graph. O is ONNX Runtime. On is "
        "with the adapter, off is without its body. Errors are e(x) = |x \u2212 R| / rms(R). A case passes only if all "
        "of these hold:"
    )
    yield Items(list(_rules(report)))
    yield Paragraph(
        "docs/parity.md of adapter-export derives these limits: see its sections The references, The criteria, The "
        "cases, and The thresholds. It also says what such a check cannot detect."
    )


def _rules(report: ParityReport) -> Iterator[str]:
    yield (
        "The outputs have the names, shapes and dtypes of PyTorch's. All values are finite, and they are neither "
        "constant nor all zero."
    )
    manifest = report.manifest
    if manifest is not None and manifest.quantize.used:
        limits = LIMITS[manifest.quantize]
        yield f"The mean of e(O) is at most {SLACK:g} times the mean of e(T), plus {FLOOR:g}, on and off."
        yield "Where the class of R is clear and T chooses it, too, O chooses it as well."
        yield (
            f"Over all cases, rms(R_on \u2212 R_off) is at least {limits.effect:g} times rms(O_on \u2212 R_on). If "
            "not, the verdict is inconclusive."
        )
        yield f"Over all cases, the cosine between O_on \u2212 O_off and R_on \u2212 R_off is at least {COSINE:g}."
        yield (
            f"The median over all cases of the mean e(O) is at most {limits.error:g}, and that of KL(softmax R, "
            f"softmax O) at most {limits.divergence:g}."
        )
    else:
        floats = THRESHOLDS[report.dtype]
        yield (
            f"The largest e(O) is at most {floats.slack:g} times the largest e(T), plus {floats.floor:g}, and at most "
            f"{floats.ceiling:g}, on and off."
        )
        yield (
            f"The effect, max|R_on \u2212 R_off| / rms(R), is at least {floats.effect:g} times the largest e(O). If "
            "not, the verdict is inconclusive: a graph without the adapter could have given the same numbers."
        )
        yield f"The cosine between O_on \u2212 O_off and R_on \u2212 R_off is at least {floats.cosine:g}."
    yield "All arithmetic ran on the provider that was asked for."
    yield "Every generated token with a clear margin is the token that PyTorch chooses."
