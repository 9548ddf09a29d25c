"""What a report says besides its numbers: what was not judged as might be expected, and what precision costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from adapter_export.bundle.adapter_file import HEAD_SLUG
from adapter_export.bundle.manifest import Manifest
from adapter_export.parity.cases import Case, TextLimits
from adapter_export.parity.measure import Measurement
from adapter_export.parity.quantized import median_divergence
from adapter_export.parity.records import is_within
from adapter_export.runtime.generation.start import generates


def take_unreached(measured: dict[tuple[str, str], dict[Case, Measurement]]) -> list[str]:
    """Outputs that an adapter does not reach at all, though it changes others (an adapter of the decoder alone, and the
    encoder's output): there is no change to compare, and they are judged as equal to R. Returns notes on them."""
    found = []
    changes = {key: {item.change for item in items.values()} - {None} for key, items in measured.items()}
    for (adapter, output), own in changes.items():
        others = [values for (name, other), values in changes.items() if name == adapter and other != output]
        if own == {0.0} and any(values - {0.0} for values in others):
            items = measured[adapter, output]
            items |= {case: replace(item, change=None, cosine=None, effect_sums=None) for case, item in items.items()}
            found.append(f"adapter {adapter} changes nothing of {output}, in PyTorch neither")
    return found


def prices(manifest: Manifest, measured: Mapping[tuple[str, str], Mapping[Case, Measurement]]) -> Iterator[str]:
    """What quantized weights cost, adapter by adapter."""
    for (adapter, _), items in measured.items():
        found = [
            item.on.class_agreement
            for item in items.values()
            if item.on is not None and item.on.class_agreement is not None
        ]
        if found:
            positions, divergence = sum(agreement.positions for agreement in found), median_divergence(found)
            clear, agreed = sum(agreement.clear for agreement in found), sum(agreement.agreed for agreement in found)
            yield (
                f"{manifest.quantize}: {adapter}: KL {divergence:.1e} in the middle case; of {positions} positions "
                f"{clear} have a clear margin, {agreed} of them the same class on top"
            )


def notes_on(manifest: Manifest, limits: TextLimits | None, recorded: Sequence[str]) -> list[str]:
    """What was not judged as might be expected. recorded: adapters that were judged by a record alone."""
    notes = []
    within = [output for output in manifest.outputs if is_within(output)]
    for name in recorded:
        notes.append(
            f"adapter {name}: judged at the shapes of its record alone"
            + (", and not on what it generates" if generates(manifest) else "")
            + (f", and not on {', '.join(within)}" if within else "")
        )
    if limits and limits.beyond is not None:
        crossed = ", ".join(map(str, limits.crossed)) or "none"
        notes.append(
            f"texts were judged up to {limits.beyond} of the {limits.longest} tokens the model takes; borders crossed: "
            f"{crossed}"
        )
    if manifest.mode == "bank":
        notes.append("every row was judged in a batch beside rows of other adapters and of none")
    if manifest.in_graph:
        notes.append(
            f"the graph ({manifest.mode}) has no state without its adapter: the change it makes was measured from "
            f"PyTorch at {manifest.dtype}"
        )
    elif manifest.labels is None and any(site.method == HEAD_SLUG for site in manifest.sites):
        notes.append(
            "the base model has no task head, so without an adapter there are no labels to compare; its body was "
            "judged through the head of each adapter"
        )
    return notes
