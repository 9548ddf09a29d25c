"""Manifests of anything: what is written is read, and whatever is changed ends in one error."""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from adapter_export.bundle.manifest import (
    MOST_SLOTS,
    PORTS,
    AdapterInfo,
    AdapterTensorInfo,
    GraphInfo,
    Manifest,
    SiteInfo,
    SiteRole,
    TensorInfo,
    adapter_path,
    read_manifest,
    write_manifest,
)
from adapter_export.bundle.modes import Mode
from adapter_export.checkpoints.problem_types import PROBLEM_TYPES
from adapter_export.dtypes import WEIGHT_DTYPES, DType
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.reading.typed import WrongField, build
from adapter_export.tasks import TASKS
from tests.fuzz import mutators
from tests.strategies import damaged, file_of, json_values, texts

counts = st.integers(0, 2**31 - 1)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
optional_texts = st.none() | st.lists(texts, max_size=3).map(tuple)
sizes = st.dictionaries(texts, counts, max_size=3)
tensors = st.builds(TensorInfo, st.sampled_from(DType), st.lists(counts | texts, max_size=3).map(tuple))
by_name = st.dictionaries(texts, tensors, max_size=3)
of_adapters = st.builds(
    AdapterTensorInfo, st.sampled_from(DType), st.lists(counts | texts, max_size=3).map(tuple),
    st.none() | st.floats(-3.4e38, 3.4e38),
)  # fmt: skip
models = st.builds(
    ModelInfo, texts, texts, texts, st.booleans(), counts, sizes, sizes, st.lists(texts, max_size=2).map(tuple),
    convolutions=st.dictionaries(texts, st.integers(1, 3), max_size=3), labels=optional_texts,
    sha256=digests | st.just(""),
)  # fmt: skip
sites = st.builds(
    SiteInfo, texts, st.sampled_from(PORTS), st.sampled_from(SiteRole), texts, texts, st.none() | texts,
    st.dictionaries(texts, of_adapters, max_size=3), st.none() | st.dictionaries(texts, texts, max_size=2),
)  # fmt: skip
problems = st.none() | st.sampled_from(PROBLEM_TYPES)
names = st.from_regex(r"[a-z][a-z0-9._-]{0,20}[a-z0-9]", fullmatch=True).filter(
    lambda name: name.partition(".")[0] not in ("con", "prn", "aux", "nul") and name[:3] not in ("com", "lpt")
)
adapters = st.lists(
    st.builds(
        AdapterInfo,
        names,
        texts,
        texts,
        digests,
        st.integers(0, 2**53),
        optional_texts,
        problem_type=problems,
        source_sha256=st.none() | digests,
    ),
    max_size=3,
    unique_by=lambda info: info.name,
).map(lambda infos: tuple(replace(info, file=adapter_path(info.name)) for info in infos))
manifests = st.builds(
    Manifest,
    texts,
    st.sampled_from(Mode),
    st.sampled_from(sorted(TASKS)),
    st.sampled_from(WEIGHT_DTYPES),
    st.integers(1, 1000),
    models,
    st.builds(lambda inputs, outputs: {"model.onnx": GraphInfo(inputs, outputs)}, by_name, by_name),
    st.lists(sites, max_size=3).map(tuple),
    adapters,
    st.just({"model.onnx": "ab" * 32}),
    labels=optional_texts,
    problem_type=problems,
    rotary_border=st.none() | counts,
    longest_text=st.none() | counts,
    slots=st.integers(1, MOST_SLOTS),
)


@given(manifests)
def test_what_is_written_is_read(manifest: Manifest) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder), manifest)
        assert read_manifest(folder) == manifest


VALID = json.dumps(
    asdict(
        Manifest(
            "1.0", Mode.SWAPPABLE, "features", DType.FLOAT32, 20,
            ModelInfo("bert", "B", "b", False, 8, {"l": 8}, {"l": 8}),
            {"model.onnx": GraphInfo({"a": TensorInfo(DType.INT64, ("batch", 3))}, {})},
            (
                SiteInfo(
                    "l", "output", SiteRole.ADAPTER, "I", "ia3", "ia3",
                    {"l.ia3.l": AdapterTensorInfo(DType.FLOAT32, (8,), 1.0)},
                ),
            ),
            (AdapterInfo("one", "ia3", "peft", "ab", 8, ("no", "yes"), file=adapter_path("one")),),
            {"model.onnx": "ab", adapter_path("one"): "ab"},
        )
    )
).encode()  # fmt: skip


@given(damaged(VALID, mutators.of_json))
def test_damaged_ones_end_in_one_line(data: bytes) -> None:
    with file_of(data, MANIFEST) as path:
        said = ""
        try:
            manifest = read_manifest(path.parent)
        except InputError as error:
            said = str(error)
        else:
            # What was taken is what the file says.
            written = json.loads(json.dumps(asdict(manifest)))
            assert written.items() >= {k: v for k, v in json.loads(data).items() if k in ("task", "opset")}.items()
    assert len(said.splitlines()) <= 1
    assert len(said) < 2000


@given(json_values | st.dictionaries(st.sampled_from(["dtype", "shape", "new"]), json_values))
def test_values_of_any_other_kind(value: Any) -> None:
    with contextlib.suppress(WrongField):
        found = build(TensorInfo, value)
        assert (found.dtype, list(found.shape)) == (value["dtype"], value["shape"])
