"""The bundles that every runtime is given: an encoder and a language model, each in every form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapter_export.export.export import export_onnx
from adapter_export.models.base_model import load_base
from benchmarks.models import random_adapter, saved

MERGED, EMBEDDED, SWAPPABLE, REQUIRED, BANK = "merged", "embedded", "swappable", "swappable, --bind input", "bank"
FORMS = (MERGED, EMBEDDED, SWAPPABLE, REQUIRED, BANK)


@dataclass(frozen=True)
class Made:
    """A model in several forms.

    Attributes:
        base: Folder of the model.
        task: What it was exported for.
        adapters: Checkpoints of two adapters by their names. The first can be merged.
        bundles: Bundles by form.
    """

    base: Path
    task: str
    adapters: Mapping[str, Path]
    bundles: Mapping[str, Path]

    def names(self, form: str) -> tuple[str, ...]:
        """The adapters that a bundle of that form holds."""
        first, second = self.adapters
        return {MERGED: (first,), EMBEDDED: (second,)}.get(form, (first, second))


def make(
    base: Path, task: str, methods: Mapping[str, Mapping[str, object]], folder: Path, forms: Sequence[str] = FORMS
) -> Made:
    """Export a model with two adapters in these forms. Every tensor of the adapters is random.

    Args:
        base: Folder of the model.
        task: What it is exported for.
        methods: Two methods with their options; the first can be merged.
        folder: An existing folder, for the adapters and the bundles.
        forms: Of FORMS.
    """
    loaded = load_base(base, task)
    adapters = {
        method: saved(folder / method, replace(random_adapter(loaded, method, seed=seed, **options), task=task), loaded)
        for seed, (method, options) in enumerate(methods.items())
    }
    made = Made(base, task, adapters, {form: folder / f"bundle{number}" for number, form in enumerate(forms)})
    for form, bundle in made.bundles.items():
        export_onnx(
            base,
            {name: adapters[name] for name in made.names(form)},
            bundle,
            mode="swappable" if form == REQUIRED else form,
            task=task,
            bind="input" if form == REQUIRED else "initializer",
        )
    return made
