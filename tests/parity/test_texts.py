"""Texts of the caller as cases: with the tokens of the bundle's tokenizer, for models that read nothing but a text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tokenizers

from adapter_export.bundle.manifest import TensorInfo, read_manifest
from adapter_export.errors import InputError
from adapter_export.parity.cases import TextCase
from adapter_export.parity.texts import encoded, text_inputs
from tests.bundles import Exported


def test_each_text_is_a_case_of_its_own(merged_bundle: Exported) -> None:
    bundle, texts = merged_bundle.bundle, ["the cat was fast", "the cat"]
    found = text_inputs(bundle, read_manifest(bundle), texts)
    tokenizer = tokenizers.Tokenizer.from_file(str(bundle / "tokenizer.json"))
    expected = [tokenizer.encode(text).ids for text in texts]
    assert [inputs["input_ids"].tolist() for inputs in found.values()] == [[ids] for ids in expected]
    lengths = [len(ids) for ids in expected]
    assert [*found] == [TextCase(1, lengths[i], number=i + 1, text=texts[i]) for i in range(2)]
    assert [case.name for case in found] == ["text 1", "text 2"]
    assert all(np.all(inputs["attention_mask"] == 1) for inputs in found.values())


def test_a_model_that_takes_more_than_a_text(merged_bundle: Exported) -> None:
    manifest = read_manifest(merged_bundle.bundle)
    ((name, graph),) = manifest.graphs.items()
    image = {"pixel_values": TensorInfo("float32", ("batch", 3, 8, 8))}
    for inputs, what in ((image, "pixel_values"), ({**graph.inputs, **image}, "pixel_values")):
        changed = replace(manifest, graphs={name: replace(graph, inputs=inputs)})
        with pytest.raises(InputError, match=f"takes {what}, which no text gives"):
            encoded(merged_bundle.bundle, changed, ["the cat"])


def test_texts_of_different_lengths_do_not_continue_together(llama_bundle: Exported) -> None:
    manifest = read_manifest(llama_bundle.bundle)
    assert encoded(llama_bundle.bundle, manifest, ["the cat", "the man"])["input_ids"].shape[0] == 2
    with pytest.raises(InputError, match="texts of different lengths in one batch"):
        encoded(llama_bundle.bundle, manifest, ["the cat", "the cat was fast"])
