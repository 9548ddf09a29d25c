"""Which generated tokens are not those that PyTorch chooses."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_export.pages.parts import Paragraph, Part, Table
from adapter_export.parity.page.texts import number
from adapter_export.parity.report import ParityReport

# A page has at most so many tokens that differ. After a wrong one, all the following may differ.
_SHOWN = 100


def token_parts(report: ParityReport) -> Iterator[Part]:
    """Yields the counts of generated tokens, and each token that differs."""
    generated = [(item, item.judgement.tokens) for item in report.results if item.judgement.tokens is not None]
    if not generated:
        yield Paragraph(
            "No text was generated: the model does not write texts, or no case did. Whether texts become the same "
            "tokens is the check named tokens, above."
        )
        return
    yield Table(
        "Generated tokens",
        ("adapter", "case", "tokens", "with a clear margin", "of these, PyTorch's", "all that differ"),
        [
            (item.adapter, item.case.name, tokens.count, tokens.clear, tokens.agreed, len(tokens.differing))
            for item, tokens in generated
        ],
        "A token has a clear margin if the two largest logits of the reference are further apart than twice the error. "
        "Such a token must be the one that PyTorch chooses. Of the others, rounding may choose either.",
    )
    differing = [(item, token) for item, tokens in generated for token in tokens.differing]
    if not differing:
        yield Paragraph("No token differs.")
        return
    yield Table(
        "Each token that differs",
        ("adapter", "case", "row", "position", "written", "PyTorch's", "margin", "clear"),
        [
            (
                item.adapter,
                item.case.name,
                token.row + 1,
                token.step + 1,
                token.written,
                token.expected,
                number(token.margin),
                "yes" if token.clear else "no",
            )
            for item, token in differing[:_SHOWN]
        ],
        "Tokens are written as their numbers in the vocabulary. Position counts the generated tokens of a row from 1. "
        "Margin: how far the two largest logits of the reference are apart.",
    )
    if len(differing) > _SHOWN:
        yield Paragraph(f"And {len(differing) - _SHOWN} more, which --json has.")
