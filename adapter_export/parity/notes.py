"""Notes of a report: what was not checked in the usual way, and what 8-bit weights cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from adapter_export.bundle.graphs import is_cache
from adapter_export.bundle.manifest import Manifest
from adapter_export.parity.cases import ParityCase, TextLimits
from adapter_export.parity.criteria.measure import Measurement
from adapter_export.parity.criteria.quantized import median_divergence
from adapter_export.parity.references.records import is_nested
from adapter_export.runtime.generation.prepare import generates


def remove_absent_effects(measured: dict[tuple[str, str], dict[ParityCase, Measurement]]) -> list[str]:
    """Removes the effect from the measurements of outputs that an adapter does not affect, also not in PyTorch.

    An example is the output of the encoder if the adapter is in the decoder only. There is no effect to compare, so
    only the errors of these outputs are judged. The adapter must affect another output.

    Args:
        measured: The measurements of all cases, by (adapter, output). Changed in place.

    Returns:
        One note per output.
    """
    notes = []
    changes = {key: {item.change for item in items.values()} - {None} for key, items in measured.items()}
    for (adapter, output), own in changes.items():
        others = [values for (name, other), values in changes.items() if name == adapter and other != output]
        if own == {0.0} and any(values - {0.0} for values in others):
            items = measured[adapter, output]
            items |= {case: replace(item, change=None, cosine=None, effect_sums=None) for case, item in items.items()}
            notes.append(f"adapter {adapter} changes nothing of {output}, in PyTorch neither")
    return notes


def cost_notes(
    manifest: Manifest, measured: Mapping[tuple[str, str], Mapping[ParityCase, Measurement]]
) -> Iterator[str]:
    """Yields one note per adapter: the accuracy that 8-bit weights cost."""
    for (adapter, _), items in measured.items():
        pairs = [item.on for item in items.values() if item.on is not None]
        agreements = [pair.class_agreement for pair in pairs if pair.class_agreement is not None]
        if agreements:
            positions, divergence = sum(item.positions for item in agreements), median_divergence(agreements)
            clear, agreed = sum(item.clear for item in agreements), sum(item.agreed for item in agreements)
            yield (
                f"{manifest.quantize}: {adapter}: KL {divergence:.1e} in the middle case; of {positions} positions "
                f"{clear} have a clear margin, {agreed} of them the same class on top"
            )


def limit_notes(limits: TextLimits | None) -> list[str]:
    """Returns a note on the length of the texts, if the model takes longer ones.

    Args:
        limits: Limits of the texts; None without texts or without a model in PyTorch.
    """
    if limits is None or limits.checked_length is None:
        return []
    crossed = ", ".join(map(str, limits.checked_borders)) or "none"
    return [
        f"texts were judged up to {limits.checked_length} of the {limits.longest} tokens the model takes; borders "
        f"crossed: {crossed}"
    ]


def general_notes(manifest: Manifest, recorded: Sequence[str] = ()) -> list[str]:
    """Returns notes on what was not checked in the usual way.

    Args:
        manifest: The manifest of the bundle.
        recorded: Adapters that were judged by a record only.
    """
    notes = []
    nested = [output for output in manifest.outputs if is_nested(output)]
    for name in recorded:
        notes.append(
            f"adapter {name}: judged at the shapes of its record alone"
            + (", and not on what it generates" if generates(manifest) else "")
            + (f", and not on {', '.join(nested)}" if nested else "")
        )
    if not generates(manifest) and (caches := [name for name in manifest.outputs if is_cache(name)]):
        notes.append(f"the graph gives a cache that it does not take, which was not judged: {', '.join(caches)}")
    if manifest.mode.per_row:
        notes.append("every row was judged in a batch beside rows of other adapters and of none")
    if manifest.in_graph:
        notes.append(
            f"the graph ({manifest.mode}) has no state without its adapter: the change it makes was measured from "
            f"PyTorch at {manifest.dtype}"
        )
    elif manifest.labels is None and manifest.heads:
        notes.append(
            "the base model has no task head, so without an adapter there are no labels to compare; its body was "
            "judged through the head of each adapter"
        )
    return notes
